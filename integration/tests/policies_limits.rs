//! Limits with real processes: the documented examples of Envoy Gateway and NGINX Gateway Fabric as they are written there,
//! over HTTP/1.1, HTTP/2 and gRPC, the example folder, and two edges that share a limit.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use edge_integration::client::{Connection, H2, Reply};
use edge_integration::edged::{edgectl, until};
use edge_integration::lab::{HTTP, Lab, Origins, block_on, copy_example, isolated, start_example};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, route, service, service_with, to};

fn loopback(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

fn ask(at: SocketAddr, host: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    block_on(async {
        let mut connection = Connection::open(at, None).await.unwrap();
        let all = [&[("host", host)], headers].concat();
        connection.request(method, target, &all, body).await.unwrap()
    })
}

fn statuses(at: SocketAddr, host: &str, target: &str, headers: &[(&str, &str)], count: usize) -> Vec<u16> {
    (0..count).map(|_| ask(at, host, "GET", target, headers, b"").status).collect()
}

/// Envoy Gateway: tasks/traffic/local-rate-limit, "Rate Limit Specific User".
const EG_LOCAL: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy 
metadata:
  name: policy-httproute
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: http-ratelimit
  rateLimit:
    local:
      rules:
      - clientSelectors:
        - headers:
          - name: x-user-id
            value: one
        limit:
          requests: 3
          unit: Hour
";

/// tasks/traffic/request-buffering.
const EG_BUFFER: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata:
  name: request-buffer
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: foo
  requestBuffer:
    limit: 4 # Supports SI units e.g. 4Ki, 1Mi
";

/// tasks/traffic/connection-limit.
const EG_CONNECTIONS: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata:
  name: connection-limit-ctp
  namespace: default
spec:
  targetRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: eg
  connection:
    connectionLimit:
      value: 5
";

#[test]
fn envoy_gateways_examples_do_what_its_documentation_says() {
    let mut lab = Lab::new();
    let origin = lab.origin("backend");
    let eg = |name: &str, host: &str| route("HTTPRoute", name, "{name: eg}", &[host], &to("backend", 3000));
    let text = [
        CLASS,
        &gateway("eg", LISTENERS),
        &eg("http-ratelimit", "ratelimit.example"),
        &eg("foo", "www.example.com"),
        &service("default", "backend", 3000, &[origin.address]),
        EG_LOCAL,
        EG_BUFFER,
    ]
    .concat();
    lab.manifest("base.yaml", &text);
    lab.start(&[HTTP]);
    let at = lab.at(HTTP);
    let host = "ratelimit.example";
    let one = [("x-user-id", "one")];
    assert_eq!(statuses(at, host, "/get", &one, 4), [200, 200, 200, 429]);
    assert_eq!(statuses(at, host, "/get", &[("x-user-id", "two")], 4), [200; 4]);
    let refused = ask(at, host, "GET", "/get", &one, b"");
    assert_eq!(refused.header("x-ratelimit-limit"), Some("3"));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1200).contains(&wait), "{wait}");
    // The same count over HTTP/2.
    let reply = block_on(async {
        let mut client = H2::open(at, None).await.unwrap();
        client.request("GET", host, "/get", &one, b"").await.unwrap()
    });
    assert_eq!(reply.status, 429);

    let buffered = |body: &[u8]| ask(at, "www.example.com", "POST", "/foo", &[], body).status;
    assert_eq!((buffered(b"four"), buffered(b"five!")), (200, 413));
    let reply = block_on(async {
        let mut client = H2::open(at, None).await.unwrap();
        client.request("POST", "www.example.com", "/foo", &[], b"five!").await.unwrap()
    });
    assert_eq!(reply.status, 413);

    let url = format!("http://{host}:{HTTP}/get");
    let explained = lab.edged().ctl(&["explain", &url, "-H", "x-user-id: one"]).stdout;
    let line =
        "BackendTrafficPolicy default/policy-httproute local rule 0: 3 per hour of this route; counts this request";
    assert!(explained.contains(line), "{explained}");
    let explained = lab.edged().ctl(&["explain", &url]).stdout;
    assert!(explained.contains("is not about this request"), "{explained}");
    until("the log says why", || lab.access_log().iter().any(|line| line["reason"] == "rate_limited").then_some(()));

    lab.manifest("connections.yaml", EG_CONNECTIONS);
    until("five connections and no more", || {
        block_on(async {
            let mut open = Vec::new();
            for _ in 0..10 {
                let Ok(mut connection) = Connection::open(at, None).await else { continue };
                if connection.get(host, "/get").await.is_ok_and(|reply| reply.status == 200) {
                    open.push(connection);
                }
            }
            (open.len() == 5).then_some(())
        })
    });
}

