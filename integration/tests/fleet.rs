//! Several edges as one: who orders, that strangers are kept out, and sessions that are resumed at another edge.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use edge_integration::edged::{until, until_within};
use edge_integration::lab::{HTTPS, Lab, Running};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki::{self, Authority, Leaf};
use rustix::process::{Pid, Signal, kill_process};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::Value;

const PORT: u16 = 7946;
const SECRET: &str = "a secret that every edge of this test has";
/// A second listener, and so another context for sessions.
const OTHER: u16 = 9443;

struct Edges {
    labs: Vec<Lab>,
    ca: Authority,
    _origin: Running,
}

/// Edges `edge-0`, `edge-1`, … that serve the same with the same certificate; `secret_of` gives each its secret.
fn edges(count: usize, secret_of: impl Fn(usize) -> &'static str) -> Edges {
    let labs: Vec<Lab> = (0..count).map(|_| Lab::new()).collect();
    let ca = Authority::new("fleet").unwrap();
    let pair = ca.sign(&Leaf { dns: &["web.test"], ..Leaf::default() }).unwrap();
    let origin = labs[0].origin("a");
    let listener = |name: &str, port: u16| {
        format!("    - {{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: web}}]}}}}\n")
    };
    let manifest = [
        CLASS,
        &gateway("web", &(listener("https", HTTPS) + &listener("other", OTHER))),
        &http_route("web", &["web.test"], &to("a", 80)),
        &service("default", "a", 80, &[origin.address]),
    ]
    .concat();
    let member = |(number, lab): (usize, &Lab)| {
        format!("[[fleet.edge]]\nname = \"edge-{number}\"\naddress = \"{}:{PORT}\"\n", lab.vip)
    };
    let members: String = labs.iter().enumerate().map(member).collect();
    for (number, lab) in labs.iter().enumerate() {
        lab.manifest("all.yaml", &manifest);
        lab.write_file("fleet.key", secret_of(number));
        std::fs::set_permissions(lab.path("fleet.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        lab.write_file("web.crt", &pair.certificate);
        lab.write_file("web.key", &pair.key);
        let dir = lab.dir().display();
        lab.write_config(&format!(
            "[[secret]]\nname = \"default/web\"\ncertificate = \"{dir}/web.crt\"\nkey = \"{dir}/web.key\"\n\n\
             [edge]\nname = \"edge-{number}\"\n\n[fleet]\nlisten = \"{}:{PORT}\"\nsecret_file = \"{dir}/fleet.key\"\n{members}",
            lab.vip,
        ));
    }
    Edges { labs, ca, _origin: origin }
}

fn fleet(lab: &mut Lab) -> Value {
    lab.edged().ctl(&["status", "-o", "json"]).json()["fleet"].clone()
}

/// The edge that orders, as this one sees it.
fn orders(lab: &mut Lab) -> Option<String> {
    fleet(lab)["orders"].as_str().map(str::to_owned)
}

/// Waits until an edge says this of another one.
fn says_of(lab: &mut Lab, edge: &str, state: &str, reason: &str) {
    until(&format!("{edge} is {state}: {reason}"), || {
        let fleet = fleet(lab);
        let row = fleet["edges"].as_array()?.iter().find(|row| row["edge"] == edge)?.clone();
        (row["state"] == state && row["reason"].as_str()?.contains(reason)).then_some(())
    });
}

fn agree(labs: &mut [Lab], who: &[usize], expected: &str) {
    for number in who {
        until(&format!("edge-{number} says that {expected} orders"), || {
            (orders(&mut labs[*number]).as_deref() == Some(expected)).then_some(())
        });
    }
}

fn signal(lab: &mut Lab, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(lab.edged().pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn one_of_three_orders_whoever_is_killed_or_hangs() {
    let Edges { mut labs, .. } = edges(3, |_| SECRET);
    labs.iter_mut().for_each(|lab| lab.start(&[HTTPS]));
    agree(&mut labs, &[0, 1, 2], "edge-0");

    labs[0].edged().kill();
    agree(&mut labs, &[1, 2], "edge-1");
    says_of(&mut labs[1], "edge-0", "down", "refused");

    // Back again, it learns what it lacks and takes its turn.
    labs[0].start(&[HTTPS]);
    agree(&mut labs, &[0, 1, 2], "edge-0");

    // One that hangs has its sockets open, as behind a partition.
    signal(&mut labs[0], Signal::STOP);
    agree(&mut labs, &[1, 2], "edge-1");
    let text = labs[1].edged().ctl(&["status"]).stdout;
    assert!(text.contains("EDGES") && text.contains("edge-0"), "{text}");
    signal(&mut labs[0], Signal::CONT);
    agree(&mut labs, &[0, 1, 2], "edge-0");

    // Alone, nobody orders, and it says why.
    labs[1].edged().kill();
    labs[2].edged().kill();
    until("edge-0 is alone and says so", || {
        let alone = fleet(&mut labs[0]);
        (alone["orders"].is_null() && alone["reason"] == "1 of 3 edges can agree, expected at least 2").then_some(())
    });
    let edge = labs[0].edged().ctl(&["status", "-o", "json"]).json()["edge"].clone();
    assert_eq!(edge["name"], "edge-0");
}

#[test]
fn an_edge_that_stops_says_so() {
    let Edges { mut labs, .. } = edges(3, |_| SECRET);
    labs.iter_mut().for_each(|lab| lab.start(&[HTTPS]));
    agree(&mut labs, &[0, 1, 2], "edge-0");
    assert!(labs[0].edged().terminate().is_some_and(|status| status.success()));
    agree(&mut labs, &[1, 2], "edge-1");
}

#[test]
fn nobody_without_the_secret_gets_a_word_in() {
    let Edges { mut labs, ca, .. } = edges(3, |number| match number {
        2 => "another secret, which is as long as the others'",
        _ => SECRET,
    });
    labs.iter_mut().for_each(|lab| lab.start(&[HTTPS]));
    agree(&mut labs, &[0, 1], "edge-0");
    for number in [0, 1] {
        says_of(&mut labs[number], "edge-2", "down", "secrets of the two edges");
    }
    assert_eq!(orders(&mut labs[2]), None);

    let at = SocketAddr::new(labs[0].vip, PORT);
    for garbage in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0xff; 9000], &[0x16, 3, 1, 0xff, 0xff, 0], b""] {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // An alert at most, then the end.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 100, "{answer:?}");
    }
    // TLS without a certificate, and with one that somebody else has signed.
    let pair = ca.sign(&Leaf { dns: &["edge-1.fleet.edge.internal"], client: true, ..Leaf::default() }).unwrap();
    for config in [
        pki::client_accepting_anything(&["edge-fleet/1"]),
        pki::client(&ca.certificate, &["edge-fleet/1"], Some(&pair)).unwrap(),
    ] {
        let connection = ClientConnection::new(config, "edge-0.fleet.edge.internal".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(at).unwrap());
        let hello = br#"{"id":0,"kind":"hello","body":{"oldest":1,"newest":1,"software":"x"}}"#;
        let _ = stream.write_all(&u32::try_from(hello.len()).unwrap().to_be_bytes());
        let _ = stream.write_all(hello);
        let mut answer = [0; 4];
        assert!(stream.read_exact(&mut answer).is_err());
    }
    assert_eq!(orders(&mut labs[0]).as_deref(), Some("edge-0"));
    until("the refusals are told", || {
        let status = labs[0].edged().ctl(&["status", "-o", "json"]).json();
        status["edge"]["notices"].to_string().contains("connections were refused").then_some(())
    });
}

#[test]
fn what_is_wrong_with_a_fleet_costs_no_traffic() {
    let Edges { mut labs, .. } = edges(2, |_| "too short");
    std::fs::set_permissions(labs[1].path("fleet.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    labs.iter_mut().for_each(|lab| lab.start(&[HTTPS]));
    for (number, expected) in [(0, "has 9 bytes, expected 32 to 4096"), (1, "is readable by others (mode 0644)")] {
        until(&format!("edge-{number} says what is wrong"), || {
            let notices = labs[number].edged().ctl(&["status", "-o", "json"]).json()["edge"]["notices"].to_string();
            notices.contains(expected).then_some(())
        });
        assert_eq!(orders(&mut labs[number]), None);
    }
    // Set right, it takes part without a restart.
    for lab in &labs {
        lab.write_file("fleet.key", SECRET);
        std::fs::set_permissions(lab.path("fleet.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    agree(&mut labs, &[0, 1], "edge-0");
}

impl Edges {
    /// Remembers sessions, whichever edge they are with.
    fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(pki::certificates(&self.ca.certificate).unwrap());
        let mut config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(32);
        Arc::new(config)
    }
}

/// One request; how the handshake went.
fn get(at: SocketAddr, config: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let connection = ClientConnection::new(Arc::clone(config), "web.test".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(at).unwrap());
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&reply));
    stream.conn.handshake_kind()
}

/// Keys are given to all a minute before they seal: until then each edge has its own, or those of the first.
const SHARED: Duration = Duration::from_secs(180);

#[test]
fn sessions_are_resumed_at_another_edge_and_after_a_restart() {
    let mut all = edges(2, |_| SECRET);
    all.labs.iter_mut().for_each(|lab| lab.start(&[HTTPS, OTHER]));
    agree(&mut all.labs, &[0, 1], "edge-0");
    until_within(SHARED, "both seal with the same key", || {
        let of = |lab: &mut Lab| fleet(lab)["ticket_keys_since"].as_str().map(str::to_owned);
        let (one, other) = (of(&mut all.labs[0])?, of(&mut all.labs[1])?);
        (one == other).then_some(())
    });
    let here = |lab: &Lab, port| SocketAddr::new(lab.vip, port);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = all.client(version);
        let full = get(here(&all.labs[0], HTTPS), &config);
        assert_eq!(full, Some(HandshakeKind::Full), "{version:?}");
        for number in [1, 0, 1] {
            let again = get(here(&all.labs[number], HTTPS), &config);
            assert_eq!(again, Some(HandshakeKind::Resumed), "{version:?} at edge-{number}");
        }
        // Another listener asks anew, of itself as well as of another edge.
        let config = all.client(version);
        get(here(&all.labs[0], HTTPS), &config);
        assert_eq!(get(here(&all.labs[1], OTHER), &config), Some(HandshakeKind::Full), "{version:?}");
        let config = all.client(version);
        get(here(&all.labs[0], HTTPS), &config);
        assert_eq!(get(here(&all.labs[0], OTHER), &config), Some(HandshakeKind::Full), "{version:?}");
    }
    // All of them down and up again: the keys are in the store.
    let configs = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| all.client(version));
    for config in &configs {
        get(here(&all.labs[0], HTTPS), config);
    }
    for lab in &mut all.labs {
        lab.edged().kill();
    }
    all.labs.iter_mut().for_each(|lab| lab.start(&[HTTPS, OTHER]));
    for (config, number) in configs.iter().zip([0, 1]) {
        assert_eq!(get(here(&all.labs[number], HTTPS), config), Some(HandshakeKind::Resumed));
    }
}

/// Waits for the row of an edge in what all edges say.
fn row_of(lab: &mut Lab, edge: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{edge}: {what}"), || {
        let all = lab.edged().ctl(&["--all", "status", "-o", "json"]).json();
        let row = all["edges"].as_array()?.iter().find(|row| row["edge"] == edge)?.clone();
        holds(&row).then_some(row)
    })
}

