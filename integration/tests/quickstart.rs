//! `examples/quickstart`, and the scripts behind `make run` and `make demo` that show it.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use edge_integration::client::{Connection, H2, Tls, fetch};
use edge_integration::edged::{program, run, until, workspace};
use edge_integration::lab::{Origins, block_on, copy_example, internal_ca, isolated, skip, start_example};
use edge_integration::netns;
use edge_integration::pki;
use edge_integration::region::not_up;

const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 10)), 8080);
const HTTPS: SocketAddr = SocketAddr::new(HTTP.ip(), 8443);

#[test]
fn both_hosts_answer_from_their_backends() {
    isolated("quick", || {
        let example = copy_example("quickstart");
        let origins = Origins::start();
        let _shop = origins.http_at("shop", ([127, 0, 0, 1], 18081).into(), None);
        let _api = origins.http_at("api", ([127, 0, 0, 1], 18082).into(), None);
        let edged = start_example(example.path(), &[HTTP, HTTPS]);
        let ca = internal_ca(&example.path().join(".run"));
        let tls = |name: &str, alpn: &[&str]| Tls {
            config: pki::client(&ca, alpn, None).unwrap(),
            server_name: Some(name.to_owned()),
        };
        block_on(async {
            for (host, target, backend, path) in [
                ("shop.edge.test", "/cart?id=7", "shop", "/cart"),
                ("api.edge.test", "/v1/orders", "api", "/orders"),
                ("api.edge.test", "/v1", "api", "/"),
            ] {
                let plain = fetch(HTTP, None, &format!("{host}:8080"), target).await.unwrap();
                let h1 = fetch(HTTPS, Some(&tls(host, &["http/1.1"])), &format!("{host}:8443"), target).await.unwrap();
                let mut h2 = H2::open(HTTPS, Some(&tls(host, &["h2", "http/1.1"]))).await.unwrap();
                let h2 = h2.get(&format!("{host}:8443"), target).await.unwrap();
                for reply in [plain, h1, h2] {
                    assert_eq!((reply.status, reply.backend()), (200, Some(backend)), "{host}{target}");
                    assert_eq!(reply.json()["path"], path, "{host}{target}");
                }
            }
            let mut api = Connection::open(HTTPS, Some(&tls("api.edge.test", &["http/1.1"]))).await.unwrap();
            assert_eq!(api.get("api.edge.test:8443", "/v2").await.unwrap().status, 404);
            assert_eq!(api.get("api.edge.test:8443", "/v10").await.unwrap().status, 404);
            assert_eq!(fetch(HTTP, None, "nobody.edge.test", "/").await.unwrap().status, 404);
        });
        until("all rows of the status up", || not_up(&edged).is_empty().then_some(()));
        let status = edged.ctl(&["status"]);
        assert!(status.stdout.contains("127.0.0.10") && status.stdout.contains("shop"), "{}", status.stdout);
        let explain = edged.ctl(&["explain", "https://shop.edge.test:8443/cart"]);
        for word in ["default/web", "https", "default/shop", "127.0.0.1:18081"] {
            assert!(explain.stdout.contains(word), "no {word} in {}", explain.stdout);
        }
        let none = edged.ctl(&["explain", "https://api.edge.test:8443/v2"]);
        assert!(none.stdout.contains("404"), "{}", none.stdout);
        let check = run(&program("edgectl"), &["check", &example.path().join("edge.toml").to_string_lossy()]);
        assert_eq!(check.code, Some(0), "{check:?}");
    });
}

/// A script of `integration/run` with the lines it prints.
struct Show {
    child: Child,
    lines: Vec<String>,
}

impl Show {
    fn start(script: &str) -> Self {
        let programs = program("edged").parent().unwrap().to_owned();
        let mut child = Command::new(workspace().join("integration/run").join(script))
            .env("EDGE_BIN_DIR", programs)
            .current_dir(workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        // The script prints its lines when edged serves, and gives up by itself where it does not.
        let lines = reader.lines().take(3).map_while(Result::ok).collect();
        Self { child, lines }
    }

    fn try_lines(&self) -> Vec<String> {
        assert_eq!(self.lines.len(), 3, "exactly three lines to try: {:?}", self.lines);
        let said = self.lines.iter().map(|line| {
            let said = run("sh".as_ref(), &["-c", &format!("cd {} && {line}", workspace().display())]);
            // `status` says by its code that the certificate is one of the internal CA's.
            let fine = said.code == Some(0) || (line.ends_with(" status") && said.code == Some(1));
            assert!(fine, "{line}: {said:?}");
            said.stdout
        });
        said.collect()
    }

    /// Ctrl-C, and its end.
    fn interrupt(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        until("end of the script", || self.child.try_wait().ok().flatten());
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.interrupt();
        }
    }
}

#[test]
fn make_run_shows_three_lines_that_work_and_cleans_up() {
    isolated("run", || {
        let mut show = Show::start("quickstart");
        let said = show.try_lines();
        assert!(said[0].contains("\"backend\":\"shop\""), "{}", said[0]);
        assert!(said[1].contains("127.0.0.10"), "{}", said[1]);
        assert!(said[2].contains("default/shop"), "{}", said[2]);
        show.interrupt();
        for address in [HTTP, HTTPS, ([127, 0, 0, 1], 18081).into(), ([127, 0, 0, 1], 18082).into()] {
            assert!(TcpStream::connect(address).is_err(), "{address} still answers after Ctrl-C");
        }
    });
}

#[test]
fn make_demo_shows_the_same_across_namespaces_and_cleans_up() {
    if let Err(why) = netns::available() {
        return skip("make demo", &why);
    }
    let mut show = Show::start("demo");
    let said = show.try_lines();
    assert!(said[0].contains("\"backend\":\"shop\""), "{}", said[0]);
    assert!(said[1].contains("192.0.2.10"), "{}", said[1]);
    show.interrupt();
    let left = netns::ip("netns list").unwrap();
    let own = format!("-{}", show.child.id());
    let is_own = |name: &str| name.starts_with("edge-demo-") && name.ends_with(&own);
    assert!(!left.split_whitespace().any(is_own), "namespaces left behind: {left}");
}
