//! Who an edge is: certificates that all edges of a fleet, and nobody else, can make.
//!
//! In: the shared secret and the name of this edge. Out: TLS configurations for both ends of the channel. From the
//! secret comes the key of a CA (HKDF-SHA256, RFC 5869; Ed25519, RFC 8032), which is the same everywhere and never
//! travels. Each edge signs a leaf of its own with its name in the SAN, good for a day and made anew several times in
//! that time; its key never leaves the memory. TLS 1.3 only, both ends show their leaf, nothing is resumed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_acme::local::{self, LocalError, Order, OrderKey, Signer};
use edge_config::snapshot::KeyAlgorithm;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::proxy::tls::provider;
use crate::secret_file::{self, SecretFileError};

/// Behind the name of the edge in the SAN: no name of the outside world.
const DOMAIN: &str = "fleet.edge.internal";
/// Application protocol (RFC 7301): another service on the port is told apart before a byte of ours.
const PROTOCOL: &[u8] = b"edge-fleet/1";
/// Leafs begin and end so far from now: clocks of edges may differ by as much.
const LEAF_MARGIN: Duration = Duration::from_secs(86_400);
/// 2020-01-01: the CA is the same whenever it is made.
const CA_BEGINS: i64 = 1_577_836_800;
const CA_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("certificates of the fleet cannot be made")]
    Make(#[from] LocalError),
    #[error("certificates of the fleet cannot be used")]
    Use(#[from] rustls::Error),
    #[error("certificates of the fleet cannot be used: {0}")]
    Form(String),
}

/// What both ends of the channel need.
#[derive(Clone)]
pub struct Identity {
    signer: Arc<Signer>,
    roots: Arc<RootCertStore>,
    /// Of this edge.
    name: Arc<str>,
}

/// Good until the leaf is.
#[derive(Clone)]
pub struct Credentials {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

impl Identity {
    /// Reads the secret from its file.
    pub fn load(path: &Path, name: &str) -> Result<Self, IdentityError> {
        Self::of(&secret_file::read(path)?, name)
    }

    /// `secret` is long and random.
    pub fn of(secret: &[u8], name: &str) -> Result<Self, IdentityError> {
        let key = ca_key(secret);
        let ca = local::self_signed(&Order {
            dns_names: &[],
            addresses: &[],
            common_name: Some("Edge fleet"),
            is_ca: true,
            key: OrderKey::Keep(&key),
            duration: CA_DURATION,
            now: CA_BEGINS,
        })?;
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(ca.chain_pem.as_bytes())
            .map_err(|error| IdentityError::Form(error.to_string()))?;
        roots.add(certificate)?;
        let signer = Arc::new(Signer::from_pem(&ca.chain_pem, &key)?);
        Ok(Self { signer, roots: Arc::new(roots), name: name.into() })
    }

    /// Makes a leaf for this edge; `now` in Unix seconds.
    pub fn credentials(&self, now: i64) -> Result<Credentials, IdentityError> {
        let names = [subject(&self.name).into_boxed_str()];
        let made = local::signed_by(
            &Order {
                dns_names: &names,
                addresses: &[],
                common_name: None,
                is_ca: false,
                key: OrderKey::New(KeyAlgorithm::EcdsaP256),
                duration: 2 * LEAF_MARGIN,
                now: now.saturating_sub(i64::try_from(LEAF_MARGIN.as_secs()).unwrap_or_default()),
            },
            &self.signer,
        )?;
        let form = |error: &dyn std::fmt::Display| IdentityError::Form(error.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(made.chain_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| form(&error))?;
        let key = || PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).map_err(|error| form(&error));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(provider()))
            .build()
            .map_err(|error| form(&error))?;
        let versions = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(versions)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(chain, key()?)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Credentials { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// What the certificate of an edge is verified for.
pub fn server_name(edge: &str) -> Result<ServerName<'static>, IdentityError> {
    ServerName::try_from(subject(edge)).map_err(|error| IdentityError::Form(error.to_string()))
}

/// Which edge a verified certificate is of.
pub fn edge_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let [GeneralName::DNSName(name)] = names.value.general_names.as_slice() else { return None };
    let edge = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    (!edge.contains('.')).then(|| edge.to_owned())
}

fn subject(edge: &str) -> String {
    format!("{edge}.{DOMAIN}")
}

/// PEM of the key that the secret gives: PKCS #8 of Ed25519 (RFC 8410 §7), whose private key is any 32 bytes.
fn ca_key(secret: &[u8]) -> Zeroizing<String> {
    const PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut der = Zeroizing::new([0; PREFIX.len() + 32]);
    let (first, seed) = der.split_at_mut(PREFIX.len());
    first.copy_from_slice(&PREFIX);
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"edge fleet");
    let extracted = salt.extract(secret);
    let okm = extracted.expand(&[b"ca ed25519 1"], hkdf::HKDF_SHA256).expect("32 bytes are few for HKDF");
    okm.fill(seed).expect("the output of HKDF-SHA256 has 32 bytes");
    let text = Zeroizing::new(STANDARD.encode(*der));
    Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", &*text))
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const SECRET: &[u8] = b"a secret of no less than 32 bytes";

    /// Runs a handshake in memory. The name that the server read, or the error of either side.
    fn handshake(client: &Credentials, server: &Credentials, called: &str) -> Result<String, String> {
        let name = server_name(called).unwrap();
        let mut client = ClientConnection::new(Arc::clone(&client.client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&server.server)).unwrap();
        for _ in 0..10 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        edge_of(&server.peer_certificates().unwrap()[0]).ok_or_else(|| "no name".into())
    }

    fn real_now() -> i64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
    }

    #[test]
    fn edges_with_the_secret_know_each_other_and_nobody_else() {
        let credentials = |secret: &[u8], name: &str, ahead: i64| {
            Identity::of(secret, name).unwrap().credentials(real_now() + ahead).unwrap()
        };
        let (a, b) = (credentials(SECRET, "edge-a", 0), credentials(SECRET, "edge-b", 0));
        assert_eq!(handshake(&a, &b, "edge-b").as_deref(), Ok("edge-a"));
        assert!(handshake(&a, &b, "edge-c").is_err(), "somebody else answers there");
        let other = credentials(b"another secret, of 32 bytes also", "edge-a", 0);
        assert!(handshake(&other, &b, "edge-b").is_err());
        assert!(handshake(&b, &other, "edge-a").is_err());
        // Twelve hours of difference between clocks do no harm, a week does.
        assert!(handshake(&credentials(SECRET, "edge-a", -43_200), &b, "edge-b").is_ok());
        assert!(handshake(&credentials(SECRET, "edge-a", 43_200), &b, "edge-b").is_ok());
        assert!(handshake(&credentials(SECRET, "edge-a", -7 * 86_400), &b, "edge-b").is_err());
    }

    #[test]
    fn the_ca_is_the_same_at_every_edge() {
        assert_eq!(*ca_key(SECRET), *ca_key(SECRET));
        assert_ne!(*ca_key(SECRET), *ca_key(&[SECRET, b"x"].concat()));
        let one = Identity::of(SECRET, "a").unwrap();
        let other = Identity::of(SECRET, "b").unwrap();
        assert_eq!(one.signer.key_id(), other.signer.key_id());
        assert!(one.credentials(NOW).is_ok());
    }
}
