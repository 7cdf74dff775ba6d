//! A small edge with something of everything, put together by hand for the golden tests of the views: two VIPs, one of
//! them failed; listeners that serve, conflict and wait for a certificate; routes that win, lose and are refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::Compiled;
use edge_config::gateway::{HttpRouteSpec, ParentReference};
use edge_config::hosts::HostMap;
use edge_config::inputs::{Inputs, Meta, Object};
use edge_config::matching::{FieldMatch, PathMatch, RouteMatch, RouteTable, ValueMatch};
use edge_config::names::{CertId, HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::problem::{Origin, Problem, Severity};
use edge_config::report::{Condition, ListenerReport, ObjectReport, ParentReport, Report};
use edge_config::snapshot::*;

use super::observed::*;
use super::span;
use super::world::World;

/// 2026-09-21T14:13:20Z
pub const NOW: i64 = 1_790_000_000;

pub fn now() -> SystemTime {
    span::unix(NOW).unwrap()
}

pub fn ago(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text)
}

pub fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(Some(text).filter(|text| *text != "*")).unwrap()
}

fn gateway() -> ObjectRef {
    ObjectRef::new(Kind::Gateway, key("edge/public"))
}

fn route(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::HTTPRoute, key(name))
}

fn hosts(pairs: &[(&str, u32)]) -> HostMap<ListenerId> {
    let mut map = HostMap::new();
    for (host, id) in pairs {
        map.insert(pattern(host), ListenerId(*id));
    }
    map
}

fn client() -> ClientSettings {
    let seconds = Duration::from_secs;
    ClientSettings {
        trusted_hops: 0,
        idle_timeout: seconds(60),
        head_timeout: seconds(10),
        buffer_limit: None,
        path: Default::default(),
        ..ClientSettings::default()
    }
}

fn listener(name: &str, port: u16, hostname: &str, serve: ListenerServe) -> Listener {
    Listener {
        parent: gateway(),
        name: name.into(),
        port,
        hostname: pattern(hostname),
        client: client(),
        policy: None,
        serve,
    }
}

fn terminate(secret: &str) -> Terminate {
    Terminate {
        certificates: vec![CertId(key(secret))],
        client_validation: ClientValidation::Off,
        demands: None,
        parameters: None,
    }
}

fn entry(host: &str, path: PathMatch, rule: u32) -> (HostPattern, Arc<RouteMatch>) {
    (pattern(host), Arc::new(RouteMatch::new(path, RuleId(rule), 0)))
}

fn backend(reference: &str, weight: u32, target: Target) -> Backend {
    Backend { weight, reference: reference.into(), target, filters: Arc::default(), balance: None, fallback: false }
}

fn rule(name: &str, index: u32, action: Action) -> Rule {
    Rule {
        route: route(name),
        index,
        name: None,
        grpc: false,
        filters: Arc::default(),
        action,
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        balance: Balance::RoundRobin,
        policy: None,
    }
}

