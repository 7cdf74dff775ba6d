//! Who may be on the other end: client certificates of a listener (Gateway `spec.tls.frontend`, `tls.clientValidation` of a
//! ClientTrafficPolicy) and server certificates of an upstream (BackendTLSPolicy).
//!
//! In flow trust stores and the names to expect; out flow rustls verifiers whose refusals read well in a log. Chains and
//! host names are judged by webpki alone (RFC 5280, RFC 6125); only URI names, which it does not know, are compared here.

use std::fmt;
use std::sync::Arc;

use edge_config::names::Hostname;
use edge_config::snapshot::{SubjectAltName, UpstreamTls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::demands::Prepared;
use super::provider;
use super::trust::TrustStore;

/// What a listener does about client certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMode {
    /// Nobody comes in without a valid one.
    Required,
    /// Asked for; none or an invalid one is accepted.
    Requested,
    /// Asked for; none is accepted, an invalid one is not.
    IfGiven,
    /// Nobody comes in without one, which may be anybody's.
    Any,
}

impl ClientMode {
    fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::Any)
    }

    pub(super) fn verifies(self) -> bool {
        matches!(self, Self::Required | Self::IfGiven)
    }
}

/// Verifies client certificates against a trust store. An empty store in a mode that verifies refuses everybody.
#[derive(Debug)]
pub struct ClientVerifier {
    trust: Arc<TrustStore>,
    mode: ClientMode,
    demands: Option<Prepared>,
}

impl ClientVerifier {
    pub fn new(trust: Arc<TrustStore>, mode: ClientMode, demands: Option<Prepared>) -> Self {
        Self { trust, mode, demands }
    }
}

