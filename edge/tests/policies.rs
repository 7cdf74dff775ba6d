//! Balancing and health as policies have them, over real sockets.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use edge::proxy::io::Backend as IoBackend;
use edge_config::policy::{
    Balance, Check, CheckKind, HashBalance, HashCookie, HashKey, HttpCheck, KeepAlive, Limits, Outliers, UpstreamPolicy,
};
use edge_config::snapshot::{Retry, Rule, Snapshot};
use rig::{Origin, Rig, on_both, rule, wait_for};

/// An endpoint that can be told to be ill, and counts what it is asked.
struct Ward {
    origin: Origin,
    is_ill: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    checked: Arc<AtomicUsize>,
}

impl Ward {
    fn new(name: &'static str) -> Self {
        let (is_ill, asked, checked) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let (ill, traffic, checks): (_, Arc<AtomicUsize>, Arc<AtomicUsize>) =
            (Arc::clone(&is_ill), Arc::clone(&asked), Arc::clone(&checked));
        let origin = Origin::new(move |client, _| {
            loop {
                let head = client.head();
                if head.is_empty() {
                    return;
                }
                let count = if head.contains(" /healthz ") { &checks } else { &traffic };
                count.fetch_add(1, Ordering::Relaxed);
                let status = if ill.load(Ordering::Relaxed) { "503 No" } else { "200 OK" };
                let length = if head.starts_with("HEAD") { 0 } else { name.len() };
                let body = if length == 0 { "" } else { name };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                if client.stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { origin, is_ill, asked, checked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn checked(&self) -> usize {
        self.checked.load(Ordering::Relaxed)
    }

    fn is_ill(&self, is_ill: bool) {
        self.is_ill.store(is_ill, Ordering::Relaxed);
    }
}

fn wards<const N: usize>(names: [&'static str; N]) -> ([Ward; N], Vec<SocketAddr>) {
    let all = names.map(Ward::new);
    let addresses = all.iter().map(|ward| ward.origin.address).collect();
    (all, addresses)
}

fn with(policy: UpstreamPolicy) -> impl Fn(&mut Snapshot) {
    move |snapshot| {
        for upstream in &mut snapshot.upstreams {
            let upstream = Arc::make_mut(upstream);
            upstream.policy = Some(Arc::new(policy.clone()));
            upstream.key.variant = "policy".into();
        }
    }
}

fn balanced(balance: Balance) -> Rule {
    let mut rule = rule(0);
    rule.balance = balance;
    rule
}

fn get(rig: &Rig, extra: &str) -> String {
    rig.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{extra}Connection: close\r\n\r\n"))
}

fn check() -> Check {
    Check {
        kind: CheckKind::Http(Box::new(HttpCheck {
            host: Some("health.test".into()),
            path: "/healthz".into(),
            method: "GET".into(),
            statuses: vec![(200, 200)],
            expect: Box::default(),
        })),
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 2,
        port: None,
    }
}

#[test]
fn an_endpoint_that_answers_with_errors_is_ejected() {
    on_both(|backend| {
        let (wards, addresses) = wards(["one", "two"]);
        let rig = Rig::new(backend, vec![("", rule(0))], vec![addresses.clone()]);
        let outliers = Outliers {
            server_errors: 3,
            gateway_errors: 0,
            local_failures: None,
            base_ejection: Duration::from_secs(3600),
            most_ejected: 50,
            at_least_one: false,
        };
        let policy = UpstreamPolicy { outliers: Some(outliers), ..UpstreamPolicy::default() };
        rig.publish_as(vec![("", rule(0))], vec![addresses], with(policy));
        wards[0].is_ill(true);
        let bad = (0..40).filter(|_| get(&rig, "").starts_with("HTTP/1.1 503")).count();
        assert_eq!(bad, 3, "all workers count together");
        assert_eq!(wards[0].asked(), 3);
        let known = rig.proxy.health();
        let ejected: Vec<_> = known.values().flat_map(|state| state.ejected.values()).collect();
        assert_eq!(ejected.len(), 1);
        assert_eq!(ejected[0].reason, "3 answers with 5xx in a row");
        // The other one fails as well, and must not be taken out too.
        wards[1].is_ill(true);
        (0..10).for_each(|_| assert!(get(&rig, "").starts_with("HTTP/1.1 503")));
        assert_eq!(wards[0].asked(), 3);
    });
}

#[test]
fn checks_take_endpoints_out_and_back_and_are_made_once() {
    let (wards, addresses) = wards(["one", "two"]);
    let rig = Rig::new(IoBackend::Epoll, vec![("", rule(0))], vec![addresses.clone()]);
    let policy = UpstreamPolicy { check: Some(check()), panic_below: 50, ..UpstreamPolicy::default() };
    // Twenty upstreams with other policies, as twenty routes might have them, and one check.
    let upstreams = vec![addresses; 20];
    rig.publish_as(vec![("", rule(0))], upstreams, |snapshot| {
        for (index, upstream) in snapshot.upstreams.iter_mut().enumerate() {
            let upstream = Arc::make_mut(upstream);
            let connect_timeout = Some(Duration::from_secs(1 + index as u64));
            upstream.policy = Some(Arc::new(UpstreamPolicy { connect_timeout, ..policy.clone() }));
            upstream.key.variant = format!("policy {index}").into();
        }
    });
    wait_for(|| wards.iter().all(|ward| ward.checked() >= 3));
    assert_eq!(rig.proxy.checks().targets.load(Ordering::Relaxed), 2, "of endpoints, not of routes");
    assert_eq!(wards[0].origin.connections(), 1, "on one connection");
    wards[0].is_ill(true);
    wait_for(|| !rig.proxy.health().is_empty());
    let reason = rig.proxy.health().values().next().unwrap().ejected.values().next().unwrap().reason.clone();
    assert_eq!(reason, "check failed 2 times: answered 503");
    let before = wards[0].asked();
    (0..20).for_each(|_| assert!(get(&rig, "").ends_with("two")));
    assert_eq!(wards[0].asked(), before);
    // With both out too few are left: traffic goes to all again.
    wards[1].is_ill(true);
    wait_for(|| rig.proxy.health().values().any(|state| state.ejected.len() == 2));
    (0..20).for_each(|_| assert!(get(&rig, "").starts_with("HTTP/1.1 503")));
    assert!(wards[0].asked() > before);
    wards.iter().for_each(|ward| ward.is_ill(false));
    wait_for(|| rig.proxy.health().is_empty());
    let reached = |name| (0..20).any(|_| get(&rig, "").ends_with(name));
    assert!(reached("one") && reached("two"));
    // Without policies nothing is asked any more.
    rig.publish(vec![("", rule(0))], vec![vec![wards[0].origin.address]]);
    wait_for(|| rig.proxy.checks().targets.load(Ordering::Relaxed) == 0);
}

#[test]
fn without_a_healthy_endpoint_and_without_panic_there_is_none() {
    let (wards, addresses) = wards(["one"]);
    let rig = Rig::new(IoBackend::Epoll, vec![("", rule(0))], vec![addresses.clone()]);
    wards[0].is_ill(true);
    let policy = UpstreamPolicy { check: Some(check()), ..UpstreamPolicy::default() };
    rig.publish_as(vec![("", rule(0))], vec![addresses], with(policy));
    wait_for(|| !rig.proxy.health().is_empty());
    assert!(get(&rig, "").contains("no_ready_endpoint"));
    assert_eq!(wards[0].asked(), 0);
}

#[test]
fn a_check_by_connection_knows_who_does_not_accept() {
    let (_wards, mut addresses) = wards(["one"]);
    addresses.push(rig::free_address());
    let rig = Rig::new(IoBackend::Epoll, vec![("", rule(0))], vec![addresses.clone()]);
    let tcp = Check { kind: CheckKind::Tcp { send: Box::default(), expect: Box::default() }, ..check() };
    let policy = UpstreamPolicy { check: Some(tcp), ..UpstreamPolicy::default() };
    rig.publish_as(vec![("", rule(0))], vec![addresses.clone()], with(policy));
    wait_for(|| !rig.proxy.health().is_empty());
    let known = rig.proxy.health();
    let (address, ejection) = known.values().next().unwrap().ejected.iter().next().unwrap();
    assert_eq!(*address, addresses[1]);
    assert!(ejection.reason.starts_with("check failed 2 times: "), "{}", ejection.reason);
    (0..10).for_each(|_| assert!(get(&rig, "").ends_with("one")));
}

#[test]
fn requests_that_are_alike_stay_together() {
    on_both(|backend| {
        let (_wards, addresses) = wards(["one", "two", "three"]);
        let key = HashKey::Headers(vec!["x-tenant".into()]);
        let by = || balanced(Balance::Hash(Arc::new(HashBalance { key: key.clone(), table: Some(1009) })));
        let rig = Rig::new(backend, vec![("", by())], vec![addresses.clone()]);
        let of = |tenant: usize| get(&rig, &format!("X-Tenant: {tenant}\r\n")).lines().last().unwrap().to_owned();
        let before: Vec<String> = (0..30).map(of).collect();
        assert_eq!(before, (0..30).map(of).collect::<Vec<_>>(), "on every worker");
        for name in ["one", "two", "three"] {
            assert!(before.iter().any(|found| found == name), "{name} has nobody");
        }
        // Nobody moves who need not.
        rig.publish(vec![("", by())], vec![addresses[..2].to_vec()]);
        let after: Vec<String> = (0..30).map(of).collect();
        let moved = before.iter().zip(&after).filter(|(was, is)| *was != "three" && was != is).count();
        assert!(moved <= 6, "{moved} of 30 moved");
    });
}

#[test]
fn a_client_without_the_cookie_is_given_one() {
    let (_wards, addresses) = wards(["one", "two", "three"]);
    let cookie = HashCookie {
        name: "seat".into(),
        ttl: Some(Duration::from_secs(60)),
        attributes: vec![("SameSite".into(), "Lax".into())],
    };
    let by = balanced(Balance::Hash(Arc::new(HashBalance { key: HashKey::Cookie(Box::new(cookie)), table: None })));
    let rig = Rig::new(IoBackend::Epoll, vec![("", by)], vec![addresses]);
    for _ in 0..10 {
        let first = get(&rig, "");
        let given = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
        let (value, attributes) = given.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=60; Path=/; SameSite=Lax; HttpOnly");
        let again = get(&rig, &format!("Cookie: {value}\r\n"));
        assert_eq!(first.lines().last(), again.lines().last());
        assert!(!again.contains("set-cookie"));
    }
}

#[test]
fn requests_wait_for_a_connection_and_no_more_than_may() {
    on_both(|backend| {
        let release = Arc::new(AtomicBool::new(false));
        let (inside, may) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&release));
        let count = Arc::clone(&inside);
        let origin = Origin::new(move |client, _| {
            while !client.head().is_empty() {
                assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                wait_for(|| may.load(Ordering::Relaxed));
                count.fetch_sub(1, Ordering::SeqCst);
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        });
        let rig = Rig::new(backend, vec![("", rule(0))], vec![vec![origin.address]]);
        let limits = Limits { connections: Some(1), pending: Some(1), ..Limits::default() };
        let policy = UpstreamPolicy { limits, ..UpstreamPolicy::default() };
        rig.publish_as(vec![("", rule(0))], vec![vec![origin.address]], with(policy));
        let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        let mut first = rig.client();
        first.send(request);
        wait_for(|| inside.load(Ordering::Relaxed) == 1);
        // Of two more one waits, and the other is turned away at once.
        let (said, answers) = std::sync::mpsc::channel();
        let ask = |mut client: rig::Client| {
            let said = said.clone();
            client.send(request);
            std::thread::spawn(move || said.send(client.rest()))
        };
        let others = [ask(rig.client()), ask(rig.client())];
        assert!(answers.recv().unwrap().contains("overloaded"));
        release.store(true, Ordering::Relaxed);
        assert!(first.rest().ends_with("ok"));
        assert!(answers.recv().unwrap().ends_with("ok"));
        others.into_iter().for_each(|other| other.join().unwrap().unwrap());
        wait_for(|| get(&rig, "").ends_with("ok"));
    });
}

#[test]
fn requests_at_once_are_limited() {
    let release = Arc::new(AtomicBool::new(false));
    let (inside, may) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&release));
    let count = Arc::clone(&inside);
    let origin = Origin::new(move |client, _| {
        while !client.head().is_empty() {
            count.fetch_add(1, Ordering::Relaxed);
            wait_for(|| may.load(Ordering::Relaxed));
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let rig = Rig::new(IoBackend::Epoll, vec![("", rule(0))], vec![vec![origin.address]]);
    let policy = UpstreamPolicy {
        limits: Limits { requests: Some(2), ..Limits::default() },
        keep_alive: KeepAlive { requests: Some(1), ..KeepAlive::default() },
        ..UpstreamPolicy::default()
    };
    rig.publish_as(vec![("", rule(0))], vec![vec![origin.address]], with(policy));
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let mut clients = [rig.client(), rig.client()];
    clients.iter_mut().for_each(|client| client.send(request));
    wait_for(|| inside.load(Ordering::Relaxed) == 2);
    assert!(get(&rig, "").contains("503 overloaded"));
    release.store(true, Ordering::Relaxed);
    clients.iter_mut().for_each(|client| assert!(client.rest().ends_with("ok")));
    let before = origin.connections();
    (0..5).for_each(|_| assert!(get(&rig, "").ends_with("ok")));
    assert_eq!(origin.connections(), before + 5, "a connection carries as many requests as it may");
}

#[test]
fn retries_are_not_more_than_may_be_made() {
    let (wards, addresses) = wards(["one"]);
    wards[0].is_ill(true);
    let mut again = rule(0);
    again.retry = Some(Box::new(Retry::new(vec![503], 3, Duration::ZERO)));
    let rig = Rig::new(IoBackend::Epoll, vec![("", again.clone())], vec![addresses.clone()]);
    get(&rig, "");
    assert_eq!(wards[0].asked(), 4);
    let limits = Limits { retries: Some(0), ..Limits::default() };
    rig.publish_as(vec![("", again)], vec![addresses], with(UpstreamPolicy { limits, ..UpstreamPolicy::default() }));
    assert!(get(&rig, "").starts_with("HTTP/1.1 503"));
    assert_eq!(wards[0].asked(), 5);
}

/// Envoy Gateway's `fallback`: the second one is for need, and gives the traffic back.
#[test]
fn those_for_need_are_called_and_sent_home_again() {
    on_both(|io| {
        let ([first, second], addresses) = wards(["first", "second"]);
        let rules = || {
            let need = edge_config::snapshot::Backend { fallback: true, ..rig::backend(1, 1) };
            vec![("", rig::forward(vec![rig::backend(0, 1), need]))]
        };
        let rig = Rig::new(io, rules(), vec![vec![addresses[0]], vec![addresses[1]]]);
        let policy = UpstreamPolicy { check: Some(check()), ..UpstreamPolicy::default() };
        rig.publish_as(rules(), vec![vec![addresses[0]], vec![addresses[1]]], with(policy));
        wait_for(|| first.checked() > 0 && second.checked() > 0);
        let before = second.asked();
        for _ in 0..20 {
            assert!(get(&rig, "").ends_with("first"));
        }
        assert_eq!(second.asked(), before);
        first.is_ill(true);
        wait_for(|| get(&rig, "").ends_with("second"));
        for _ in 0..20 {
            assert!(get(&rig, "").ends_with("second"));
        }
        first.is_ill(false);
        wait_for(|| get(&rig, "").ends_with("first"));
        for _ in 0..20 {
            assert!(get(&rig, "").ends_with("first"));
        }
    });
}

/// However many routes lead to a Service, its endpoints are judged once: a pod that comes back ill again and again costs
/// the clients of a hundred routes what it costs those of one.
#[test]
fn a_flapping_endpoint_behind_many_routes_costs_what_it_costs_behind_one() {
    const ROUNDS: usize = 3;
    let failures = |routes: usize| {
        let (wards, addresses) = wards(["steady", "flapping"]);
        wards[1].is_ill(true);
        let paths: Vec<String> = (0..routes).map(|number| format!("/r{number}")).collect();
        let rules = || paths.iter().map(|path| (path.as_str(), rule(0))).collect::<Vec<_>>();
        let rig = Rig::new(IoBackend::Epoll, rules(), vec![addresses.clone()]);
        let outliers = Outliers {
            server_errors: 3,
            gateway_errors: 0,
            local_failures: None,
            base_ejection: Duration::from_secs(3600),
            most_ejected: 50,
            at_least_one: false,
        };
        let policy = UpstreamPolicy { outliers: Some(outliers), ..UpstreamPolicy::default() };
        let mut failed = 0;
        for _ in 0..ROUNDS {
            // It is gone, and comes as a new one.
            rig.publish_as(rules(), vec![vec![addresses[0]]], with(policy.clone()));
            (0..8).for_each(|_| assert!(get_at(&rig, &paths[0]).ends_with("steady")));
            rig.publish_as(rules(), vec![addresses.clone()], with(policy.clone()));
            let answers = (0..200).map(|number| get_at(&rig, &paths[number % paths.len()]));
            failed += answers.filter(|answer| answer.starts_with("HTTP/1.1 503")).count();
        }
        failed
    };
    let (one, many) = (failures(1), failures(100));
    assert_eq!((one, many), (3 * ROUNDS, 3 * ROUNDS));
}

fn get_at(rig: &Rig, path: &str) -> String {
    rig.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"))
}
