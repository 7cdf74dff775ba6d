//! JSON Web Key Sets (RFC 7517, RFC 7518 §6, RFC 8037): text in, keys that a token may be signed with out.
//!
//! A set is read as RFC 7517 §5 says: members that are not understood are ignored, and so are keys of a kind that is not
//! known or not for signatures; a key of a known kind that is malformed, or a set without any key that can be used, is an
//! error. Each key is for the algorithms of its kind and no other, so that no token can choose to be verified otherwise.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// A longer text is no key set.
pub const LONGEST: usize = 256 << 10;
/// More keys than this are refused.
const MOST_KEYS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Jwks {
    pub keys: Vec<Jwk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    pub id: Option<Arc<str>>,
    /// `None`: every algorithm of the key's kind.
    pub algorithm: Option<JwsAlgorithm>,
    pub key: PublicKey,
}

/// What verifies a signature. Keys of HMAC are secret and are not printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PublicKey {
    /// Big-endian, without leading zeros.
    Rsa {
        modulus: KeyText,
        exponent: KeyText,
    },
    /// X9.62, uncompressed.
    Ec {
        curve: Curve,
        point: KeyText,
    },
    Ed25519(KeyText),
    Hmac(KeyText),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Curve {
    P256,
    P384,
    P521,
}

/// Bytes of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(pub Arc<[u8]>);

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

macro_rules! algorithms {
    ($($name:ident => $text:literal),+ $(,)?) => {
        /// RFC 7518 §3.1, RFC 8037 §3.1 and RFC 9864. `none` is not among them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum JwsAlgorithm { $($name,)+ }

        impl JwsAlgorithm {
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$name),)+
                    "Ed25519" => Some(Self::EdDsa),
                    _ => None,
                }
            }
        }
    };
}
algorithms! {
    Hs256 => "HS256", Hs384 => "HS384", Hs512 => "HS512",
    Rs256 => "RS256", Rs384 => "RS384", Rs512 => "RS512",
    Ps256 => "PS256", Ps384 => "PS384", Ps512 => "PS512",
    Es256 => "ES256", Es384 => "ES384", Es512 => "ES512",
    EdDsa => "EdDSA",
}

impl Jwk {
    /// Whether a token that says it is signed so may be verified with this key.
    pub fn is_for(&self, algorithm: JwsAlgorithm) -> bool {
        use JwsAlgorithm::{EdDsa, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let fits = match &self.key {
            PublicKey::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            PublicKey::Ec { curve: Curve::P256, .. } => algorithm == Es256,
            PublicKey::Ec { curve: Curve::P384, .. } => algorithm == Es384,
            PublicKey::Ec { curve: Curve::P521, .. } => algorithm == Es512,
            PublicKey::Ed25519(_) => algorithm == EdDsa,
            PublicKey::Hmac(_) => matches!(algorithm, Hs256 | Hs384 | Hs512),
        };
        fits && self.algorithm.is_none_or(|own| own == algorithm)
    }
}

impl Jwks {
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("is longer than {} KiB", LONGEST >> 10));
        }
        // The position is told, never the text: a key may be secret.
        let set: Value = serde_json::from_slice(text)
            .map_err(|error| format!("is no JSON (line {}, column {})", error.line(), error.column()))?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or("has no list \"keys\"")?;
        if listed.len() > MOST_KEYS {
            return Err(format!("has {} keys, expected at most {MOST_KEYS}", listed.len()));
        }
        let mut keys = Vec::with_capacity(listed.len());
        for (number, key) in listed.iter().enumerate() {
            let key = key.as_object().ok_or_else(|| format!("keys[{number}] is no object"))?;
            keys.extend(one(key).map_err(|why| format!("keys[{number}] {why}"))?);
        }
        if keys.is_empty() {
            return Err("has no key for signatures of a kind that is known (RSA, EC, OKP Ed25519, oct)".to_owned());
        }
        Ok(Self { keys })
    }
}

