//! Keys of issuers, ready to verify with, and the verification of signatures (RFC 7515, RFC 7518 §3, RFC 8037). In: a compact
//! token. Out: its claims, if one of the keys signed it. What the claims must be is asked by [`super::claims`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_config::policy::{Curve, Jwk, Jwks, JwsAlgorithm, PublicKey};
use serde_json::{Map, Value};

/// A longer token is none; heads have a bound of their own.
pub const LONGEST: usize = 16 << 10;
/// Keys that are tried for one token: a set without names could make a worker try all of them.
const MOST_TRIED: usize = 8;

/// Keys that were made ready once. Each set is told apart from every other one.
pub struct KeySet {
    serial: u64,
    keys: Vec<Key>,
}

struct Key {
    jwk: Jwk,
    /// One for each algorithm of its kind that it may be used with.
    verifiers: Vec<(JwsAlgorithm, Verifier)>,
}

enum Verifier {
    Mac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the algorithm is none that is allowed")]
    Algorithm,
    #[error("no key of the issuer is the one that it names")]
    UnknownKey,
    #[error("the signature is wrong")]
    Signature,
    #[error("{0}")]
    Claims(&'static str),
}

use JwsAlgorithm::{EdDsa, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

impl KeySet {
    pub fn new(set: &Jwks) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let keys = set.keys.iter().map(|jwk| Key { verifiers: verifiers(jwk), jwk: jwk.clone() });
        Self { serial: SERIAL.fetch_add(1, Ordering::Relaxed), keys: keys.collect() }
    }

    /// From a JSON Web Key Set.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        Jwks::parse(text).map(|set| Self::new(&set))
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.jwk)).finish()
    }
}

/// A key that cannot be used with an algorithm (a point that is not on its curve, a modulus that is even) verifies nothing.
fn verifiers(jwk: &Jwk) -> Vec<(JwsAlgorithm, Verifier)> {
    let all = [Hs256, Hs384, Hs512, Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, Es512, EdDsa];
    all.into_iter().filter(|algorithm| jwk.is_for(*algorithm)).filter_map(|of| Some((of, verifier(jwk, of)?))).collect()
}

fn verifier(jwk: &Jwk, algorithm: JwsAlgorithm) -> Option<Verifier> {
    let public = match &jwk.key {
        PublicKey::Hmac(secret) => {
            let kind = match algorithm {
                Hs256 => hmac::HMAC_SHA256,
                Hs384 => hmac::HMAC_SHA384,
                Hs512 => hmac::HMAC_SHA512,
                _ => return None,
            };
            return Some(Verifier::Mac(Box::new(hmac::Key::new(kind, &secret.0))));
        }
        PublicKey::Rsa { modulus, exponent } => {
            let kind: &'static RsaParameters = match algorithm {
                Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return None,
            };
            PublicKeyComponents { n: &*modulus.0, e: &*exponent.0 }.to_parsed_public_key(kind)
        }
        PublicKey::Ec { curve, point } => match curve {
            Curve::P256 => ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &point.0),
            Curve::P384 => ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, &point.0),
            Curve::P521 => ParsedPublicKey::new(&signature::ECDSA_P521_SHA512_FIXED, &point.0),
        },
        PublicKey::Ed25519(point) => ParsedPublicKey::new(&signature::ED25519, &point.0),
    };
    public.ok().map(Verifier::Public)
}

/// The claims of a token that one of the keys signed. Nothing of the claims has been asked yet.
pub fn verify(token: &str, keys: &KeySet) -> Result<Map<String, Value>, JwtError> {
    let parts = Parts::of(token)?;
    let header = object(parts.header)?;
    let name = header.get("alg").and_then(Value::as_str).ok_or(JwtError::Malformed("the header has no alg"))?;
    let algorithm = JwsAlgorithm::parse(name).ok_or(JwtError::Algorithm)?;
    // RFC 7515 §4.1.11: who does not understand what is critical MUST refuse the whole.
    if header.contains_key("crit") {
        return Err(JwtError::Malformed("the header has crit"));
    }
    let id = header.get("kid").and_then(Value::as_str);
    let named = |key: &&Key| match (id, &key.jwk.id) {
        (Some(wanted), Some(own)) => *wanted == **own,
        // A key without a name may be any, and a token without one may be of any.
        _ => true,
    };
    let mut is_tried = false;
    for key in keys.keys.iter().filter(named).filter(|key| key.jwk.is_for(algorithm)).take(MOST_TRIED) {
        is_tried = true;
        if key
            .verifiers
            .iter()
            .any(|(of, verifier)| *of == algorithm && verifier.is_right(parts.signed, &parts.signature))
        {
            return object(parts.claims);
        }
    }
    match is_tried {
        true => Err(JwtError::Signature),
        // A key of another kind is told apart, since no new key would help.
        false if keys.keys.iter().any(|key| named(&key) && id.is_some() && key.jwk.id.is_some()) => {
            Err(JwtError::Algorithm)
        }
        false => Err(JwtError::UnknownKey),
    }
}

/// The claims of a token, whoever signed it.
pub fn unverified(token: &str) -> Result<Map<String, Value>, JwtError> {
    object(Parts::of(token)?.claims)
}

impl Verifier {
    fn is_right(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Mac(key) => hmac::verify(key, signed, signature).is_ok(),
            Self::Public(key) => key.verify_sig(signed, signature).is_ok(),
        }
    }
}

struct Parts<'t> {
    header: &'t str,
    claims: &'t str,
    signed: &'t [u8],
    signature: Vec<u8>,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, JwtError> {
        let wrong = JwtError::Malformed("it is not three parts of base64url");
        if token.len() > LONGEST {
            return Err(JwtError::Malformed("it is longer than 16 KiB"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(wrong)?;
        let (header, claims) = signed.split_once('.').ok_or(wrong)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| wrong)?;
        // An unsigned token (RFC 7519 §6) is never taken.
        if claims.contains('.') || signature.is_empty() {
            return Err(wrong);
        }
        Ok(Self { header, claims, signed: signed.as_bytes(), signature })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, JwtError> {
    let wrong = JwtError::Malformed("a part is no JSON object in base64url");
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| wrong)?;
    serde_json::from_slice(&bytes).map_err(|_| wrong)
}

/// Where a provider's keys are at this moment.
#[derive(Debug, Clone)]
pub enum Keys {
    At(Arc<KeySet>),
    /// Nobody can be let in or turned away by what is not known.
    Away,
}
