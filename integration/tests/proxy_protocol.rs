//! PROXY protocol with HAProxy on both sides: client → HAProxy → edged → HAProxy → origin. HAProxy changes what it says
//! of the client, so that nothing but its header can be where the origin has it from.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use edge_integration::acme::ask::free_port;
use edge_integration::client::{Connection, H2, fetch};
use edge_integration::edged::{Edged, until};
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on, isolated, skip};
use edge_integration::manifests::{CLASS, gateway, http_route, route, service, service_with, to};

const TCP: u16 = 9100;
const PASS: u16 = 8444;

/// A running HAProxy.
struct HaProxy(Child);

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl HaProxy {
    fn start(dir: &Path, config: &str, ports: &[SocketAddr]) -> Self {
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(dir.join("haproxy.log")).unwrap();
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut running = Self(child.unwrap());
        for port in ports {
            until("HAProxy listens", || {
                assert!(running.0.try_wait().unwrap().is_none(), "{}", said(dir));
                std::net::TcpStream::connect(port).ok()
            });
        }
        running
    }
}

fn said(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("haproxy.log")).unwrap_or_default()
}

fn free(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, free_port("", ip))
}

/// In front: what HAProxy sends, and where to.
const FRONT: [(&str, &str, u16); 5] = [
    ("v1", "send-proxy", HTTP),
    ("v2", "send-proxy-v2 proxy-v2-options crc32c,authority check inter 100ms fall 1000", HTTP),
    ("tls", "send-proxy-v2", HTTPS),
    ("tcp", "send-proxy-v2", TCP),
    ("pass", "send-proxy", PASS),
];

fn scenario(mut lab: Lab) {
    let ip = lab.vip;
    let loopback = if ip.is_ipv4() { "127.0.0.1".parse().unwrap() } else { ip };
    let origin = lab.origin("a");
    let front: Vec<SocketAddr> = FRONT.iter().map(|_| free(loopback)).collect();
    let [behind, behind_h2, behind_tls] = [free(loopback), free(loopback), free(loopback)];
    let mut config = "defaults\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n".to_owned();
    for ((name, sends, port), bind) in FRONT.iter().zip(&front) {
        let to = lab.at(*port);
        let _ = write!(
            config,
            "listen {name}\n mode tcp\n bind {bind}\n tcp-request connection set-src src,ipmask(24,64)
 tcp-request connection set-src-port int(4321)\n tcp-request connection set-dst dst,ipmask(24,64)
 tcp-request connection set-dst-port int(4242)\n server edge {to} {sends}\n"
        );
    }
    for (name, bind, more) in [("out", behind, ""), ("out-h2", behind_h2, "proto h2")] {
        let _ = write!(
            config,
            "listen {name}\n mode http\n bind {bind} accept-proxy {more}\n http-request set-header x-src %[src]:%[src_port]
 http-request set-header x-dst %[dst]:%[dst_port]\n server origin {}\n",
            origin.address
        );
    }
    // Behind the passthrough: back to the listener that terminates, still on behalf of the client.
    let https = lab.at(HTTPS);
    let _ = write!(
        config,
        "listen out-tls\n mode tcp\n bind {behind_tls} accept-proxy\n server edge {https} send-proxy-v2\n"
    );

    let listeners = "    - {name: http, port: 8080, protocol: HTTP}
    - {name: https, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: web-tls}]}}
    - {name: tcp, port: 9100, protocol: TCP}
    - {name: pass, port: 8444, protocol: TLS, tls: {mode: Passthrough}}
";
    let policy = |name: &str, kind: &str, version: &str| {
        format!(
            "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}]
  proxyProtocol: {{version: {version}}}
"
        )
    };
    let front_policy = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: front, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  proxyProtocol: {}
