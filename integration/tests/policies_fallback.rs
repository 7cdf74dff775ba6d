//! Backends for need (`fallback`) of connections and datagrams: they take everything while the others are ill, and give it
//! back. A TCP check says who is ill, for datagrams at another port.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use edge_integration::client::{Connection, Tls};
use edge_integration::edged::until;
use edge_integration::lab::{Lab, block_on, isolated};
use edge_integration::manifests::{CLASS, gateway, route};
use edge_integration::pki::{self, Authority, Leaf};

fn backend(name: &str, at: SocketAddr, is_for_need: bool) -> String {
    let (address, port) = (at.ip(), at.port());
    format!(
        "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: {name}, namespace: default}}
spec: {{fallback: {is_for_need}, endpoints: [{{ip: {{address: {address}, port: {port}}}}}]}}
"
    )
}

/// A route with a Backend and one for need, under a TCP check.
fn routed(kind: &str, name: &str, hosts: &[&str], more: &str) -> String {
    let reference = |of: &str| format!("{{group: gateway.envoyproxy.io, kind: Backend, name: {name}-{of}}}");
    let rules = format!("    - backendRefs: [{}, {}]\n", reference("first"), reference("need"));
    let parent = format!("{{name: web, sectionName: {name}}}");
    route(kind, name, &parent, hosts, &rules)
        + &format!(
            "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}]
  healthCheck: {{active: {{interval: 200ms, timeout: 2s, unhealthyThreshold: 2, type: TCP, tcp: {{}}{more}}}}}
"
        )
}

/// Who answers HTTP through a connection that is passed on as it is.
fn answers(at: SocketAddr, tls: Option<&Tls>) -> Option<String> {
    block_on(async {
        let mut connection = Connection::open(at, tls).await.ok()?;
        Some(connection.get("x.test", "/").await.ok()?.backend()?.to_owned())
    })
}

fn echoes(at: SocketAddr) -> Option<String> {
    // Each from a port of its own: a flow stays where it is.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send_to(b"x", at).ok()?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).split(':').next()?.to_owned())
}

/// Answers datagrams with its name, for as long as the process lives.
fn echo(name: &'static str, at: SocketAddr) -> SocketAddr {
    let socket = std::net::UdpSocket::bind(at).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut read = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut read) {
            let _ = socket.send_to(format!("{name}:").as_bytes(), from);
        }
    });
    address
}

#[test]
fn streams_and_datagrams_turn_to_backends_for_need_and_back() {
    // Two addresses with the same port of their own are nobody else's in here.
    isolated("fallback", || {
        let mut lab = Lab::new();
        let ca = Authority::new("inside").unwrap();
        let leaf = Leaf { dns: &["x.test"], ..Leaf::default() };
        let acceptor = || pki::acceptor(&ca.sign(&leaf).unwrap(), None).unwrap();
        let (tcp, tcp_need) = (lab.origins().http("first", None), lab.origins().http("need", None));
        let (tls, tls_need) =
            (lab.origins().http("first", Some(acceptor())), lab.origins().http("need", Some(acceptor())));
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], 18431)));
        let health = lab.origins().http_at("health", one, None);
        let _health_of_need = lab.origins().http_at("health", two, None);
        let [udp, udp_need] = [("first", one), ("need", two)].map(|(name, at)| echo(name, at));
        let text = [
            CLASS,
            &gateway(
                "web",
                "    - {name: tcp, port: 7000, protocol: TCP}
    - {name: udp, port: 7001, protocol: UDP}
    - {name: tls, port: 7002, protocol: TLS, tls: {mode: Passthrough}}
",
            ),
            &backend("tcp-first", tcp.address, false),
            &backend("tcp-need", tcp_need.address, true),
            &backend("tls-first", tls.address, false),
            &backend("tls-need", tls_need.address, true),
            &backend("udp-first", udp, false),
            &backend("udp-need", udp_need, true),
            &routed("TCPRoute", "tcp", &[], ""),
            &routed("TLSRoute", "tls", &["x.test"], ""),
            &routed("UDPRoute", "udp", &[], &format!(", overrides: {{port: {}}}", one.port())),
        ];
        lab.manifest("all.yaml", &text.concat());
        lab.start(&[7000, 7002]);
        let config = pki::client(&ca.certificate, &[], None).unwrap();
        let client = Tls { config, server_name: Some("x.test".into()) };
        let (at_tcp, at_udp, at_tls) = (lab.at(7000), lab.at(7001), lab.at(7002));
        // Ten in a row, of both workers: what was tried for nothing is passed over for a while, by each for itself.
        let all = |who: &str| {
            let is = |found: Option<String>| found.as_deref() == Some(who);
            let ten = |ask: &dyn Fn() -> Option<String>| (0..10).all(|_| is(ask())).then_some(());
            until(&format!("TCP to {who}"), || ten(&|| answers(at_tcp, None)));
            until(&format!("TLS to {who}"), || ten(&|| answers(at_tls, Some(&client))));
            until(&format!("UDP to {who}"), || ten(&|| echoes(at_udp)));
        };
        all("first");
        tcp.stop();
        tls.stop();
        health.stop();
        all("need");
        let _back = [(tcp.address, None), (tls.address, Some(acceptor())), (one, None)]
            .map(|(at, tls)| lab.origins().http_at("first", at, tls));
        all("first");
    });
}
