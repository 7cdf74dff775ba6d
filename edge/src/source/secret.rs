//! Secrets and ConfigMaps to facts: PEM and X.509 are read here, private keys leave on their own way. Bytes of a
//! manifest flow in; out flow objects without anything secret, and [`Material`] for those that can be served.
//! Standards: RFC 7468 (PEM), RFC 5280 (X.509), Kubernetes' `kubernetes.io/basic-auth`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use edge_config::announce::Password;
use edge_config::core::{
    BASIC_AUTH_SECRET, CaBundle, CertificateFacts, ConfigMap, KeyAlgorithm, RawConfigMap, RawSecret, RevocationLists,
    Secret, SecretContents, value_faults,
};
use edge_config::issuer::SecretRef;
use edge_config::names::{CertId, Kind, ObjectKey, ObjectRef};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use super::documents::Served;
use crate::certs::table::{CertEntry, CertFacts, Origin};

/// Everything secret of the objects that are served. It travels beside them and is in none of them.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Of every Secret that can be served.
    pub certificates: BTreeMap<CertId, Arc<KeyMaterial>>,
    /// Of Secrets of type `kubernetes.io/basic-auth`, and of BGPPeers that have theirs in the open.
    passwords: BTreeMap<ObjectRef, Arc<PasswordText>>,
    /// Values of other Secrets of files, for issuers. Those of the API server are asked for one by one.
    texts: BTreeMap<ObjectKey, Arc<Texts>>,
}

/// The values of a Secret by name.
pub type Texts = BTreeMap<String, Arc<PasswordText>>;

impl Keys {
    pub fn get(&self, id: &CertId) -> Option<&Arc<KeyMaterial>> {
        self.certificates.get(id)
    }

    /// The text of a password that came with objects. `None` too for one in a file, which is read by who uses it.
    pub fn password(&self, place: &Password) -> Option<&Arc<PasswordText>> {
        match place {
            Password::File(_) => None,
            Password::Secret(key) => self.password_of(&ObjectRef::new(Kind::Secret, key.clone())),
            Password::Inline(key) => self.password_of(&ObjectRef::new(Kind::BGPPeer, key.clone())),
        }
    }

    /// A member of a Secret that is in a file; `None`: no file has the Secret.
    pub fn text(&self, reference: &SecretRef) -> Option<Result<Arc<PasswordText>, String>> {
        let SecretRef { secret, key } = reference;
        let text = self.texts.get(secret)?.get(&**key);
        Some(text.cloned().ok_or_else(|| format!("Secret {secret} has no member {key}")))
    }

    pub fn password_of(&self, object: &ObjectRef) -> Option<&Arc<PasswordText>> {
        self.passwords.get(object)
    }

    /// Notes what is secret of an object, and forgets what was.
    pub fn put(&mut self, object: &ObjectRef, served: &Served) {
        self.remove(object);
        if let Some(key) = &served.key {
            self.certificates.insert(CertId(object.key.clone()), Arc::clone(key));
        }
        if let Some(password) = &served.password {
            self.passwords.insert(object.clone(), Arc::clone(password));
        }
        if let Some(texts) = &served.texts {
            self.texts.insert(object.key.clone(), Arc::clone(texts));
        }
    }

    pub fn remove(&mut self, object: &ObjectRef) {
        if object.kind == Kind::Secret {
            self.certificates.remove(&CertId(object.key.clone()));
            self.texts.remove(&object.key);
        }
        if matches!(object.kind, Kind::Secret | Kind::BGPPeer) {
            self.passwords.remove(object);
        }
    }

    /// Adds those of another source.
    pub fn extend(&mut self, others: &Self) {
        self.certificates.extend(others.certificates.iter().map(|(id, key)| (id.clone(), Arc::clone(key))));
        self.passwords.extend(others.passwords.iter().map(|(object, text)| (object.clone(), Arc::clone(text))));
        self.texts.extend(others.texts.iter().map(|(secret, texts)| (secret.clone(), Arc::clone(texts))));
    }

    /// Whether both hold the very same material: what did not change on disk is not read again.
    pub fn is_same(&self, other: &Self) -> bool {
        fn all<K: Eq, T>(a: &BTreeMap<K, Arc<T>>, b: &BTreeMap<K, Arc<T>>) -> bool {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && Arc::ptr_eq(a, b))
        }
        all(&self.certificates, &other.certificates)
            && all(&self.passwords, &other.passwords)
            && all(&self.texts, &other.texts)
    }
}

