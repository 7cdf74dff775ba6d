//! What the certificates of a chain say of themselves.

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::view::Link;
use crate::certs::table::Fingerprint;
use crate::control::span;

/// Of a chain in PEM, leaf first.
pub fn links(pem: &str) -> Result<Vec<Link>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| link(&der.map_err(|error| error.to_string())?)).collect()
}

fn link(der: &[u8]) -> Result<Link, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| format!("malformed certificate: {error}"))?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    let at = |time: x509_parser::time::ASN1Time| span::unix(time.timestamp()).map(span::rfc3339).unwrap_or_default();
    Ok(Link {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: at(parsed.validity().not_before),
        not_after: at(parsed.validity().not_after),
        sha256: Fingerprint(sha256).to_string(),
    })
}
