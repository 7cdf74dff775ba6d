//! How much may pass, over real sockets: rates, sizes, bandwidth, concurrency, admission, connections.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edge::proxy::io::Backend as IoBackend;
use edge::proxy::limits::Limits;
use edge::proxy::metrics::Format;
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::policy::protection::{
    Admission, Bandwidth, Counts, HeaderTest, KeyPart, Priority, Protection, Rate, RateList, RateName, Rates, Reach,
    Selector, TOO_MANY_REQUESTS, Unless,
};
use edge_config::policy::{ConnectionLimit, RulePolicy};
use edge_config::snapshot::Rule;
use rig::{Client, Origin, Rig, on_both, rule, wait_for};

fn policy_ref() -> ObjectRef {
    ObjectRef::new(Kind::BackendTrafficPolicy, ObjectKey::new("shop", "limits"))
}

/// So many in an hour, for everybody together.
fn hourly(index: u32, requests: u32) -> Rate {
    Rate {
        name: RateName { policy: policy_ref(), list: RateList::Local, index },
        digest: 1000 + u64::from(index),
        requests,
        per: Duration::from_secs(3600),
        burst: requests.saturating_sub(1),
        delay_after: None,
        when: None,
        otherwise: false,
        by: Vec::new(),
        by_any: false,
        counts: Counts::Route,
        reach: Reach::Edge,
        dry_run: false,
        cost: 1,
        response_cost: 0,
        headers: None,
    }
}

fn when_header(name: &str, value: &str) -> Option<Box<Selector>> {
    let value = edge_config::matching::ValueMatch::Exact(value.into());
    let test = Unless { is: HeaderTest { name: name.into(), value }, inverted: false };
    Some(Box::new(Selector { headers: vec![test], ..Selector::default() }))
}

fn rates(list: Vec<Rate>) -> Protection {
    let rates = Rates { list, dry_run: None, status: Some(TOO_MANY_REQUESTS), log: None };
    Protection { rates: Some(Arc::new(rates)), ..Protection::default() }
}

fn protected(protection: Protection) -> Rule {
    let policy = RulePolicy { protection: Some(Arc::new(protection)), ..RulePolicy::default() };
    Rule { policy: Some(Arc::new(policy)), ..rule(0) }
}

fn rig(backend: IoBackend, protection: Protection) -> (Rig, Origin) {
    let origin = Origin::echo();
    let rig = Rig::new(backend, vec![("", protected(protection))], vec![vec![origin.address]]);
    (rig, origin)
}

fn get(rig: &Rig, extra: &str) -> String {
    rig.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{extra}Connection: close\r\n\r\n"))
}

fn statuses(rig: &Rig, extra: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| get(rig, extra).get(9..12).unwrap_or_default().to_owned()).collect()
}

fn metrics(rig: &Rig) -> String {
    edge::proxy::metrics::render(rig.proxy.metrics(), 0, Format::Prometheus)
}

