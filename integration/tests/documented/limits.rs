//! BackendTrafficPolicy about how much: rate limits of one edge and of the fleet, bodies, bandwidth, faults on purpose.

use std::time::{Duration, Instant};

use edge_integration::client::H2;
use edge_integration::documented::{PORT, Scene};
use edge_integration::lab::block_on;

use crate::{WWW, envoy};

const HOST: &str = "ratelimit.example";

/// The three that pass, and the one that does not.
const LIMITED: [u16; 4] = [200, 200, 200, 429];
const FREE: [u16; 4] = [200; 4];

/// Method, path, fields, and what four requests are answered with.
type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], [u16; 4]);

fn limits(page: &str, words: &[&str], cases: &[Case<'_>]) {
    envoy(&format!("{page} {words:?}"), |files| {
        let page = files.task(page);
        let mut scene = Scene::quickstart(files, 1);
        // The first route of the page; a block with its own replaces it.
        scene.apply(page.route());
        scene.apply(page.block(words));
        scene.start();
        for (method, path, fields, expected) in cases {
            let statuses = scene.statuses(4, method, HOST, path, fields);
            assert_eq!(statuses, expected, "{words:?}: {method} {path} {fields:?}");
        }
    });
}

const ONE: &[(&str, &str)] = &[("x-user-id", "one")];
const TWO: &[(&str, &str)] = &[("x-user-id", "two")];
const ADMIN: &[(&str, &str)] = &[("x-user-id", "admin")];

#[test]
fn local_limit_by_field() {
    let words = ["local:", "- name: x-user-id\n            value: one\n        limit"];
    limits("traffic/local-rate-limit", &words, &[("GET", "/get", ONE, LIMITED), ("GET", "/get", TWO, FREE)]);
}

#[test]
fn local_limit_by_a_field_that_is_not() {
    let org: &[(&str, &str)] = &[("x-user-id", "one"), ("x-org-id", "org1")];
    let test: &[(&str, &str)] = &[("x-user-id", "one"), ("x-org-id", "test")];
    limits(
        "traffic/local-rate-limit",
        &["invert: true"],
        &[("GET", "/get", org, LIMITED), ("GET", "/get", test, FREE)],
    );
}

#[test]
fn local_limit_of_everybody() {
    limits("traffic/local-rate-limit", &["rules:\n      - limit:"], &[("GET", "/get", &[], LIMITED)]);
}

#[test]
fn local_limit_by_path() {
    let cases: &[Case<'_>] = &[("GET", "/api/users", &[], LIMITED), ("GET", "/api/products", &[], FREE)];
    limits("traffic/local-rate-limit", &["value: /api/users"], cases);
}

#[test]
fn local_limit_by_method() {
    let cases: &[Case<'_>] = &[("POST", "/api/data", &[], LIMITED), ("GET", "/api/data", &[], FREE)];
    limits("traffic/local-rate-limit", &["value: POST"], cases);
}

#[test]
fn global_limit_by_field() {
    let words = ["global:", "- name: x-user-id\n            value: one\n        limit"];
    limits("traffic/global-rate-limit", &words, &[("GET", "/get", ONE, LIMITED), ("GET", "/get", TWO, FREE)]);
}

#[test]
fn global_limit_of_each_but_the_admin() {
    let cases: &[Case<'_>] =
        &[("GET", "/get", ONE, LIMITED), ("GET", "/get", TWO, LIMITED), ("GET", "/get", ADMIN, FREE)];
    limits("traffic/global-rate-limit", &["type: Distinct\n            name: x-user-id", "value: admin"], cases);
}

#[test]
fn global_limit_of_everybody() {
    limits("traffic/global-rate-limit", &["rules:\n      - limit:"], &[("GET", "/get", &[], LIMITED)]);
}

#[test]
fn global_limit_by_address() {
    let words = ["value: 0.0.0.0/0\n            type: Distinct"];
    limits("traffic/global-rate-limit", &words, &[("GET", "/get", &[], LIMITED)]);
}

#[test]
fn global_limit_by_path() {
    let cases: &[Case<'_>] = &[("GET", "/api/users", &[], LIMITED), ("GET", "/api/products", &[], FREE)];
    limits("traffic/global-rate-limit", &["value: /api/users"], cases);
}

#[test]
fn global_limit_by_method() {
    let cases: &[Case<'_>] = &[("POST", "/api/data", &[], LIMITED), ("GET", "/api/data", &[], FREE)];
    limits("traffic/global-rate-limit", &["value: POST"], cases);
}

#[test]
fn the_limit_of_a_route_is_merged_with_that_of_its_gateway() {
    envoy("global-rate-limit, merged", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/global-rate-limit").block(&["mergeType: StrategicMerge"]));
        scene.start();
        let statuses = scene.statuses(6, "GET", "signup.example", "/signup", &[]);
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429], "5 a minute");
        // The Gateway's hundred a second hold elsewhere.
        assert_eq!(scene.statuses(10, "GET", WWW, "/", &[]), [200; 10]);
    });
}

#[test]
fn request_buffer() {
    envoy("request-buffering", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/request-buffering").block(&["requestBuffer"]));
        scene.start();
        assert_eq!(scene.ask("POST", WWW, "/foo", &[], b"{}").status, 200);
        assert_eq!(scene.ask("POST", WWW, "/foo", &[], br#"{"key": "value"}"#).status, 413);
        assert_eq!(scene.ask("POST", WWW, "/", &[], br#"{"key": "value"}"#).status, 200, "another route");
    });
}

#[test]
fn bandwidth() {
    envoy("bandwidth-limit", |files| {
        let page = files.task("traffic/bandwidth-limit");
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(page.block(&["name: bandwidth-limit-policy"]));
        scene.apply(page.block(&["name: bandwidth-limit-response-route\nspec"]));
        // `kubectl expose deployment httpbin --port=80`
        scene.add("httpbin", "apiVersion: v1\nkind: Service\nmetadata: {name: httpbin}\nspec: {ports: [{port: 80}]}\n");
        scene.service("httpbin", "", 1);
        scene.start();
        // 30 KiB at 10 KiB a second; a burst of one second may go at once.
        let start = Instant::now();
        assert_eq!(scene.ask("POST", WWW, "/upload", &[], &[0; 30 << 10]).status, 200);
        assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
        // 4 KiB at 1 KiB a second, and the trailers that tell of it.
        let start = Instant::now();
        let reply = block_on(async {
            let mut connection = H2::open(scene.lab.at(PORT), None).await.unwrap();
            connection.request("GET", WWW, "/bytes/4096", &[], b"").await.unwrap()
        });
        assert_eq!((reply.status, reply.body.len()), (200, 4096));
        assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
    });
}

#[test]
fn faults() {
    envoy("fault-injection", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/fault-injection").block(&["fixedDelay"]));
        scene.start();
        let statuses = scene.statuses(200, "GET", WWW, "/foo", &[]);
        let aborted = statuses.iter().filter(|status| **status == 501).count();
        assert!((60..=140).contains(&aborted), "half of 200: {aborted}");
        assert!(statuses.iter().all(|status| [200, 501].contains(status)));
        let start = Instant::now();
        assert_eq!(scene.get(WWW, "/bar", &[]).status, 200);
        assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    });
}

#[test]
fn faults_of_grpc() {
    envoy("fault-injection, gRPC", |files| {
        let mut scene = Scene::empty();
        scene.apply(&files.file("examples/kubernetes/grpc-routing.yaml"));
        let page = files.task("traffic/fault-injection");
        // The page says GRPCRoute in v1alpha2, which no cluster serves any more; the file's own route is the same in v1.
        let block = page.block(&["grpcStatus: 14"]);
        scene.apply(block.split("\n---").next().unwrap());
        scene.service("yages", "http", 1);
        scene.start();
        let reply = block_on(async {
            let mut connection = H2::open(scene.lab.at(PORT), None).await.unwrap();
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            connection.request("POST", "grpc-example.com", "/yages.Echo/Ping", &fields, b"\0\0\0\0\0").await.unwrap()
        });
        assert_eq!(reply.header("grpc-status").or(reply.trailer("grpc-status")), Some("14"), "{reply:?}");
    });
}
