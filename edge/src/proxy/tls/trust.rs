//! A set of trusted CA certificates in the form that chains are verified against.
//!
//! In flow DER certificates of a snapshot's `Trust`, or the system's; out flows a [`TrustStore`] and a reason for every
//! certificate that is of no use. Several CAs may share one name: webpki tries each key (RFC 5280 §6.1).

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;

/// Trust anchors with what is needed to name them to a client.
#[derive(Debug)]
pub struct TrustStore {
    pub(super) roots: RootCertStore,
    /// The certificates themselves, for a peer that presents one of them as its own.
    certificates: Vec<CertificateDer<'static>>,
    /// Subjects without repetition.
    pub(super) subjects: Vec<DistinguishedName>,
}

impl TrustStore {
    /// Takes what is usable and says what is not; an empty store trusts nobody.
    pub fn new(certificates: &[Arc<[u8]>]) -> (Self, Vec<String>) {
        let (ders, reasons): (Vec<_>, Vec<_>) =
            (certificates.iter().map(|der| CertificateDer::from(der.to_vec())).collect(), Vec::new());
        Self::collect(ders, reasons)
    }

    /// The CA certificates of the operating system.
    pub fn system() -> (Self, Vec<String>) {
        let found = rustls_native_certs::load_native_certs();
        let reasons = found.errors.iter().map(|error| format!("system CA certificates: {error}")).collect();
        Self::collect(found.certs, reasons)
    }

    fn collect(certificates: Vec<CertificateDer<'static>>, mut reasons: Vec<String>) -> (Self, Vec<String>) {
        let mut store = Self { roots: RootCertStore::empty(), certificates: Vec::new(), subjects: Vec::new() };
        for (index, certificate) in certificates.into_iter().enumerate() {
            match store.roots.add(certificate.clone()) {
                Ok(()) => store.certificates.push(certificate),
                Err(error) => reasons.push(format!("CA certificate {}: {}", index + 1, super::verify::explain(&error))),
            }
        }
        store.subjects = store.roots.subjects();
        store.subjects.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        store.subjects.dedup_by(|a, b| a.as_ref() == b.as_ref());
        (store, reasons)
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Verifies the chain of a server certificate, without its name.
    pub(super) fn verify_server(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let result = rustls::client::verify_server_cert_signed_by_trust_anchor(
            parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        );
        match result {
            // webpki never takes a CA certificate for a leaf. Users do put a self-signed server certificate, marked CA
            // by many tools, into the trust list itself; that is a pin, and only its dates are left to check.
            Err(Error::InvalidCertificate(_)) if self.certificates.iter().any(|own| own == certificate) => {
                pinned(certificate, now)
            }
            other => other,
        }
    }
}

fn pinned(certificate: &[u8], now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let serves = match parsed.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.server_auth || usage.value.any,
        Err(_) => return Err(CertificateError::BadEncoding.into()),
    };
    if !serves {
        return Err(CertificateError::InvalidPurpose.into());
    }
    let now = now.as_secs() as i64;
    if now < parsed.validity().not_before.timestamp() {
        Err(CertificateError::NotValidYet.into())
    } else if now > parsed.validity().not_after.timestamp() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}
