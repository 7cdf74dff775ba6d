//! Every folder of `examples/` passes the check, starts as it is, and the smaller ones do what their README says.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;

use edge_integration::client::{Connection, H2, Tls, fetch};
use edge_integration::edged::{edgectl, until, workspace};
use edge_integration::lab::{Origins, block_on, copy_example, internal_ca, isolated, start_example};
use edge_integration::netns;
use edge_integration::pki::{self, Authority, Leaf};
use edge_integration::region::not_up;

fn loopback(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

#[test]
fn every_example_passes_the_check_and_starts() {
    isolated("all", || {
        let mut names: Vec<String> = std::fs::read_dir(workspace().join("examples"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names.len() >= 5, "{names:?}");
        if let Err(reason) = netns::available() {
            eprintln!(
                "without a namespace ({reason}) nothing can be announced: the examples bgp and layer2 are left out"
            );
            names.retain(|name| !["bgp", "layer2"].contains(&name.as_str()));
        } else {
            // The shared network of the example of layer 2.
            netns::ip("link add name eth0 type veth peer name eth0-peer").unwrap();
            // VRRP is told from an address of the interface.
            netns::ip("addr add 192.0.2.1/24 dev eth0").unwrap();
            netns::ip("link set eth0 up").unwrap();
            netns::ip("link set eth0-peer up").unwrap();
        }
        for name in names {
            assert!(workspace().join("examples").join(&name).join("README.md").exists(), "{name}: no README.md");
            let example = copy_example(&name);
            let check = edgectl(&["check", &example.path().join("edge.toml").to_string_lossy()]);
            assert_eq!(check.code, Some(0), "{name}: {check:?}");
            let _router = (name == "bgp").then(|| Router::start(example.path()));
            let mut edged = start_example(example.path(), &[]);
            edged.wait_control();
            // Up as far as it can be without backends: all addresses and listeners.
            until(&format!("{name}: addresses and listeners up"), || {
                let status = edged.ctl(&["status", "-o", "json"]).json();
                let any = |rows: &str| status[rows].as_array().is_some_and(|rows| !rows.is_empty());
                let faults = not_up(&edged);
                // Nobody issues here, so placeholders are served.
                let waits = |fault: &str| name == "letsencrypt" && fault.contains("a placeholder is served");
                let ours =
                    |fault: &String| (fault.starts_with("vips") || fault.starts_with("listeners")) && !waits(fault);
                let ours = faults.iter().any(ours);
                (any("vips") && any("listeners") && !ours).then_some(())
            });
        }
    });
}

/// The router that the example of BGP tells its VIP to.
struct Router(std::process::Child);

impl Router {
    fn start(example: &std::path::Path) -> Self {
        let child = std::process::Command::new("gobgpd")
            .arg("-f")
            .arg(example.join("router.toml"))
            .arg("--api-hosts")
            .arg(format!("unix://{}", example.join("router.sock").display()))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        Self(child.expect("gobgpd is installed (make packages)"))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_canary_splits_and_mirrors() {
    isolated("canary", || {
        let example = copy_example("canary");
        let origins = Origins::start();
        let one = origins.http_at("v1", loopback(1, 18401), None);
        let two = origins.http_at("v2", loopback(1, 18402), None);
        let _edged = start_example(example.path(), &[loopback(40, 8080)]);
        block_on(async {
            let mut connection = Connection::open(loopback(40, 8080), None).await.unwrap();
            let canary = [("host", "shop.edge.test"), ("x-canary", "yes")];
            assert_eq!(connection.request("GET", "/canary", &canary, b"").await.unwrap().backend(), Some("v2"));
            for _ in 0..300 {
                let reply = connection.get("shop.edge.test", "/split").await.unwrap();
                assert_eq!(reply.header("x-version"), (reply.backend() == Some("v2")).then_some("v2"));
            }
        });
        let (old, new) = (one.origin.count("/split"), two.origin.count("/split"));
        assert!((230..300).contains(&old), "{old} of 300 to the old version");
        until("shares and copies at the new version", || (two.origin.count("/split") > 300 - old + 5).then_some(()));
        assert!(new < 130, "{new} at the new version");
    });
}

#[test]
fn passthrough_ends_at_the_backend_and_www_at_the_edge() {
    isolated("pass", || {
        pki::install_provider();
        let example = copy_example("tls-passthrough");
        let authority = Authority::new("vault").unwrap();
        let pair = authority.sign(&Leaf { dns: &["vault.edge.test"], ..Leaf::default() }).unwrap();
        let origins = Origins::start();
        let _vault = origins.http_at("vault", loopback(1, 18501), Some(pki::acceptor(&pair, None).unwrap()));
        let _www = origins.http_at("www", loopback(1, 18502), None);
        let _edged = start_example(example.path(), &[loopback(50, 8443)]);
        let internal = internal_ca(&example.path().join(".run"));
        for (ca, host, backend) in
            [(&authority.certificate, "vault.edge.test", "vault"), (&internal, "www.edge.test", "www")]
        {
            let tls = Tls { config: pki::client(ca, &["http/1.1"], None).unwrap(), server_name: Some(host.to_owned()) };
            let reply = until(host, || block_on(fetch(loopback(50, 8443), Some(&tls), host, "/")).ok());
            assert_eq!(reply.backend(), Some(backend));
        }
    });
}

#[test]
fn services_share_an_address() {
    isolated("lbsvc", || {
        let example = copy_example("load-balancer-service");
        let origins = Origins::start();
        let _db = origins.http_at("db", loopback(1, 18701), None);
        let edged = start_example(example.path(), &[loopback(70, 15432)]);
        let reply = until("db", || block_on(fetch(loopback(70, 15432), None, "db", "/")).ok());
        assert_eq!(reply.backend(), Some("db"));
        // A socket answers a moment before the status knows of it.
        let row = until("the VIP in the status", || {
            let row = edged.ctl(&["status", "-o", "json"]).json()["vips"][0].take();
            (!row.is_null()).then_some(row)
        });
        assert_eq!(row["owners"], serde_json::json!(["Service shop/db", "Service shop/dns"]));
        assert_eq!(row["ports"], serde_json::json!(["15353/tcp", "15353/udp", "15432/tcp"]));
        let explained = edged.ctl(&["explain", "tcp://127.0.0.70:15432"]);
        assert_eq!(explained.code, Some(0), "{explained:?}");
        let lines: Vec<&str> = explained.stdout.lines().collect();
        assert!(lines.iter().any(|line| line.starts_with("service") && line.ends_with("shop/db")), "{explained:?}");
    });
}

#[test]
fn grpc_calls_keep_their_trailers() {
    isolated("grpc", || {
        let example = copy_example("grpc");
        let origins = Origins::start();
        let _cart = origins.http_at("cart", loopback(1, 18601), None);
        let _edged = start_example(example.path(), &[loopback(60, 8080), loopback(60, 8443)]);
        block_on(async {
            let mut connection = H2::open(loopback(60, 8080), None).await.unwrap();
            let headers = [("content-type", "application/grpc"), ("te", "trailers")];
            let reply =
                connection.request("POST", "grpc.edge.test", "/shop.Cart/Add", &headers, b"hello").await.unwrap();
            assert_eq!((&*reply.body, reply.trailer("grpc-status")), (&b"hello"[..], Some("0")));
            let reply = connection.request("POST", "grpc.edge.test", "/other/Add", &headers, b"hello").await.unwrap();
            assert_eq!(reply.header("grpc-status").or(reply.trailer("grpc-status")), Some("12"));
        });
    });
}

#[test]
fn policies_hold_at_their_listeners_and_are_merged() {
    isolated("listeners", || {
        let example = copy_example("listeners");
        let origins = Origins::start();
        let shop = origins.http_at("shop", loopback(1, 18471), None);
        shop.origin.page("/page", &"a page that is worth it ".repeat(100));
        let (public, own) = (loopback(47, 8080), loopback(47, 8081));
        let _edged = start_example(example.path(), &[public, own]);
        let statuses = |at: SocketAddr| -> Vec<u16> {
            (0..4).map(|_| block_on(fetch(at, None, "shop.edge.test", "/")).unwrap().status).collect()
        };
        assert_eq!(statuses(own), [200; 4]);
        assert_eq!(statuses(public), [200, 200, 200, 429]);
        let reply = block_on(async {
            let mut connection = Connection::open(own, None).await.unwrap();
            let fields = [("host", "shop.edge.test"), ("accept-encoding", "gzip")];
            connection.request("GET", "/page", &fields, b"").await.unwrap()
        });
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{reply:?}");
    });
}