#[test]
fn a_rate_is_one_for_all_workers_and_says_so() {
    on_both(|backend| {
        let (rig, origin) = rig(backend, rates(vec![hourly(0, 3)]));
        let first = get(&rig, "");
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        for field in ["x-ratelimit-limit: 3\r\n", "x-ratelimit-remaining: 2\r\n", "x-ratelimit-reset: "] {
            assert!(first.contains(field), "{field} {first}");
        }
        assert_eq!(statuses(&rig, "", 4), ["200", "200", "429", "429"]);
        let refused = get(&rig, "");
        for text in [
            "HTTP/1.1 429 ",
            "429 rate_limited\n",
            "x-ratelimit-limit: 3\r\n",
            "x-ratelimit-remaining: 0\r\n",
            // The third part of an hour is what one takes.
            "retry-after: 1",
        ] {
            assert!(refused.contains(text), "{text} {refused}");
        }
        // A new generation does not forget.
        rig.publish(vec![("", protected(rates(vec![hourly(0, 3)])))], vec![vec![origin.address]]);
        assert_eq!(statuses(&rig, "", 1), ["429"]);
        let text = metrics(&rig);
        for line in [
            r#"edge_limit_requests_total{kind="BackendTrafficPolicy",namespace="shop",name="limits",list="local",rule="0",outcome="allowed"} 3"#,
            r#"rule="0",outcome="limited"} 4"#,
            r#"edge_local_responses_total{reason="rate_limited"} 4"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        // Without the policy nothing is limited.
        rig.publish(vec![("", rule(0))], vec![vec![origin.address]]);
        assert_eq!(statuses(&rig, "", 2), ["200", "200"]);
    });
}

#[test]
fn clients_are_counted_apart_and_the_rest_by_the_default() {
    let of_john = Rate { when: when_header("x-user", "john"), ..hourly(1, 2) };
    let each_org = Rate { by: vec![KeyPart::Header("x-org".into())], ..hourly(2, 1) };
    let others = Rate { otherwise: true, ..hourly(0, 4) };
    let (rig, _origin) = rig(IoBackend::Epoll, rates(vec![others, of_john, each_org]));
    assert_eq!(statuses(&rig, "X-User: john\r\n", 3), ["200", "200", "429"]);
    assert_eq!(statuses(&rig, "X-Org: a\r\n", 2), ["200", "429"]);
    assert_eq!(statuses(&rig, "X-Org: b\r\n", 2), ["200", "429"]);
    // Neither took from the default.
    assert_eq!(statuses(&rig, "", 5), ["200", "200", "200", "200", "429"]);
}

#[test]
fn who_is_refused_by_one_rate_takes_nothing_from_another() {
    let strict = Rate { when: when_header("x-a", "1"), ..hourly(1, 1) };
    let (rig, _origin) = rig(IoBackend::Epoll, rates(vec![hourly(0, 3), strict]));
    assert_eq!(statuses(&rig, "X-A: 1\r\n", 4), ["200", "429", "429", "429"]);
    assert_eq!(statuses(&rig, "", 3), ["200", "200", "429"]);
}

#[test]
fn costs_and_dry_runs() {
    let costly = Rate { cost: 2, response_cost: 1, reach: Reach::Fleet, ..hourly(0, 7) };
    let (rig, _origin) = rig(IoBackend::Epoll, rates(vec![costly]));
    assert_eq!(statuses(&rig, "", 2), ["200", "200"]);
    // Each took three; what the end of the second takes comes after its last byte.
    wait_for(|| statuses(&rig, "", 1) == ["429"]);
    let dry = Rate { dry_run: true, ..hourly(0, 1) };
    let (rig, _origin) = self::rig(IoBackend::Epoll, rates(vec![dry]));
    assert_eq!(statuses(&rig, "", 3), ["200", "200", "200"]);
    assert!(metrics(&rig).contains(r#"rule="0",outcome="dry_run"} 2"#));
}

#[test]
fn listeners_and_rates_say_whether_fields_are_sent() {
    for (listener, rate, expected) in
        [(true, None, true), (false, None, false), (false, Some(true), true), (true, Some(false), false)]
    {
        let origin = Origin::echo();
        let rig = Rig::plain(IoBackend::Epoll, origin.address);
        let rule = protected(rates(vec![Rate { headers: rate, ..hourly(0, 9) }]));
        rig.publish_as(vec![("", rule)], vec![vec![origin.address]], |snapshot| {
            snapshot.listeners[0].client.rate_limit_headers = listener;
        });
        assert_eq!(get(&rig, "").contains("x-ratelimit-limit"), expected, "{listener} {rate:?}");
    }
}

#[test]
fn nginx_delays_what_comes_too_soon_and_refuses_with_its_status() {
    let zone = |burst, delay_after| Rate {
        requests: 4,
        per: Duration::from_secs(1),
        burst,
        delay_after,
        headers: Some(false),
        ..hourly(0, 1)
    };
    let zones = |rate, status, dry_run| Protection {
        zones: Some(Arc::new(Rates { list: vec![rate], dry_run, status, log: None })),
        ..Protection::default()
    };
    let (rig, origin) = rig(IoBackend::Epoll, zones(zone(2, Some(0)), None, None));
    let begun = Instant::now();
    let mut clients: Vec<Client> = (0..3).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    }
    for client in &mut clients {
        assert!(client.rest().starts_with("HTTP/1.1 200"));
    }
    assert!(begun.elapsed() >= Duration::from_millis(450), "two of them waited for their turn");
    assert!(metrics(&rig).contains("edge_limit_delayed_requests_total"));
    let publish = |protection| rig.publish(vec![("", protected(protection))], vec![vec![origin.address]]);
    publish(zones(Rate { per: Duration::from_secs(3600), ..zone(1, None) }, Some(466), None));
    wait_for(|| get(&rig, "").starts_with("HTTP/1.1 466"));
    // NGINX's own status where none is said.
    publish(zones(Rate { per: Duration::from_secs(3600), ..zone(1, None) }, None, None));
    assert!(get(&rig, "").starts_with("HTTP/1.1 503"));
    // A wait of more than a minute is a refusal.
    publish(zones(Rate { per: Duration::from_secs(3600), ..zone(99, Some(0)) }, Some(429), None));
    assert!(get(&rig, "").starts_with("HTTP/1.1 429"));
    publish(zones(Rate { per: Duration::from_secs(3600), ..zone(0, None) }, None, Some(true)));
    assert_eq!(statuses(&rig, "", 2), ["200", "200"]);
}

#[test]
fn grpc_is_told_in_its_own_words() {
    let (rig, _origin) = rig(IoBackend::Epoll, rates(vec![hourly(0, 1)]));
    let call = "Content-Type: application/grpc\r\n";
    get(&rig, call);
    let refused = get(&rig, call);
    for text in ["HTTP/1.1 200", "grpc-status: 14\r\n", "grpc-message: rate_limited\r\n", "x-ratelimit-limit: 1\r\n"] {
        assert!(refused.contains(text), "{text} {refused}");
    }
}

fn post(length: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    )
}

fn chunked(length: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n",
        "x".repeat(length)
    )
}

