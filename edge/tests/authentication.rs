//! Who may pass, over real sockets: passwords, keys, tokens, networks, and what becomes of requests that show none of them.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use edge::proxy::io::Backend as IoBackend;
use edge::proxy::secrets::Secrets;
use edge::source::PasswordText;
use edge_config::issuer::SecretRef;
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::policy::{
    AccessRule, ApiKeys, Authorization, Basic, ClaimPath, ClaimTest, Csrf, Jwks, Jwt, JwtProvider, KeySource, Missing,
    Networks, Place, RulePolicy, Security, TokenPlaces,
};
use edge_config::settings::AddressRange;
use edge_config::snapshot::{Cors, Origin as AllowedOrigin, Rule, Snapshot};
use rig::{Origin, Rig, on_both};
use serde_json::{Value, json};

fn reference(name: &str, key: &str) -> SecretRef {
    SecretRef { secret: ObjectKey::new("default", name), key: key.into() }
}

fn secrets(list: &[(&str, &str, &str)]) -> Arc<Secrets> {
    let text = |text: &str| Ok(Arc::new(PasswordText::new(text.as_bytes().to_vec())));
    let texts: BTreeMap<_, _> = list.iter().map(|(name, key, value)| (reference(name, key), text(value))).collect();
    Arc::new(Secrets::new(texts))
}

/// Guards the first rule; the one at `/open` stays open.
fn guard(security: Security) -> impl FnOnce(&mut Snapshot) {
    move |snapshot| {
        let policy = RulePolicy { security: Some(Arc::new(security)), ..RulePolicy::default() };
        let rule = Rule { policy: Some(Arc::new(policy)), ..(*snapshot.rules[0]).clone() };
        snapshot.rules[0] = Arc::new(rule);
    }
}

/// The status of a request for `/` with these lines, and the whole answer, whose body is what the endpoint saw.
fn ask(rig: &Rig, lines: &str) -> (u16, String) {
    let request = if lines.starts_with("GET ") || lines.starts_with("POST ") || lines.starts_with("OPTIONS ") {
        lines.to_owned()
    } else {
        format!("GET / HTTP/1.1\r\n{lines}")
    };
    let answer = rig.ask(&format!("{request}host: a.example\r\nconnection: close\r\n\r\n")).to_ascii_lowercase();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}

fn basic(text: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(text))
}

fn users() -> Security {
    let basic =
        Basic { users: reference("users", ".htpasswd"), realm: "Edge".into(), forward_user: Some("x-user".into()) };
    Security { basic: Some(basic), ..Security::default() }
}

#[test]
fn passwords() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        let file = "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\nbob:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n\
            eve:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";
        rig.publish_guarded(origin.address, &secrets(&[("users", ".htpasswd", file)]), guard(users()));
        for (lines, expected) in [
            (basic("ann:password"), 200),
            (basic("bob:password"), 200),
            // The second time it is remembered.
            (basic("bob:password"), 200),
            (basic("eve:password"), 200),
            (basic("eve:Password"), 401),
            (basic("bob:password2"), 401),
            (basic("ann:"), 401),
            (basic("nobody:password"), 401),
            (basic(":password"), 401),
            (basic("ann"), 401),
            ("authorization: Basic !!!\r\n".to_owned(), 401),
            ("authorization: Bearer x\r\n".to_owned(), 401),
            (format!("{}{}", basic("ann:password"), basic("ann:password")), 401),
            (basic(&format!("ann:{}", "x".repeat(4000))), 401),
            (String::new(), 401),
            ("GET /open HTTP/1.1\r\n".to_owned(), 200),
        ] {
            let (status, answer) = ask(&rig, &lines);
            assert_eq!(status, expected, "{lines}");
            if status == 401 {
                assert!(answer.contains("www-authenticate: basic realm=\"edge\", charset=\"utf-8\""), "{answer}");
            }
        }
        let forged = format!("x-user: root\r\n{}X-USER: root\r\n", basic("ann:password"));
        let (_, seen) = ask(&rig, &forged);
        assert!(seen.contains("\r\nx-user: ann\r\n") && !seen.contains("root"), "{seen}");
        // Another file takes effect with the next request, and nobody who was right before is remembered.
        let other = "bob:{PLAIN}other\n";
        rig.publish_guarded(origin.address, &secrets(&[("users", ".htpasswd", other)]), guard(users()));
        assert_eq!(ask(&rig, &basic("bob:password")).0, 401);
        assert_eq!(ask(&rig, &basic("bob:other")).0, 200);
    });
}

