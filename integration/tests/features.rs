//! What HTTPRoute can say, one scenario per feature, from a client's bytes to what the backend saw.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use edge_integration::client::{Connection, Reply, fetch};
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, Lab, Running, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

/// A lab with a Gateway and one Service (port 80) for each name, each with one origin of that name.
fn lab_with(names: &[&str]) -> (Lab, Vec<Running>) {
    let lab = Lab::new();
    let mut text = format!("{CLASS}{}", gateway("web", LISTENERS));
    let mut running = Vec::new();
    for name in names {
        let origin = lab.origin(name);
        text.push_str(&service("default", name, 80, &[origin.address]));
        running.push(origin);
    }
    lab.manifest("base.yaml", &text);
    (lab, running)
}

fn served(names: &[&str], routes: &str) -> (Lab, Vec<Running>) {
    let (mut lab, running) = lab_with(names);
    lab.manifest("routes.yaml", routes);
    lab.start(&[HTTP]);
    (lab, running)
}

/// One request on its own connection.
async fn ask(lab: &Lab, method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
    let mut all = vec![("host", host)];
    all.extend_from_slice(headers);
    let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
    connection.request(method, target, &all, b"").await.unwrap_or_else(|e| panic!("{method} {host}{target}: {e}"))
}

#[test]
fn matches_choose_the_rule_by_precedence() {
    let rules = r#"
    - matches: [{path: {type: PathPrefix, value: /}}]
      backendRefs: [{name: root, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /a}}]
      backendRefs: [{name: prefix, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /a/b}}]
      backendRefs: [{name: longer, port: 80}]
    - matches: [{path: {type: Exact, value: /a/b}}]
      backendRefs: [{name: exact, port: 80}]
    - matches: [{path: {type: RegularExpression, value: "/r/[0-9]+"}}]
      backendRefs: [{name: regex, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /a}, method: POST}]
      backendRefs: [{name: method, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: X-Env, value: canary}]}]
      backendRefs: [{name: header, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /a}, queryParams: [{name: beta, value: "1"}]}]
      backendRefs: [{name: query, port: 80}]
"#;
    let names = ["root", "prefix", "longer", "exact", "regex", "method", "header", "query", "wild"];
    let routes = http_route("main", &["m.test"], rules) + &http_route("wild", &["*.m.test"], &to("wild", 80));
    let (lab, _origins) = served(&names, &routes);
    block_on(async {
        type Case =
            (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: &[Case] = &[
            ("GET", "m.test", "/", &[], Some("root")),
            ("GET", "M.Test:8080", "/", &[], Some("root")),
            ("GET", "m.test", "/ab", &[], Some("root")),
            ("GET", "m.test", "/a", &[], Some("prefix")),
            ("GET", "m.test", "/a/x", &[], Some("prefix")),
            ("GET", "m.test", "/a/b", &[], Some("exact")),
            ("GET", "m.test", "/a/b/", &[], Some("longer")),
            ("GET", "m.test", "/a/b/c?x", &[], Some("longer")),
            ("GET", "m.test", "/r/17", &[], Some("regex")),
            ("GET", "m.test", "/r/x", &[], Some("root")),
            ("POST", "m.test", "/a", &[], Some("method")),
            ("GET", "m.test", "/a", &[("x-env", "canary")], Some("header")),
            ("GET", "m.test", "/a", &[("x-env", "Canary")], Some("prefix")),
            ("GET", "m.test", "/a?beta=1", &[], Some("query")),
            ("GET", "m.test", "/a?Beta=1", &[], Some("prefix")),
            ("POST", "m.test", "/a?beta=1", &[("x-env", "canary")], Some("method")),
            ("GET", "deep.down.m.test", "/", &[], Some("wild")),
            ("GET", "other.test", "/", &[], None),
        ];
        for (method, host, target, headers, backend) in cases {
            let reply = ask(&lab, method, host, target, headers).await;
            assert_eq!(reply.backend(), *backend, "{method} {host}{target} {headers:?}");
            assert_eq!(reply.status, if backend.is_some() { 200 } else { 404 }, "{method} {host}{target}");
        }
    });
}

