use std::sync::Arc;

use edge_config::issuer::SecretRef;
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::policy::{ClientId, Oidc, OidcCookies, Provider, SameSite, TextMatch};

use super::flow::{self, Returned};
use super::seal::{Purpose, Seal};
use super::session::{Jar, Login, MOST_LOGINS, Session};
use crate::proxy::authorities::Endpoints;
use crate::proxy::message::{Fields, RequestHead};

const NOW: i64 = 1_800_000_000;

fn oidc(name: &str) -> Oidc {
    Oidc {
        owner: ObjectRef::new(Kind::SecurityPolicy, ObjectKey::new("shop", name)),
        provider: Arc::new(Provider {
            issuer: "https://id.test".into(),
            discovery: None,
            authorization: None,
            token: None,
            end_session: None,
            via: None,
        }),
        client_id: ClientId::Text("edge".into()),
        client_secret: SecretRef { secret: ObjectKey::new("shop", "client"), key: "client-secret".into() },
        redirect_url: None,
        callback: "/oauth2/callback".into(),
        scopes: vec!["openid".into(), "email".into()],
        resources: vec!["https://api.test/a b".into()],
        extra: vec![("prompt".into(), "select account".into())],
        logout_path: "/logout".into(),
        home: None,
        forward_access_token: false,
        forward_id_token: None,
        token_ttl: None,
        refresh_ttl: Some(std::time::Duration::from_secs(604_800)),
        login_ttl: std::time::Duration::from_secs(600),
        cookies: OidcCookies {
            name: "edge-oidc-1".into(),
            access_token: None,
            id_token: Some("IdToken".into()),
            domain: None,
            same_site: SameSite::Lax,
        },
        pass_through: Vec::new(),
        deny_redirect: vec![("accept".into(), TextMatch::Prefix("application/json".into()))],
    }
}

fn session(size: usize) -> Session {
    Session {
        access_token: Some("a".repeat(size).into()),
        id_token: Some("h.p.s".into()),
        refresh_token: Some("r".into()),
        subject: "alice".into(),
        issued: NOW,
        expires: NOW + 300,
        refresh_expires: NOW + 3000,
    }
}

fn jar<'a>(oidc: &'a Oidc, seal: &'a Seal, host: &'a str) -> Jar<'a> {
    Jar { oidc, seal, host, secure: true }
}

