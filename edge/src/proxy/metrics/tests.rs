use edge_config::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use edge_config::snapshot::{
    Action, Balance, ClientSettings, Listener, ListenerId, ListenerServe, Port, PortId, PortServe, Rule, RuleId,
    Snapshot, Timeouts, Upstream, UpstreamId, UpstreamKey, UpstreamProtocol,
};

use super::*;

fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, ObjectKey::parse(name))
}

/// A listener, a rule and an upstream for each name.
fn snapshot(names: &[&str]) -> Snapshot {
    let client = ClientSettings {
        trusted_hops: 0,
        idle_timeout: Duration::ZERO,
        head_timeout: Duration::ZERO,
        buffer_limit: None,
        path: Default::default(),
        ..ClientSettings::default()
    };
    let listener = |name: &&str| Listener {
        parent: object(Kind::Gateway, "infra/gw"),
        name: (*name).into(),
        port: 80,
        hostname: HostPattern::Any,
        policy: None,
        client: client.clone(),
        serve: ListenerServe::Tcp { route: None },
    };
    let rule = |name: &&str| Rule {
        route: object(Kind::HTTPRoute, &format!("shop/{name}")),
        index: 0,
        name: None,
        grpc: false,
        filters: Arc::default(),
        action: Action::Forward(vec![]),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        balance: Balance::default(),
        policy: None,
    };
    let upstream = |name: &&str| Upstream {
        key: UpstreamKey { object: object(Kind::Service, &format!("shop/{name}")), port: 80, variant: "".into() },
        protocol: UpstreamProtocol::Http1,
        proxy_protocol: None,
        policy: None,
        tls: None,
    };
    Snapshot {
        ports: vec![Port {
            owner: object(Kind::Gateway, "infra/gw"),
            number: 80,
            sources: None,
            proxy_protocol: None,
            keepalive: None,
            serve: PortServe::Tcp { listener: ListenerId(0) },
        }],
        listeners: names.iter().map(listener).collect(),
        // Two rules per route.
        rules: names.iter().flat_map(|name| [rule(name), rule(name)]).map(Arc::new).collect(),
        upstreams: names.iter().map(upstream).map(Arc::new).collect(),
        ..Snapshot::default()
    }
}

/// As a worker does with a generation.
fn take(worker: &WorkerMetrics, snapshot: &Snapshot) -> Arc<Series> {
    let series = worker.prepare(snapshot);
    worker.adopt(&series);
    series
}

fn has(page: &str, line: &str) {
    assert!(page.lines().any(|candidate| candidate == line), "no {line} in\n{page}");
}

fn hasnt(page: &str, text: &str) {
    assert!(!page.contains(text), "{text} in\n{page}");
}