#[test]
fn header_filters_of_rule_and_backend_apply() {
    let rules = r#"
    - filters:
        - type: RequestHeaderModifier
          requestHeaderModifier:
            set: [{name: X-Set, value: rule}]
            add: [{name: X-Add, value: rule}]
            remove: [X-Remove]
        - type: ResponseHeaderModifier
          responseHeaderModifier:
            set: [{name: X-Backend-Was, value: seen}]
            add: [{name: X-Extra, value: "1"}]
            remove: [Content-Type]
      backendRefs:
        - name: a
          port: 80
          filters:
            - type: RequestHeaderModifier
              requestHeaderModifier: {add: [{name: X-Add, value: backend}]}
"#;
    let (lab, _origins) = served(&["a"], &http_route("headers", &["h.test"], rules));
    block_on(async {
        let sent = [("x-set", "client"), ("x-add", "client"), ("X-REMOVE", "1"), ("x-kept", "1")];
        let reply = ask(&lab, "GET", "h.test", "/", &sent).await;
        let echo = &reply.json()["headers"];
        assert_eq!(echo["x-set"], serde_json::json!(["rule"]));
        let added: Vec<&str> = echo["x-add"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
        assert_eq!(added.join(",").replace(' ', ""), "client,rule,backend");
        assert_eq!((echo.get("x-remove"), &echo["x-kept"]), (None, &serde_json::json!(["1"])));
        assert_eq!(
            (reply.header("x-backend-was"), reply.header("x-extra"), reply.header("content-type")),
            (Some("seen"), Some("1"), None)
        );
    });
}

#[test]
fn redirects_and_rewrites_follow_the_tables_of_the_spec() {
    let redirect = |name: &str, path: &str, filter: &str| {
        let rule = format!(
            "    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      filters: [{{type: RequestRedirect, requestRedirect: {{{filter}}}}}]\n"
        );
        http_route(name, &["r.test"], &rule)
    };
    let rewrite = |name: &str, path: &str, filter: &str| {
        let rule = format!(
            "    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      filters: [{{type: URLRewrite, urlRewrite: {{{filter}}}}}]\n      backendRefs: [{{name: a, port: 80}}]\n"
        );
        http_route(name, &["w.test"], &rule)
    };
    let routes = [
        redirect("r1", "/scheme", "scheme: https"),
        redirect("r2", "/port", "port: 9999, statusCode: 301"),
        redirect("r3", "/host", "hostname: other.test, statusCode: 307"),
        redirect("r4", "/prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308"),
        redirect("r5", "/full", "path: {type: ReplaceFullPath, replaceFullPath: /there}, statusCode: 303"),
        rewrite("w1", "/strip", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
        rewrite("w2", "/swap", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /x/y}"),
        rewrite("w3", "/full", "path: {type: ReplaceFullPath, replaceFullPath: /one}, hostname: inside.test"),
    ]
    .concat();
    let (lab, _origins) = served(&["a"], &routes);
    block_on(async {
        for (target, status, location) in [
            ("/scheme/a?b=c", 302, "https://r.test/scheme/a?b=c"),
            ("/port", 301, "http://r.test:9999/port"),
            ("/host/x", 307, "http://other.test:8080/host/x"),
            ("/prefix/a/b?q", 308, "http://r.test:8080/new/a/b?q"),
            ("/prefix", 308, "http://r.test:8080/new"),
            ("/full/a", 303, "http://r.test:8080/there"),
        ] {
            let reply = ask(&lab, "GET", "r.test:8080", target, &[]).await;
            assert_eq!((reply.status, reply.header("location")), (status, Some(location)), "{target}");
        }
        for (target, path, query, host) in [
            ("/strip", "/", None, "w.test"),
            ("/strip/a/b?x=%20", "/a/b", Some("x=%20"), "w.test"),
            ("/swap/z", "/x/y/z", None, "w.test"),
            ("/full/q?keep=1", "/one", Some("keep=1"), "inside.test"),
        ] {
            let echo = ask(&lab, "GET", "w.test", target, &[]).await.json();
            assert_eq!(
                (echo["path"].as_str(), echo["query"].as_str(), echo["host"].as_str()),
                (Some(path), query, Some(host)),
                "{target}"
            );
        }
    });
}

#[test]
fn backends_are_weighted_and_bad_references_cost_their_share() {
    let rules = r#"
    - matches: [{path: {value: /split}}]
      backendRefs: [{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}, {name: c, port: 80, weight: 0}]
    - matches: [{path: {value: /missing}}]
      backendRefs: [{name: nobody, port: 80}]
    - matches: [{path: {value: /half}}]
      backendRefs: [{name: a, port: 80}, {name: nobody, port: 80}]
    - matches: [{path: {value: /empty}}]
      backendRefs: [{name: empty, port: 80}]
    - matches: [{path: {value: /none}}]
      backendRefs: []
    - matches: [{path: {value: /foreign}}]
      backendRefs: [{name: foreign, namespace: elsewhere, port: 80}]
"#;
    let (mut lab, _origins) = lab_with(&["a", "b", "c"]);
    let foreign = lab.origin("foreign");
    lab.manifest("foreign.yaml", &service("elsewhere", "foreign", 80, &[foreign.address]));
    lab.manifest("empty.yaml", &service("default", "empty", 80, &[]));
    lab.manifest("routes.yaml", &http_route("weights", &["b.test"], rules));
    lab.start(&[HTTP]);
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let mut counts = std::collections::BTreeMap::<String, u32>::new();
        for _ in 0..400 {
            let reply = connection.get("b.test", "/split").await.unwrap();
            *counts.entry(reply.backend().unwrap().to_owned()).or_default() += 1;
        }
        assert!(!counts.contains_key("c") && (260..=340).contains(&counts["a"]), "{counts:?}");
        let mut failed = 0;
        for _ in 0..200 {
            failed += u32::from(connection.get("b.test", "/half").await.unwrap().status == 500);
        }
        assert!((60..=140).contains(&failed), "{failed} of 200 to the missing half");
        for (target, status) in [("/missing", 500), ("/empty", 503), ("/none", 500), ("/foreign", 500)] {
            assert_eq!(connection.get("b.test", target).await.unwrap().status, status, "{target}");
        }
    });
    let grant = "---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: allow, namespace: elsewhere}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: \"\", kind: Service}]
";
    let status = || block_on(fetch(lab.at(HTTP), None, "b.test", "/foreign")).ok().map(|reply| reply.status);
    lab.manifest("grant.yaml", grant);
    until("the grant takes effect", || (status() == Some(200)).then_some(()));
    lab.remove_manifest("grant.yaml");
    until("the grant is taken back", || (status() == Some(500)).then_some(()));
}

