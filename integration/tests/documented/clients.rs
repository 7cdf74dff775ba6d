//! ClientTrafficPolicy: where clients come from, how long they may take, how many connections there are.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use edge_integration::client::{LIMIT, Tls, fetch};
use edge_integration::documented::{Checkout, PORT, Scene, secret};
use edge_integration::edged::until;
use edge_integration::lab::block_on;
use edge_integration::pki::{self, Authority, Leaf, Pair};

use crate::{WWW, envoy};

fn scene(files: &Checkout, page: &str, words: &[&str]) -> Scene {
    let mut scene = Scene::quickstart(files, 1);
    scene.apply(files.task(page).block(words));
    scene
}

const PAGE: &str = "traffic/client-traffic-policy";

#[test]
fn keepalive_of_tcp() {
    envoy("client-traffic-policy, keepalive", |files| {
        let mut scene = scene(files, PAGE, &["name: enable-tcp-keepalive-policy"]);
        scene.start();
        assert_eq!(scene.get(WWW, "/get", &[]).status, 200);
        assert_eq!(scene.check().code, Some(0), "{:?}", scene.check());
    });
}

#[test]
fn proxy_protocol() {
    envoy("client-traffic-policy, PROXY protocol", |files| {
        let mut scene = scene(files, PAGE, &["enableProxyProtocol"]);
        // Whose word is taken is never left open: docs/edge.toml.md.
        let config = std::fs::read_to_string(scene.lab.config()).unwrap();
        let config = config.replace("[proxy]\n", "[proxy]\nproxy_protocol_from = [\"127.0.0.0/8\"]\n");
        scene.lab.write_file("edge.toml", &config);
        scene.start();
        let ask = |before: &str| {
            let mut stream = TcpStream::connect(scene.lab.at(PORT)).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let head = format!("{before}GET /get HTTP/1.1\r\nhost: {WWW}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = Vec::new();
            // A reset is an answer as well.
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        };
        assert_eq!(ask(""), "", "without a header the connection is closed");
        let answer = ask("PROXY TCP4 192.168.255.6 192.0.2.1 40000 80\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("192.168.255.6"), "{answer}");
    });
}

#[test]
fn hops_that_are_trusted() {
    envoy("client-traffic-policy, trusted hops", |files| {
        let mut scene = scene(files, PAGE, &["name: http-client-ip-detection"]);
        scene.start();
        let told =
            scene.get(WWW, "/get", &[("x-forwarded-proto", "https"), ("x-forwarded-for", "1.1.1.1,2.2.2.2")]).json();
        let all = told["headers"]["x-forwarded-for"].to_string().replace(' ', "");
        assert!(all.contains("1.1.1.1,2.2.2.2,127."), "{told}");
        assert_eq!(told["headers"]["x-forwarded-proto"][0], "https", "{told}");
        let of = |line: &&serde_json::Value| line.to_string().contains("\"1.1.1.1\"");
        edge_integration::edged::until("the log has the client", || {
            scene.lab.access_log().iter().find(of).is_some().then_some(())
        });
    });
}

#[test]
fn requests_that_do_not_come() {
    envoy("client-traffic-policy, requestReceivedTimeout", |files| {
        let mut scene = scene(files, PAGE, &["requestReceivedTimeout: 2s"]);
        scene.start();
        let start = Instant::now();
        let mut stream = TcpStream::connect(scene.lab.at(PORT)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
            .write_all(format!("GET /upload HTTP/1.1\r\nhost: {WWW}\r\ncontent-length: 10000\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
        assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    });
}

#[test]
fn idle_connections() {
    envoy("client-traffic-policy, idleTimeout", |files| {
        let mut scene = scene(files, PAGE, &["idleTimeout: 5s"]);
        scene.start();
        let mut stream = TcpStream::connect(scene.lab.at(PORT)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: {WWW}\r\n\r\n").as_bytes()).unwrap();
        let start = Instant::now();
        let mut answer = Vec::new();
        // Ends with the connection.
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    });
}

#[test]
fn a_limit_of_connections() {
    envoy("connection-limit", |files| {
        let mut scene = scene(files, "traffic/connection-limit", &["kind: ClientTrafficPolicy"]);
        let at = scene.start();
        // The one that waited for the port may still be counted.
        let ask = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let _ = stream.write_all(format!("GET /get HTTP/1.1\r\nhost: {WWW}\r\n\r\n").as_bytes());
            let mut start = [0; 12];
            stream.read_exact(&mut start).is_ok_and(|()| start.starts_with(b"HTTP/1.1 200"))
        };
        let served = edge_integration::edged::until("five of ten are served", || {
            let mut all: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(at).unwrap()).collect();
            let served = all.iter_mut().filter_map(|stream| ask(stream).then_some(())).count();
            (served == 5).then_some(served)
        });
        assert_eq!(served, 5);
    });
}

#[test]
fn a_host_with_a_dot_at_its_end() {
    envoy("host-header-normalization", |files| {
        let mut scene = scene(files, "traffic/host-header-normalization", &["stripTrailingHostDot"]);
        scene.start();
        let reply = scene.get("www.example.com.", "/get", &[]);
        assert_eq!(reply.status, 200, "{reply:?}");
        // The dot decides about nothing here, with the field or without, and is handed on as it came: a condition says so.
        assert_eq!(reply.json()["host"], "www.example.com.");
        assert!(scene.check().text().contains("spec.headers.host"), "{:?}", scene.check());
    });
}

/// The page's `kubectl patch gateway eg`: a listener on port 443.
const SECURED: &str = r#"
[[patch]]
target = { kind = "Gateway", namespace = "default", name = "eg" }
inline = """
- op: add
  path: /spec/listeners/-
  value:
    name: https
    protocol: HTTPS
    port: 443
    tls:
      mode: Terminate
      certificateRefs:
        - kind: Secret
          group: ""
          name: example-cert
"""
"#;

#[test]
fn certificates_of_clients() {
    envoy("mutual-tls", |files| {
        let authority = Authority::new("example.com").unwrap();
        let server = authority.sign(&Leaf { dns: &[WWW], ..Leaf::default() }).unwrap();
        let client = authority.sign(&Leaf { dns: &["client.example.com"], client: true, ..Leaf::default() }).unwrap();
        let other = Authority::new("example.com").unwrap();
        let stranger = other.sign(&Leaf { dns: &["client.example.com"], client: true, ..Leaf::default() }).unwrap();
        let mut scene = Scene::quickstart(files, 1);
        scene.settings(SECURED);
        let text = |text: &str| serde_json::Value::from(text);
        let (certificate, key) = (text(&server.certificate), text(&server.key));
        scene.add(
            "certificates",
            &format!(
                "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: example-cert, namespace: default}}\n\
                 type: kubernetes.io/tls\nstringData: {{tls.crt: {certificate}, tls.key: {key}}}\n{}",
                secret("example-ca-cert", "ca.crt", &authority.certificate)
            ),
        );
        scene.apply(files.task("security/mutual-tls").block(&["name: enable-mtls"]));
        scene.start();
        let ask = |identity: Option<&Pair>| {
            let config = pki::client(&authority.certificate, &["http/1.1"], identity).unwrap();
            let tls = Tls { config, server_name: Some(WWW.to_owned()) };
            block_on(fetch(scene.lab.at(443), Some(&tls), WWW, "/get"))
        };
        let reply = until("a client with a certificate is served", || ask(Some(&client)).ok());
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(ask(None).is_err(), "without a certificate the connection fails");
        assert!(ask(Some(&stranger)).is_err(), "another authority's is none");
        // The quickstart's listener in clear asks nobody for anything; a condition names it (case client-validation-misspelt).
        assert_eq!(scene.get(WWW, "/get", &[]).status, 200);
    });
}
