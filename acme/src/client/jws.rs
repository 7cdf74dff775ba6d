//! Keys that sign requests (RFC 7515, 7517, 7518), for what instant-acme has no call for.
//!
//! In: PEM of a private key. Out: flattened JWS, JWK, thumbprints (RFC 7638). Keys are not printed.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("private key: {0}")]
    Pem(String),
    #[error("private key is neither ECDSA P-256 or P-384 nor Ed25519 nor RSA of 2048 to 8192 bits")]
    Unknown,
    #[error("account key is {0}, expected ECDSA P-256")]
    NotP256(&'static str),
    #[error("key of the external account is not base64url")]
    External,
    #[error("random numbers are refused")]
    Random,
    #[error("key refuses to sign")]
    Sign,
}

/// A private key of any kind that certificates have.
pub enum SigningKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kind())
    }
}

impl SigningKey {
    /// PKCS#8, SEC1 or PKCS#1.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| KeyError::Pem(error.to_string()))?;
        let der = key.secret_der();
        let ecdsa = |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der);
        if let Ok(key) = ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING) {
            return Ok(Self::P256(key));
        }
        if let Ok(key) = ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING) {
            return Ok(Self::P384(key));
        }
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self::Ed25519(key));
        }
        let rsa = match &key {
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(der),
            _ => RsaKeyPair::from_pkcs8(der),
        };
        rsa.map(|key| Self::Rsa(Box::new(key))).map_err(|_| KeyError::Unknown)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::P256(_) => "ECDSA P-256",
            Self::P384(_) => "ECDSA P-384",
            Self::Ed25519(_) => "Ed25519",
            Self::Rsa(_) => "RSA",
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    /// The public half, with members in the order that a thumbprint needs.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |key: &EcdsaKeyPair, curve: &str| {
            let coordinates = key.public_key().as_ref().get(1..).unwrap_or_default();
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            json!({ "crv": curve, "kty": "EC", "x": encode(x), "y": encode(y) })
        };
        match self {
            Self::P256(key) => point(key, "P-256"),
            Self::P384(key) => point(key, "P-384"),
            Self::Ed25519(key) => json!({ "crv": "Ed25519", "kty": "OKP", "x": encode(key.public_key().as_ref()) }),
            Self::Rsa(key) => {
                let key = key.public_key();
                let (e, n) = (key.exponent(), key.modulus());
                json!({
                    "e": encode(e.big_endian_without_leading_zero()),
                    "kty": "RSA",
                    "n": encode(n.big_endian_without_leading_zero()),
                })
            }
        }
    }

    /// RFC 7638.
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.jwk().to_string().as_bytes()))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match self {
            Self::P256(key) | Self::P384(key) => {
                Ok(key.sign(&random, message).map_err(|_| KeyError::Sign)?.as_ref().to_vec())
            }
            Self::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| KeyError::Sign)?;
                Ok(signature)
            }
        }
    }
}

/// Who signs (RFC 8555 §6.2).
#[derive(Clone, Copy)]
pub enum Identity<'a> {
    /// URL of the account.
    Account(&'a str),
    /// The key itself, for what an account is not known or not needed for.
    Key,
}

/// A request body. `payload` of `None` is POST-as-GET (RFC 8555 §6.3).
pub fn sign(
    key: &SigningKey,
    identity: Identity<'_>,
    nonce: Option<&str>,
    url: &str,
    payload: Option<&Value>,
) -> Result<Value, KeyError> {
    let mut header = json!({ "alg": key.algorithm(), "url": url });
    match identity {
        Identity::Account(account) => header["kid"] = account.into(),
        Identity::Key => header["jwk"] = key.jwk(),
    }
    if let Some(nonce) = nonce {
        header["nonce"] = nonce.into();
    }
    flattened(&header, payload, |message| key.sign(message))
}

