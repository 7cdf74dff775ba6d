//! Tokens that are good, and all kinds of tokens that are not.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use edge_config::policy::{ClaimPath, Jwks, JwtProvider, KeySource, TokenPlaces};
use serde_json::{Value, json};

use super::claims::{is_now, judge, tell, times};
use super::*;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A private key, and its JWK.
struct Issuer {
    sign: Sign,
    algorithm: &'static str,
    jwk: Value,
}

impl Issuer {
    fn rsa() -> Self {
        let pair = RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let public = pair.public_key();
        let (n, e) = (public.modulus(), public.exponent());
        let jwk = json!({
            "kty": "RSA", "kid": "r",
            "n": B64.encode(n.big_endian_without_leading_zero()), "e": B64.encode(e.big_endian_without_leading_zero()),
        });
        let sign = move |message: &[u8]| {
            let mut out = vec![0; pair.public_modulus_len()];
            pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut out).unwrap();
            out
        };
        Self { sign: Box::new(sign), algorithm: "RS256", jwk }
    }

    fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "e", "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]),
        });
        let sign = move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        Self { sign: Box::new(sign), algorithm: "ES256", jwk }
    }

    fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "d", "x": B64.encode(pair.public_key().as_ref()) });
        Self { sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()), algorithm: "EdDSA", jwk }
    }

    fn mac() -> Self {
        let secret = [7; 32];
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let jwk = json!({ "kty": "oct", "kid": "m", "k": B64.encode(secret) });
        Self { sign: Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec()), algorithm: "HS256", jwk }
    }

    fn token(&self, header: Value, claims: &Value) -> String {
        let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        format!("{signed}.{}", B64.encode((self.sign)(signed.as_bytes())))
    }

    fn plain(&self, claims: &Value) -> String {
        self.token(json!({ "alg": self.algorithm, "kid": self.jwk["kid"] }), claims)
    }
}

fn keys(issuers: &[&Issuer]) -> KeySet {
    let list: Vec<&Value> = issuers.iter().map(|issuer| &issuer.jwk).collect();
    KeySet::parse(json!({ "keys": list }).to_string().as_bytes()).unwrap()
}

#[test]
fn each_kind_of_key_verifies_its_own_tokens() {
    let issuers = [Issuer::rsa(), Issuer::ec(), Issuer::ed(), Issuer::mac()];
    let all = keys(&issuers.iter().collect::<Vec<_>>());
    let claims = json!({ "sub": "ann", "n": 1 });
    for issuer in &issuers {
        let token = issuer.plain(&claims);
        assert_eq!(Value::Object(verify(&token, &all).unwrap()), claims, "{}", issuer.algorithm);
        assert_eq!(Value::Object(unverified(&token).unwrap()), claims);
        // Without a name every key of the kind is tried.
        assert!(verify(&issuer.token(json!({ "alg": issuer.algorithm }), &claims), &all).is_ok());
        let mut other = token.clone().into_bytes();
        let at = other.len() - 5;
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert!(verify(std::str::from_utf8(&other).unwrap(), &all).is_err());
    }
}

