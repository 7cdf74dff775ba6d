//! Which server certificates are believed.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::https::ClientError;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// The system's certificates, read once.
    #[default]
    System,
    /// These PEM certificates alone.
    Roots(Arc<[u8]>),
    /// Any certificate: the server could be anybody.
    Insecure,
}

/// Certificates in one file of roots.
const MAX_ROOTS: usize = 1000;

/// The provider is named, so that nothing depends on which one the program installed.
pub(super) fn client_config(trust: &Trust) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Trust(error.to_string()))?;
    let roots = match trust {
        Trust::Insecure => {
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth());
        }
        Trust::System => system()?,
        Trust::Roots(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem).take(MAX_ROOTS) {
                let certificate = certificate.map_err(|error| ClientError::Trust(error.to_string()))?;
                roots.add(certificate).map_err(|error| ClientError::Trust(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(ClientError::Trust("no PEM block CERTIFICATE".into()));
            }
            Arc::new(roots)
        }
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn system() -> Result<Arc<RootCertStore>, ClientError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        // Not kept: ca-certificates may be installed while we run.
        return Err(ClientError::Trust(format!("the system has none (package ca-certificates){why}")));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

/// Verifies that the server has the key of its certificate, and nothing of who it is.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
