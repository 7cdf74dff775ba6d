//! Answers as policies have them, with real processes: the example, what Envoy Gateway's documentation shows, and maintenance
//! over a restart. curl is the client where bodies are compressed.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::Command;

use edge_integration::client::{Connection, Reply};
use edge_integration::edged::{edgectl, until};
use edge_integration::lab::{HTTP, Lab, Origins, block_on, copy_example, isolated, start_example};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, service};

fn loopback(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

fn ask(at: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    block_on(async {
        let mut connection = Connection::open(at, None).await.unwrap();
        let all = [&[("host", host)], headers].concat();
        connection.request("GET", path, &all, b"").await.unwrap()
    })
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[test]
fn the_example_of_error_pages_does_what_it_says() {
    isolated("responses", || {
        let example = copy_example("error-pages");
        let check = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
        assert_eq!(check.code, Some(0), "{check:?}");
        let origins = Origins::start();
        let running = origins.http_at("shop", loopback(1, 18421), None);
        let at = loopback(42, 8080);
        let mut edged = start_example(example.path(), &[at]);
        let shop = |path: &str| ask(at, "shop.edge.test", path, &[]);
        until("the shop answers", || (shop("/").status == 200).then_some(()));
        let broken = shop("/status/500");
        assert_eq!(broken.status, 500);
        assert!(text(&broken).contains("<p>500 for GET /status/500</p>"), "{}", text(&broken));
        assert_eq!(broken.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(broken.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(broken.header("strict-transport-security"), None, "RFC 6797: not without TLS");
        // What an endpoint says itself is not Edge's to replace here.
        assert!(!text(&shop("/status/404")).contains("Nothing is served"));
        let nobody = ask(at, "nobody.edge.test", "/", &[]);
        assert_eq!((nobody.status, text(&nobody).as_str()), (404, "<h1>Nothing is served at nobody.edge.test</h1>"));
        let closed = shop("/closed");
        assert_eq!((closed.status, text(&closed).as_str()), (451, "Closed by order of the management."));
        let coded = ask(at, "shop.edge.test", "/", &[("accept-encoding", "gzip;q=0.5, br")]);
        assert_eq!(coded.header("content-encoding"), Some("br"));
        let explained = edged.ctl(&["explain", "http://shop.edge.test:8080/"]).stdout;
        assert!(explained.contains("compressed with br, gzip from 100 bytes on"), "{explained}");
        assert!(explained.contains("answers with 500 to 599 become"), "{explained}");
        let explained = edged.ctl(&["explain", "http://shop.edge.test:8080/closed"]).stdout;
        assert!(explained.contains("451"), "{explained}");
        running.stop();
        // It serves on whoever is connected, so Edge begins anew.
        edged.terminate();
        edged = start_example(example.path(), &[at]);
        until("Edge's own 503 has the page", || text(&shop("/")).contains("<h1>We are sorry</h1>").then_some(()));

        // Maintenance, over a restart.
        let _running = origins.http_at("shop", loopback(1, 18421), None);
        until("the shop answers again", || (shop("/").status == 200).then_some(()));
        let page = example.path().join("sorry.html");
        std::fs::write(&page, "<h1>Back at ten, %REQ(:AUTHORITY)%</h1>").unwrap();
        let page = page.to_string_lossy().into_owned();
        let said = edged.ctl(&["maintenance", "on", "shop.edge.test", "--page", &page, "--retry-after", "60"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let is_closed = |reply: &Reply| {
            reply.status == 503
                && reply.header("retry-after") == Some("60")
                && text(reply) == "<h1>Back at ten, shop.edge.test</h1>"
        };
        until("it is closed", || is_closed(&shop("/")).then_some(()));
        assert!(edged.ctl(&["status"]).stdout.contains("in maintenance by command: shop.edge.test"));
        let explained = edged.ctl(&["explain", "http://shop.edge.test:8080/"]).stdout;
        assert!(explained.contains("shop.edge.test is in maintenance by command"), "{explained}");
        assert_eq!(ask(at, "nobody.edge.test", "/", &[]).status, 404, "others are as they were");
        edged.terminate();
        let edged = start_example(example.path(), &[at]);
        until("it is closed after the restart", || is_closed(&shop("/")).then_some(()));
        assert!(edged.ctl(&["maintenance", "list"]).stdout.contains("shop.edge.test"));
        // Who is let in is served; and it ends by itself.
        let let_in = ["maintenance", "on", "*.edge.test", "--allow", "127.0.0.0/8", "--for", "1h"];
        assert_eq!(edged.ctl(&let_in).code, Some(0));
        assert_eq!(edged.ctl(&["maintenance", "off", "shop.edge.test"]).code, Some(0));
        until("this machine is let in", || (shop("/").status == 200).then_some(()));
        assert_eq!(edged.ctl(&["maintenance", "on", "*.edge.test", "--for", "2s"]).code, Some(0));
        until("its time is over", || {
            edged.ctl(&["maintenance", "list"]).stdout.contains("no host is in maintenance").then_some(())
        });
        until("the shop is open", || (shop("/").status == 200).then_some(()));
        for (wrong, code) in [
            (&["maintenance", "on", "a b"][..], 64),
            (&["maintenance", "on", "a.test", "--for", "soon"], 64),
            (&["maintenance", "on", "a.test", "--allow", "here"], 64),
            (&["maintenance", "off", "a.test"], 1),
            (&["maintenance", "on", "a.test", "--retry-after", "0"], 1),
        ] {
            assert_eq!(edged.ctl(wrong).code, Some(code), "{wrong:?}");
        }
    });
}

/// What the tasks of Envoy Gateway's documentation show: their objects, on a Gateway of this laboratory.
const DOCUMENTED: &str = r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: backend}
spec:
  parentRefs: [{name: web}]
  hostnames: ["www.example.com"]
  rules:
  - backendRefs: [{group: "", kind: Service, name: backend, port: 3000, weight: 1}]
    matches: [{path: {type: PathPrefix, value: /}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: response-override}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: backend}
  responseOverride:
  - match: {statusCodes: [{type: Value, value: 404}]}
    response: {contentType: text/plain, body: {type: Inline, inline: "Oops! Your request is not found."}}
  - match: {statusCodes: [{type: Value, value: 403}]}
    redirect: {statusCode: 302, scheme: https, hostname: www.example.com, path: {type: ReplaceFullPath, replaceFullPath: "/get"}}
  - match: {statusCodes: [{type: Value, value: 500}, {type: Range, range: {start: 501, end: 511}}]}
    response:
      contentType: application/json
      body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: response-override-config}}
  compressor: [{type: Brotli, brotli: {}}, {type: Gzip, gzip: {}}, {type: Zstd, zstd: {}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: response-override-config}
data: {response.body: '{"error": "Internal Server Error"}'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: foo}
spec:
  parentRefs: [{name: web}]
  hostnames: ["www.example.com"]
  rules:
  - backendRefs: [{group: "", kind: Service, name: backend, port: 3000, weight: 1}]
    matches: [{path: {type: PathPrefix, value: /foo}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: fault-injection-50-percent-abort}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: foo}]
  faultInjection: {abort: {httpStatus: 501, percentage: 50}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bar}
spec:
  parentRefs: [{name: web}]
  hostnames: ["www.example.com"]
  rules:
  - backendRefs: [{group: "", kind: Service, name: backend, port: 3000, weight: 1}]
    matches: [{path: {type: PathPrefix, value: /bar}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: fault-injection-delay}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: bar}]
  faultInjection: {delay: {fixedDelay: 2s}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: direct-response}
spec:
  parentRefs: [{name: web}]
  hostnames: ["www.example.com"]
  rules:
  - matches: [{path: {type: PathPrefix, value: /inline}}]
    filters: [{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: direct-response-inline}}]
  - matches: [{path: {type: PathPrefix, value: /value-ref}}]
    filters: [{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: direct-response-value-ref}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: value-ref-response}
data: {response.body: '{"error": "Internal Server Error"}'}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: direct-response-inline}
spec:
  directResponse: {contentType: text/plain, statusCode: 503, body: {type: Inline, inline: "Oops! Your request is not found."}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: direct-response-value-ref}