fn snapshot() -> Snapshot {
    let to = |reference: &str, id: u32| vec![backend(reference, 1, Target::Upstream(UpstreamId(id)))];
    let canary = RouteMatch::new(PathMatch::prefix("/cart"), RuleId(2), 0)
        .with_headers(vec![FieldMatch::new("X-Env", ValueMatch::Exact("canary".into()))]);
    let shop = RouteTable::build([
        entry("shop.example", PathMatch::prefix("/cart"), 0),
        entry("shop.example", PathMatch::exact("/old"), 1),
        (pattern("shop.example"), Arc::new(canary)),
        entry("*.example", PathMatch::prefix("/"), 3),
    ]);
    let wild = RouteTable::build([entry("*.example", PathMatch::prefix("/"), 3)]);
    let plain = RouteTable::build([entry("*", PathMatch::prefix("/"), 4)]);
    let upstream = |name: &str, protocol| Upstream {
        key: UpstreamKey { object: ObjectRef::new(Kind::Service, key(name)), port: 80, variant: "".into() },
        protocol,
        proxy_protocol: None,
        policy: None,
        tls: None,
    };
    let redirect = |status, scheme, path| Redirect { scheme, hostname: None, path, port: None, status };
    let mut cart = rule("shop/cart", 0, Action::Forward(to("Service shop/cart:80", 0)));
    cart.timeouts.request = Some(Duration::from_secs(15));
    Arc::make_mut(&mut cart.filters).rewrite =
        Some(Rewrite { hostname: None, path: Some(PathEdit::Prefix("/v2".into())) });
    cart.session = Some(Box::new(SessionPersistence {
        carrier: SessionCarrier::SessionCookie,
        name: "cart".into(),
        absolute_timeout: Some(Duration::from_secs(3600)),
    }));
    let canary = Action::Forward(vec![
        backend("Service shop/cart:80", 9, Target::Upstream(UpstreamId(0))),
        backend(
            "Service shop/gone:80",
            1,
            Target::Invalid { status: 500, reason: "Service shop/gone does not exist".into() },
        ),
    ]);
    let old = redirect(301, None, Some(PathEdit::Full("/cart".into())));
    Snapshot {
        announce: Default::default(),
        vips: [("192.0.2.10", "pool public"), ("192.0.2.11", "spec.addresses")]
            .map(|(address, source)| Vip {
                address: address.parse().unwrap(),
                owners: vec![ObjectRef::new(Kind::Gateway, key("edge/public"))],
                source: source.into(),
            })
            .into(),
        sockets: ["192.0.2.10:80", "192.0.2.10:443", "192.0.2.11:80", "192.0.2.11:443"]
            .map(|address| {
                let address: std::net::SocketAddr = address.parse().unwrap();
                Socket { address, transport: Transport::Tcp, port: PortId(u32::from(address.port() == 443)) }
            })
            .into(),
        ports: vec![
            Port {
                owner: ObjectRef::new(Kind::Gateway, key("edge/public")),
                number: 80,
                sources: None,
                proxy_protocol: None,
                keepalive: None,
                serve: PortServe::Http { hosts: hosts(&[("*", 0)]) },
            },
            Port {
                owner: ObjectRef::new(Kind::Gateway, key("edge/public")),
                number: 443,
                sources: None,
                proxy_protocol: None,
                keepalive: None,
                serve: PortServe::Tls { names: hosts(&[("shop.example", 1), ("*.example", 2)]) },
            },
        ],
        listeners: vec![
            listener("http", 80, "*", ListenerServe::Http { routes: plain }),
            listener(
                "shop",
                443,
                "shop.example",
                ListenerServe::Https { tls: terminate("edge/shop-tls"), routes: shop },
            ),
            listener("wild", 443, "*.example", ListenerServe::Https { tls: terminate("edge/wild-tls"), routes: wild }),
        ],
        rules: [
            cart,
            rule("shop/cart", 1, Action::Redirect(old)),
            rule("shop/canary", 0, canary),
            rule("shop/front", 0, Action::Forward(to("Service shop/front:80", 1))),
            rule("edge/to-https", 0, Action::Redirect(redirect(301, Some(Scheme::Https), None))),
        ]
        .map(Arc::new)
        .into(),
        upstreams: vec![
            upstream("shop/cart", UpstreamProtocol::Http1),
            upstream("shop/front", UpstreamProtocol::Http2),
        ]
        .into_iter()
        .map(Arc::new)
        .collect(),
        trust: Vec::new(),
        services: Vec::new(),
        issuers: Vec::new(),
        certificates: vec![WantedCertificate {
            id: CertId(key("edge/wild-tls")),
            issuer: WantedIssuer::Internal { instead_of: None },
            dns_names: vec!["*.example".into()],
            addresses: Vec::new(),
            common_name: None,
            is_ca: false,
            key: KeyAlgorithm::EcdsaP256,
            rotate_key: true,
            duration: Duration::from_secs(90 * 86_400),
            renew_before: Duration::from_secs(30 * 86_400),
            profile: None,
            labels: Vec::new(),
            write_back: None,
            adopt: None,
            wanted_by: vec!["edge/public/wild".to_owned()],
        }],
    }
}