/// The binding to an external account (RFC 8555 §7.3.4); its key is base64url, padded or not.
pub fn bind(key: &SigningKey, key_id: &str, external_key: &str, url: &str) -> Result<Value, KeyError> {
    let text = external_key.trim().trim_end_matches('=');
    let secret = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD.decode(external_key.trim()));
    let secret = Zeroizing::new(secret.map_err(|_| KeyError::External)?);
    if secret.is_empty() {
        return Err(KeyError::External);
    }
    let header = json!({ "alg": "HS256", "kid": key_id, "url": url });
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    flattened(&header, Some(&key.jwk()), |message| Ok(hmac::sign(&secret, message).as_ref().to_vec()))
}

fn flattened(
    header: &Value,
    payload: Option<&Value>,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, KeyError>,
) -> Result<Value, KeyError> {
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = payload.map_or_else(String::new, |payload| URL_SAFE_NO_PAD.encode(payload.to_string()));
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(json!({ "protected": protected, "payload": payload, "signature": URL_SAFE_NO_PAD.encode(signature) }))
}

/// A new account key, PEM of PKCS#8.
pub fn new_account_key() -> Result<Zeroizing<String>, KeyError> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| KeyError::Random)?;
    Ok(private_pem(key.as_ref()))
}

/// An account key from elsewhere (PKCS#8 or SEC1), as PEM of PKCS#8.
pub fn account_key(pem: &str) -> Result<Zeroizing<String>, KeyError> {
    match SigningKey::from_pem(pem)? {
        SigningKey::P256(key) => {
            let der = key.to_pkcs8v1().map_err(|_| KeyError::Unknown)?;
            Ok(private_pem(der.as_ref()))
        }
        other => Err(KeyError::NotP256(other.kind())),
    }
}

fn private_pem(der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 64));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // RFC 7468 §2: lines of 64 characters.
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, EcPrivateKeyRfc5915Der};

    use super::*;

    #[test]
    fn the_thumbprint_of_rfc_7638_has_no_spaces_and_sorted_members() {
        // RFC 8037 appendix A.3: the thumbprint of its Ed25519 key.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let key = SigningKey::Ed25519(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap());
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn account_keys_are_p256_from_pkcs8_or_sec1() {
        let pem = new_account_key().unwrap();
        let thumbprint = SigningKey::from_pem(&pem).unwrap().thumbprint();
        assert_eq!(SigningKey::from_pem(&account_key(&pem).unwrap()).unwrap().thumbprint(), thumbprint);

        let SigningKey::P256(key) = SigningKey::from_pem(&pem).unwrap() else { panic!("{pem:?}") };
        let scalar: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
        let sec1 = format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", {
            STANDARD.encode(scalar.as_ref())
        });
        assert_eq!(SigningKey::from_pem(&account_key(&sec1).unwrap()).unwrap().thumbprint(), thumbprint);

        let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let error = account_key(&rsa.serialize_pem()).unwrap_err();
        assert_eq!(error.to_string(), "account key is RSA, expected ECDSA P-256");
        assert!(matches!(account_key("-----BEGIN PRIVATE KEY-----\nAAAA\n"), Err(KeyError::Pem(_))));
    }

    #[test]
    fn every_kind_of_key_signs_and_is_told() {
        for (algorithm, expected, kind) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256", "EC"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ES384", "EC"),
            (&rcgen::PKCS_ED25519, "EdDSA", "OKP"),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
            let key = SigningKey::from_pem(&key).unwrap();
            let jws = sign(&key, Identity::Key, Some("n"), "https://ca/x", None).unwrap();
            let header = URL_SAFE_NO_PAD.decode(jws["protected"].as_str().unwrap()).unwrap();
            let header: Value = serde_json::from_slice(&header).unwrap();
            assert_eq!((header["alg"].as_str(), header["jwk"]["kty"].as_str()), (Some(expected), Some(kind)));
            assert_eq!(jws["payload"], "");
            assert!(!format!("{key:?}").contains("BEGIN"));
        }
    }

    #[test]
    fn external_keys_are_base64url_with_or_without_padding() {
        let key = SigningKey::from_pem(&new_account_key().unwrap()).unwrap();
        for (text, good) in [("zWND_-8", true), ("zWND_-8=\n", true), ("zWND/+8=", true), ("", false), ("ä", false)] {
            assert_eq!(bind(&key, "k", text, "https://ca/new").is_ok(), good, "{text:?}");
        }
    }
}