#[test]
fn what_is_no_token() {
    let (rsa, ec, mac) = (Issuer::rsa(), Issuer::ec(), Issuer::mac());
    let both = keys(&[&rsa, &ec]);
    let claims = json!({ "sub": "ann" });
    let part = |value: Value| B64.encode(value.to_string());
    let good = rsa.plain(&claims);
    let (signed, _) = good.rsplit_once('.').unwrap();
    // The classic confusion: the public key of RSA, taken as a secret.
    let confused = {
        let secret = rsa.jwk["n"].as_str().unwrap().as_bytes();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let signed = format!("{}.{}", part(json!({ "alg": "HS256", "kid": "r" })), part(claims.clone()));
        format!("{signed}.{}", B64.encode(hmac::sign(&key, signed.as_bytes())))
    };
    for (what, token, expected) in [
        ("none", format!("{}.{}.", part(json!({ "alg": "none" })), part(claims.clone())), None),
        ("none, signed", rsa.token(json!({ "alg": "none", "kid": "r" }), &claims), Some(JwtError::Algorithm)),
        ("None", rsa.token(json!({ "alg": "None", "kid": "r" }), &claims), Some(JwtError::Algorithm)),
        ("confused", confused, Some(JwtError::Algorithm)),
        ("HS256 of another", mac.plain(&claims), Some(JwtError::UnknownKey)),
        (
            "RS256 said, ES256 named",
            rsa.token(json!({ "alg": "RS256", "kid": "e" }), &claims),
            Some(JwtError::Algorithm),
        ),
        ("unknown key", rsa.token(json!({ "alg": "RS256", "kid": "x" }), &claims), Some(JwtError::UnknownKey)),
        ("crit", rsa.token(json!({ "alg": "RS256", "kid": "r", "crit": ["b64"], "b64": false }), &claims), None),
        ("no alg", rsa.token(json!({ "kid": "r" }), &claims), None),
        ("claims are a list", rsa.plain(&json!([1])), None),
        ("two parts", signed.to_owned(), None),
        ("four parts", format!("{good}.x"), None),
        ("no signature", format!("{signed}."), None),
        ("another signature", format!("{signed}.{}", B64.encode([0; 256])), Some(JwtError::Signature)),
        ("base64 with padding", format!("{signed}.{}==", B64.encode([0; 256])), None),
        ("too long", rsa.plain(&json!({ "x": "y".repeat(20_000) })), None),
        ("empty", String::new(), None),
        ("dots", "..".to_owned(), None),
    ] {
        let found = verify(&token, &both).unwrap_err();
        match expected {
            Some(expected) => assert_eq!(found, expected, "{what}"),
            None => assert!(matches!(found, JwtError::Malformed(_)), "{what}: {found:?}"),
        }
    }
}

fn provider() -> JwtProvider {
    let keys = Jwks::parse(json!({ "keys": [Issuer::mac().jwk] }).to_string().as_bytes()).unwrap();
    JwtProvider {
        name: "p".into(),
        issuer: Some("https://issuer.example".into()),
        audiences: vec!["a".into(), "b".into()],
        keys: KeySource::Local(Arc::new(keys)),
        places: TokenPlaces::default(),
        claim_headers: vec![
            ("x-sub".into(), ClaimPath("sub".into())),
            ("x-nested".into(), ClaimPath("a.b".into())),
            ("x-n".into(), ClaimPath("n".into())),
            ("x-list".into(), ClaimPath("list".into())),
            ("x-evil".into(), ClaimPath("evil".into())),
        ],
        claims: None,
        realm: "p".into(),
        leeway: Duration::from_secs(60),
    }
}

#[test]
fn claims_are_judged() {
    let provider = provider();
    let iss = "https://issuer.example";
    for (claims, expected) in [
        (json!({ "iss": iss, "aud": "a" }), true),
        (json!({ "iss": iss, "aud": ["x", "b"] }), true),
        (json!({ "iss": iss, "aud": ["x"] }), false),
        (json!({ "iss": iss }), false),
        (json!({ "iss": "https://issuer.example/", "aud": "a" }), false),
        (json!({ "aud": "a" }), false),
        (json!({ "iss": [iss], "aud": "a" }), false),
        (json!({ "iss": iss, "aud": 7 }), false),
    ] {
        assert_eq!(judge(&provider, claims.as_object().unwrap()).is_ok(), expected, "{claims}");
    }
    let at = |now: u64| Duration::from_secs(now);
    for (claims, now, expected) in [
        (json!({}), 1000, true),
        (json!({ "exp": 1000 }), 1059, true),
        (json!({ "exp": 1000 }), 1060, false),
        (json!({ "exp": 1000.5 }), 900, true),
        (json!({ "nbf": 1000 }), 940, true),
        (json!({ "nbf": 1000 }), 939, false),
        (json!({ "iat": 1000 }), 900, false),
        (json!({ "exp": 1e300, "iat": 1 }), 900, true),
    ] {
        let times = times(claims.as_object().unwrap()).unwrap();
        assert_eq!(is_now(times, at(now), provider.leeway).is_ok(), expected, "{claims} at {now}");
    }
    for claims in [json!({ "exp": "1000" }), json!({ "nbf": null }), json!({ "iat": true })] {
        assert!(times(claims.as_object().unwrap()).is_err(), "{claims}");
    }
}

