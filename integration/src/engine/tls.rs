//! The client's side of TLS, pinned so that every proxy does the same work: TLS 1.3, AES-128-GCM, X25519.
//!
//! Flows in: the certificate the proxy was given. Flows out: configurations whose client insists on exactly that
//! certificate. The signatures of the handshake are not checked: that would be the client's cost, not the proxy's.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use crate::pki;

#[derive(Clone)]
pub struct TlsPlan {
    base: Arc<ClientConfig>,
    /// Every connection after the first of a slot resumes a session; a full handshake is then a failure.
    pub resume: bool,
}

impl TlsPlan {
    /// For a server that shows exactly this certificate.
    pub fn pinned(certificate: &str, resume: bool) -> io::Result<Self> {
        let expected = pki::certificates(certificate)?.into_iter().next();
        let expected = expected.ok_or_else(|| io::Error::other("no certificate to expect"))?;
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(expected)))
            .with_no_client_auth();
        Ok(Self::with(Arc::new(config), resume))
    }

    /// With somebody else's idea of whom to trust.
    pub fn with(config: Arc<ClientConfig>, resume: bool) -> Self {
        let mut base = (*config).clone();
        base.alpn_protocols = vec![b"http/1.1".to_vec()];
        base.resumption = Resumption::disabled();
        Self { base: Arc::new(base), resume }
    }

    /// The configuration of one slot, with a session store of its own where it resumes.
    pub(super) fn slot(&self) -> Arc<ClientConfig> {
        if !self.resume {
            return self.base.clone();
        }
        let mut own = (*self.base).clone();
        own.resumption = Resumption::in_memory_sessions(4);
        Arc::new(own)
    }
}

/// A record with a ClientHello for that name.
pub(super) fn client_hello(host: &str) -> io::Result<Vec<u8>> {
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut record = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut record)?;
    }
    Ok(record)
}

#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.0.as_ref() {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("another certificate than the one the proxy was given".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
