//! slowhttptest, the usual tool for it, in its three attacks: every connection is cut at the bound that is set for it, and
//! another client notices nothing.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edge_integration::client::fetch;
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

const CONNECTIONS: usize = 60;

/// Runs an attack while a canary asks for something every moment, until edged has let go of all its connections.
fn attack(arguments: &[&str], path: &str) {
    let mut lab = Lab::new();
    // On a busy machine the tool takes a while until all of its connections are there at once.
    lab.write_config_with("head_timeout = \"4s\"\nidle_timeout = \"4s\"\nstream_idle_timeout = \"4s\"", "");
    let a = lab.origin("a");
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "a", 80, &[a.address]),
        &http_route("all", &[], &to("a", 80)),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.start(&[HTTP]);
    let address = lab.at(HTTP);
    let sockets = lab.edged().open_files();
    let over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let canary = scope.spawn(|| {
            block_on(async {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    let reply = fetch(address, None, "canary.test", "/").await;
                    if !reply.as_ref().is_ok_and(|reply| reply.status == 200) {
                        return Err(format!("{reply:?}"));
                    }
                    asked += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(asked)
            })
        });
        let tool = Command::new("slowhttptest")
            .args(["-c", &CONNECTIONS.to_string(), "-r", "200", "-l", "300", "-p", "60"])
            .args(arguments)
            .arg("-u")
            .arg(format!("http://{address}{path}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map(Tool)
            .expect("slowhttptest is installed by `make packages`");
        // The bound of each attack is 4 seconds; a busy machine gets LIMIT.
        until("the attack is on", || (lab.edged().open_files() >= sockets + CONNECTIONS).then_some(()));
        let begun = Instant::now();
        until("all are cut", || (lab.edged().open_files() < sockets + CONNECTIONS / 4).then_some(()));
        eprintln!("{arguments:?}: {CONNECTIONS} connections cut within {:?}", begun.elapsed());
        drop(tool);
        over.store(true, Ordering::Relaxed);
        canary.join().unwrap()
    });
    assert!(asked.as_ref().is_ok_and(|count| *count > 0), "the canary: {asked:?}");
}

/// Ends with the test, whatever becomes of it.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A head that grows by a field every second is cut at `head_timeout`.
#[test]
fn slow_heads_are_cut() {
    attack(&["-H", "-i", "1"], "/");
}

/// A body that stands still is cut at `stream_idle_timeout`.
#[test]
fn slow_bodies_are_cut() {
    attack(&["-B", "-i", "10", "-s", "8192", "-x", "10"], "/upload");
}

/// A response that is not read is cut at `stream_idle_timeout`.
#[test]
fn slow_readers_are_cut() {
    attack(&["-X", "-n", "10", "-w", "1", "-y", "64", "-z", "5"], "/bytes/50000000");
}