#[test]
fn backends_are_told_what_can_be_told() {
    let claims = json!({
        "sub": "ann", "a": { "b": "deep" }, "n": 7, "list": ["x"], "evil": "x\r\nx-admin: yes",
    });
    let mut fields = Fields::default();
    tell(&provider(), claims.as_object().unwrap(), &mut fields);
    let told: Vec<(&[u8], &[u8])> = fields.iter().collect();
    let expected: [(&[u8], &[u8]); 3] = [(b"x-sub", b"ann"), (b"x-nested", b"deep"), (b"x-n", b"7")];
    assert_eq!(told, expected);
}

#[test]
fn tokens_are_found_where_they_may_be() {
    let places = TokenPlaces {
        headers: vec![("authorization".into(), "Bearer ".into()), ("x-token".into(), "".into())],
        cookies: vec!["t".into()],
        params: vec!["access_token".into()],
    };
    for (fields, query, expected) in [
        (&[("authorization", "Bearer a")][..], None, &["a"][..]),
        (&[("authorization", "bearer  a ")], None, &["a"]),
        (&[("authorization", "Basic a")], None, &[]),
        (&[("authorization", "Bearer")], None, &[]),
        (&[("x-token", "b")], Some("x=1&access_token=c%2e"), &["b", "c."]),
        (&[("cookie", "s=1; t=d")], None, &["d"]),
        (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], None, &["a", "b"]),
        (&[("x-token", "1"), ("x-token", "2"), ("x-token", "3"), ("x-token", "4"), ("x-token", "5")], None, &["-"]),
    ] {
        let mut request = RequestHead::default();
        request.set_query(query);
        fields.iter().for_each(|(name, value)| request.fields.add(name.as_bytes(), value.as_bytes()));
        let found: Vec<String> =
            given(&places, &request).iter().map(|token| String::from_utf8(token.to_vec()).unwrap()).collect();
        assert_eq!(found, expected, "{fields:?} {query:?}");
    }
}

#[test]
fn what_was_verified_is_known_for_its_keys_only() {
    let (one, other) = (Issuer::mac(), Issuer::ed());
    let (first, second) = (keys(&[&one]), keys(&[&other]));
    let verified = Verified::default();
    let token = one.plain(&json!({ "sub": "ann" }));
    let known = verified.of(&first, &token).unwrap().0;
    assert!(Arc::ptr_eq(&known, &verified.of(&first, &token).unwrap().0));
    assert_eq!(verified.of(&second, &token).unwrap_err(), JwtError::UnknownKey);
    // The same keys, read again, are other ones.
    assert!(!Arc::ptr_eq(&known, &verified.of(&keys(&[&one]), &token).unwrap().0));
}

/// `cargo test --workspace --release -- --ignored --nocapture what_a_token_costs`
#[test]
#[ignore = "a measurement"]
fn what_a_token_costs() {
    let claims = json!({
        "iss": "https://issuer.example", "aud": "a", "sub": "1234567890", "name": "John Doe",
        "exp": 4_000_000_000_u64, "scope": "read write admin", "groups": ["one", "two", "three"],
    });
    for issuer in [Issuer::mac(), Issuer::rsa(), Issuer::ec(), Issuer::ed()] {
        let (set, token) = (keys(&[&issuer]), issuer.plain(&claims));
        let each = |count: u32, run: &mut dyn FnMut()| {
            let began = std::time::Instant::now();
            (0..count).for_each(|_| run());
            began.elapsed().as_secs_f64() * 1e6 / f64::from(count)
        };
        let verifying = each(5000, &mut || drop(std::hint::black_box(verify(&token, &set)).unwrap()));
        let (provider, prepared) = (provider(), Prepared::default());
        let step = each(50_000, &mut || {
            let (claims, times) = prepared.verified.of(&set, &token).unwrap();
            is_now(times, now(), provider.leeway).unwrap();
            judge(&provider, &claims).unwrap();
        });
        println!("{}: {verifying:.1} us to verify, {step:.2} us where it is known", issuer.algorithm);
    }
}
