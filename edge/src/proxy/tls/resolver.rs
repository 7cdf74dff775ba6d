//! Chooses a listener's certificate for a ClientHello.
//!
//! In flow the listener's certificates in the order of `certificateRefs`; out flows one per handshake. A name decides
//! first (exact, then wildcard, then a certificate for `*`, then anyone), the client's signature schemes second, the
//! order third. Names are taken as they are written, odd ones included: serving them is the user's choice.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certs::table::CertEntry;

/// Certificates by the names in them. The lists hold positions in `entries`, in order.
#[derive(Debug)]
pub struct Resolver {
    entries: Vec<Arc<CertEntry>>,
    exact: HashMap<Box<str>, Vec<u32>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<u32>>,
    any: Vec<u32>,
}

impl Resolver {
    pub fn new(entries: Vec<Arc<CertEntry>>) -> Self {
        let mut exact: HashMap<Box<str>, Vec<u32>> = HashMap::new();
        let mut wildcard: HashMap<Box<str>, Vec<u32>> = HashMap::new();
        let mut any = Vec::new();
        for (position, entry) in (0u32..).zip(&entries) {
            for name in &entry.facts.dns_names {
                match name.strip_prefix("*.") {
                    Some(suffix) => wildcard.entry(suffix.into()).or_default().push(position),
                    None if &**name == "*" => any.push(position),
                    None => exact.entry(name.clone()).or_default().push(position),
                }
            }
        }
        Self { entries, exact, wildcard, any }
    }

    pub fn entries(&self) -> &[Arc<CertEntry>] {
        &self.entries
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let usable = |position: &u32| {
            let entry = self.entries.get(*position as usize)?;
            entry.certified.key.choose_scheme(schemes).map(|_| &entry.certified)
        };
        let named = |list: Option<&Vec<u32>>| list.into_iter().flatten().find_map(usable);
        name.and_then(|name| {
            // A wildcard covers exactly one label (RFC 6125 §6.4.3).
            let suffix = name.split_once('.').map(|(_, suffix)| suffix);
            named(self.exact.get(name)).or_else(|| named(suffix.and_then(|suffix| self.wildcard.get(suffix))))
        })
        .or_else(|| named(Some(&self.any)))
        .or_else(|| (0..self.entries.len() as u32).find_map(|position| usable(&position)))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands the name out in lower case.
        self.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::table::Origin;
    use crate::proxy::tls::provider;

    fn entry(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Arc<CertEntry> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        Arc::new(CertEntry::from_pem(chain.as_bytes(), key.as_bytes(), Origin::Supplied, provider()).unwrap())
    }

    #[test]
    fn name_first_then_scheme_then_order() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let ed = &rcgen::PKCS_ED25519;
        let all = [
            entry(&["first.example"], p256),
            entry(&["*.b.example", "*.a.example"], p256),
            entry(&["x.a.example"], ed),
            entry(&["x.a.example", "y.a.example"], p256),
            entry(&["*"], p256),
        ];
        let resolver = Resolver::new(all.to_vec());
        let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let both = [SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];
        for (name, schemes, expected) in [
            (Some("first.example"), &ecdsa[..], Some(0)),
            (Some("x.a.example"), &both[..], Some(2)),
            (Some("x.a.example"), &ecdsa[..], Some(3)),
            (Some("z.a.example"), &ecdsa[..], Some(1)),
            (Some("z.z.a.example"), &ecdsa[..], Some(4)),
            (Some("a.example"), &ecdsa[..], Some(4)),
            (None, &ecdsa[..], Some(4)),
            (Some("first.example"), &[SignatureScheme::ED25519][..], Some(2)),
            (Some("first.example"), &[SignatureScheme::RSA_PSS_SHA256][..], None),
        ] {
            let chosen = resolver.choose(name, schemes);
            let position = chosen.map(|key| all.iter().position(|entry| Arc::ptr_eq(&entry.certified, key)).unwrap());
            assert_eq!(position, expected, "{name:?} {schemes:?}");
        }
        let alone = Resolver::new(all[..2].to_vec());
        assert!(Arc::ptr_eq(alone.choose(None, &ecdsa).unwrap(), &all[0].certified));
        assert!(Resolver::new(Vec::new()).choose(Some("a"), &ecdsa).is_none());
    }
}