fn endpoints() -> Endpoints {
    let one = |address: &str, name: &str, node: &str| Endpoint {
        address: address.parse().unwrap(),
        state: EndpointState::Ready,
        target: format!("Pod shop/{name}").into(),
        node: node.into(),
    };
    vec![
        Arc::new(EndpointSet::Addresses(vec![
            one("10.0.0.1:8080", "cart-1", "node-a"),
            one("10.0.0.2:8080", "cart-2", "node-b"),
        ])),
        Arc::new(EndpointSet::Addresses(Vec::new())),
    ]
}

fn condition(kind: &'static str, status: bool, reason: &'static str, message: &str) -> Condition {
    Condition { kind, status, reason, message: message.to_owned() }
}

fn listener_report(
    name: &str,
    port: u16,
    protocol: &str,
    hostname: &str,
    routes: u32,
    conditions: Vec<Condition>,
) -> ListenerReport {
    ListenerReport {
        name: name.into(),
        port,
        protocol: protocol.into(),
        hostname: Some(hostname).filter(|host| !host.is_empty()).map(Into::into),
        supported_kinds: vec![Kind::HTTPRoute, Kind::GRPCRoute],
        attached_routes: routes,
        conditions,
    }
}

fn parent() -> ParentReference {
    ParentReference {
        group: edge_config::gateway::GROUP.to_owned(),
        kind: "Gateway".to_owned(),
        namespace: Some("edge".to_owned()),
        name: "public".to_owned(),
        section_name: None,
        port: None,
    }
}

fn route_report(conditions: Vec<Condition>) -> ObjectReport {
    ObjectReport {
        generation: 1,
        parents: vec![ParentReport {
            parent: Arc::new(parent()),
            controller: "edge.internal/gateway-controller".into(),
            conditions: conditions.into(),
        }],
        ..ObjectReport::default()
    }
}