/// NGINX Gateway Fabric: examples/rate-limit-policy, gateway-rate-limit.yaml and route-rate-limit.yaml.
const NGF_GATEWAY: &str = "---
apiVersion: gateway.nginx.org/v1alpha1
kind: RateLimitPolicy
metadata:
  name: gateway-rate-limit
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: gateway
  rateLimit:
    local:
      rules:
      - zoneSize: 10m
        key: \"$binary_remote_addr\"
        rate: 10r/s
";
const NGF_ROUTES: &str = "---
apiVersion: gateway.nginx.org/v1alpha1
kind: RateLimitPolicy
metadata:
  name: route-rate-limit
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: coffee
  - group: gateway.networking.k8s.io
    kind: GRPCRoute
    name: grpc-route
  rateLimit:
    local:
      rules:
      - zoneSize: 10m
        key: \"$binary_remote_addr\"
        rate: 1r/s
        burst: 3
";

#[test]
fn nginx_gateway_fabrics_examples_do_what_its_documentation_says() {
    let mut lab = Lab::new();
    let origin = lab.origin("cafe");
    let with = |kind: &str, name: &str, host: &str, service: &str| {
        route(kind, name, "{name: gateway, sectionName: http}", &[host], &to(service, 80))
    };
    let text = [
        CLASS,
        &gateway("gateway", LISTENERS),
        &with("HTTPRoute", "coffee", "coffee.example.com", "coffee"),
        &with("HTTPRoute", "tea", "tea.example.com", "coffee"),
        &with("GRPCRoute", "grpc-route", "grpc.example.com", "grpc-backend"),
        &service("default", "coffee", 80, &[origin.address]),
        &service_with("default", "grpc-backend", 80, "kubernetes.io/h2c", "TCP", &[origin.address]),
        NGF_GATEWAY,
        NGF_ROUTES,
    ]
    .concat();
    lab.manifest("base.yaml", &text);
    lab.start(&[HTTP]);
    let at = lab.at(HTTP);
    // No burst: of many at once nearly all are refused, with NGINX's status where none is said.
    until("the Gateway's rate is used up", || {
        let found = statuses(at, "tea.example.com", "/", &[], 20);
        (found.contains(&200) && found.contains(&503)).then_some(())
    });
    // The route's own: one in a second, three more wait for their turn.
    let begun = std::time::Instant::now();
    let found = block_on(async {
        let one = || async {
            let mut connection = Connection::open(at, None).await.unwrap();
            connection.request("GET", "/", &[("host", "coffee.example.com")], b"").await.unwrap().status
        };
        let all = (one(), one(), one(), one(), one(), one());
        let all = tokio::join!(all.0, all.1, all.2, all.3, all.4, all.5);
        [all.0, all.1, all.2, all.3, all.4, all.5]
    });
    let passed = found.iter().filter(|status| **status == 200).count();
    // A slow machine takes long enough for one more.
    assert!((4..=5).contains(&passed) && found.contains(&503), "{found:?}");
    assert!(begun.elapsed().as_millis() >= 2_500, "{:?}", begun.elapsed());
    // gRPC is told in its own words. Each waits for its turn, so only many at once are too many.
    let found = block_on(async {
        let one = || async {
            let mut client = H2::open(at, None).await.unwrap();
            let fields: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];
            let path = "/helloworld.Greeter/SayHello";
            let reply = client.request("POST", "grpc.example.com", path, &fields, b"\0\0\0\0\0").await.unwrap();
            let refused =
                reply.header("grpc-status") == Some("14") && reply.header("grpc-message") == Some("rate_limited");
            reply.status == 200 && refused
        };
        let all = tokio::join!(one(), one(), one(), one(), one(), one(), one());
        [all.0, all.1, all.2, all.3, all.4, all.5, all.6]
    });
    assert!(found.contains(&true), "{found:?}");
    let status = lab.edged().ctl(&["explain", &format!("http://coffee.example.com:{HTTP}/")]).stdout;
    let line =
        "RateLimitPolicy default/route-rate-limit local rule 0: 1 per second, 3 more at once wait for their turn";
    assert!(status.contains(line), "{status}");
}