#[test]
fn mirrors_get_copies_that_nobody_waits_for() {
    let rules = r#"
    - filters:
        - {type: RequestMirror, requestMirror: {backendRef: {name: one, port: 80}}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}, percent: 0}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: three, port: 80}, fraction: {numerator: 1, denominator: 2}}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: dead, port: 80}}}
      backendRefs: [{name: main, port: 80}]
"#;
    let names = ["main", "one", "two", "three", "dead"];
    let (lab, origins) = served(&names, &http_route("mirror", &["m.test"], rules));
    origins[4].stop();
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        for i in 0..100 {
            let body = vec![b'x'; 10 + i];
            let reply = connection.request("POST", "/copy", &[("host", "m.test")], &body).await.unwrap();
            assert_eq!((reply.status, reply.backend()), (200, Some("main")));
        }
    });
    until("100 copies", || (origins[1].origin.count("/copy") == 100).then_some(()));
    assert_eq!((origins[0].origin.count("/copy"), origins[2].origin.count("/copy")), (100, 0));
    until("about half of the copies", || (20..=80).contains(&origins[3].origin.count("/copy")).then_some(()));
}

#[test]
fn retries_and_timeouts_bound_a_request() {
    let rules = r#"
    - matches: [{path: {value: /flaky}}, {path: {value: /drop}}]
      retry: {codes: [503], attempts: 2, backoff: 10ms}
      backendRefs: [{name: a, port: 80}]
    - matches: [{path: {value: /delay}}]
      timeouts: {request: 1500ms}
      backendRefs: [{name: a, port: 80}]
    - matches: [{path: {value: /delay/5}}]
      timeouts: {request: 10s, backendRequest: 1500ms}
      backendRefs: [{name: a, port: 80}]
    - matches: [{path: {value: /delay/2000}}]
      timeouts: {request: 0s}
      backendRefs: [{name: a, port: 80}]
"#;
    let plain = http_route("plain", &["plain.test"], &to("a", 80));
    let (lab, origins) = served(&["a"], &(http_route("bounds", &["b.test"], rules) + &plain));
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        for (host, target, status) in [
            ("b.test", "/flaky/one/1", 200),
            ("b.test", "/flaky/two/2", 200),
            ("b.test", "/flaky/three/3", 503),
            ("b.test", "/drop/one/1", 200),
            ("plain.test", "/flaky/four/1", 503),
            ("b.test", "/delay/0", 200),
            ("b.test", "/delay/8000", 504),
            ("b.test", "/delay/2000", 200),
        ] {
            let start = Instant::now();
            let reply = connection.get(host, target).await.unwrap();
            assert_eq!(reply.status, status, "{host}{target}");
            assert!(start.elapsed() < Duration::from_secs(6), "{host}{target} took {:?}", start.elapsed());
        }
        assert_eq!(origins[0].origin.count("/flaky/three"), 3, "attempts are tries after the first");
        assert_eq!(ask(&lab, "GET", "b.test", "/delay/5", &[]).await.status, 200);
        assert_eq!(ask(&lab, "GET", "b.test", "/delay/4000", &[]).await.status, 504);
    });
}