/// A password as it was supplied. The bytes are wiped when the last user lets go.
#[derive(PartialEq, Eq)]
pub struct PasswordText(Zeroizing<Vec<u8>>);

impl PasswordText {
    pub fn new(text: Vec<u8>) -> Self {
        Self(Zeroizing::new(text))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PasswordText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What is secret of a Secret and of use.
#[derive(Debug, Default)]
pub(super) struct Material {
    pub(super) key: Option<Arc<KeyMaterial>>,
    pub(super) password: Option<Arc<PasswordText>>,
    pub(super) texts: Option<Arc<Texts>>,
}

/// A chain and its private key, as they were supplied and ready for TLS. The private bytes are wiped when the last
/// user lets go.
pub struct KeyMaterial {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Zeroizing<Vec<u8>>,
    pub entry: Arc<CertEntry>,
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMaterial").field("entry", &self.entry).field("key_pem", &"[redacted]").finish()
    }
}

/// A bundle of more anchors than this is refused.
const MAX_ANCHORS: usize = 1024;
/// And of more lists of revoked certificates; each handshake looks for the one that it needs.
const MAX_LISTS: usize = 64;

/// Splits a Secret into what may be known and what may not.
pub(super) fn read(mut raw: RawSecret) -> (Secret, Material) {
    let keys: Vec<String> = raw.values.keys().cloned().collect();
    let ca = raw.values.get("ca.crt").map(|bundle| ca_bundle(bundle));
    let crl = raw.values.get("ca.crl").map(|lists| revocation_lists(lists));
    let is_pair =
        raw.kind == "kubernetes.io/tls" || (raw.values.contains_key("tls.crt") && raw.values.contains_key("tls.key"));
    let mut values: BTreeMap<String, Zeroizing<Vec<u8>>> =
        std::mem::take(&mut raw.values).into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
    let has_password = raw.kind == BASIC_AUTH_SECRET;
    let password = has_password.then(|| values.remove("password")).flatten();
    let password = password.map(|text| Arc::new(PasswordText(text)));
    // An account's key may lie in `tls.key`, without a certificate.
    let is_certificate = is_pair && values.get("tls.crt").is_some_and(|chain| !chain.is_empty());
    // Of those that are read as texts; the others are judged by what they hold.
    let faults = match is_certificate || has_password {
        true => BTreeMap::new(),
        false => value_faults(&raw.kind, values.iter().map(|(name, text)| (name, text.as_slice()))),
    };
    let texts = (!is_certificate && !has_password).then(|| {
        let texts = values.iter().map(|(name, text)| (name.clone(), Arc::new(PasswordText(text.clone()))));
        Arc::new(texts.collect::<Texts>())
    });
    let (contents, key) = if is_pair {
        let pair = match (values.remove("tls.crt"), values.remove("tls.key")) {
            (Some(chain), Some(key)) => pair(chain.to_vec(), key),
            (None, _) => Err("tls.crt is missing".to_owned()),
            (_, None) => Err("tls.key is missing".to_owned()),
        };
        match pair {
            Ok((facts, material)) => (SecretContents::Tls { certificate: Ok(facts), ca }, Some(Arc::new(material))),
            Err(reason) => (SecretContents::Tls { certificate: Err(reason), ca }, None),
        }
    } else {
        (ca.map_or(SecretContents::Other, SecretContents::Ca), None)
    };
    (Secret { kind: std::mem::take(&mut raw.kind), keys, contents, crl, faults }, Material { key, password, texts })
}

/// Reads a chain and a key that must belong to its leaf.
pub(super) fn pair(chain: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<(CertificateFacts, KeyMaterial), String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let entry = CertEntry::from_pem(&chain, &key, Origin::Supplied, &provider).map_err(|fault| one_line(&fault))?;
    let facts = facts(&entry)?;
    Ok((facts, KeyMaterial { certificate_pem: chain, key_pem: key, entry: Arc::new(entry) }))
}

fn one_line(fault: &dyn fmt::Display) -> String {
    fault.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn facts(entry: &CertEntry) -> Result<CertificateFacts, String> {
    let chain = &entry.certified.cert;
    let leaf = chain.first().ok_or_else(|| "tls.crt holds no certificate".to_owned())?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|fault| one_line(&fault))?;
    let CertFacts { dns_names, addresses, not_before, not_after, issuer, fingerprint } = &entry.facts;
    let mut dns_names: Vec<String> = dns_names.iter().map(|name| name.to_string()).collect();
    if dns_names.is_empty() && addresses.is_empty() {
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        dns_names.extend(common_name.map(str::to_ascii_lowercase));
    }
    Ok(CertificateFacts {
        dns_names,
        ip_addresses: addresses.clone(),
        not_before: *not_before,
        not_after: *not_after,
        issuer: issuer.to_string(),
        key_algorithm: key_algorithm(&parsed),
        sha256: fingerprint.to_string(),
        is_ca: parsed.is_ca(),
        is_self_signed: parsed.subject() == parsed.issuer(),
        chain_length: chain.len(),
    })
}

fn key_algorithm(certificate: &X509Certificate<'_>) -> KeyAlgorithm {
    let spki = certificate.public_key();
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) => KeyAlgorithm::Rsa { bits: u32::try_from(key.key_size()).unwrap_or(u32::MAX) },
        Ok(PublicKey::EC(_)) => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            match curve {
                Some(curve) if curve == oid::OID_EC_P256 => KeyAlgorithm::EcdsaP256,
                Some(curve) if curve == oid::OID_NIST_EC_P384 => KeyAlgorithm::EcdsaP384,
                Some(curve) if curve == oid::OID_NIST_EC_P521 => KeyAlgorithm::EcdsaP521,
                _ => KeyAlgorithm::Unknown,
            }
        }
        _ if spki.algorithm.algorithm == oid::OID_SIG_ED25519 => KeyAlgorithm::Ed25519,
        _ => KeyAlgorithm::Unknown,
    }
}