fn one(key: &Map<String, Value>) -> Result<Option<Jwk>, String> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| {
        let text = text(name).ok_or_else(|| format!("has no {name:?}"))?;
        let bytes =
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| format!("{name:?} is no base64url"))?;
        if bytes.is_empty() { Err(format!("{name:?} is empty")) } else { Ok(bytes) }
    };
    let number = |name: &str| {
        let bytes = bytes(name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        match bytes.get(zeros..) {
            Some(rest @ [_, ..]) => Ok(KeyText(rest.into())),
            _ => Err(format!("{name:?} is zero")),
        }
    };
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let operations = key.get("key_ops").and_then(Value::as_array);
    if operations.is_some_and(|list| !list.iter().any(|one| one.as_str() == Some("verify"))) {
        return Ok(None);
    }
    let algorithm = match text("alg").map(|alg| (alg, JwsAlgorithm::parse(alg))) {
        Some((_, None)) => return Ok(None),
        Some((_, some)) => some,
        None => None,
    };
    let public = match text("kty").ok_or("has no \"kty\"")? {
        "RSA" => {
            let (modulus, exponent) = (number("n")?, number("e")?);
            let bits = modulus.0.len() * 8;
            // RFC 7518 §3.3: "A key of size 2048 bits or larger MUST be used".
            if !(2041..=8192).contains(&bits) {
                return Err(format!("is an RSA key of {bits} bits, expected 2048 to 8192"));
            }
            PublicKey::Rsa { modulus, exponent }
        }
        "EC" => {
            let (curve, length) = match text("crv").ok_or("has no \"crv\"")? {
                "P-256" => (Curve::P256, 32),
                "P-384" => (Curve::P384, 48),
                "P-521" => (Curve::P521, 66),
                _ => return Ok(None),
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != length || y.len() != length {
                return Err(format!("has coordinates of another length than {length} bytes"));
            }
            PublicKey::Ec { curve, point: KeyText([&[4][..], &x, &y].concat().into()) }
        }
        "OKP" if text("crv") == Some("Ed25519") => {
            let x = bytes("x")?;
            if x.len() != 32 {
                return Err("has a point of another length than 32 bytes".to_owned());
            }
            PublicKey::Ed25519(KeyText(x.into()))
        }
        "oct" => {
            let secret = bytes("k")?;
            // RFC 7518 §3.2 asks for as many bits as the hash has; nobody keeps to it, but short ones can be guessed.
            if secret.len() < 16 {
                return Err("has a secret of less than 16 bytes".to_owned());
            }
            PublicKey::Hmac(KeyText(secret.into()))
        }
        _ => return Ok(None),
    };
    Ok(Some(Jwk { id: text("kid").map(Into::into), algorithm, key: public }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bytes])
    }

    #[test]
    fn sets() {
        let rsa = format!(r#"{{"kty":"RSA","kid":"a","alg":"RS256","use":"sig","n":"{}","e":"AQAB"}}"#, n(256));
        let short = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, n(128));
        let ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#, n(32), n(32));
        let bad_ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#, n(31), n(32));
        let enc = format!(r#"{{"kty":"RSA","use":"enc","n":"{}","e":"AQAB"}}"#, n(256));
        let oct = format!(r#"{{"kty":"oct","k":"{}"}}"#, n(32));
        let guessable = format!(r#"{{"kty":"oct","k":"{}"}}"#, n(8));
        let okp = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, n(32));
        let unknown = r#"{"kty":"XYZ"}"#.to_owned();
        let no_alg = format!(r#"{{"kty":"oct","alg":"none","k":"{}"}}"#, n(32));
        let set = |keys: &[&String]| {
            let keys: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
            format!(r#"{{"keys":[{}]}}"#, keys.join(","))
        };
        for (text, expected) in [
            (set(&[&rsa, &ec, &okp, &oct]), Ok(4)),
            (set(&[&rsa, &unknown, &enc]), Ok(1)),
            (set(&[&rsa, &short]), Err("keys[1] is an RSA key of 1024 bits, expected 2048 to 8192")),
            (set(&[&bad_ec]), Err("keys[0] has coordinates of another length than 32 bytes")),
            (set(&[&guessable]), Err("keys[0] has a secret of less than 16 bytes")),
            (set(&[&no_alg]), Err("has no key for signatures of a kind that is known (RSA, EC, OKP Ed25519, oct)")),
            (set(&[]), Err("has no key for signatures of a kind that is known (RSA, EC, OKP Ed25519, oct)")),
            (r#"{"keys":[{"kty":"oct","k":"!!"}]}"#.to_owned(), Err("keys[0] \"k\" is no base64url")),
            (r#"{"keys":[7]}"#.to_owned(), Err("keys[0] is no object")),
            ("[]".to_owned(), Err("has no list \"keys\"")),
            ("not json".to_owned(), Err("is no JSON (line 1, column 2)")),
            (" ".repeat(LONGEST + 1), Err("is longer than 256 KiB")),
        ] {
            let found = Jwks::parse(text.as_bytes());
            assert_eq!(found.as_ref().map(|set| set.keys.len()).map_err(String::as_str), expected, "{text:.80}");
        }
    }

    #[test]
    fn a_key_is_for_its_own_algorithms_only_and_is_not_printed() {
        let parse = |text: String| Jwks::parse(format!(r#"{{"keys":[{text}]}}"#).as_bytes()).unwrap().keys.remove(0);
        let rsa = parse(format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, n(256)));
        let pinned = parse(format!(r#"{{"kty":"RSA","alg":"PS256","n":"{}","e":"AQAB"}}"#, n(256)));
        let oct = parse(format!(r#"{{"kty":"oct","k":"{}"}}"#, n(32)));
        assert!(rsa.is_for(JwsAlgorithm::Rs256) && rsa.is_for(JwsAlgorithm::Ps512));
        assert!(!rsa.is_for(JwsAlgorithm::Hs256) && !rsa.is_for(JwsAlgorithm::Es256));
        assert!(pinned.is_for(JwsAlgorithm::Ps256) && !pinned.is_for(JwsAlgorithm::Rs256));
        assert!(oct.is_for(JwsAlgorithm::Hs384) && !oct.is_for(JwsAlgorithm::Rs256));
        assert_eq!(JwsAlgorithm::parse("none"), None);
        let printed = format!("{oct:?} {}", serde_json::to_string(&oct).unwrap());
        assert!(!printed.contains("255") && printed.contains("redacted"), "{printed}");
    }
}