#[test]
fn cors_is_answered_at_the_edge() {
    let rules = r#"
    - filters:
        - type: CORS
          cors:
            allowOrigins: ["https://www.foo.test", "https://*.bar.test"]
            allowMethods: [GET, PUT]
            allowHeaders: [X-Custom]
            exposeHeaders: [X-Backend]
            allowCredentials: true
            maxAge: 600
      backendRefs: [{name: a, port: 80}]
"#;
    let (lab, origins) = served(&["a"], &http_route("cors", &["c.test"], rules));
    block_on(async {
        let preflight = [
            ("origin", "https://www.foo.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-custom"),
        ];
        let reply = ask(&lab, "OPTIONS", "c.test", "/", &preflight).await;
        assert!(matches!(reply.status, 200 | 204), "{reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://www.foo.test"));
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(reply.header("access-control-max-age"), Some("600"));
        assert!(reply.header("access-control-allow-methods").unwrap().contains("PUT"));
        assert!(reply.header("access-control-allow-headers").unwrap().eq_ignore_ascii_case("x-custom"));
        assert_eq!(origins[0].origin.count("/"), 0, "a preflight stays at the edge");

        let reply = ask(&lab, "GET", "c.test", "/", &[("origin", "https://a.b.bar.test")]).await;
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.b.bar.test"));
        assert_eq!(reply.header("access-control-expose-headers").map(str::to_lowercase).as_deref(), Some("x-backend"));
        let reply = ask(&lab, "GET", "c.test", "/", &[("origin", "https://evil.test")]).await;
        assert_eq!((reply.backend(), reply.header("access-control-allow-origin")), (Some("a"), None));
    });
}