/// The certificates of a bundle; text around the PEM blocks is allowed, as bundles have comments.
pub(super) fn ca_bundle(pem: &[u8]) -> CaBundle {
    let mut anchors: Vec<Arc<[u8]>> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = match certificate {
            Ok(certificate) => certificate,
            Err(fault) => return CaBundle(Err(format!("ca.crt is no PEM: {}", one_line(&fault)))),
        };
        match X509Certificate::from_der(&certificate) {
            Ok(([], _)) => anchors.push(certificate.as_ref().into()),
            Ok(_) => {
                return CaBundle(Err(format!("ca.crt: certificate {} has bytes after its end", anchors.len() + 1)));
            }
            Err(fault) => {
                let number = anchors.len() + 1;
                return CaBundle(Err(format!("ca.crt: certificate {number} is malformed: {}", one_line(&fault))));
            }
        }
        if anchors.len() > MAX_ANCHORS {
            return CaBundle(Err(format!("ca.crt holds more than {MAX_ANCHORS} certificates")));
        }
    }
    if anchors.is_empty() {
        return CaBundle(Err("ca.crt holds no PEM block CERTIFICATE".to_owned()));
    }
    CaBundle(Ok(anchors))
}

/// The lists of revoked certificates in a PEM text. Those that could not be used at a handshake are refused here.
fn revocation_lists(pem: &[u8]) -> RevocationLists {
    let mut lists: Vec<Arc<[u8]>> = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let list = match list {
            Ok(list) => list,
            Err(fault) => return RevocationLists(Err(format!("ca.crl is no PEM: {}", one_line(&fault)))),
        };
        if let Err(fault) = webpki::BorrowedCertRevocationList::from_der(&list) {
            let number = lists.len() + 1;
            return RevocationLists(Err(format!("ca.crl: list {number} cannot be used: {}", one_line(&fault))));
        }
        lists.push(list.as_ref().into());
        if lists.len() > MAX_LISTS {
            return RevocationLists(Err(format!("ca.crl holds more than {MAX_LISTS} lists")));
        }
    }
    if lists.is_empty() {
        return RevocationLists(Err("ca.crl holds no PEM block X509 CRL".to_owned()));
    }
    RevocationLists(Ok(lists))
}

