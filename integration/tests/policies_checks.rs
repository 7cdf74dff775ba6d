//! Active checks against real servers: the health service of grpc-go, in clear and inside TLS, and HTTPS of net/http. Good,
//! not good, good again.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use edge_integration::client::{Connection, H2};
use edge_integration::edged::{until, workspace};
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, route, service, service_with, to};
use edge_integration::pki::{Authority, Leaf};

/// A backend whose health can be told.
struct Backend {
    child: Child,
    grpc: Option<SocketAddr>,
    https: Option<SocketAddr>,
    control: SocketAddr,
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backend {
    fn start(name: &str, more: &[&str]) -> Self {
        let built = Command::new(workspace().join("integration/run/peers")).output().unwrap();
        assert!(built.status.success(), "no peers: {}", String::from_utf8_lossy(&built.stderr));
        let program = String::from_utf8(built.stdout).unwrap().trim().to_owned() + "/health-server";
        let mut child = Command::new(program)
            .args(["-name", name, "-service", "shop.Cart", "-control", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let at: Vec<Option<SocketAddr>> = line.split_whitespace().map(|address| address.parse().ok()).collect();
        let [grpc, https, Some(control)] = at[..] else { panic!("{name} said {line:?}") };
        Self { child, grpc, https, control }
    }

    fn tell(&self, what: &str) {
        let reply = block_on(async {
            let mut connection = Connection::open(self.control, None).await.unwrap();
            connection.request("POST", &format!("/{what}"), &[("host", "control")], b"").await.unwrap()
        });
        assert_eq!(reply.status, 200, "{what}");
    }
}

fn policy(kind: &str, route: &str, check: &str) -> String {
    format!(
        "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: {route}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, name: {route}}}]
  healthCheck:
    panicThreshold: 0
    active: {{interval: 200ms, timeout: 2s, unhealthyThreshold: 2, healthyThreshold: 2, {check}}}
"
    )
}

/// A CA in a ConfigMap, and TLS with it to a Service whose certificate is for `backend.test`.
fn verified(ca: &Authority, service: &str) -> String {
    let lines: String = ca.certificate.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---
apiVersion: v1
kind: ConfigMap
metadata: {{name: inside, namespace: default}}
data:
  ca.crt: |
{lines}---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {service}, namespace: default}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  validation:
    hostname: backend.test
    caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: inside}}]
"
    )
}

/// Writes a certificate for a name, and gives the arguments of who is to have it.
fn identity(lab: &Lab, ca: &Authority, name: &str) -> [String; 4] {
    let pair = ca.sign(&Leaf { dns: &[name], ..Leaf::default() }).unwrap();
    let path = |end: &str| lab.path(&format!("{name}.{end}")).to_string_lossy().into_owned();
    std::fs::write(path("crt"), &pair.certificate).unwrap();
    std::fs::write(path("key"), &pair.key).unwrap();
    ["-certificate".to_owned(), path("crt"), "-key".to_owned(), path("key")]
}

/// Who answered twelve calls, or with which code of gRPC.
fn called(at: SocketAddr, host: &str) -> BTreeSet<String> {
    block_on(async {
        let mut connection = H2::open(at, None).await.unwrap();
        let mut found = BTreeSet::new();
        for _ in 0..12 {
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let reply = connection.request("POST", host, "/shop.Cart/Add", &fields, &[0; 5]).await.unwrap();
            let code = reply.trailer("grpc-status").or(reply.header("grpc-status")).unwrap_or_default();
            found.insert(reply.header("x-backend").unwrap_or(code).to_owned());
        }
        found
    })
}

fn asked(at: SocketAddr, host: &str) -> BTreeSet<String> {
    block_on(async {
        let mut connection = Connection::open(at, None).await.unwrap();
        let mut found = BTreeSet::new();
        for _ in 0..12 {
            let reply = connection.get(host, "/").await.unwrap();
            let name = reply.header("x-backend").map(str::to_owned);
            found.insert(name.unwrap_or_else(|| reply.status.to_string()));
        }
        found
    })
}

