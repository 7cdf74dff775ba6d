use std::time::Duration;

use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::snapshot::{Action, Balance, Timeouts};

use super::*;

const NOW: u64 = 1_800_000_000;

fn rule(route: &str, index: u32, name: Option<&str>) -> Rule {
    Rule {
        route: ObjectRef::new(Kind::HTTPRoute, ObjectKey::parse(route)),
        index,
        name: name.map(Into::into),
        grpc: false,
        filters: Default::default(),
        action: Action::Forward(vec![]),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        balance: Balance::default(),
        policy: None,
    }
}

fn session(carrier: SessionCarrier, timeout: Option<u64>) -> SessionPersistence {
    SessionPersistence { carrier, name: "Sticky".into(), absolute_timeout: timeout.map(Duration::from_secs) }
}

fn pin() -> Pin {
    Pin { endpoint: "10.1.2.3:8080".parse().unwrap(), backend: backend_tag("Service a/b:80"), issued: NOW }
}

fn tokens() -> Tokens {
    Tokens::new(b"a secret of the operator").unwrap()
}

/// What the client is told, as one line.
fn issued(tokens: &Tokens, rule: &Rule, session: &SessionPersistence, path: &str, secure: bool) -> String {
    let mut response = Fields::default();
    tokens.issue(&pin(), Recipient { rule, session, path, secure }, &mut response);
    assert_eq!(response.len(), 1);
    let (name, value) = response.iter().next().unwrap();
    format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
}

fn token(line: &str) -> &str {
    line.split_once('=').map_or(line.split_once(": ").unwrap().1, |(_, rest)| rest.split(';').next().unwrap())
}