#[test]
fn bodies_are_as_large_as_they_may_be() {
    on_both(|backend| {
        let (rig, origin) = rig(backend, Protection { max_body: Some(1000), ..Protection::default() });
        assert!(rig.ask(&post(1000)).starts_with("HTTP/1.1 200"));
        let refused = rig.ask(&post(1001));
        assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("413 too_large"), "{refused}");
        let mut client = rig.client();
        client.send(&chunked(1000));
        assert!(client.head().starts_with("HTTP/1.1 200"));
        let mut client = rig.client();
        client.send(&chunked(1001));
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 413") && head.contains("connection: close"), "{head}");
        // Asked first, a client is told before it sends anything.
        let mut client = rig.client();
        client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 413"));
        let unbounded = Protection { max_body: Some(u64::MAX), ..Protection::default() };
        rig.publish(vec![("", protected(unbounded))], vec![vec![origin.address]]);
        assert!(rig.ask(&post(2000)).starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn buffered_requests_reach_the_backend_whole_or_not_at_all() {
    on_both(|backend| {
        let (rig, origin) = rig(backend, Protection { buffer: Some(200_000), ..Protection::default() });
        let mut client = rig.client();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 150000\r\n\r\n");
        client.send(&"x".repeat(100_000));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(origin.connections(), 0, "the body is not complete");
        client.send(&"y".repeat(50_000));
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&"y".repeat(50_000)), "{}", answer.len());
        assert!(rig.ask(&post(200_001)).starts_with("HTTP/1.1 413"));
        let mut client = rig.client();
        client.send(&chunked(200_001));
        assert!(client.head().starts_with("HTTP/1.1 413"));
        assert!(get(&rig, "").starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn bandwidth_holds_bodies_back_and_tells_how_long() {
    let bandwidth = |request, response, trailers: Option<&str>| Protection {
        bandwidth: Some(Arc::new(Bandwidth {
            name: policy_ref(),
            digest: 5,
            request,
            response,
            trailers: trailers.map(Into::into),
        })),
        ..Protection::default()
    };
    // A second's worth passes at once, the rest as fast as it may.
    let (rig, origin) = rig(IoBackend::Epoll, bandwidth(Some(40_000), None, None));
    let begun = Instant::now();
    assert!(rig.ask(&post(60_000)).starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    rig.publish(vec![("", protected(bandwidth(None, Some(40_000), Some("x-eg-"))))], vec![vec![origin.address]]);
    let begun = Instant::now();
    let answer = rig.ask(&post(60_000));
    assert!(answer.contains(&"x".repeat(60_000)));
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    // Where the response is chunked there is room for trailers.
    let origin = Origin::new(|client, _| {
        client.head();
        let body = "z".repeat(60_000);
        let text =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let _ = client.stream.write_all(text.as_bytes());
    });
    rig.publish(vec![("", protected(bandwidth(None, Some(40_000), Some("x-eg-"))))], vec![vec![origin.address]]);
    let mut client = rig.client();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let (_, body) = client.message();
    assert!(body.contains("[x-eg-bandwidth-response-filter-delay-ms: "), "{}", &body[body.len() - 200..]);
}

#[test]
fn parallel_requests_of_a_rule_have_a_bound() {
    let origin = Origin::new(|client, _| {
        while !client.head().is_empty() {
            // Answers when its second line comes.
            let _ = client.exactly(1);
            let _ = client.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let protection = Protection { parallel: Some(2), ..Protection::default() };
    let rig = Rig::new(IoBackend::Epoll, vec![("", protected(protection))], vec![vec![origin.address]]);
    let mut waiting: Vec<Client> = (0..2).map(|_| rig.client()).collect();
    for client in &mut waiting {
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\n");
    }
    wait_for(|| origin.connections() == 2);
    let refused = get(&rig, "");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("concurrency_limited"), "{refused}");
    waiting[0].send("x");
    assert!(waiting[0].head().starts_with("HTTP/1.1 200"));
    let mut next = rig.client();
    wait_for(|| {
        next = rig.client();
        next.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx");
        next.head().starts_with("HTTP/1.1 200")
    });
}

#[test]
fn a_backend_in_trouble_gets_fewer_requests() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let ill = Arc::clone(&is_ill);
    let origin = Origin::new(move |client, _| {
        while !client.head().is_empty() {
            let status = if ill.load(Ordering::Relaxed) { "500 No" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            if client.stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let admission = Admission {
        name: policy_ref(),
        digest: 9,
        window: Duration::from_secs(2),
        min_success: 95,
        aggression: 1,
        min_rate: 1,
        most_refused: 80,
        statuses: Vec::new(),
        grpc_codes: vec![0],
    };
    let protection = Protection { admission: Some(Arc::new(admission)), ..Protection::default() };
    let rig = Rig::new(IoBackend::Epoll, vec![("", protected(protection))], vec![vec![origin.address]]);
    let answers: Vec<String> = (0..200).map(|_| get(&rig, "")).collect();
    let refused = answers.iter().filter(|answer| answer.contains("admission_refused")).count();
    // Of all but the first about four in five.
    assert!((100..195).contains(&refused), "{refused}");
    is_ill.store(false, Ordering::Relaxed);
    wait_for(|| statuses(&rig, "", 20).iter().all(|status| status == "200"));
}

#[test]
fn low_priorities_go_first_when_there_is_too_much_to_do() {
    let origin = Origin::echo();
    let with = |priority| protected(Protection { priority: Some(priority), ..Protection::default() });
    let limits = Limits { max_connections: 20, ..Limits::default() };
    let rules =
        vec![("/low", with(Priority::Low)), ("/normal", with(Priority::Normal)), ("/high", with(Priority::High))];
    let rig = Rig::with_limits(IoBackend::Epoll, rules, vec![vec![origin.address]], limits);
    let ask = |client: &mut Client, path: &str| {
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        client.message().0.get(9..12).unwrap_or_default().to_owned()
    };
    let mut open: Vec<Client> = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..19 {
        open.push(rig.client());
        let client = open.last_mut().unwrap();
        seen.push([ask(client, "/low"), ask(client, "/normal"), ask(client, "/high")].join(" "));
    }
    assert_eq!(seen[15], "200 200 200", "80 % is not too much");
    assert_eq!(seen[16], "503 200 200");
    assert_eq!(seen[18], "503 503 200");
}

#[test]
fn connections_of_a_listener_have_a_bound() {
    on_both(|backend| {
        let origin = Origin::echo();
        let rig = Rig::plain(backend, origin.address);
        rig.publish_edited(origin.address, |snapshot| {
            let limit = ConnectionLimit { most: 3, close_delay: Duration::from_millis(100) };
            snapshot.listeners[0].client.connection_limit = Some(limit);
        });
        let mut open: Vec<Client> = (0..3).map(|_| rig.client()).collect();
        for client in &mut open {
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert!(client.message().0.starts_with("HTTP/1.1 200"));
        }
        let begun = Instant::now();
        assert!(rig.client().is_at_end());
        assert!(begun.elapsed() >= Duration::from_millis(90), "it is closed after the delay");
        assert!(metrics(&rig).contains(r#"edge_local_responses_total{reason="connection_limited"} 1"#));
        open.pop();
        wait_for(|| get(&rig, "").starts_with("HTTP/1.1 200"));
    });
}
