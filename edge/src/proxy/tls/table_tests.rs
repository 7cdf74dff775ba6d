use edge_config::names::{HostPattern, Kind, ObjectKey};
use edge_config::snapshot::{ClientSettings, Trust, Upstream};

use super::*;
use crate::certs::table::Origin;

fn entry(name: &str) -> Arc<CertEntry> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    Arc::new(CertEntry::from_pem(chain.as_bytes(), key.as_bytes(), Origin::Supplied, provider()).unwrap())
}

fn id(name: &str) -> CertId {
    CertId(ObjectKey::new("default", name))
}

fn table(entries: &[(&str, &Arc<CertEntry>)]) -> CertTable {
    let mut builder = CertTable::builder();
    for (name, entry) in entries {
        builder.insert(id(name), Arc::clone(entry));
    }
    builder.build()
}

fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, ObjectKey::new("default", name))
}

/// A terminating listener per name, and one upstream with TLS.
fn snapshot(listeners: &[&str], client_validation: ClientValidation) -> Snapshot {
    let timeout = std::time::Duration::from_secs(1);
    let client = ClientSettings {
        trusted_hops: 0,
        idle_timeout: timeout,
        head_timeout: timeout,
        buffer_limit: None,
        path: Default::default(),
        ..ClientSettings::default()
    };
    let listener = |name: &&str| Listener {
        parent: object(Kind::Gateway, "gateway"),
        name: (*name).into(),
        port: 443,
        hostname: HostPattern::Any,
        policy: None,
        client: client.clone(),
        serve: ListenerServe::TlsTerminate {
            tls: Terminate { certificates: vec![id("a")], client_validation, demands: None, parameters: None },
            routes: Default::default(),
        },
    };
    let tls = UpstreamTls {
        hostname: "a.example".into(),
        subject_alt_names: Vec::new(),
        trust: Some(TrustId(0)),
        client_certificate: Some(id("a")),
        is_verified: true,
        parameters: None,
    };
    Snapshot {
        listeners: listeners.iter().map(listener).collect(),
        upstreams: vec![Arc::new(Upstream {
            key: UpstreamKey { object: object(Kind::Service, "s"), port: 443, variant: "tls".into() },
            protocol: UpstreamProtocol::Http2,
            proxy_protocol: None,
            tls: Some(tls),
            policy: None,
        })],
        trust: vec![Trust { source: "ca".into(), certificates: vec![Arc::from(&**entry_der())] }],
        ..Snapshot::default()
    }
}

/// One CA certificate for all snapshots of a test thread.
fn entry_der() -> std::rc::Rc<Vec<u8>> {
    thread_local! {
        static DER: std::rc::Rc<Vec<u8>> = std::rc::Rc::new(entry("ca").certified.cert[0].to_vec());
    }
    DER.with(std::rc::Rc::clone)
}

#[test]
fn what_did_not_change_is_taken_over() {
    let tickets = Tickets::random();
    let (old, new) = (entry("a.example"), entry("a.example"));
    let first = snapshot(&["one", "two"], ClientValidation::Off);
    let (before, reasons) = tls_table(&first, &table(&[("a", &old)]), TlsRecords::Own, &tickets, None);
    assert_eq!(reasons, []);
    let config = |table: &TlsTable, id| Arc::clone(table.listener(ListenerId(id), false).unwrap());
    let called = |table: &TlsTable| Arc::clone(&table.upstream(UpstreamId(0)).unwrap().unwrap().config);

    // Listeners are told apart by name, not by place.
    let (same, _) = tls_table(
        &snapshot(&["two", "one"], ClientValidation::Off),
        &table(&[("a", &old)]),
        TlsRecords::Own,
        &tickets,
        Some(&before),
    );
    assert!(Arc::ptr_eq(&config(&same, 0), &config(&before, 1)) && Arc::ptr_eq(&config(&same, 1), &config(&before, 0)));
    assert!(Arc::ptr_eq(&called(&same), &called(&before)));
    assert!(!Arc::ptr_eq(&config(&before, 0).ticketer, &config(&before, 1).ticketer));

    // A renewal keeps the tickets, and is seen on both sides.
    let (renewed, _) = tls_table(&first, &table(&[("a", &new)]), TlsRecords::Own, &tickets, Some(&before));
    assert!(!Arc::ptr_eq(&config(&renewed, 0), &config(&before, 0)));
    assert!(Arc::ptr_eq(&config(&renewed, 0).ticketer, &config(&before, 0).ticketer));
    assert!(!Arc::ptr_eq(&called(&renewed), &called(&before)));

    // Another rule for client certificates does not; and where one is required nothing is resumed.
    let requested = ClientValidation::Requested { trust: TrustId(0) };
    let (asked, _) =
        tls_table(&snapshot(&["one"], requested), &table(&[("a", &old)]), TlsRecords::Own, &tickets, Some(&before));
    assert!(!Arc::ptr_eq(&config(&asked, 0).ticketer, &config(&before, 0).ticketer));
    let required = ClientValidation::Required { trust: TrustId(0) };
    let (strict, _) =
        tls_table(&snapshot(&["one"], required), &table(&[("a", &old)]), TlsRecords::Own, &tickets, Some(&before));
    assert_eq!(config(&strict, 0).send_tls13_tickets, 0);
    assert!(!config(&strict, 0).ticketer.enabled());
}

