//! What a client's certificate must have beside a chain to a CA: it is named itself, or its key; it has a name; nobody has
//! revoked it.
//!
//! In flow the demands of a snapshot, made ready once per listener; out flows whether a certificate meets them, and a line
//! why not. Revocation lists are judged by webpki (RFC 5280 §6.3), together with the chain.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use edge_config::policy::{CertificateDemands, NameDemand, NameKind, Sha256, TextMatch};
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, OtherError};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Demands, ready for handshakes.
#[derive(Debug)]
pub struct Prepared {
    demands: Arc<CertificateDemands>,
    lists: Vec<CertRevocationList<'static>>,
    /// When the first of the lists is out of date, in Unix seconds.
    lists_until: Option<i64>,
}

impl Prepared {
    /// The error names what cannot be used: then nobody can be let in.
    pub fn new(demands: &Arc<CertificateDemands>) -> Result<Self, String> {
        let ders = demands.revocation.as_ref().map(|revocation| &revocation.lists[..]).unwrap_or_default();
        let mut lists = Vec::with_capacity(ders.len());
        let mut ends = Vec::with_capacity(ders.len());
        for (number, der) in (1..).zip(ders) {
            let bad = |why: &dyn std::fmt::Display| format!("revocation list {number} cannot be used: {why}");
            lists.push(OwnedCertRevocationList::from_der(der).map_err(|why| bad(&why))?.into());
            let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|why| bad(&why))?;
            ends.extend(parsed.next_update().map(|end| end.timestamp()));
        }
        Ok(Self { demands: Arc::clone(demands), lists, lists_until: ends.into_iter().min() })
    }

    /// Verifies a chain. A certificate that has ended may be judged as of its end, where that is asked for.
    pub(super) fn verify_chain(
        &self,
        now: UnixTime,
        verify: impl Fn(UnixTime, Option<webpki::RevocationOptions<'_>>) -> Result<(), webpki::Error>,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let depth = match self.demands.revocation.as_ref().is_some_and(|revocation| revocation.leaf_only) {
            true => webpki::RevocationCheckDepth::EndEntity,
            false => webpki::RevocationCheckDepth::Chain,
        };
        // No options where there is no list.
        let options = webpki::RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(depth)
                .with_status_policy(webpki::UnknownStatusPolicy::Deny)
                .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
                .build()
        });
        let mut time = now;
        // The certificate, and each CA above it that has ended earlier.
        for _ in 0..LONGEST_CHAIN {
            match verify(time, options) {
                Err(webpki::Error::CertExpired { not_after, .. })
                    if self.demands.allows_expired && not_after < time && self.lists_hold(now) =>
                {
                    time = not_after;
                }
                other => return other,
            }
        }
        verify(now, options)
    }

    /// Whether the lists say how things are now, whatever time a chain is judged at.
    fn lists_hold(&self, now: UnixTime) -> bool {
        self.lists_until.is_none_or(|end| i64::try_from(now.as_secs()).is_ok_and(|now| now <= end))
    }

    /// Whether the certificate itself is one that is wanted.
    pub(super) fn meet(&self, certificate: &[u8]) -> Result<(), Error> {
        let CertificateDemands { certificates, keys, names, .. } = &*self.demands;
        if certificates.is_empty() && keys.is_empty() && names.is_empty() {
            return Ok(());
        }
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let are_named = !certificates.is_empty() || !keys.is_empty();
        let is_named =
            || certificates.contains(&sha256(certificate)) || keys.contains(&sha256(parsed.public_key().raw));
        if are_named && !is_named() {
            return Err(Unwanted::Digest.into());
        }
        if names.is_empty() {
            return Ok(());
        }
        let given = parsed.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
        let given = given.map_or(&[][..], |extension| extension.value.general_names.as_slice());
        match given.iter().any(|given| names.iter().any(|wanted| is_wanted(wanted, given))) {
            true => Ok(()),
            false => Err(Unwanted::Name.into()),
        }
    }
}

/// Deeper chains than webpki builds.
const LONGEST_CHAIN: usize = 8;

pub fn sha256(bytes: &[u8]) -> Sha256 {
    let mut found = [0; 32];
    found.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    Sha256(found)
}

/// Why a certificate of a trusted CA does not let its client in.
#[derive(Debug, thiserror::Error)]
enum Unwanted {
    #[error("neither the certificate nor its key is one of those that are let in")]
    Digest,
    #[error("no name in the certificate is one of those that are let in")]
    Name,
}

impl From<Unwanted> for Error {
    fn from(why: Unwanted) -> Self {
        CertificateError::Other(OtherError(Arc::new(why))).into()
    }
}

fn is_wanted(wanted: &NameDemand, given: &GeneralName<'_>) -> bool {
    match (&wanted.kind, given) {
        (NameKind::Dns, GeneralName::DNSName(name)) => {
            let name = name.to_ascii_lowercase();
            wanted.text.matches(name.as_bytes()) || covers(&name, &wanted.text)
        }
        (NameKind::Email, GeneralName::RFC822Name(text)) | (NameKind::Uri, GeneralName::URI(text)) => {
            wanted.text.matches(text.as_bytes())
        }
        (NameKind::Ip, GeneralName::IPAddress(bytes)) => {
            address(bytes).is_some_and(|address| wanted.text.matches(address.to_string().as_bytes()))
        }
        (NameKind::Other(oid), GeneralName::OtherName(of, value)) => {
            of.to_id_string() == **oid && text_of(value).is_some_and(|text| wanted.text.matches(text))
        }
        _ => false,
    }
}

/// Whether a wildcard in the certificate stands for the one name that is wanted (RFC 6125 §6.4.3).
fn covers(given: &str, wanted: &TextMatch) -> bool {
    let (Some(suffix), TextMatch::Exact(name)) = (given.strip_prefix("*."), wanted) else { return false };
    name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four().or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The text in an `otherName`, which is `[0] EXPLICIT` anything (RFC 5280 §4.2.1.6).
fn text_of(value: &[u8]) -> Option<&[u8]> {
    let (_, explicit) = Any::from_der(value).ok()?;
    let (_, inner) = Any::from_der(explicit.data).ok()?;
    let is_text = matches!(
        inner.tag(),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString
    );
    is_text.then_some(inner.data)
}

#[cfg(test)]
#[path = "demands_tests.rs"]
mod tests;