fn report() -> Report {
    let good =
        || vec![condition("Accepted", true, "Accepted", ""), condition("ResolvedRefs", true, "ResolvedRefs", "")];
    let missing = || {
        let message = "Service shop/gone does not exist";
        vec![condition("Accepted", true, "Accepted", ""), condition("ResolvedRefs", false, "BackendNotFound", message)]
    };
    let conflict = vec![
        condition("Accepted", false, "HostnameConflict", "hostname shop.example is also claimed by listener shop"),
        condition("Conflicted", true, "HostnameConflict", "hostname shop.example is also claimed by listener shop"),
    ];
    let refused = vec![
        condition(
            "Accepted",
            false,
            "NoMatchingListenerHostname",
            "no hostname of it falls under a listener of Gateway edge/public",
        ),
        condition("ResolvedRefs", true, "ResolvedRefs", ""),
    ];
    let mut objects = BTreeMap::from([
        (route("shop/cart"), route_report(good())),
        (route("shop/canary"), route_report(missing())),
        (route("shop/front"), route_report(good())),
        (route("edge/to-https"), route_report(good())),
        (route("shop/lost"), route_report(refused)),
    ]);
    let public = ObjectReport {
        generation: 3,
        conditions: vec![condition("Accepted", true, "ListenersNotValid", "listener doubled is not valid")],
        addresses: vec!["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()],
        listeners: vec![
            listener_report("http", 80, "HTTP", "", 1, good()),
            listener_report("shop", 443, "HTTPS", "shop.example", 3, good()),
            listener_report("doubled", 443, "HTTPS", "shop.example", 0, conflict),
            listener_report("wild", 443, "HTTPS", "*.example", 1, good()),
        ],
        ..ObjectReport::default()
    };
    objects.insert(gateway(), public);
    let waiting = "pool private has no free address";
    let private = ObjectReport {
        generation: 1,
        conditions: vec![condition("Programmed", false, "AddressNotAssigned", waiting)],
        ..ObjectReport::default()
    };
    objects.insert(ObjectRef::new(Kind::Gateway, key("edge/private")), private);
    let origin = Origin { file: "shop.yaml".into(), line: 7, column: 5 };
    let problem = Problem {
        severity: Severity::Warning,
        origin: Some(origin),
        object: Some(route("shop/canary")),
        message: "backend shop/gone:80 does not exist".to_owned(),
    };
    let objects = objects.into_iter().map(|(object, report)| (object, Arc::new(report))).collect();
    Report { objects, problems: vec![problem] }
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::default();
    for (name, hostnames) in [
        ("shop/cart", &["shop.example"][..]),
        ("shop/canary", &["shop.example"]),
        ("shop/front", &["*.example"]),
        ("edge/to-https", &[]),
        ("shop/lost", &["lost.elsewhere"]),
    ] {
        let origin = Origin { file: "shop.yaml".into(), line: 1, column: 1 };
        let meta = Meta {
            key: key(name),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            generation: 1,
            created: None,
            origin,
        };
        let spec = HttpRouteSpec {
            parent_refs: vec![parent()],
            hostnames: hostnames.iter().map(|&name| name.to_owned()).collect(),
            rules: Vec::new(),
            use_default_gateways: None,
        };
        inputs.http_routes.insert(key(name), Arc::new(Object { meta, spec }));
    }
    inputs
}

fn observed() -> Observed {
    let bound = |address: &str| ((address.parse().unwrap(), Transport::Tcp), SocketState::Bound);
    let failed = |address: &str| {
        ((address.parse().unwrap(), Transport::Tcp), SocketState::Failed("address not available".to_owned()))
    };
    let certificate = |source, name: &str, ends: u64| CertificateState {
        source,
        names: vec![name.to_owned()],
        not_before: Some(ago(86_400)),
        not_after: Some(now() + Duration::from_secs(ends)),
        renews_at: None,
        error: None,
    };
    let ejected = Ejection { since: ago(75), reason: "connection refused".to_owned() };
    Observed {
        holds: Arc::default(),
        closures: Arc::default(),
        held: None,
        history: Arc::default(),
        offline: false,
        workers: 4,
        acknowledged: 4,
        serving: true,
        sockets: BTreeMap::from([
            bound("192.0.2.10:80"),
            bound("192.0.2.10:443"),
            failed("192.0.2.11:80"),
            failed("192.0.2.11:443"),
        ]),
        vips: BTreeMap::from([
            ("192.0.2.10".parse().unwrap(), VipState::Bound { announced: Some("bgp".to_owned()) }),
            ("192.0.2.11".parse().unwrap(), VipState::Failed("interface lo0 does not exist".to_owned())),
        ]),
        acme: Default::default(),
        fleet: None,
        troubles: Arc::default(),
        certificates: BTreeMap::from([
            (CertId(key("edge/shop-tls")), certificate(CertificateSource::Secret, "shop.example", 86_400 * 60)),
            (CertId(key("edge/wild-tls")), certificate(CertificateSource::Placeholder, "*.example", 86_400 * 7)),
        ]),
        upstreams: BTreeMap::from([(
            snapshot().upstreams[0].key.clone(),
            UpstreamState {
                in_flight: 12,
                resolved: None,
                reach: None,
                ejected: BTreeMap::from([("10.0.0.2:8080".parse().unwrap(), ejected)]),
            },
        )]),
        sources: vec![SourceState {
            name: "manifests".to_owned(),
            last_good: Some(ago(3600)),
            error: None,
            collections: Vec::new(),
        }],
        notices: Vec::new(),
        drain: None,
        network: Default::default(),
    }
}

pub fn world() -> World {
    let compiled = Compiled {
        snapshot: Arc::new(snapshot()),
        report: report(),
        endpoints: endpoints(),
        assigned: BTreeMap::new(),
    };
    World {
        edge: "gw1".into(),
        started: ago(7_440),
        generation: 12,
        since: ago(200),
        inputs: Arc::new(inputs()),
        portion: "".into(),
        endpoints: Arc::new(compiled.endpoints.clone()),
        compiled: Arc::new(compiled),
        problems: Arc::new([]),
        observed: Arc::new(observed()),
    }
}

/// Compares with `edge/tests/golden/NAME`; `UPDATE=1` writes it.
pub fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{name} differs; UPDATE=1 rewrites it\n--- expected\n{expected}\n--- found\n{text}");
}