spec:
  directResponse:
    contentType: application/json
    statusCode: 500
    body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: value-ref-response}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: http-filter-url-rewrite}
spec:
  parentRefs: [{name: web}]
  hostnames: ["path.regex.rewrite.example"]
  rules:
  - matches: [{path: {type: PathPrefix, value: "/"}}]
    filters: [{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: regex-path-rewrite}}]
    backendRefs: [{name: backend, port: 3000}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: regex-path-rewrite}
spec:
  urlRewrite:
    path: {type: ReplaceRegexMatch, replaceRegexMatch: {pattern: '^/service/([^/]+)(/.*)$', substitution: '\2/instance/\1'}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: credential}
spec:
  parentRefs: [{name: web}]
  hostnames: ["credential.example"]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: credential-injection}}]
    backendRefs: [{name: backend, port: 3000}]
---
apiVersion: v1
kind: Secret
metadata: {name: credential}
type: Opaque
data: {credential: QmFzaWMgZEdWemRHVnlPblJsYzNSbGNqRXlNdz09}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: credential-injection}
spec: {credentialInjection: {overwrite: true, credential: {valueRef: {name: credential}}}}
"#;

#[test]
fn what_the_documentation_of_envoy_gateway_shows() {
    let mut lab = Lab::new();
    let origin = lab.origin("backend");
    let documented = DOCUMENTED.replace("metadata: {name: ", "metadata: {namespace: default, name: ");
    let base = [CLASS, &gateway("web", LISTENERS), &service("default", "backend", 3000, &[origin.address])].concat();
    lab.manifest("base.yaml", &[&base, documented.as_str()].concat());
    lab.start(&[HTTP]);
    let at = lab.at(HTTP);
    let get = |path: &str| ask(at, "www.example.com", path, &[]);
    until("the backend answers", || (get("/").status == 200).then_some(()));
    // Response override.
    let missing = get("/status/404");
    assert_eq!((missing.status, text(&missing).as_str()), (404, "Oops! Your request is not found."));
    assert_eq!(missing.header("content-type"), Some("text/plain"));
    let elsewhere = get("/status/403");
    assert_eq!((elsewhere.status, elsewhere.header("location")), (302, Some("https://www.example.com/get")));
    let broken = get("/status/507");
    assert_eq!((broken.status, text(&broken).as_str()), (507, "{\"error\": \"Internal Server Error\"}"));
    // Fault injection.
    let failed = (0..100).filter(|_| get("/foo").status == 501).count();
    assert!((20..80).contains(&failed), "{failed} of 100");
    let start = std::time::Instant::now();
    assert_eq!(get("/bar").status, 200);
    assert!(start.elapsed() >= std::time::Duration::from_secs(2));
    // Direct response.
    let inline = get("/inline");
    assert_eq!((inline.status, text(&inline).as_str()), (503, "Oops! Your request is not found."));
    assert_eq!(get("/value-ref").header("content-type"), Some("application/json"));
    // URL rewrite, credential injection.
    let seen = ask(at, "path.regex.rewrite.example", "/service/foo/v1/api?q=1", &[]).json();
    assert_eq!((seen["path"].as_str(), seen["query"].as_str()), (Some("/v1/api/instance/foo"), Some("q=1")));
    let seen = ask(at, "credential.example", "/", &[("authorization", "Bearer mine")]).json();
    assert_eq!(seen["headers"]["authorization"][0], "Basic dGVzdGVyOnRlc3RlcjEyMw==");
    // Compression, as the client likes it best.
    for (accept, coding) in [("br;q=1.0, gzip;q=0.8", "br"), ("br;q=0.8, gzip;q=1.0", "gzip"), ("zstd", "zstd")] {
        let reply = ask(at, "www.example.com", "/", &[("accept-encoding", accept)]);
        assert_eq!(reply.header("content-encoding"), Some(coding), "{accept}");
        assert_eq!(reply.header("vary").map(str::to_ascii_lowercase).as_deref(), Some("accept-encoding"));
    }
    let output = Command::new("curl")
        .args(["--silent", "--compressed", "--max-time", "20", "--header", "Host: www.example.com"])
        .arg(format!("http://{at}/get"))
        .output()
        .unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["path"], "/get");
    let accepted = &seen["headers"]["accept-encoding"];
    assert!(accepted.is_null(), "the backend is not asked for what Edge makes: {accepted}");
    assert!(!lab.access_log().iter().any(|line| line.to_string().contains("dGVzdGVy")), "a credential is in the log");
}
