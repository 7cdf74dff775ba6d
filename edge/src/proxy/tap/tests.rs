use std::net::SocketAddr;
use std::time::SystemTime;

use edge_config::names::{Kind, ObjectKey, ObjectRef};

use super::*;
use crate::proxy::access_log::{RuleOf, TlsOf};
use crate::proxy::reason::Reason;

fn ask(json: &str) -> Ask {
    serde_json::from_str(json).unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn entry<'a>(host: &'a str, path: &'a str, route: &'a ObjectRef) -> Entry<'a> {
    let mut entry =
        Entry::new(SystemTime::UNIX_EPOCH, address("192.0.2.7:5000"), address("198.51.100.1:443"), "HTTP/2");
    (entry.host, entry.path, entry.method, entry.status) = (host.as_bytes(), path.as_bytes(), b"GET", 200);
    entry.rule = Some(RuleOf { route, index: Some(0), name: None });
    entry.duration = Duration::from_millis(40);
    entry
}

fn route() -> ObjectRef {
    ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("shop", "cart"))
}

#[test]
fn everything_that_is_asked_for_must_hold() {
    let route = route();
    let entry = entry("a.shop.example", "/cart/1", &route);
    for (json, holds) in [
        (r#"{"host":"*"}"#, true),
        (r#"{"host":"a.shop.example"}"#, true),
        (r#"{"host":"*.shop.example"}"#, true),
        (r#"{"host":"shop.example"}"#, false),
        (r#"{"host":"*","methods":["POST","GET"]}"#, true),
        (r#"{"host":"*","methods":["POST"]}"#, false),
        (r#"{"host":"*","path":"/cart"}"#, true),
        (r#"{"host":"*","path":"/other"}"#, false),
        (r#"{"host":"*","statuses":["5xx","200"]}"#, true),
        (r#"{"host":"*","statuses":["2xx"]}"#, true),
        (r#"{"host":"*","statuses":["201"]}"#, false),
        (r#"{"host":"*","route":"shop/cart"}"#, true),
        (r#"{"host":"*","route":"shop/other"}"#, false),
        (r#"{"host":"*","clients":["192.0.2.0/24"]}"#, true),
        (r#"{"host":"*","clients":["192.0.3.0/24","2001:db8::/32"]}"#, false),
        (r#"{"host":"*","slow_ms":40}"#, true),
        (r#"{"host":"*","slow_ms":41}"#, false),
        (r#"{"host":"*","failed":true}"#, false),
    ] {
        assert_eq!(ask(json).holds(&entry), holds, "{json}");
    }
    let mut failed = entry.clone();
    failed.reason = Some(Reason::ConnectFailed);
    assert!(ask(r#"{"host":"*","failed":true}"#).holds(&failed));
    // Below HTTP the name of the handshake is the host.
    let mut tunnel = Entry::new(SystemTime::UNIX_EPOCH, entry.client, entry.vip, "TLS");
    assert!(!ask(r#"{"host":"db.example"}"#).holds(&tunnel) && ask(r#"{"host":"*"}"#).holds(&tunnel));
    tunnel.tls = Some(TlsOf { version: "", cipher: "", server_name: Some("DB.example") });
    assert!(ask(r#"{"host":"db.example"}"#).holds(&tunnel));
}

#[test]
fn what_cannot_be_asked() {
    for (json, part) in [
        (r#"{"host":"*","sample":0}"#, "sample 0, expected 1 or more"),
        (r#"{"host":"*","path":"cart"}"#, "does not begin with /"),
        (r#"{"host":"*","route":"cart"}"#, "expected NAMESPACE/NAME"),
    ] {
        let fault = ask(json).check().unwrap_err();
        assert!(fault.contains(part), "{fault}");
    }
    let many = Ask { headers: vec!["a".to_owned(); 33], ..ask(r#"{"host":"*"}"#) };
    assert!(many.check().is_err());
    let long = Ask { path: Some("/".repeat(2000)), ..ask(r#"{"host":"*"}"#) };
    assert!(long.check().unwrap_err().len() < 100);
    for json in [r#"{"host":"*","statuses":["6xx"]}"#, r#"{"host":"*","statuses":["abc"]}"#, r#"{"host":"*","more":1}"#]
    {
        assert!(serde_json::from_str::<Ask>(json).is_err(), "{json}");
    }
}

/// As a worker does it.
fn watched(taps: &Taps) -> Watched {
    let watched = Watched::default();
    watched.take(Arc::clone(&taps.current.borrow()));
    watched
}

#[test]
fn a_tap_looks_as_long_as_it_is_open() {
    let taps = Arc::new(Taps::new(1));
    assert!(!watched(&taps).is_any());
    let (tap, mut lines) = Tap::new(ask(r#"{"host":"*","sample":3,"count":2}"#));
    let meter = Arc::new(Meter::new(1));
    let (opened, measured) = (taps.open(&tap), taps.measure(&meter));
    let seen = watched(&taps);
    assert!(seen.is_any());
    let route = route();
    let entry = entry("a.example", "/x", &route);
    let phases = Phases { before: Some(Duration::from_micros(1_500)), after: None };
    for _ in 0..10 {
        seen.show(0, &entry, phases, None);
    }
    // One of three, two in all.
    let line = lines.try_recv().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&value["route"], &value["before_ms"]), (&"HTTPRoute shop/cart".into(), &1.5.into()));
    assert!(line.ends_with(b"}\n") && value.get("headers").is_none());
    assert!(lines.try_recv().is_ok() && lines.try_recv().is_err());
    assert_eq!(meter.take().all.requests, 10);
    drop(opened);
    assert!(watched(&taps).is_any(), "the meter is still there");
    drop(measured);
    assert!(!watched(&taps).is_any());
}

#[test]
fn what_is_not_read_is_bounded_and_counted() {
    let taps = Arc::new(Taps::new(1));
    let (tap, mut lines) = Tap::new(ask(r#"{"host":"*"}"#));
    let _opened = taps.open(&tap);
    let seen = watched(&taps);
    let route = route();
    let long = format!("/{}", "x".repeat(3000));
    let entry = entry("a.example", &long, &route);
    for _ in 0..1000 {
        seen.show(0, &entry, Phases::default(), None);
    }
    let mut kept = 0;
    while let Ok(line) = lines.try_recv() {
        kept += 1;
        tap.took(&line);
    }
    assert!(kept > 100 && kept * 3000 <= ROOM as u64, "{kept}");
    assert_eq!((tap.lost(), tap.lost()), (1000 - kept, 0));
    // There is room again.
    seen.show(0, &entry, Phases::default(), None);
    assert!(lines.try_recv().is_ok());
}

#[test]
fn values_of_secret_fields_are_not_shown() {
    let taps = Arc::new(Taps::new(1));
    let headers = r#"["x-env","authorization","x-my-door","cookie","absent"]"#;
    let (tap, mut lines) = Tap::new(ask(&format!(r#"{{"host":"*","headers":{headers}}}"#)));
    let _opened = taps.open(&tap);
    let seen = watched(&taps);
    let mut fields = Fields::default();
    for (name, value) in
        [("x-env", "canary\u{1b}"), ("x-env", "b"), ("authorization", "Basic c2VjcmV0"), ("cookie", "s=secret")]
    {
        fields.add(name.as_bytes(), value.as_bytes());
    }
    fields.add(b"x-my-door", b"open sesame");
    // A policy looks for its keys there.
    let places = vec![edge_config::policy::Place::Header("x-my-door".into())];
    let keys = edge_config::policy::ApiKeys { clients: Vec::new(), places, forward_client: None, sanitize: false };
    let security = edge_config::policy::Security { api_keys: Some(Arc::new(keys)), ..Default::default() };
    let policy = edge_config::policy::RulePolicy { security: Some(Arc::new(security)), ..Default::default() };
    let rule = edge_config::snapshot::Rule { policy: Some(Arc::new(policy)), ..rule() };
    let mut generation = generation(7);
    generation.snapshot =
        Arc::new(edge_config::snapshot::Snapshot { rules: vec![Arc::new(rule)], ..Default::default() });
    let route = route();
    seen.show(0, &entry("a.example", "/", &route), Phases::default(), Some((&fields, &generation)));
    let line = lines.try_recv().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
    let expected = serde_json::json!([
        ["x-env", "canary\u{1b}"],
        ["x-env", "b"],
        ["authorization", "[redacted]"],
        ["x-my-door", "[redacted]"],
        ["cookie", "[redacted]"],
    ]);
    assert_eq!(value["headers"], expected);
    assert!(!line.contains(&0x1b), "a terminal is not steered");
}

fn rule() -> edge_config::snapshot::Rule {
    use edge_config::snapshot::{Action, Balance, Rule, Timeouts};
    Rule {
        route: route(),
        index: 0,
        name: None,
        grpc: false,
        filters: Arc::default(),
        action: Action::Forward(Vec::new()),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        balance: Balance::RoundRobin,
        policy: None,
    }
}

fn generation(number: u64) -> Generation {
    Generation {
        number,
        snapshot: Arc::default(),
        endpoints: Arc::default(),
        tls: Arc::default(),
        secrets: Arc::default(),
        limits: crate::proxy::limits::Limits::default(),
        responders: Arc::default(),
        maintenance: None,
        tracer: None,
    }
}
