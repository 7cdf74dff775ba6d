//! Certificate, trusted CAs and token of the dashboard, read from where edge.toml says.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_acme::local::{self, LocalError, Order, OrderKey, Signer};
use edge_config::names::HostPattern;
use edge_config::settings::{DashboardCertificate, DashboardSettings};
use edge_config::snapshot::KeyAlgorithm;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use super::Sources;
use super::auth::Token;
use crate::proxy::tls::provider;
use crate::proxy::tls::verify::explain;
use crate::secret_file::{self, SecretFileError};

/// Of a certificate of the internal CA; it is made anew long before.
const DURATION: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, thiserror::Error)]
pub(super) enum MaterialError {
    #[error("{path}: cannot be read: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {what}")]
    Pem { path: PathBuf, what: String },
    #[error(transparent)]
    Token(#[from] SecretFileError),
    #[error("the internal CA is not there yet")]
    NoCa,
    #[error("a certificate of the internal CA cannot be made: {0}")]
    Make(#[from] LocalError),
    #[error("its certificate cannot be used: {0}")]
    Use(String),
}

pub(super) struct Material {
    /// `None`: plain HTTP, on loopback.
    pub tls: Option<Arc<ServerConfig>>,
    pub token: Option<Token>,
    /// Nobody has to say who they are.
    pub is_open: bool,
}

pub(super) fn load(settings: &DashboardSettings, sources: &Sources) -> Result<Material, MaterialError> {
    let token = settings.token_file.as_ref().map(|path| secret_file::read(path)).transpose()?;
    let tls = if settings.is_plain() { None } else { Some(Arc::new(config(settings, sources)?)) };
    Ok(Material { tls, token: token.map(|token| Token::new(&token)), is_open: settings.is_open() })
}

fn config(settings: &DashboardSettings, sources: &Sources) -> Result<ServerConfig, MaterialError> {
    let (chain, key) = match &settings.certificate {
        Some(files) => of_files(files)?,
        None => of_internal_ca(settings, sources)?,
    };
    let fault = |error: &dyn std::fmt::Display| MaterialError::Use(error.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| fault(&error))?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(trusted(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
            // With a token, whoever has no certificate is asked for it.
            let verifier = if settings.token_file.is_some() { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| fault(&error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| MaterialError::Use(explain(&error)))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn of_files(files: &DashboardCertificate) -> Result<Pair, MaterialError> {
    let chain = certificates(&files.certificate)?;
    let text = Zeroizing::new(read(&files.private_key)?);
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| MaterialError::Pem {
        path: files.private_key.clone(),
        what: "has no private key as PEM".to_owned(),
    })?;
    Ok((chain, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let text = read(path)?;
    let fault = |what: String| MaterialError::Pem { path: path.to_owned(), what };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| fault(error.to_string()))?;
    if found.is_empty() { Err(fault("has no certificate as PEM".to_owned())) } else { Ok(found) }
}

fn trusted(path: &Path) -> Result<RootCertStore, MaterialError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| MaterialError::Pem { path: path.to_owned(), what: explain(&error) })?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, MaterialError> {
    std::fs::read(path).map_err(|error| MaterialError::Read { path: path.to_owned(), error })
}

/// A leaf for every name and address under which the dashboard answers, signed here and kept nowhere.
fn of_internal_ca(settings: &DashboardSettings, sources: &Sources) -> Result<Pair, MaterialError> {
    let ca = sources.store.internal_ca().ok_or(MaterialError::NoCa)?;
    let signer = Signer::from_pem(&ca.chain_pem, &ca.key_pem)?;
    let names = settings.names.iter().map(String::as_str).chain(["localhost", &*sources.edge]);
    let names = names.map(str::to_ascii_lowercase);
    // An edge may be called as no host can be.
    let names: Vec<Box<str>> =
        names.filter(|name| HostPattern::parse(Some(name)).is_ok()).map(String::into_boxed_str).collect();
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    let mut addresses = vec![settings.address.ip()];
    addresses.retain(|address| !address.is_unspecified());
    addresses.extend(loopback.into_iter().filter(|address| *address != settings.address.ip()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let made = local::signed_by(
        &Order {
            dns_names: &names,
            addresses: &addresses,
            common_name: None,
            is_ca: false,
            key: OrderKey::New(KeyAlgorithm::EcdsaP256),
            duration: DURATION,
            now: i64::try_from(now).unwrap_or(i64::MAX),
        },
        &signer,
    )?;
    let fault = |error: &dyn std::fmt::Display| MaterialError::Use(error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(made.chain_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).map_err(|error| fault(&error))?;
    Ok((chain.map_err(|error| fault(&error))?, key))
}
