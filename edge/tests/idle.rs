//! What an idle TLS connection costs: at most 6 kB of our memory, whatever it did before.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod counting;
mod rig;
mod secure;

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use edge_config::snapshot::UpstreamProtocol;
use rig::{Origin, on_both, rule, wait_for};
use secure::{Ca, SecureRig, cert_table, client_config, connect, https, snapshot, upstream};

/// The keys of a cipher lie in aws-lc's own memory, which is not counted: two of them, each below this.
const CIPHER: usize = 640;
const MOST: usize = 6000;
const CONNECTIONS: usize = 400;

#[test]
fn an_idle_connection_inside_tls_is_small() {
    on_both(|backend| {
        let ca = Ca::new();
        let origin = Origin::new(|client, _| {
            while !client.head().is_empty() {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
            }
        });
        let rig = SecureRig::new(backend);
        let upstreams = vec![upstream(0, UpstreamProtocol::Http1, None)];
        let snapshot = snapshot(rig.address, vec![https("a", "*", "a", 0)], vec![rule(0)], upstreams);
        let leaf = ca.server(&["a.test"]);
        assert_eq!(rig.publish(snapshot, &cert_table(&[("a", &leaf)]), &[origin.address]), []);
        let config = Arc::new(client_config(None, &[]));
        let open = || {
            let mut stream = connect(rig.address, &config, "a.test").unwrap();
            // With a head of some size, since that is what a connection could keep memory of.
            let cookie = "x".repeat(3000);
            write!(stream, "GET /path HTTP/1.1\r\nHost: a.test\r\nCookie: a={cookie}\r\n\r\n").unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"hello") {
                let mut piece = [0; 1024];
                let count = stream.read(&mut piece).unwrap();
                assert!(count > 0, "the connection ended");
                got.extend_from_slice(&piece[..count]);
            }
            stream
        };
        // Pools and tables are filled first.
        let warm: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
        drop(warm);
        wait_for(|| rig.proxy.connections() == 0);
        let before = counting::held();
        let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| open()).collect();
        let each = || counting::held().saturating_sub(before) / CONNECTIONS + 2 * CIPHER;
        // A connection that was in use keeps what it used for a second or so.
        let start = std::time::Instant::now();
        while each() > MOST && start.elapsed() < rig::PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(each() <= MOST, "{} bytes for each idle connection on {}", each(), backend.as_str());
        eprintln!("{} bytes for each idle connection on {}", each(), backend.as_str());
        // They are all alive.
        for stream in connections.iter_mut().step_by(20) {
            write!(stream, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            assert!(got.ends_with(b"hello"), "{}", String::from_utf8_lossy(&got));
        }
    });
}