/// What a browser sends after these answers.
fn as_browser(set: &Fields) -> Fields {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in set.all(b"set-cookie") {
        let line = std::str::from_utf8(line).unwrap();
        assert!(line.len() <= 4096 && line.contains("; HttpOnly") && line.contains("; Secure"), "{line}");
        let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
        pairs.retain(|(known, _)| known != name);
        if !line.contains("; Max-Age=0") {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    let mut sent = Fields::default();
    let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    sent.add(b"cookie", text.join("; ").as_bytes());
    sent
}

fn edited(sent: &Fields, edit: impl Fn(&str) -> String) -> Fields {
    let mut fields = Fields::default();
    fields.add(b"cookie", edit(std::str::from_utf8(sent.first(b"cookie").unwrap()).unwrap()).as_bytes());
    fields
}

#[test]
fn a_session_comes_back_whole_or_not_at_all() {
    let policy = oidc("login");
    let seal = Seal::new(&policy, "edge", b"a secret of the provider").unwrap();
    let jar_of_a = jar(&policy, &seal, "a.test");
    for size in [10, 3000, 9000] {
        let mut set = Fields::default();
        assert!(jar_of_a.keep(&session(size), 300, &Fields::default(), &mut set));
        let sent = as_browser(&set);
        assert!(jar_of_a.session(&sent) == Some(session(size)), "{size}");
        // Another edge has nothing but the configuration.
        let other = Seal::new(&policy, "edge", b"a secret of the provider").unwrap();
        assert!(jar(&policy, &other, "a.test").session(&sent).is_some());
        // Of another host, policy, client or secret it is worth nothing.
        assert!(jar(&policy, &seal, "b.test").session(&sent).is_none());
        for (policy, client, secret) in [
            (oidc("other"), "edge", &b"a secret of the provider"[..]),
            (oidc("login"), "edge2", b"a secret of the provider"),
            (oidc("login"), "edge", b"another"),
        ] {
            let seal = Seal::new(&policy, client, secret).unwrap();
            assert!(jar(&policy, &seal, "a.test").session(&sent).is_none());
        }
        // Cut, changed, or put together from pieces.
        for edit in [
            |text: &str| text[..text.len() - 1].to_owned(),
            // One part more than there are.
            |text: &str| {
                let (name, rest) = text.split_once('=').unwrap();
                let count: u32 = rest[..1].parse().unwrap();
                format!("{name}={}{}", count + 1, &rest[1..])
            },
            |text: &str| {
                let (kept, changed) = text.split_at(text.len() - 20);
                let other = if changed.starts_with('A') { "B" } else { "A" };
                format!("{kept}{other}{}", &changed[1..])
            },
            |text: &str| text.split("; ").next().unwrap().to_owned() + "x",
            |text: &str| text.replace("edge-oidc-1=", "edge-oidc-1=9"),
            |_: &str| "edge-oidc-1=1".to_owned(),
            |_: &str| "edge-oidc-1=".to_owned(),
            |_: &str| "edge-oidc-1=~~~".to_owned(),
        ] {
            assert!(jar_of_a.session(&edited(&sent, edit)).is_none(), "{size}");
        }
        // One that opens is found beside one that does not.
        let beside = edited(&sent, |text| format!("edge-oidc-1=1junk; {text}"));
        assert!(jar_of_a.session(&beside).is_some());
    }
    let mut set = Fields::default();
    assert!(!jar_of_a.keep(&session(40_000), 300, &Fields::default(), &mut set), "no browser would keep it");
    assert!(set.is_empty());
}

#[test]
fn fewer_parts_take_the_place_of_more() {
    let policy = oidc("login");
    let seal = Seal::new(&policy, "edge", b"secret").unwrap();
    let jar = jar(&policy, &seal, "a.test");
    let mut set = Fields::default();
    assert!(jar.keep(&session(9000), 300, &Fields::default(), &mut set));
    let sent = as_browser(&set);
    assert!(jar.keep(&session(10), 300, &sent, &mut set));
    assert_eq!(set.all(b"set-cookie").filter(|line| line.windows(11).any(|w| w == b"; Max-Age=0")).count(), 3);
    let sent = as_browser(&set);
    assert!(jar.session(&sent) == Some(session(10)));
    jar.forget(&sent, &mut set);
    assert!(as_browser(&set).first(b"cookie").unwrap().is_empty());
}

#[test]
fn a_login_is_for_its_state_alone() {
    let policy = oidc("login");
    let seal = Seal::new(&policy, "edge", b"secret").unwrap();
    let jar = jar(&policy, &seal, "a.test");
    let login = flow::begin("https://a.test/x".into(), "https://a.test/oauth2/callback".into(), NOW).unwrap();
    let mut set = Fields::default();
    assert!(jar.begin(&login, &Fields::default(), &mut set));
    let sent = as_browser(&set);
    assert!(jar.login(&login.state, &sent) == Some(login.clone()));
    let other = format!("{}{}", &login.state[..8], "x".repeat(14));
    assert!(jar.login(&other, &sent).is_none());
    assert!(jar.login("short", &sent).is_none());
    // A login is no session, nor the reverse.
    let as_session = edited(&sent, |text| format!("edge-oidc-1=1{}", text.split_once('=').unwrap().1));
    assert!(jar.session(&as_session).is_none());
    let sealed = seal.seal(Purpose::Session, "a.test", &serde_json::to_vec(&login).unwrap()).unwrap();
    let forged = edited(&sent, |_| format!("edge-oidc-1-login-{}={sealed}", &login.state[..8]));
    assert!(jar.login(&login.state, &forged).is_none());
    // A browser does not gather them without end.
    let mut sent = sent;
    for _ in 0..10 {
        let login: Login = flow::begin("https://a.test/".into(), "x".into(), NOW).unwrap();
        assert!(jar.begin(&login, &sent, &mut set));
        sent = as_browser(&set);
    }
    let count = std::str::from_utf8(sent.first(b"cookie").unwrap()).unwrap().split("; ").count();
    assert_eq!(count, MOST_LOGINS);
}

#[test]
fn those_behind_are_told_what_the_policy_says_and_nothing_forged() {
    let policy = oidc("login");
    let seal = Seal::new(&policy, "edge", b"secret").unwrap();
    let jar = jar(&policy, &seal, "a.test");
    for (given, session, expected) in [
        ("a=1; edge-oidc-1=x; edge-oidc-1-1=y; b=2", None, Some("a=1; b=2")),
        ("edge-oidc-1=x; edge-oidc-1-login-abcdefgh=y; IdToken=forged", None, None),
        ("a=1; IdToken=forged", Some(session(1)), Some("a=1; IdToken=h.p.s")),
        ("a=1", None, Some("a=1")),
        ("edge-oidc-10=else; IdTokens=x", None, Some("edge-oidc-10=else; IdTokens=x")),
    ] {
        let mut request = Fields::default();
        request.add(b"cookie", given.as_bytes());
        jar.hand_on(session.as_ref(), &mut request);
        let told = request.first(b"cookie").map(|text| std::str::from_utf8(text).unwrap().to_owned());
        assert_eq!(told.as_deref(), expected, "{given}");
    }
}

fn request(method: &str, path: &str, query: Option<&str>, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.method = head.fields.store(method.as_bytes());
    head.set_authority("a.test");
    head.set_path(path);
    head.query = query.map(|query| head.fields.store(query.as_bytes()));
    for (name, value) in fields {
        head.fields.add(name.as_bytes(), value.as_bytes());
    }
    head
}

#[test]
fn a_login_leads_back_to_where_it_began_and_never_elsewhere() {
    for (method, path, query, expected) in [
        ("GET", "/", None, "https://a.test/"),
        ("GET", "/x/y", Some("a=b&c"), "https://a.test/x/y?a=b&c"),
        ("GET", "//evil.test/x", None, "https://a.test//evil.test/x"),
        ("GET", "/\\evil.test", None, "https://a.test/\\evil.test"),
        ("POST", "/x", None, "https://a.test/"),
        ("GET", "/\u{e9}", None, "https://a.test/"),
    ] {
        assert_eq!(flow::target("https://a.test", &request(method, path, query, &[])), expected, "{path}");
    }
    let long = "x".repeat(2000);
    assert_eq!(flow::target("https://a.test", &request("GET", "/", Some(&long), &[])), "https://a.test/");
}

#[test]
fn programs_are_told_instead_of_sent() {
    let policy = oidc("login");
    for (method, fields, expected) in [
        ("GET", &[][..], true),
        ("HEAD", &[], true),
        ("POST", &[], false),
        ("GET", &[("accept", "application/json, */*")], false),
        ("GET", &[("accept", "text/html")], true),
        ("GET", &[("x-requested-with", "XMLHttpRequest")], false),
        ("GET", &[("sec-fetch-mode", "cors")], false),
        ("GET", &[("sec-fetch-mode", "navigate")], true),
        ("POST", &[("sec-fetch-mode", "navigate")], true),
        ("POST", &[("content-type", "application/grpc")], false),
    ] {
        let head = request(method, "/", None, fields);
        assert_eq!(flow::may_be_redirected(&policy, &head), expected, "{method} {fields:?}");
    }
    let mut socket = request("GET", "/", None, &[]);
    socket.upgrade = Some(socket.fields.store(b"websocket"));
    assert!(!flow::may_be_redirected(&policy, &socket));
}

#[test]
fn what_a_provider_sends_back_is_read_strictly() {
    let state = "abcdefghijklmnopqrstuv";
    for (query, code, error) in [
        (format!("code=a%2Fb&state={state}&session_state=x"), Some("a/b"), None),
        (format!("error=access_denied&error_description=no&state={state}"), None, Some("access_denied")),
        (format!("error=a%0Ab&code=x&state={state}"), None, Some("a b")),
        (format!("code=&state={state}"), None, None),
    ] {
        let found = Returned::of(&query);
        assert_eq!(found.state.as_deref(), Some(state), "{query}");
        assert_eq!((found.code.as_deref(), found.error.as_deref()), (code, error), "{query}");
    }
    for query in ["", "code=x", "state=short&code=x", "state=%zz&code=x", "state=abcdefghijklmnopqrst%2Fv&code=x"] {
        assert_eq!(Returned::of(query).state, None, "{query}");
    }
    let twice = Returned::of(&format!("state={state}&code=a&code=b"));
    assert_eq!(twice, Returned::default());
    assert_eq!(Returned::of(&format!("state={state}&code={}", "x".repeat(5000))), Returned::default());
}

#[test]
fn the_way_to_the_provider_and_out_again() {
    let policy = oidc("login");
    let endpoints = Endpoints {
        issuer: "https://id.test".into(),
        authorization: "https://id.test/auth?hint=x".into(),
        token: "https://id.test/token".into(),
        end_session: None,
        keys: None,
        takes_basic: true,
    };
    let login = Login {
        state: "s".into(),
        // RFC 7636, appendix B.
        verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
        nonce: "n".into(),
        target: "https://a.test/".into(),
        redirect: "https://a.test/oauth2/callback".into(),
        began: NOW,
    };
    let url = flow::authorization(&policy, &endpoints, "my app", &login);
    for part in [
        "https://id.test/auth?hint=x&response_type=code&client_id=my%20app",
        "&redirect_uri=https%3A%2F%2Fa.test%2Foauth2%2Fcallback",
        "&scope=openid%20email",
        "&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256",
        "&resource=https%3A%2F%2Fapi.test%2Fa%20b&prompt=select%20account",
    ] {
        assert!(url.contains(part), "{url}");
    }
    assert!(!url.contains(&*login.verifier));
    let url = flow::end_session("https://id.test/out", "edge", Some("h.p.s"), "https://a.test/");
    assert_eq!(
        url,
        "https://id.test/out?id_token_hint=h.p.s&client_id=edge&post_logout_redirect_uri=https%3A%2F%2Fa.test%2F"
    );
    assert_eq!(flow::expiry_of("e30.eyJleHAiOjE4MDAwMDAwMDB9.x"), Some(NOW));
    assert_eq!(flow::expiry_of("opaque"), None);
}
