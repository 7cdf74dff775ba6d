//! TLS on both sides: reading a ClientHello before anything is decided, choosing certificates, verifying peers, and the
//! stream that the protocols above run on.
//!
//! In flow a snapshot and the certificate table (control side, [`table`]) and sockets (worker side, [`stream`]); out flow
//! plaintext streams and reasons. TLS 1.2 and 1.3 (RFC 5246, RFC 8446) by rustls with aws-lc-rs; no renegotiation, no
//! early data. Nothing here routes.

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub mod demands;
pub mod handshake;
pub mod hello;
mod large;
pub mod record;
pub mod resolver;
pub mod shown;
pub mod stream;
pub mod table;
pub mod tickets;
pub mod trust;
pub mod verify;

/// The cryptography of the whole process. X25519MLKEM768 comes first, so that a client which offers it gets a key
/// exchange that holds against a recorder with a future quantum computer; all other clients are served as before.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        let hybrid = rustls::NamedGroup::X25519MLKEM768;
        // A stable sort: only the hybrid group moves.
        provider.kx_groups.sort_by_key(|group| group.name() != hybrid);
        Arc::new(provider)
    })
}

/// Makes [`provider`] the default for every library of the process. First thing in each `main` and test binary that
/// uses TLS; a second call changes nothing.
pub fn install_provider() {
    let _already_installed = CryptoProvider::install_default(provider().as_ref().clone());
}
