//! What the certificate thread has for Secrets: certificates with their keys, as they were issued, and keys of accounts.
//!
//! Only what is to be written back is here. It travels beside what is observed, never in it, and its private parts are
//! wiped when the last user lets go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use edge_config::issuer::{AcmeIssuer, SecretRef};
use edge_config::names::CertId;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::SecretTexts;
use super::table::CertFacts;

/// The annotation of a Secret that names the leaf which Edge put there: its SHA-256 in lower-case hexadecimal digits.
/// Another leaf beside it was put there by somebody else.
pub const WRITTEN_ANNOTATION: &str = "edge.internal/certificate";

/// Everything that Secrets are to hold. The same `Arc` means the same bytes.
#[derive(Debug, Clone, Default)]
pub struct Offers {
    pub certificates: BTreeMap<CertId, Arc<Offer>>,
    /// Keys of accounts that Edge made: PEM of PKCS#8, for the Secret that [`account_secret`] names.
    pub accounts: BTreeMap<SecretRef, Arc<Zeroizing<String>>>,
}

impl Offers {
    /// Whether both are the very same.
    pub fn is_same(&self, other: &Self) -> bool {
        fn all<K: Eq, T>(a: &BTreeMap<K, Arc<T>>, b: &BTreeMap<K, Arc<T>>) -> bool {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && Arc::ptr_eq(a, b))
        }
        all(&self.certificates, &other.certificates) && all(&self.accounts, &other.accounts)
    }
}

/// A certificate for its Secret.
pub struct Offer {
    /// Leaf first.
    pub chain_pem: String,
    pub key_pem: Zeroizing<String>,
    /// Of the CA that signed it, where that is none that everybody knows.
    pub ca_pem: Option<String>,
    pub facts: CertFacts,
    /// How many certificates the chain holds.
    pub chain_length: usize,
    /// When it is due for renewal (Unix seconds), where that is known.
    pub due: Option<i64>,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("facts", &self.facts).field("key_pem", &"[redacted]").finish_non_exhaustive()
    }
}

/// Where Edge writes the key of an account that it made for an issuer whose `privateKeySecretRef` is this: beside it,
/// never into it, for cert-manager takes no account key but RSA (which Edge does not make) and would refuse its issuer.
pub fn account_secret(reference: &SecretRef) -> SecretRef {
    let mut beside = reference.clone();
    beside.secret.name = format!("{}-edge", reference.secret.name).into();
    beside
}

/// The key of an account, among the texts of the Secrets at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountKey<'a> {
    /// PEM or DER as the Secret has it, of a key that Edge can use.
    Usable(&'a [u8]),
    /// There is none, or none that can be used: one is to be made. The reason is for people; none: nothing is there.
    Missing(Option<String>),
    /// Whether there is one is not known yet.
    Unknown(String),
}

/// Looks for the key of an issuer's account: in the Secret that its `privateKeySecretRef` names, then in the one that Edge
/// writes beside it.
pub fn account_key<'a>(texts: &'a SecretTexts, issuer: &AcmeIssuer) -> AccountKey<'a> {
    let Some(reference) = &issuer.account_secret else { return AccountKey::Missing(None) };
    let mut reason = None;
    for reference in [reference.clone(), account_secret(reference)] {
        let SecretRef { secret, key } = &reference;
        match texts.get(&reference) {
            Some(Ok(text)) => match usable(text.bytes()) {
                Ok(()) => return AccountKey::Usable(text.bytes()),
                Err(why) => {
                    reason.get_or_insert_with(|| format!("Secret {secret}: {key} {why}"));
                }
            },
            Some(Err(_)) => {}
            None => return AccountKey::Unknown(format!("Secret {secret} is not read yet")),
        }
    }
    AccountKey::Missing(reason)
}

/// Whether a text is a key that accounts of Edge can have: ECDSA on P-256.
fn usable(text: &[u8]) -> Result<(), &'static str> {
    let der = PrivateKeyDer::from_pem_slice(text).map_err(|_| "holds no private key in PEM")?;
    let fits = match &der {
        PrivateKeyDer::Pkcs1(_) => return Err("is an RSA key, as cert-manager makes them; Edge's accounts have P-256"),
        PrivateKeyDer::Sec1(key) => {
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_sec1_der())
        }
        PrivateKeyDer::Pkcs8(key) => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der()),
        _ => return Err("is a key of a kind that is not known"),
    };
    fits.map(drop).map_err(|_| "is no ECDSA key on P-256, which Edge's accounts have")
}

#[cfg(test)]
mod tests {
    use edge_config::issuer::IssuerId;
    use edge_config::names::ObjectKey;

    use super::*;
    use crate::source::PasswordText;

    fn issuer(reference: &SecretRef) -> AcmeIssuer {
        AcmeIssuer {
            id: IssuerId("ClusterIssuer x".into()),
            directory: "https://ca/dir".into(),
            contacts: Vec::new(),
            account_secret: Some(reference.clone()),
            create_account: true,
            external_account: None,
            profile: None,
            preferred_chain: None,
            trust: None,
            trust_file: None,
            private: false,
            insecure: false,
            solvers: Vec::new(),
        }
    }

    #[test]
    fn whose_key_an_account_has() {
        let reference = SecretRef { secret: ObjectKey::parse("cert-manager/le"), key: "tls.key".into() };
        let beside = account_secret(&reference);
        assert_eq!(beside.secret.to_string(), "cert-manager/le-edge");
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let rsa = "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n";
        let absent = || Some(Err("not found".to_owned()));
        let text = |text: &str| Some(Ok(Arc::new(PasswordText::new(text.as_bytes().to_vec()))));
        for (name, first, second, expected) in [
            ("not read", None, None, "unknown"),
            ("nothing", absent(), absent(), "missing"),
            ("one of P-256", text(&pem), absent(), "usable"),
            ("RSA", text(rsa), absent(), "Secret cert-manager/le: tls.key is an RSA key"),
            ("RSA, and one of Edge", text(rsa), text(&pem), "usable"),
            ("P-384", text(&other), absent(), "Secret cert-manager/le: tls.key is no ECDSA key on P-256"),
            ("garbage", text("x"), absent(), "holds no private key"),
            ("the second is not read", absent(), None, "unknown"),
        ] {
            let mut texts = SecretTexts::new();
            for (reference, text) in [(&reference, first), (&beside, second)] {
                text.map(|text| texts.insert(reference.clone(), text));
            }
            let found = match account_key(&texts, &issuer(&reference)) {
                AccountKey::Usable(bytes) => {
                    assert_eq!(bytes, pem.as_bytes());
                    "usable".to_owned()
                }
                AccountKey::Missing(reason) => reason.unwrap_or_else(|| "missing".to_owned()),
                AccountKey::Unknown(_) => "unknown".to_owned(),
            };
            assert!(found.contains(expected), "{name}: {found}");
        }
    }
}