/// Waits until the status says this of a check; it looks once a second, traffic turns away at once.
fn says(lab: &mut Lab, part: &str) {
    until(&format!("the status says {part}"), || {
        lab.edged().ctl(&["status", "--all", "-o", "json"]).stdout.contains(part).then_some(())
    });
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn grpc_backends_are_out_as_long_as_they_say_so() {
    let mut lab = Lab::new();
    let ca = Authority::new("inside").unwrap();
    let identity = identity(&lab, &ca, "backend.test");
    let own: Vec<&str> = identity.iter().map(String::as_str).collect();
    let grpc = ["-grpc", "127.0.0.1:0"];
    let (a, b) = (Backend::start("a", &grpc), Backend::start("b", &grpc));
    let (c, d) = (Backend::start("c", &[&grpc[..], &own].concat()), Backend::start("d", &[&grpc[..], &own].concat()));
    let at = |two: [&Backend; 2]| two.map(|one| one.grpc.unwrap());
    let grpc_route = |name: &str, to_service: &str| {
        route("GRPCRoute", name, "{name: web}", &[&format!("{name}.test")], &to(to_service, 80))
    };
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &service_with("default", "clear", 80, "kubernetes.io/h2c", "TCP", &at([&a, &b])),
        &service("default", "inside", 80, &at([&c, &d])),
        &verified(&ca, "inside"),
        &grpc_route("clear", "clear"),
        &grpc_route("inside", "inside"),
        &grpc_route("lost", "clear"),
        &policy("GRPCRoute", "clear", "type: GRPC, grpc: {service: shop.Cart}"),
        &policy("GRPCRoute", "inside", "type: GRPC, grpc: {service: shop.Cart}"),
        &policy("GRPCRoute", "lost", "type: GRPC, grpc: {service: shop.Nobody}"),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.start(&[HTTP]);
    let at = lab.at(HTTP);
    for (host, names, first, second) in [("clear.test", ["a", "b"], &a, &b), ("inside.test", ["c", "d"], &c, &d)] {
        until("both answer", || (called(at, host) == set(&names)).then_some(()));
        first.tell("ailing");
        until("one is out", || (called(at, host) == set(&names[1..])).then_some(()));
        says(&mut lab, "NOT_SERVING");
        second.tell("ailing");
        until("nobody is left", || (called(at, host) == set(&["14"])).then_some(()));
        first.tell("serving");
        until("the first is back", || (called(at, host) == set(&names[..1])).then_some(()));
        second.tell("serving");
        until("both are back", || (called(at, host) == set(&names)).then_some(()));
    }
    // What is not known there is not serving, and is told apart.
    until("a service that nobody knows", || (called(at, "lost.test") == set(&["14"])).then_some(()));
    says(&mut lab, "NOT_FOUND");
}

#[test]
fn https_backends_are_checked_inside_tls_and_verified() {
    let mut lab = Lab::new();
    let ca = Authority::new("inside").unwrap();
    let [good, wrong] = ["backend.test", "other.test"].map(|name| identity(&lab, &ca, name));
    let start = |name: &str, identity: &[String; 4]| {
        let own: Vec<&str> = identity.iter().map(String::as_str).collect();
        Backend::start(name, &[&["-https", "127.0.0.1:0"][..], &own].concat())
    };
    let (a, b, c) = (start("a", &good), start("b", &good), start("c", &wrong));
    let endpoints = [&a, &b, &c].map(|one| one.https.unwrap());
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "inside", 80, &endpoints),
        &verified(&ca, "inside"),
        &http_route("web", &["web.test"], &to("inside", 80)),
        &policy("HTTPRoute", "web", "type: HTTP, http: {path: /healthz}"),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.start(&[HTTP]);
    let at = lab.at(HTTP);
    // The third one has a certificate of another name: it never gets a request.
    says(&mut lab, "check failed");
    until("both others answer", || (asked(at, "web.test") == set(&["a", "b"])).then_some(()));
    a.tell("ailing");
    until("one is out", || (asked(at, "web.test") == set(&["b"])).then_some(()));
    says(&mut lab, "answered 503");
    a.tell("serving");
    until("it is back", || (asked(at, "web.test") == set(&["a", "b"])).then_some(()));
}