#[test]
fn sessions_stick_by_header_and_end_with_their_absolute_timeout() {
    let rules = r#"
    - matches: [{path: {value: /header}}]
      sessionPersistence: {sessionName: X-Session, type: Header}
      backendRefs: [{name: many, port: 80}]
    - matches: [{path: {value: /short}}]
      sessionPersistence: {sessionName: Short, type: Cookie, absoluteTimeout: 5s, cookieConfig: {lifetimeType: Permanent}}
      backendRefs: [{name: many, port: 80}]
"#;
    let (mut lab, _none) = lab_with(&[]);
    let many: Vec<Running> = (0..4).map(|i| lab.origin(&format!("many-{i}"))).collect();
    let addresses: Vec<_> = many.iter().map(|origin| origin.address).collect();
    lab.manifest("many.yaml", &service("default", "many", 80, &addresses));
    lab.manifest("routes.yaml", &http_route("sessions", &["s.test"], rules));
    lab.start(&[HTTP]);
    block_on(async {
        let first = ask(&lab, "GET", "s.test", "/header", &[]).await;
        let token = first.header("x-session").expect("a session header").to_owned();
        for _ in 0..12 {
            let again = ask(&lab, "GET", "s.test", "/header", &[("x-session", &token)]).await;
            assert_eq!(again.backend(), first.backend());
        }
        let first = ask(&lab, "GET", "s.test", "/short", &[]).await;
        let cookie = first.header("set-cookie").expect("a session cookie").split(';').next().unwrap().to_owned();
        let start = Instant::now();
        let again = ask(&lab, "GET", "s.test", "/short", &[("cookie", &cookie)]).await;
        assert_eq!((again.backend(), again.header("set-cookie")), (first.backend(), None), "still the same session");
        loop {
            // The cookie outlives its session only in the hands of a client that ignores Max-Age.
            let later = ask(&lab, "GET", "s.test", "/short", &[("cookie", &cookie)]).await;
            if later.header("set-cookie").is_some() {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "a session of 5s still holds");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The token counts whole seconds.
        assert!(start.elapsed() > Duration::from_millis(3_900), "ended after {:?}", start.elapsed());
    });
}

#[test]
fn bytes_are_parsed_strictly_and_written_anew() {
    let (lab, _origins) = served(&["a"], &http_route("all", &[], &to("a", 80)));
    block_on(async {
        // Refused, with the connection closed: ambiguous or malformed.
        for bytes in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n folded: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
            connection.send(bytes.as_bytes()).await.unwrap();
            if bytes.len() > 3 {
                let reply = connection.reply("GET").await.unwrap_or_else(|e| panic!("{bytes:?}: {e}"));
                assert!(matches!(reply.status, 400 | 501 | 505), "{bytes:?}: {}", reply.status);
                connection.closed().await.unwrap_or_else(|e| panic!("{bytes:?}: {e}"));
            }
        }
        // Pipelined, HEAD, chunked with trailers, Expect: all on one connection.
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        connection.send(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        for path in ["/1", "/2"] {
            assert_eq!(connection.reply("GET").await.unwrap().json()["path"], path);
        }
        let reply = connection.request("HEAD", "/bytes/5", &[("host", "a")], b"").await.unwrap();
        assert_eq!((reply.status, reply.header("content-length")), (200, Some("5")));
        assert_eq!(connection.get("a", "/status/204").await.unwrap().status, 204);
        let chunked = b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\n";
        connection.send(chunked).await.unwrap();
        assert_eq!(connection.reply("POST").await.unwrap().json()["received"], 13);
        connection
            .send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
            .await
            .unwrap();
        connection.send(b"ok").await.unwrap();
        assert_eq!(connection.reply("POST").await.unwrap().json()["received"], 2);
        // Hop-by-hop fields stay at their hop; cookies stay apart.
        let headers = [("host", "a"), ("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "1"), ("te", "gzip")];
        let echo = connection.request("GET", "/", &headers, b"").await.unwrap().json();
        assert_eq!((echo["headers"].get("x-hop"), echo["headers"].get("keep-alive")), (None, None));
        let reply = connection.get("a", "/cookie").await.unwrap();
        assert_eq!(reply.all("set-cookie").collect::<Vec<_>>(), ["a=1; Path=/", "b=2; HttpOnly"]);
    });
    until("the reason in the access log", || {
        lab.access_log().iter().any(|line| line.to_string().contains("bad_request")).then_some(())
    });
}

#[test]
fn bodies_stream_in_both_directions_with_flat_memory() {
    let (mut lab, _origins) = served(&["a"], &http_route("all", &[], &to("a", 80)));
    const MB: usize = 64;
    let before = lab.edged().memory("VmRSS");
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let head = format!("PUT /upload HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", MB << 20);
        connection.send(head.as_bytes()).await.unwrap();
        let megabyte = vec![1u8; 1 << 20];
        for _ in 0..MB {
            connection.send(&megabyte).await.unwrap();
        }
        let reply = connection.reply("PUT").await.unwrap().json();
        assert_eq!(
            (reply["received"].as_u64(), reply["sum"].as_u64()),
            (Some((MB << 20) as u64), Some((MB << 20) as u64))
        );

        connection.send(b"PUT /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..32 {
            connection.send(b"100000\r\n").await.unwrap();
            connection.send(&megabyte).await.unwrap();
            connection.send(b"\r\n").await.unwrap();
        }
        connection.send(b"0\r\n\r\n").await.unwrap();
        assert_eq!(connection.reply("PUT").await.unwrap().json()["received"].as_u64(), Some(32 << 20));
        let reply = connection.get("a", &format!("/bytes/{}", MB << 20)).await.unwrap();
        assert_eq!(reply.body.len(), MB << 20);
    });
    let grown = lab.edged().memory("VmHWM").saturating_sub(before);
    assert!(grown < 12 << 10, "memory grew by {grown} kB for {MB} MB bodies");
}