#[test]
fn workers_are_added_up() {
    let workers = [WorkerMetrics::new(), WorkerMetrics::new()];
    for (number, worker) in (1u64..).zip(&workers) {
        let series = take(worker, &snapshot(&["a", "b"]));
        let listener = series.listener(ListenerId(1)).unwrap();
        listener.responses.count(200);
        listener.responses.count(204);
        listener.responses.count(503);
        listener.responses.count(99);
        listener.responses.count(999);
        listener.received.add(10 * number);
        listener.tunnels_opened.add(3);
        listener.tunnels_closed.one();
        listener.count_udp_drop(UdpDrop::NoReadyEndpoint);
        listener.duration.observe(Duration::from_micros(1_000));
        listener.duration.observe(Duration::from_micros(1_001));
        listener.duration.observe(Duration::from_secs(100));
        series.port(PortId(0)).unwrap().accepted.add(5);
        series.port(PortId(0)).unwrap().closed.add(5 + number);
        series.port(PortId(0)).unwrap().count_handshake(Handshake::Resumed);
        series.rule(RuleId(2)).unwrap().responses.count(301);
        series.rule(RuleId(3)).unwrap().responses.count(302);
        series.upstream(UpstreamId(0)).unwrap().retries.add(7);
        worker.count(Reason::NoRoute);
        worker.count(Reason::BadRequest("x"));
        assert!(series.listener(ListenerId(9)).is_none());
    }
    let page = render(&workers, 4, Format::Prometheus);
    let b = r#"kind="Gateway",namespace="infra",name="gw",listener="b",port="80""#;
    has(&page, &format!(r#"edge_listener_responses_total{{{b},code="2xx"}} 4"#));
    has(&page, &format!(r#"edge_listener_responses_total{{{b},code="5xx"}} 2"#));
    hasnt(&page, r#"code="4xx""#);
    has(&page, &format!("edge_listener_received_bytes_total{{{b}}} 30"));
    has(&page, &format!("edge_tunnels_open{{{b}}} 4"));
    has(&page, &format!(r#"edge_udp_dropped_datagrams_total{{{b},reason="no_ready_endpoint"}} 2"#));
    for (bound, count) in [("0.0005", 0), ("0.001", 2), ("0.0025", 4), ("60.0", 4), ("+Inf", 6)] {
        has(&page, &format!(r#"edge_listener_request_duration_seconds_bucket{{{b},le="{bound}"}} {count}"#));
    }
    has(&page, &format!("edge_listener_request_duration_seconds_sum{{{b}}} 200.004002"));
    has(&page, &format!("edge_listener_request_duration_seconds_count{{{b}}} 6"));
    let port = r#"namespace="infra",gateway="gw",port="80",transport="tcp""#;
    has(&page, &format!("edge_connections_total{{{port}}} 10"));
    has(&page, &format!("edge_connections_open{{{port}}} 0"));
    has(&page, &format!(r#"edge_tls_handshakes_total{{{port},result="resumed"}} 2"#));
    has(&page, r#"edge_route_responses_total{kind="HTTPRoute",namespace="shop",name="b",code="3xx"} 4"#);
    has(&page, r#"edge_upstream_retries_total{kind="Service",namespace="shop",name="a",port="80"} 14"#);
    has(&page, r#"edge_local_responses_total{reason="no_route"} 2"#);
    has(&page, r#"edge_local_responses_total{reason="bad_request"} 2"#);
    has(&page, "edge_access_log_dropped_lines_total 4");
    has(&page, "edge_worker_generations_total 2");
}

#[test]
fn labels_that_occur_twice_are_counted_once() {
    let worker = WorkerMetrics::new();
    let mut twice = snapshot(&["a", "a"]);
    let udp = Port { serve: PortServe::Udp { listener: ListenerId(1) }, ..twice.ports[0].clone() };
    twice.ports.push(udp);
    for _ in 0..3 {
        let series = take(&worker, &twice);
        for index in 0..2 {
            series.upstream(UpstreamId(index)).unwrap().retries.one();
            series.port(PortId(index)).unwrap().accepted.one();
        }
    }
    let page = render(&[worker], 0, Format::Prometheus);
    has(&page, r#"edge_upstream_retries_total{kind="Service",namespace="shop",name="a",port="80"} 6"#);
    for transport in ["tcp", "udp"] {
        let port = format!(r#"namespace="infra",gateway="gw",port="80",transport="{transport}""#);
        has(&page, &format!("edge_connections_total{{{port}}} 3"));
    }
}

#[test]
fn series_follow_the_snapshot() {
    let worker = WorkerMetrics::new();
    let first = take(&worker, &snapshot(&["a", "b"]));
    first.upstream(UpstreamId(1)).unwrap().retries.add(2);
    first.rule(RuleId(2)).unwrap().responses.count(200);
    // `b` moves to another index and `a` goes.
    let second = take(&worker, &snapshot(&["x", "c", "b"]));
    second.upstream(UpstreamId(2)).unwrap().retries.one();
    // A request of the old generation still counts.
    first.rule(RuleId(3)).unwrap().responses.count(200);
    second.rule(RuleId(4)).unwrap().responses.count(200);
    let page = render(&[worker], 0, Format::Prometheus);
    has(&page, r#"edge_upstream_retries_total{kind="Service",namespace="shop",name="b",port="80"} 3"#);
    has(&page, r#"edge_route_responses_total{kind="HTTPRoute",namespace="shop",name="b",code="2xx"} 3"#);
    hasnt(&page, r#"name="a""#);
}

#[test]
fn every_family_is_declared_once_and_named_by_convention() {
    let worker = WorkerMetrics::new();
    take(&worker, &snapshot(&["a"]));
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let page = render(&[Arc::clone(&worker)], 0, format);
        let mut declared = std::collections::BTreeSet::new();
        let mut family = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.ends_with('.'), "{line}");
                assert!(declared.insert(name.to_owned()), "{name} twice");
                family = name.to_owned();
                assert!(name.starts_with("edge_"), "{name}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, family);
                let total = kind == "counter" && format == Format::Prometheus;
                assert_eq!(name.ends_with("_total"), total, "{line}");
            } else if line != "# EOF" {
                assert!(line.starts_with(&family), "{line} under {family}");
            }
        }
        assert_eq!(page.ends_with("# EOF\n"), format == Format::OpenMetrics);
    }
    assert_eq!(Format::of_accept("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), Format::OpenMetrics);
    assert_eq!(Format::of_accept("*/*"), Format::Prometheus);
}

#[test]
fn labels_and_help_are_escaped() {
    let mut text = Text::new(Format::Prometheus);
    text.family("x", MetricType::Gauge, "a\\b\nc");
    text.sample(&[("l", &"a\"b\\c\nd"), ("m", &1)], 1.5);
    assert_eq!(text.finish(), "# HELP x a\\\\b\\nc\n# TYPE x gauge\nx{l=\"a\\\"b\\\\c\\nd\",m=\"1\"} 1.5\n");
}

#[test]
fn a_page_does_not_grow_with_routes_times_backends() {
    let names: Vec<String> = (0..50).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lines = |count: usize| {
        let worker = WorkerMetrics::new();
        take(&worker, &snapshot(&names[..count]));
        render(&[worker], 0, Format::Prometheus).lines().count()
    };
    assert_eq!(lines(50) - lines(40), lines(20) - lines(10));
}