#[test]
fn all_edges_are_seen_from_one_and_what_differs_is_named() {
    let Edges { mut labs, .. } = edges(3, |_| SECRET);
    // The same pool at all of them: who has the address does not matter here.
    let first = labs[0].vip.to_string();
    for lab in &labs {
        let text = std::fs::read_to_string(lab.config()).unwrap();
        let pool: Vec<&str> = text.lines().filter(|line| line.starts_with("addresses")).collect();
        assert_eq!(pool.len(), 1, "{text}");
        let text = text.replace(pool[0], &pool[0].replace(&lab.vip.to_string(), &first));
        let text = text.replace("[fleet]\n", "[fleet]\ndrift_after = \"5s\"\n");
        std::fs::write(lab.config(), text).unwrap();
    }
    labs.iter_mut().for_each(|lab| lab.start(&[]));
    agree(&mut labs, &[0, 1, 2], "edge-0");
    let mut hashes = Vec::new();
    for edge in ["edge-0", "edge-1", "edge-2"] {
        let row = row_of(&mut labs[0], edge, "says how it stands", |row| row["standing"]["hash"].is_string());
        assert!(row["drift"].is_null(), "{row}");
        assert_eq!(row["standing"]["vips"].as_array().unwrap().len(), 1, "{row}");
        hashes.push(row["standing"]["hash"].clone());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");

    // Another file at one of them.
    labs[1].manifest("more.yaml", &http_route("more", &["more.test"], &to("a", 80)));
    let named = |row: &Value| row["drift"]["named"].to_string().contains("HTTPRoute default/more: only at edge-1");
    let row = row_of(&mut labs[0], "edge-1", "its difference is named", named);
    assert_eq!(row["drift"]["total"], 1, "{row}");
    row_of(&mut labs[0], "edge-2", "is as before", |row| row["drift"].is_null());
    says_of(&mut labs[2], "edge-1", "degraded", "HTTPRoute default/more: only at edge-1");
    says_of(&mut labs[1], "edge-0", "degraded", "HTTPRoute default/more: not at edge-0");
    let said = labs[0].edged().ctl(&["--all", "status"]);
    assert!(said.stdout.contains("CONFIGURATION of edge-1: 1 difference"), "{said:?}");
    labs[1].remove_manifest("more.yaml");
    says_of(&mut labs[2], "edge-1", "up", "");

    labs[2].edged().kill();
    let row = row_of(&mut labs[0], "edge-2", "is away", |row| row["state"] == "down" && row["standing"].is_null());
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.starts_with("away: ") && reason.contains("last heard of at 20"), "{reason}");
    assert!(row["last_exchange"].is_string());
    assert_eq!(labs[0].edged().ctl(&["--all", "status"]).code, Some(2));
    assert_eq!(labs[0].edged().ctl(&["--all", "reload"]).code, Some(64));
}
