//! Policies of balancing and health with real processes: the example, what an operator says of endpoints, and one check
//! per endpoint however many routes lead there.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::SocketAddr;

use edge_integration::client::Connection;
use edge_integration::edged::{Edged, edgectl, until};
use edge_integration::lab::{Lab, Origins, Running, block_on, copy_example, isolated, start_example};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

fn loopback(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

/// The backends that answer a number of requests, in the order of their answers.
fn answers(at: SocketAddr, host: &str, headers: &[(&str, &str)], count: usize) -> Vec<String> {
    block_on(async {
        let mut found = Vec::new();
        for _ in 0..count {
            let mut connection = Connection::open(at, None).await.unwrap();
            let all = [&[("host", host)], headers].concat();
            let reply = connection.request("GET", "/", &all, b"").await.unwrap();
            found.push(reply.backend().map_or_else(|| reply.status.to_string(), str::to_owned));
        }
        found
    })
}

fn reasons(edged: &Edged) -> Vec<String> {
    let text = edged.ctl(&["status", "-o", "json", "--all"]).json().to_string();
    text.split('"').filter(|part| part.contains("check failed")).map(str::to_owned).collect()
}

#[test]
fn the_example_of_health_does_what_it_says() {
    isolated("health", || {
        let example = copy_example("health");
        let check = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
        assert_eq!(check.code, Some(0), "{check:?}");
        let origins = Origins::start();
        let at = [18411, 18412, 18413].map(|port| loopback(1, port));
        let running: Vec<Running> =
            (1..).zip(at).map(|(number, at)| origins.http_at(&format!("shop-{number}"), at, None)).collect();
        let edged = start_example(example.path(), &[loopback(41, 8080)]);
        let ask = |count| answers(loopback(41, 8080), "shop.edge.test", &[], count);
        until("all three get requests", || {
            let found = ask(20);
            ["shop-1", "shop-2", "shop-3"].iter().all(|name| found.iter().any(|one| one == name)).then_some(())
        });
        until("each is asked", || running.iter().all(|one| one.origin.count("/healthz") > 0).then_some(()));
        let explained = edged.ctl(&["explain", "http://shop.edge.test:8080/"]).stdout;
        assert!(explained.contains("check by GET /healthz every 1s"), "{explained}");
        assert!(explained.contains("balance least request"), "{explained}");
        running[0].stop();
        until("the one that stopped is out", || (!reasons(&edged).is_empty()).then_some(()));
        assert!(ask(30).iter().all(|name| name == "shop-2" || name == "shop-3"));
    });
}

#[test]
fn what_an_operator_says_of_endpoints_survives_a_restart_and_ends() {
    isolated("holds", || {
        let example = copy_example("health");
        let origins = Origins::start();
        let _running: Vec<Running> = (1..=3)
            .map(|number| origins.http_at(&format!("shop-{number}"), loopback(1, 18410 + number), None))
            .collect();
        let mut edged = start_example(example.path(), &[loopback(41, 8080)]);
        let ask = |count| answers(loopback(41, 8080), "shop.edge.test", &[], count);
        let without = |name: &'static str| {
            move |found: Vec<String>| found.iter().all(|one| one != name && one.starts_with("shop")).then_some(())
        };
        let said = edged.ctl(&["endpoint", "disable", "127.0.0.1:18411"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("127.0.0.1:18411") && said.stdout.contains("disabled"), "{said:?}");
        until("nothing for shop-1", || without("shop-1")(ask(15)));
        assert_eq!(edged.ctl(&["endpoint", "drain", "127.0.0.1:18412", "--for", "5s"]).code, Some(0));
        until("nothing for shop-2", || without("shop-2")(ask(15)));
        let shown = edged.ctl(&["status", "--all", "-o", "json"]).stdout;
        assert!(shown.contains("disabled by an operator"), "{shown}");
        until("the time of shop-2 is over", || ask(15).iter().any(|name| name == "shop-2").then_some(()));
        edged.terminate();
        let edged = start_example(example.path(), &[loopback(41, 8080)]);
        until("shop-3 answers", || ask(5).iter().any(|name| name == "shop-3").then_some(()));
        (0..3).for_each(|_| assert!(without("shop-1")(ask(15)).is_some(), "over a restart"));
        assert!(edged.ctl(&["endpoint", "list"]).stdout.contains("127.0.0.1:18411"));
        assert_eq!(edged.ctl(&["endpoint", "enable", "127.0.0.1"]).code, Some(0));
        until("shop-1 is back", || ask(15).iter().any(|name| name == "shop-1").then_some(()));
        for wrong in [&["endpoint", "drain", "shop"][..], &["endpoint", "drain", "10.0.0.1", "--for", "soon"]] {
            assert_eq!(edged.ctl(wrong).code, Some(64), "{wrong:?}");
        }
    });
}

#[test]
fn fifty_routes_ask_an_endpoint_as_often_as_one() {
    let mut lab = Lab::new();
    let (one, two) = (lab.origin("one"), lab.origin("two"));
    let mut text =
        [CLASS, &gateway("web", LISTENERS), &service("default", "a", 80, &[one.address, two.address])].concat();
    for number in 0..50 {
        text += &http_route(&format!("r{number}"), &[&format!("r{number}.test")], &to("a", 80));
        // Each with a policy of its own; every second one differs in what is not the check.
        write!(
            text,
            "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\n\
             metadata: {{name: r{number}, namespace: default}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r{number}}}]\n  \
             healthCheck: {{active: {{type: HTTP, interval: 1s, http: {{path: /healthz}}}}}}\n  \
             circuitBreaker: {{maxParallelRequests: {}}}\n",
            100 + number % 2
        )
        .unwrap();
    }
    lab.manifest("base.yaml", &text);
    lab.start(&[edge_integration::lab::HTTP]);
    until("checks", || (one.origin.count("/healthz") > 3).then_some(()));
    // Once a second each: of fifty checks a second there would be hundreds by now.
    assert!(one.origin.count("/healthz") < 25, "{}", one.origin.count("/healthz"));
    until("the other one is asked, too", || (two.origin.count("/healthz") > 0).then_some(()));
    let upstreams = lab.edged().ctl(&["status", "--all", "-o", "json"]).stdout.matches("policy ").count();
    assert!(upstreams >= 2, "{upstreams}");
}