#[test]
fn a_secret_that_is_missing_or_garbage_closes_its_rule_only() {
    let origin = Origin::echo();
    let rig = Rig::plain(IoBackend::Epoll, origin.address);
    for secrets in [secrets(&[]), secrets(&[("users", ".htpasswd", "garbage")])] {
        rig.publish_guarded(origin.address, &secrets, guard(users()));
        let (status, answer) = ask(&rig, &basic("ann:password"));
        assert!(status == 500 && answer.contains("secret_missing") && !answer.contains("garbage"), "{answer}");
        assert_eq!(ask(&rig, "GET /open HTTP/1.1\r\n").0, 200);
    }
    let closed = Security::closed("SecurityPolicy a/b".into(), "it is broken".into());
    rig.publish_guarded(origin.address, &secrets(&[]), guard(closed));
    let (status, answer) = ask(&rig, "");
    assert!(status == 500 && answer.contains("security_policy") && !answer.contains("broken"), "{answer}");
    // In the terms of gRPC: UNAVAILABLE.
    let (status, answer) = ask(&rig, "POST /s/m HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n");
    assert!(status == 200 && answer.contains("grpc-status: 14"), "{answer}");
    // Of the open rule only: what was refused went nowhere.
    assert!(origin.connections() <= 2);
}

#[test]
fn api_keys() {
    let keys = ApiKeys {
        clients: vec![("one".into(), reference("clients", "one")), ("two".into(), reference("clients", "two"))],
        places: vec![
            Place::Header("x-api-key".into()),
            Place::Header("authorization".into()),
            Place::Param("key".into()),
            Place::Cookie("key".into()),
        ],
        forward_client: Some("x-client".into()),
        sanitize: true,
    };
    let security = Security { api_keys: Some(Arc::new(keys)), ..Security::default() };
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        let secrets = secrets(&[("clients", "one", "key-of-one\n"), ("clients", "two", "key-of-two")]);
        rig.publish_guarded(origin.address, &secrets, guard(security.clone()));
        for (lines, expected) in [
            ("x-api-key: key-of-one\r\n", Some("one")),
            ("authorization: Bearer key-of-two\r\n", Some("two")),
            ("GET /?a=1&key=key%2Dof-one&b=2 HTTP/1.1\r\n", Some("one")),
            ("cookie: a=1; key=key-of-two\r\n", Some("two")),
            ("x-client: root\r\nx-api-key: key-of-one\r\n", Some("one")),
            ("x-api-key: key-of-three\r\n", None),
            ("x-api-key: key-of-on\r\n", None),
            ("x-api-key: key-of-one\r\nx-api-key: key-of-two\r\n", None),
            // The first place that has one counts.
            ("x-api-key: wrong\r\ncookie: key=key-of-two\r\n", None),
            ("x-api-key: \r\n", None),
            ("", None),
        ] {
            let (status, answer) = ask(&rig, lines);
            match expected {
                Some(client) => {
                    assert_eq!(status, 200, "{lines}");
                    assert!(answer.contains(&format!("\r\nx-client: {client}\r\n")), "{answer}");
                    assert!(
                        !answer.contains("key-of") && !answer.contains("key%2d") && !answer.contains("root"),
                        "{answer}"
                    );
                }
                None => assert!(status == 401 && answer.contains("www-authenticate: apikey"), "{answer}"),
            }
        }
    });
}

const SECRET: [u8; 32] = [9; 32];