/// The handshake signature proves possession of the key; it is checked in every mode, and the same way on both sides.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mode.is_required()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.trust.subjects
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.mode.verifies() {
            return Ok(ClientCertVerified::assertion());
        }
        let leaf = webpki::EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let verify = |time: UnixTime, revocation: Option<webpki::RevocationOptions<'_>>| {
            let algorithms = provider().signature_verification_algorithms.all;
            let (roots, usage) = (&self.trust.roots.roots, webpki::KeyUsage::client_auth());
            leaf.verify_for_usage(algorithms, roots, intermediates, time, usage, revocation, None).map(drop)
        };
        match &self.demands {
            None => verify(now, None).map_err(chain_error)?,
            Some(demands) => {
                demands.verify_chain(now, verify).map_err(chain_error)?;
                demands.meet(certificate)?;
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// The alert that a client sees follows from this (RFC 8446 §6.2).
fn chain_error(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}

/// Verifies the certificate of an upstream: its chain, and that it carries a name that the policy asks for.
#[derive(Debug)]
pub struct UpstreamVerifier {
    trust: Arc<TrustStore>,
    expected: Expected,
}

#[derive(Debug)]
enum Expected {
    /// Whoever answers is believed.
    Anybody,
    /// The name that is also sent as SNI.
    Hostname,
    /// Any one of them; the hostname is then "not used for authentication" (BackendTLSPolicyValidation).
    AnyOf(Vec<SubjectAltName>),
}

impl UpstreamVerifier {
    pub fn new(trust: Arc<TrustStore>, tls: &UpstreamTls) -> Self {
        let expected = match tls.subject_alt_names.as_slice() {
            _ if !tls.is_verified => Expected::Anybody,
            [] => Expected::Hostname,
            names => Expected::AnyOf(names.to_vec()),
        };
        Self { trust, expected }
    }
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if matches!(self.expected, Expected::Anybody) {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        self.trust.verify_server(certificate, &parsed, intermediates, now)?;
        match &self.expected {
            Expected::Anybody => {}
            Expected::Hostname => rustls::client::verify_server_name(&parsed, server_name)?,
            Expected::AnyOf(names) => any_of(names, certificate, &parsed)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

fn any_of(expected: &[SubjectAltName], certificate: &[u8], parsed: &ParsedCertificate<'_>) -> Result<(), Error> {
    let (_, x509) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let names = x509.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let found = expected.iter().any(|wanted| match wanted {
        // RFC 3986 §6.2.1: simple string comparison, as for SPIFFE IDs.
        SubjectAltName::Uri(uri) => {
            names.iter().any(|name| matches!(name, GeneralName::URI(given) if *given == &**uri))
        }
        SubjectAltName::Dns(dns) => match dns.strip_prefix("*.") {
            Some(suffix) => {
                names.iter().any(|name| matches!(name, GeneralName::DNSName(given) if is_under(given, suffix)))
            }
            None => {
                ServerName::try_from(&**dns).is_ok_and(|name| rustls::client::verify_server_name(parsed, &name).is_ok())
            }
        },
    });
    if found {
        return Ok(());
    }
    let error = NoSuchName {
        expected: expected.iter().map(written).collect(),
        given: names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(format!("DNS {name:?}")),
                GeneralName::URI(uri) => Some(format!("URI {uri:?}")),
                _ => None,
            })
            .take(MAX_TOLD)
            .collect(),
    };
    Err(CertificateError::Other(OtherError(Arc::new(error))).into())
}

/// A wildcard in a policy stands for the certificate's same wildcard and for every host name below it.
fn is_under(given: &str, suffix: &str) -> bool {
    let given = given.to_ascii_lowercase();
    match given.strip_prefix("*.") {
        Some(rest) => rest == suffix,
        None => {
            Hostname::parse(&given).is_ok()
                && given.strip_suffix(suffix).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
        }
    }
}

/// A certificate may carry hundreds of names; a reason stays readable.
const MAX_TOLD: usize = 8;

fn written(name: &SubjectAltName) -> String {
    match name {
        SubjectAltName::Dns(name) => format!("DNS {name:?}"),
        SubjectAltName::Uri(uri) => format!("URI {uri:?}"),
    }
}

/// None of the policy's names is in the certificate.
#[derive(Debug)]
struct NoSuchName {
    expected: Vec<String>,
    given: Vec<String>,
}

impl std::error::Error for NoSuchName {}

impl fmt::Display for NoSuchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = if self.given.is_empty() { "none".to_owned() } else { self.given.join(", ") };
        write!(f, "no expected name in the certificate: expected {}, given {given}", self.expected.join(" or "))
    }
}

/// A TLS failure in one line for people who have never heard of rustls.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired".into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "certificate is not valid yet".into()
            }
            CertificateError::UnknownIssuer => "certificate is not signed by a trusted CA".into(),
            // Also what a CA of the right name but with another key leads to.
            CertificateError::BadSignature => {
                "certificate is not signed by a trusted CA (signature does not match)".into()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "certificate is not meant for this use (extended key usage)".into()
            }
            CertificateError::NotValidForName => "certificate is for another name".into(),
            CertificateError::NotValidForNameContext { expected, presented } => {
                let told: Vec<&str> = presented.iter().take(MAX_TOLD).map(String::as_str).collect();
                let told = if told.is_empty() { "no name".to_owned() } else { told.join(", ") };
                format!("certificate is for another name: expected {:?}, given {told}", expected.to_str())
            }
            CertificateError::BadEncoding => "certificate is malformed".into(),
            CertificateError::Revoked => "certificate is revoked".into(),
            CertificateError::UnknownRevocationStatus => "no revocation list is of the certificate's CA".into(),
            CertificateError::ExpiredRevocationList => {
                "the revocation list of the certificate's CA is out of date".into()
            }
            CertificateError::Other(OtherError(error)) => error.to_string(),
            other => other.to_string(),
        },
        Error::AlertReceived(alert) => format!("peer refused with alert {alert:?}"),
        Error::NoCertificatesPresented => "peer presented no certificate".into(),
        other => other.to_string(),
    }
}