fn carrying(lines: &[(&str, String)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in lines {
        fields.add(name.as_bytes(), value.as_bytes());
    }
    fields
}

#[test]
fn attributes_of_the_cookie() {
    use SessionCarrier::{Header, PermanentCookie, SessionCookie};
    for (carrier, timeout, path, secure, expected) in [
        (SessionCookie, None, "/", true, "set-cookie: Sticky=T; Path=/; Secure; HttpOnly; SameSite=Strict"),
        (SessionCookie, Some(60), "/a/b", true, "set-cookie: Sticky=T; Path=/a/b; Secure; HttpOnly; SameSite=Strict"),
        (PermanentCookie, Some(300), "", false, "set-cookie: Sticky=T; Path=/; Max-Age=300; HttpOnly; SameSite=Strict"),
        (PermanentCookie, Some(0), "/a/", false, "set-cookie: Sticky=T; Path=/a; Max-Age=1; HttpOnly; SameSite=Strict"),
        (SessionCookie, None, "/a/b;Domain=evil", false, "set-cookie: Sticky=T; Path=/a; HttpOnly; SameSite=Strict"),
        (SessionCookie, None, "/;x", false, "set-cookie: Sticky=T; Path=/; HttpOnly; SameSite=Strict"),
        (Header, Some(60), "/a", true, "sticky: T"),
    ] {
        let line = issued(&tokens(), &rule("a/b", 0, None), &session(carrier, timeout), path, secure);
        assert_eq!(token(&line).len(), TOKEN);
        assert_eq!(line.replace(token(&line), "T"), expected);
    }
}

#[test]
fn a_pin_comes_back() {
    let rule = rule("a/b", 2, None);
    for endpoint in ["10.1.2.3:8080", "[2001:db8::7]:1"] {
        let pin = Pin { endpoint: endpoint.parse().unwrap(), ..pin() };
        for carrier in [SessionCarrier::Header, SessionCarrier::SessionCookie] {
            let session = session(carrier, None);
            let mut response = Fields::default();
            let to = Recipient { rule: &rule, session: &session, path: "/", secure: true };
            tokens().issue(&pin, to, &mut response);
            let value = String::from_utf8(response.iter().next().unwrap().1.to_vec()).unwrap();
            let request = match carrier {
                SessionCarrier::Header => carrying(&[("sticky", value)]),
                _ => carrying(&[("cookie", format!("a=b; {}; c=d", value.split(';').next().unwrap()))]),
            };
            // Another daemon with the same secret.
            assert_eq!(tokens().read(&rule, &session, &request, NOW + 1_000_000), Some(pin));
        }
    }
}

#[test]
fn tokens_are_opaque() {
    let session = session(SessionCarrier::SessionCookie, None);
    let one = issued(&tokens(), &rule("a/b", 0, None), &session, "/", true);
    let other = issued(&tokens(), &rule("a/b", 0, None), &session, "/", true);
    assert_ne!(token(&one), token(&other));
    let bytes = URL_SAFE_NO_PAD.decode(token(&one)).unwrap();
    assert!(!bytes.windows(4).any(|window| window == [10, 1, 2, 3]));
}

#[test]
fn a_token_is_good_for_its_rule_only() {
    let named = |index, name| rule("a/b", index, Some(name));
    let cookie = |name: &str| SessionPersistence { name: name.into(), ..session(SessionCarrier::SessionCookie, None) };
    for (from, to, name, expected) in [
        (rule("a/b", 0, None), rule("a/b", 0, None), "Sticky", true),
        (rule("a/b", 0, None), rule("a/b", 1, None), "Sticky", false),
        (rule("a/b", 0, None), rule("a/c", 0, None), "Sticky", false),
        (rule("a/b", 0, None), rule("x/b", 0, None), "Sticky", false),
        (rule("a/b", 0, None), rule("a/b", 0, None), "Other", false),
        // A named rule may move.
        (named(0, "n"), named(3, "n"), "Sticky", true),
        (named(0, "n"), named(0, "m"), "Sticky", false),
        (rule("a/b", 0, None), named(0, "0"), "Sticky", false),
    ] {
        let line = issued(&tokens(), &from, &cookie("Sticky"), "/", true);
        let request = carrying(&[("cookie", format!("{name}={}", token(&line)))]);
        let found = tokens().read(&to, &cookie(name), &request, NOW).is_some();
        assert_eq!(found, expected, "{:?} {:?} to {:?} {:?} as {name}", from.index, from.name, to.index, to.name);
    }
}

#[test]
fn several_cookies_of_one_name() {
    // Two rules use one cookie name with different paths; a browser sends both.
    let (one, two) = (rule("a/b", 0, None), rule("a/b", 1, None));
    let session = session(SessionCarrier::SessionCookie, None);
    let first = issued(&tokens(), &one, &session, "/a", true);
    let second = issued(&tokens(), &two, &session, "/", true);
    let (first, second) = (token(&first), token(&second));
    for lines in [
        vec![("cookie", format!("Sticky={first}; Sticky={second}"))],
        vec![("cookie", format!("Sticky={first}")), ("cookie", format!("Sticky={second}"))],
        vec![("cookie", format!("Sticky=junk;Sticky=\"{second}\";  Sticky={first} ; Stickyx=1"))],
    ] {
        let request = carrying(&lines);
        assert_eq!(tokens().read(&one, &session, &request, NOW), Some(pin()), "{lines:?}");
        assert_eq!(tokens().read(&two, &session, &request, NOW), Some(pin()), "{lines:?}");
    }
    // Only so many are tried.
    let flood = format!("Sticky={second};").repeat(TRIED) + &format!("Sticky={first}");
    assert_eq!(tokens().read(&one, &session, &carrying(&[("cookie", flood)]), NOW), None);
}

#[test]
fn the_absolute_timeout() {
    let rule = rule("a/b", 0, None);
    for carrier in [SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie] {
        for (timeout, now, expected) in [
            (Some(60), NOW, true),
            (Some(60), NOW + 59, true),
            (Some(60), NOW + 60, false),
            (None, NOW + 1_000_000, true),
            // The issuer's clock may be a little ahead.
            (Some(60), NOW - 10, true),
            (Some(60), NOW - SKEW - 1, false),
            (None, NOW - SKEW - 1, false),
        ] {
            let session = session(carrier, timeout);
            let line = issued(&tokens(), &rule, &session, "/", true);
            let request = carrying(&[("cookie", format!("Sticky={}", token(&line)))]);
            assert_eq!(tokens().read(&rule, &session, &request, now).is_some(), expected, "{timeout:?} at {now}");
        }
    }
}

#[test]
fn forgeries() {
    let rule = rule("a/b", 0, None);
    let session = session(SessionCarrier::Header, None);
    let line = issued(&tokens(), &rule, &session, "/", true);
    let good = token(&line).to_owned();
    let read = |tokens: &Tokens, value: String| tokens.read(&rule, &session, &carrying(&[("sticky", value)]), NOW);
    assert_eq!(read(&tokens(), good.clone()), Some(pin()));
    assert_eq!(read(&Tokens::new(b"another secret").unwrap(), good.clone()), None);
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        // The last character may hold bits that decode to nothing; a strict decoder refuses them.
        assert_eq!(read(&tokens(), changed.clone()), None, "{changed} instead of {good}");
    }
    for value in ["", "10.1.2.3:8080", &"A".repeat(TOKEN), &"=".repeat(TOKEN), &good[1..], &format!("{good}A")] {
        assert_eq!(read(&tokens(), value.to_owned()), None, "{value}");
    }
}

#[test]
fn a_header_of_the_backend_is_replaced() {
    let mut response = carrying(&[("sticky", "from the backend".into())]);
    let (rule, session) = (rule("a/b", 0, None), session(SessionCarrier::Header, None));
    tokens().issue(&pin(), Recipient { rule: &rule, session: &session, path: "/", secure: true }, &mut response);
    assert_eq!(response.len(), 1);
    assert_eq!(tokens().read(&rule, &session, &response, NOW), Some(pin()));
}

#[test]
fn backend_tags_are_fixed() {
    assert_eq!(backend_tag(""), 0x811c_9dc5);
    assert_eq!(backend_tag("a"), 0xe40c_292c);
    assert_eq!(format!("{:?}", tokens()), "Tokens([redacted])");
}
