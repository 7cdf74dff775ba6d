//! BackendTrafficPolicy about endpoints: balancing, sessions, retries, circuit breakers, health, those for need.

use std::collections::BTreeMap;

use edge_integration::client::Connection;
use edge_integration::documented::Scene;
use edge_integration::edged::until;
use edge_integration::lab::{block_on, isolated};

use crate::{WWW, envoy};

fn counts(pods: &[String]) -> BTreeMap<&str, usize> {
    pods.iter().fold(BTreeMap::new(), |mut all, pod| {
        *all.entry(pod.as_str()).or_default() += 1;
        all
    })
}

#[test]
fn load_balancing() {
    envoy("load-balancing", |files| {
        let page = files.task("traffic/load-balancing");
        let mut scene = Scene::quickstart(files, 4);
        // The page's policies are each for a route of its own.
        for policy in [
            "round-robin-policy",
            "random-policy",
            "least-request-policy",
            "source-ip-policy",
            "header-policy",
            "cookie-policy",
        ] {
            scene.apply(page.block(&[&format!("name: {policy}\n")]));
        }
        scene.start();
        let pods = scene.pods(100, WWW, "/round", &[]);
        // Two workers, each in turn.
        assert!(counts(&pods).values().all(|count| (24..=26).contains(count)), "{:?}", counts(&pods));
        for (path, least) in [("/random", 5), ("/least", 5)] {
            let pods = scene.pods(100, WWW, path, &[]);
            assert_eq!(counts(&pods).len(), 4, "{path}: {:?}", counts(&pods));
            assert!(counts(&pods).values().all(|count| *count >= least), "{path}: {:?}", counts(&pods));
        }
        assert_eq!(counts(&scene.pods(100, WWW, "/source", &[])).len(), 1, "one client, one pod");
        let of = |value: &str| scene.pods(20, WWW, "/header", &[("foobar", value)]);
        let all: Vec<String> = (0..20)
            .flat_map(|n| {
                let pods = of(&n.to_string());
                assert_eq!(counts(&pods).len(), 1, "one value, one pod");
                pods
            })
            .collect();
        assert!(counts(&all).len() > 1, "other values, other pods: {all:?}");
        let first = scene.get(WWW, "/cookie", &[]);
        let cookie = first.all("set-cookie").find(|cookie| cookie.starts_with("FooBar="));
        let cookie = cookie.unwrap_or_else(|| panic!("no cookie: {first:?}"));
        assert!(cookie.contains("Max-Age=60"), "{cookie}");
        assert!(cookie.to_lowercase().contains("samesite=strict"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        let pods = scene.pods(20, WWW, "/cookie", &[("cookie", pair)]);
        assert_eq!(counts(&pods).keys().collect::<Vec<_>>(), [&first.backend().unwrap()]);
    });
}

#[test]
fn session_persistence() {
    envoy("session-persistence", |files| {
        let page = files.task("traffic/session-persistence");
        for (kind, field) in [("type: Cookie", "set-cookie"), ("type: Header", "session-a")] {
            let mut scene = Scene::quickstart(files, 4);
            scene.apply(page.block(&[kind]));
            scene.start();
            let first = scene.get("localhost", "/get", &[]);
            let given = first.header(field).unwrap_or_else(|| panic!("no session: {first:?}")).to_owned();
            let (name, value) = match kind {
                "type: Cookie" => ("cookie", given.split(';').next().unwrap()),
                _ => ("session-a", given.as_str()),
            };
            assert!(kind != "type: Cookie" || given.starts_with("Session-A="), "{given}");
            let pods = scene.pods(20, "localhost", "/get", &[(name, value)]);
            assert_eq!(counts(&pods).keys().collect::<Vec<_>>(), [&first.backend().unwrap()], "{kind}");
            assert!(counts(&scene.pods(20, "localhost", "/get", &[])).len() > 1, "{kind}: without a session");
        }
    });
}

#[test]
fn retry() {
    envoy("retry", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/retry").block(&["kind: BackendTrafficPolicy"]));
        scene.start();
        assert_eq!(scene.get(WWW, "/status/500", &[]).status, 500);
        assert_eq!(scene.backends[0].origin.count("/status/500"), 6, "once and five times again");
        assert_eq!(scene.get(WWW, "/status/404", &[]).status, 404);
        assert_eq!(scene.backends[0].origin.count("/status/404"), 1);
    });
}

#[test]
fn circuit_breaker() {
    envoy("circuit-breaker", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/circuit-breaker").block(&["kind: BackendTrafficPolicy"]));
        let at = scene.start();
        let statuses = block_on(async {
            let asks = (0..30).map(|_| {
                tokio::task::spawn_local(async move {
                    let mut connection = Connection::open(at, None).await.unwrap();
                    connection.get(WWW, "/?delay=2s").await.unwrap().status
                })
            });
            let mut found = Vec::new();
            for ask in asks.collect::<Vec<_>>() {
                found.push(ask.await.unwrap());
            }
            found
        });
        let of = |status: u16| statuses.iter().filter(|one| **one == status).count();
        assert_eq!((of(200), of(503)), (10, 20), "{statuses:?}");
    });
}

#[test]
fn failover_to_those_for_need() {
    envoy("failover", |files| {
        isolated("documented-failover", || {
            let page = files.task("traffic/failover");
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(page.block(&["kind: Backend\n", "fallback: true"]));
            scene.apply(page.block(&["name: ha-example\n  namespace"]));
            scene.apply(page.block(&["name: passive-health-check"]));
            // The page's Backends name the Services by the cluster's DNS.
            let backends = [62, 63].map(|last| ([127, 0, 0, last], 3000).into());
            let active = scene.lab.origins().http_at("active", backends[0], None);
            let _passive = scene.lab.origins().http_at("passive", backends[1], None);
            let names = ["active", "passive"].map(|name| format!("{name}.default.svc.cluster.local"));
            let hosts = format!("127.0.0.1 localhost\n127.0.0.62 {}\n127.0.0.63 {}\n", names[0], names[1]);
            scene.lab.write_file("hosts", &hosts);
            let hosts = scene.lab.path("hosts").display().to_string();
            let script = format!("mount --bind {hosts} /etc/hosts && exec \"$0\" \"$@\"");
            let at = scene.start_by(&["unshare", "--mount", "sh", "-c", &script]);
            scene.until(200, WWW, "/test", &[]);
            until("the names are known", || {
                let pods = scene.pods(10, WWW, "/test", &[]);
                pods.iter().all(|pod| pod == "active").then_some(())
            });
            active.stop();
            until("those for need answer", || {
                // More at once than there are connections from before, which a pod that goes would end.
                block_on(async {
                    let ask = |_| {
                        tokio::task::spawn_local(async move {
                            let mut connection = Connection::open(at, None).await.unwrap();
                            connection.get(WWW, "/test?delay=100ms").await.unwrap();
                        })
                    };
                    for ask in (0..20).map(ask).collect::<Vec<_>>() {
                        ask.await.unwrap();
                    }
                });
                let pods = scene.pods(5, WWW, "/test", &[]);
                pods.iter().all(|pod| pod == "passive").then_some(())
            });
        });
    });
}