/// A listener's sessions are resumed after a restart and at other edges; another listener's never are, nor those of
/// another rule for client certificates.
#[test]
fn tickets_stay_within_a_listener_and_its_rule() {
    let tickets = Tickets::random();
    let off = snapshot(&["one", "two"], ClientValidation::Off);
    let asked = snapshot(&["one"], ClientValidation::Requested { trust: TrustId(0) });
    let mut trusted = asked.clone();
    trusted.trust[0].certificates = vec![Arc::from(&**entry_der()), Arc::from(&b"another"[..])];
    let at = entry("a.example");
    let ticketer = |snapshot: &Snapshot, tickets: &Tickets, id| {
        let (table, _) = tls_table(snapshot, &table(&[("a", &at)]), TlsRecords::Own, tickets, None);
        Arc::clone(&table.listener(ListenerId(id), false).unwrap().ticketer)
    };
    let ticket = ticketer(&off, &tickets, 0).encrypt(b"session").unwrap();
    for (name, snapshot, tickets, id, expected) in [
        ("another process", &off, tickets.clone(), 0, true),
        ("other keys", &off, Tickets::random(), 0, false),
        ("another listener", &off, tickets.clone(), 1, false),
        ("another rule", &asked, tickets.clone(), 0, false),
    ] {
        assert_eq!(ticketer(snapshot, &tickets, id).decrypt(&ticket).is_some(), expected, "{name}");
    }
    let ticket = ticketer(&asked, &tickets, 0).encrypt(b"session").unwrap();
    assert!(ticketer(&asked, &tickets, 0).decrypt(&ticket).is_some());
    assert!(ticketer(&trusted, &tickets, 0).decrypt(&ticket).is_none(), "another CA");
}

#[test]
fn what_cannot_be_is_said() {
    let mut snapshot = snapshot(&["one"], ClientValidation::Off);
    if let Some(tls) = &mut Arc::make_mut(&mut snapshot.upstreams[0]).tls {
        tls.hostname = "not a name".into();
    }
    snapshot.trust[0].certificates = vec![Arc::from(&b"junk"[..])];
    let tickets = Tickets::random();
    let (built, reasons) = tls_table(&snapshot, &CertTable::default(), TlsRecords::Own, &tickets, None);
    assert!(built.listener(ListenerId(0), false).is_none());
    assert!(built.upstream(UpstreamId(0)).unwrap().is_err());
    assert!(built.upstream(UpstreamId(1)).is_none());
    let texts: Vec<String> = reasons.iter().map(|reason| format!("{:?}: {}", reason.subject, reason.text)).collect();
    assert_eq!(
        texts,
        [
            "Listener(ListenerId(0)): certificate default/a is not at hand",
            "Listener(ListenerId(0)): no certificate at hand: connections are closed",
            "Trust(TrustId(0)): CA certificate 1: certificate is malformed",
            "Upstream(UpstreamId(0)): certificate default/a is not at hand",
            "Upstream(UpstreamId(0)): hostname \"not a name\" cannot be a TLS server name",
        ]
    );
}