";
    let text = [
        CLASS,
        &gateway("web", listeners),
        front_policy,
        &service("default", "out", 80, &[behind]),
        &service_with("default", "out-h2", 80, "kubernetes.io/h2c", "TCP", &[behind_h2]),
        &service("default", "out-tls", 80, &[behind_tls]),
        &http_route("v1", &["v1.test"], &to("out", 80)),
        &policy("v1", "HTTPRoute", "V1"),
        &http_route("v2", &["v2.test"], &to("out", 80)),
        &policy("v2", "HTTPRoute", "V2"),
        &http_route("h2", &["h2.test"], &to("out-h2", 80)),
        &policy("h2", "HTTPRoute", "V2"),
        &route("TCPRoute", "tcp", "{name: web, sectionName: tcp}", &[], &to("out", 80)),
        &policy("tcp", "TCPRoute", "V1"),
        &route("TLSRoute", "pass", "{name: web, sectionName: pass}", &["v2.test"], &to("out-tls", 80)),
        &policy("pass", "TLSRoute", "V2"),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.write_config_with(&format!("proxy_protocol_from = [\"{loopback}\"]\nhead_timeout = \"20s\""), "");
    lab.start(&[HTTP, HTTPS, TCP, PASS]);
    let _haproxy = HaProxy::start(lab.dir(), &config, &front);

    let client = match loopback {
        IpAddr::V4(_) => "127.0.0.0",
        IpAddr::V6(_) => "::",
    };
    let (source, destination) = (format!("{client}:4321"), format!("{client}:4242"));
    let check = |echo: &serde_json::Value, what: &str| {
        let headers = &echo["headers"];
        let is = |name: &str| headers[name][0].as_str().unwrap_or_default().to_owned();
        assert_eq!((is("x-src"), is("x-dst")), (source.clone(), destination.clone()), "{what}: {echo}");
        if what != "tcp" {
            assert_eq!(is("x-forwarded-for"), client, "{what}: {echo}");
        }
    };
    block_on(async {
        for host in ["v1.test", "v2.test", "h2.test"] {
            for (name, at) in [("v1", front[0]), ("v2", front[1])] {
                let mut connection = Connection::open(at, None).await.unwrap();
                for _ in 0..3 {
                    let reply = connection.get(host, "/").await.unwrap();
                    check(&reply.json(), &format!("{name} {host}"));
                }
            }
            let tls = lab.tls(host, &["http/1.1"]);
            let mut connection = Connection::open(front[2], Some(&tls)).await.unwrap();
            check(&connection.get(host, "/").await.unwrap().json(), &format!("HTTPS {host}"));
            let tls = lab.tls(host, &["h2"]);
            let mut connection = H2::open(front[2], Some(&tls)).await.unwrap();
            for _ in 0..3 {
                check(&connection.get(host, "/").await.unwrap().json(), &format!("HTTP/2 {host}"));
            }
        }
        check(&fetch(front[3], None, "any.test", "/").await.unwrap().json(), "tcp");
        let tls = lab.tls("v2.test", &["http/1.1"]);
        check(&fetch(front[4], Some(&tls), "v2.test", "/").await.unwrap().json(), "passthrough");
        // Without a header nobody gets in, nor with one that is not of the load balancer.
        assert!(fetch(lab.at(HTTP), None, "v1.test", "/").await.is_err());
    });
    let line = until("the access log", || {
        lab.access_log().into_iter().find(|line| line["host"] == "h2.test" && line["proxied_by"].is_string())
    });
    let text = |name: &str| line[name].as_str().unwrap_or_default().parse::<SocketAddr>().unwrap();
    assert_eq!(text("client"), SocketAddr::new(client.parse().unwrap(), 4321));
    assert_eq!(text("vip"), SocketAddr::new(client.parse().unwrap(), 4242));
    assert_eq!(text("proxied_by").ip(), loopback);
    let _: &mut Edged = lab.edged();
}

fn with_haproxy(name: &str, run: impl FnOnce()) {
    match Command::new("haproxy").arg("-v").output() {
        Ok(_) => run(),
        Err(error) => skip(name, &format!("haproxy: {error}")),
    }
}

#[test]
fn between_two_haproxies_over_ipv4() {
    with_haproxy("PROXY protocol over IPv4", || scenario(Lab::new()));
}

#[test]
fn between_two_haproxies_over_ipv6() {
    with_haproxy("PROXY protocol over IPv6", || {
        isolated("proxy6", || scenario(Lab::with_vip(Ipv6Addr::LOCALHOST.into())));
    });
}