fn token(claims: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "kid": "s" })), part(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

fn jwt(missing: Missing) -> Jwt {
    let set = json!({ "keys": [{ "kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode(SECRET) }] });
    let provider = JwtProvider {
        name: "example".into(),
        issuer: Some("https://issuer.example".into()),
        audiences: vec!["shop".into()],
        keys: KeySource::Local(Arc::new(Jwks::parse(set.to_string().as_bytes()).unwrap())),
        places: TokenPlaces::default(),
        claim_headers: vec![("x-name".into(), ClaimPath("user.name".into()))],
        claims: None,
        realm: "example".into(),
        leeway: Duration::from_secs(60),
    };
    let owner = ObjectRef::new(Kind::SecurityPolicy, ObjectKey::new("default", "example"));
    Jwt { owner, providers: vec![provider], missing }
}

#[test]
fn tokens() {
    let claims = |more: Value| {
        let mut claims = json!({ "iss": "https://issuer.example", "aud": "shop", "user": { "name": "ann" } });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(&claims)
    };
    let good = claims(json!({ "scope": "read", "exp": 4_000_000_000_u64 }));
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let test = ClaimTest { provider: "example".into(), claims: Vec::new(), scopes: vec!["read".into()] };
    let rule = AccessRule { token: Some(test), ..everybody(true) };
    let authorization = Authorization { rules: vec![rule], allow: false };
    let strict =
        Security { jwt: Some(jwt(Missing::Refused)), authorization: Some(authorization), ..Security::default() };
    let optional = Security { jwt: Some(jwt(Missing::Passes)), ..Security::default() };
    let lenient = Security { jwt: Some(jwt(Missing::PassesEvenBad)), ..Security::default() };
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        for (security, lines, expected, says) in [
            (&strict, bearer(&good), 200, "x-name: ann"),
            (&strict, bearer(&good), 200, "x-name: ann"),
            (&strict, format!("x-name: root\r\n{}", bearer(&good)), 200, "x-name: ann"),
            (&strict, format!("GET /?access_token={good} HTTP/1.1\r\n"), 200, "x-name: ann"),
            (&strict, bearer(&claims(json!({ "scope": "write" }))), 403, "forbidden"),
            (&strict, bearer(&claims(json!({ "exp": 1_000_000 }))), 401, "error_description=\"it has expired\""),
            (&strict, bearer(&claims(json!({ "nbf": 4_000_000_000_u64 }))), 401, "its time has not come"),
            (&strict, bearer(&claims(json!({ "iss": "https://other.example" }))), 401, "of another issuer"),
            (&strict, bearer(&claims(json!({ "aud": "other" }))), 401, "for another audience"),
            (&strict, bearer(&format!("{good}x")), 401, "error=\"invalid_token\""),
            (&strict, format!("{}{}", bearer(&good), bearer("x.y.z")), 401, "error=\"invalid_token\""),
            (&strict, String::new(), 401, "www-authenticate: bearer realm=\"example\"\r\n"),
            (&optional, String::new(), 200, ""),
            (&optional, "x-name: root\r\n".to_owned(), 200, ""),
            (&optional, bearer("x"), 401, "error=\"invalid_token\""),
            (&lenient, bearer("x"), 200, ""),
            (&lenient, format!("x-name: root\r\n{}", bearer("x")), 200, ""),
        ] {
            rig.publish_guarded(origin.address, &secrets(&[]), guard(security.clone()));
            let (status, answer) = ask(&rig, &lines);
            assert!(status == expected && answer.contains(says), "{lines}{expected} {says}\n{answer}");
            assert!(!answer.contains("root"), "{answer}");
        }
    });
}

fn everybody(allow: bool) -> AccessRule {
    AccessRule {
        name: "r".into(),
        allow,
        methods: Vec::new(),
        path: None,
        clients: None,
        headers: Vec::new(),
        token: None,
    }
}

#[test]
fn networks_and_sites() {
    let networks = |text: &str| Some(Arc::new(Networks::new([AddressRange::parse(text).unwrap()])));
    let of = |rules: Vec<AccessRule>, allow| Security {
        authorization: Some(Authorization { rules, allow }),
        ..Security::default()
    };
    let here = AccessRule { clients: networks("127.0.0.0/8"), ..everybody(true) };
    let elsewhere = AccessRule { clients: networks("192.0.2.0/24"), ..everybody(true) };
    let posts = AccessRule { methods: vec!["POST".into()], ..everybody(false) };
    let cors = Cors { allow_origins: vec![AllowedOrigin::Any], allow_methods: vec!["GET".into()], ..Cors::default() };
    let guarded = Security { cors: Some(cors), csrf: Some(Csrf { origins: Vec::new(), shadow: None }), ..users() };
    let origin = Origin::echo();
    let rig = Rig::plain(IoBackend::Epoll, origin.address);
    let post = "POST / HTTP/1.1\r\ncontent-length: 0\r\n";
    for (security, lines, expected, says) in [
        (of(vec![here.clone()], false), String::new(), 200, ""),
        (of(vec![elsewhere], false), String::new(), 403, "forbidden"),
        (of(vec![posts.clone(), here.clone()], false), String::new(), 200, ""),
        (of(vec![posts, here], false), post.to_owned(), 403, "forbidden"),
        (of(vec![], true), String::new(), 200, ""),
        (of(vec![], false), String::new(), 403, "forbidden"),
        // A preflight has no password, and must be answered all the same.
        (
            guarded.clone(),
            "OPTIONS / HTTP/1.1\r\norigin: https://b.example\r\naccess-control-request-method: GET\r\n".to_owned(),
            204,
            "access-control-allow-origin: *",
        ),
        // A script must be able to read why it was refused.
        (guarded.clone(), "origin: https://b.example\r\n".to_owned(), 401, "access-control-allow-origin: *"),
        (guarded.clone(), format!("{post}origin: https://evil.example\r\n"), 403, "csrf"),
        (guarded, format!("{post}origin: https://a.example\r\n{}", basic("ann:password")), 200, ""),
    ] {
        let secrets = secrets(&[("users", ".htpasswd", "ann:{PLAIN}password")]);
        rig.publish_guarded(origin.address, &secrets, guard(security));
        let (status, answer) = ask(&rig, &lines);
        assert!(status == expected && answer.contains(says), "{lines}{expected} {says}\n{answer}");
    }
}