#[test]
fn the_example_of_limits_does_what_it_says() {
    isolated("limits", || {
        let example = copy_example("limits");
        let check = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
        assert_eq!(check.code, Some(0), "{check:?}");
        let origins = Origins::start();
        let _shop = origins.http_at("shop", loopback(1, 18461), None);
        let at = loopback(46, 8080);
        let _edged = start_example(example.path(), &[at]);
        let john = [("x-user-id", "john")];
        assert_eq!(statuses(at, "api.edge.test", "/", &john, 4), [200, 200, 200, 429]);
        assert_eq!(statuses(at, "api.edge.test", "/", &[("x-user-id", "ann")], 1), [200]);
        let large = vec![b'x'; 2_000_000];
        let reply = block_on(async {
            let mut connection = Connection::open(at, None).await.unwrap();
            let head = format!("POST / HTTP/1.1\r\nhost: files.edge.test\r\ncontent-length: {}\r\n\r\n", large.len());
            connection.send(head.as_bytes()).await.unwrap();
            connection.reply("POST").await.unwrap()
        });
        assert_eq!(reply.status, 413);
    });
}

const PORT: u16 = 7946;

/// Two edges with one shared limit: what one lets pass, the other knows of.
#[test]
fn two_edges_share_a_limit() {
    let mut labs: Vec<Lab> = (0..2).map(|_| Lab::new()).collect();
    let origin = labs[0].origin("a");
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &route("HTTPRoute", "web", "{name: web}", &["web.test"], &to("a", 80)),
        &service("default", "a", 80, &[origin.address]),
        "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\n\
         metadata: {name: shared, namespace: default}\nspec:\n  \
         targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]\n  rateLimit:\n    global:\n      \
         rules:\n      - clientSelectors: [{headers: [{name: x-user-id, type: Distinct}]}]\n        \
         limit: {requests: 6, unit: Hour}\n",
    ]
    .concat();
    let members: String = labs
        .iter()
        .enumerate()
        .map(|(number, lab)| format!("[[fleet.edge]]\nname = \"edge-{number}\"\naddress = \"{}:{PORT}\"\n", lab.vip))
        .collect();
    for (number, lab) in labs.iter().enumerate() {
        lab.manifest("all.yaml", &text);
        lab.write_file("fleet.key", "a secret that both edges of this test have");
        std::fs::set_permissions(lab.path("fleet.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let dir = lab.dir().display();
        lab.write_config(&format!(
            "[edge]\nname = \"edge-{number}\"\n\n[fleet]\nlisten = \"{}:{PORT}\"\n\
             secret_file = \"{dir}/fleet.key\"\n{members}",
            lab.vip
        ));
    }
    labs.iter_mut().for_each(|lab| lab.start(&[HTTP]));
    let at: Vec<SocketAddr> = labs.iter().map(|lab| lab.at(HTTP)).collect();
    for lab in &mut labs {
        until("the edges hear each other", || {
            let fleet = lab.edged().ctl(&["status", "-o", "json"]).json()["fleet"].clone();
            let rows = fleet["edges"].as_array()?.clone();
            rows.iter().all(|row| row["state"] != "down" && row["state"] != "pending").then_some(())
        });
    }
    let get = |edge: usize, user: &str| ask(at[edge], "web.test", "GET", "/", &[("x-user-id", user)], b"");
    // Used up at the first edge, it is used up at the second, where it was never asked for.
    until("the first edge has its whole limit", || {
        let probe = get(0, &format!("{:?}", std::time::Instant::now()));
        (probe.header("x-ratelimit-remaining") == Some("5")).then_some(())
    });
    assert_eq!((0..7).map(|_| get(0, "one").status).filter(|status| *status == 200).count(), 6);
    until("the second edge knows", || (get(1, "one").status == 429).then_some(()));
    assert_eq!(get(1, "one").header("x-ratelimit-limit"), Some("6, 6;w=3600"));
    // Nobody else is concerned.
    assert_eq!(get(1, "two").status, 200);
    // One that comes back is told what it forgot.
    labs[0].edged().terminate();
    labs[0].start(&[HTTP]);
    until("the edge that comes back knows", || (get(0, "one").status == 429).then_some(()));
}