/// A ConfigMap without its values, but with the bundle that may be referred to.
pub(super) fn read_config_map(raw: &RawConfigMap) -> ConfigMap {
    let ca = raw.values.get("ca.crt").map(|bundle| ca_bundle(bundle));
    let crl = raw.values.get("ca.crl").map(|lists| revocation_lists(lists));
    ConfigMap::new(&raw.values, ca, crl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["A.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn secret(kind: &str, values: &[(&str, &str)]) -> (Secret, Option<Arc<KeyMaterial>>) {
        let values = values.iter().map(|(key, value)| (key.to_string(), value.as_bytes().to_vec())).collect();
        let (secret, material) = read(RawSecret { kind: kind.to_owned(), values });
        (secret, material.key)
    }

    #[test]
    fn passwords_are_kept_of_their_type_only() {
        for (kind, is_kept) in [("kubernetes.io/basic-auth", true), ("Opaque", false), ("kubernetes.io/tls", false)] {
            let values = BTreeMap::from([("password".to_owned(), b"s3cret\n".to_vec())]);
            let (secret, material) = read(RawSecret { kind: kind.to_owned(), values });
            assert_eq!(material.password.as_ref().map(|text| text.bytes()), is_kept.then_some(&b"s3cret\n"[..]));
            assert_eq!(secret.keys, ["password"]);
            let printed = format!("{secret:?} {material:?}");
            assert!(!printed.contains("s3cret"), "{printed}");
        }
    }

    #[test]
    fn texts_are_kept_of_secrets_without_certificate() {
        let (chain, key) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for (kind, values, kept) in [
            ("Opaque", vec![("token", "t0ken"), ("password", "p")], Some("password token")),
            ("Opaque", vec![("tls.key", key.as_str())], Some("tls.key")),
            ("kubernetes.io/tls", vec![("tls.crt", chain.as_str()), ("tls.key", &key)], None),
            ("kubernetes.io/basic-auth", vec![("password", "p")], None),
        ] {
            let values = values.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect();
            let (_, material) = read(RawSecret { kind: kind.to_owned(), values });
            let names = material.texts.as_ref().map(|texts| texts.keys().cloned().collect::<Vec<_>>().join(" "));
            assert_eq!(names.as_deref(), kept, "{kind}");
            assert!(!format!("{material:?}").contains("t0ken"));
        }
    }

    #[test]
    fn pairs() {
        for (algorithm, expected) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyAlgorithm::EcdsaP256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyAlgorithm::EcdsaP384),
            (&rcgen::PKCS_ED25519, KeyAlgorithm::Ed25519),
        ] {
            let (chain, key) = certificate(algorithm);
            let (secret, material) = secret("kubernetes.io/tls", &[("tls.crt", &chain), ("tls.key", &key)]);
            let facts = secret.certificate().unwrap();
            assert_eq!(facts.key_algorithm, expected);
            assert_eq!(facts.dns_names, ["a.example"]);
            assert_eq!(facts.sha256.len(), 64);
            assert!(facts.is_self_signed && !facts.is_ca);
            let printed = format!("{:?}", material.unwrap());
            assert!(printed.contains("[redacted]") && !printed.contains("PRIVATE"), "{printed}");
        }
    }

    #[test]
    fn what_cannot_be_served_says_why() {
        let (chain, key) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, other) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for (values, reason) in [
            (vec![], "tls.crt is missing"),
            (vec![("tls.crt", chain.as_str())], "tls.key is missing"),
            (vec![("tls.crt", &chain), ("tls.key", &other)], "private key does not belong to the certificate"),
            (vec![("tls.crt", "garbage"), ("tls.key", &key)], "no PEM block CERTIFICATE"),
            (vec![("tls.crt", &chain), ("tls.key", "garbage")], "no usable private key"),
        ] {
            let (secret, material) = secret("kubernetes.io/tls", &values);
            let found = secret.certificate().unwrap_err();
            assert!(found.contains(reason), "{found}");
            assert!(!found.contains('\n'));
            assert!(material.is_none());
        }
    }

    #[test]
    fn bundles() {
        let (chain, _) = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let two = format!("# a comment\n{chain}\n{chain}");
        for (text, expected) in [
            (two.as_str(), Ok(2)),
            ("", Err("no PEM block")),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Err("is malformed")),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", Err("is no PEM")),
        ] {
            let bundle = ca_bundle(text.as_bytes());
            match (bundle.0, expected) {
                (Ok(anchors), Ok(count)) => assert_eq!(anchors.len(), count),
                (Err(found), Err(reason)) => assert!(found.contains(reason), "{found}"),
                (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
            }
        }
        let (secret, _) = secret("Opaque", &[("ca.crt", &chain)]);
        assert!(secret.ca().is_some_and(|bundle| bundle.0.is_ok()));
        assert!(secret.certificate().is_err());
    }
}
