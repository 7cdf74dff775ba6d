//! 200 reloads under constant load that add, remove and change other routes: no request fails, no socket closes.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edge_integration::client::Connection;
use edge_integration::edged::{run, until};
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on, skip};
use edge_integration::load::{Load, Plan};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use edge_integration::pki;

const RELOADS: u32 = 200;

/// A route on a host of its own that answers by itself, with a mark that tells the generation.
fn marked(name: &str, mark: u32) -> String {
    let rule = format!(
        "    - filters: [{{type: RequestRedirect, requestRedirect: {{hostname: mark-{mark}.test, statusCode: 302}}}}]\n"
    );
    http_route(name, &[&format!("{name}.churn.test")], &rule)
}

/// What the churned host answers now: its mark, or nothing for 404.
async fn mark(connection: &mut Connection, name: &str) -> Option<u32> {
    let reply = connection.get(&format!("{name}.churn.test"), "/").await.unwrap();
    let location = reply.header("location")?;
    location.strip_prefix("http://mark-")?.split('.').next()?.parse().ok()
}

#[test]
fn two_hundred_reloads_lose_nothing() {
    let mut lab = Lab::new();
    let steady = lab.origin("steady");
    let other = lab.origin("other");
    let base = [
        CLASS,
        &service("default", "steady", 80, &[steady.address]),
        &service("default", "other", 80, &[other.address]),
        &http_route("steady", &["steady.test"], &to("steady", 80)),
    ]
    .concat();
    lab.manifest("base.yaml", &base);
    lab.manifest("gateway.yaml", &gateway("web", LISTENERS));
    lab.start(&[HTTP, HTTPS]);
    let plan = Plan {
        http: lab.at(HTTP),
        https: Some((lab.at(HTTPS), lab.tls("steady.test", &["h2", "http/1.1"]))),
        host: "steady.test".to_owned(),
        backend: "steady".to_owned(),
        h1: 4,
        h2: 2,
        websockets: 4,
        every: Duration::from_millis(5),
    };
    let load = Load::start(plan).unwrap();
    load.pass(100);
    let outside = H2load::start(lab.at(HTTPS));

    let extra = "    - {name: extra, port: 8090, protocol: HTTP}\n";
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        for i in 0..RELOADS {
            let name = format!("churn-{}", i % 7);
            let file = format!("{name}.yaml");
            match i % 10 {
                // A route goes.
                9 => {
                    if lab.path("manifests").join(&file).exists() {
                        lab.remove_manifest(&file);
                    }
                    signal(&mut lab, i);
                    settle(&mut connection, &name, None).await;
                }
                // A listener comes or goes; nobody else's socket may notice.
                4 => {
                    let listeners = if i % 20 == 4 { format!("{LISTENERS}{extra}") } else { LISTENERS.to_owned() };
                    lab.manifest("gateway.yaml", &gateway("web", &listeners));
                    signal(&mut lab, i);
                    until("the listener to come or go", || {
                        let open = TcpStream::connect_timeout(&lab.at(8090), Duration::from_secs(1)).is_ok();
                        (open == (i % 20 == 4)).then_some(())
                    });
                }
                // The endpoints of another Service change.
                6 => {
                    let endpoints = if i % 20 == 6 { vec![] } else { vec![other.address] };
                    let text = service("default", "churning", 80, &endpoints) + &marked(&name, i);
                    lab.manifest(&file, &text);
                    signal(&mut lab, i);
                    settle(&mut connection, &name, Some(i)).await;
                }
                _ => {
                    lab.manifest(&file, &marked(&name, i));
                    signal(&mut lab, i);
                    settle(&mut connection, &name, Some(i)).await;
                }
            }
        }
    });
    load.pass(100);
    let outside = outside.stop();
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{tally:?}");
    assert!(tally.h1 > 500 && tally.h2 > 200 && tally.websocket > 500, "hardly a load: {tally:?}");
    match outside {
        Some((requests, failed)) => assert!(requests > 100 && failed == 0, "h2load: {failed} of {requests} failed"),
        None => skip("h2load beside the reloads", "h2load is not installed"),
    }
    assert!(lab.edged().is_running());
}

/// Every second reload is told by a signal at once, the others are left to the watcher.
fn signal(lab: &mut Lab, i: u32) {
    if i.is_multiple_of(2) {
        lab.edged().reload();
    }
}

async fn settle(connection: &mut Connection, name: &str, expected: Option<u32>) {
    let start = std::time::Instant::now();
    while mark(connection, name).await != expected {
        assert!(start.elapsed() < Duration::from_secs(20), "{name}: no effect of {expected:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A client that is not ours, repeating short runs until it is stopped.
struct H2load {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, u64)>>,
}

impl H2load {
    fn start(address: SocketAddr) -> Self {
        pki::install_provider();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let found = std::process::Command::new("h2load").arg("--version").output().is_ok();
        let thread = found.then(|| {
            std::thread::spawn(move || {
                let (mut requests, mut bad) = (0, 0);
                let to = format!("--connect-to={address}");
                while !flag.load(Ordering::Relaxed) {
                    let words = ["-c2", "-m4", "-n100", "--rps=100", &*to, "https://steady.test:8443/load"];
                    let said = run(Path::new("h2load"), &words);
                    let count = |what: &str| {
                        let line = said.stdout.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
                        let part = line.split([',', ':']).find(|part| part.trim_end().ends_with(what));
                        part.and_then(|part| part.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(1_000_000)
                    };
                    requests += count("total");
                    bad +=
                        count("failed") + count("errored") + count("timeout") + (count("total") - count("succeeded"));
                }
                (requests, bad)
            })
        });
        Self { stop, thread }
    }

    fn stop(mut self) -> Option<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().unwrap())
    }
}

impl Drop for H2load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
