//! Restarts: killed at any moment, edged comes back with the same addresses, authority and certificates, whatever became
//! of its state directory.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge_integration::client::{Connection, Tls, fetch};
use edge_integration::edged::{Edged, until};
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on};
use edge_integration::load::{Load, Plan};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use edge_integration::pki;

/// A lab with a pool of eight addresses and three Gateways.
fn lab() -> (Lab, edge_integration::lab::Running) {
    let lab = Lab::new();
    let origin = lab.origin("a");
    let std::net::IpAddr::V4(first) = lab.vip else { unreachable!() };
    // Eight addresses from 200 up for each lab of this program; a lab's own is below.
    let [a, b, c, own] = first.octets();
    let from = 200 + (own - 10) * 8;
    let range = format!("{a}.{b}.{c}.{from}-{a}.{b}.{c}.{}", from + 7);
    let config = std::fs::read_to_string(lab.config()).unwrap();
    lab.write_file("edge.toml", &config.replace(&format!("{first}/32"), &range));
    let mut text = [CLASS, &service("default", "a", 80, &[origin.address])].concat();
    for name in ["m", "n", "o"] {
        text += &gateway(name, LISTENERS).replace("web-tls", &format!("{name}-tls"));
        text += &http_route(name, &[&format!("{name}.test")], &to("a", 80))
            .replace("{name: web}", &format!("{{name: {name}}}"));
    }
    lab.manifest("base.yaml", &text);
    (lab, origin)
}

/// `Gateway ns/name` of each Gateway and its address.
fn addresses(edged: &Edged) -> BTreeMap<String, String> {
    let status = edged.ctl(&["status", "-o", "json"]).json();
    let rows = status["vips"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (text(&row["owners"][0]), text(&row["address"]))).collect()
}

/// The serial number of the certificate that a name is served with, once the internal CA vouches for it.
fn serial(address: &str, name: &str, ca: &str) -> Option<String> {
    let tls = Tls { config: pki::client(ca, &["http/1.1"], None).unwrap(), server_name: Some(name.to_owned()) };
    let at = format!("{address}:{HTTPS}").parse().ok()?;
    let connection = block_on(Connection::open(at, Some(&tls))).ok()?;
    Some(pki::facts(connection.handshake.certificates.first()?).unwrap().serial)
}

fn serials(addresses: &BTreeMap<String, String>, ca: &str) -> BTreeMap<String, String> {
    let of = |(gateway, address): (&String, &String)| {
        let name = format!("{}.test", gateway.rsplit('/').next().unwrap());
        (gateway.clone(), until(&format!("a certificate for {name}"), || serial(address, &name, ca)))
    };
    addresses.iter().filter(|(gateway, _)| !gateway.ends_with("/early")).map(of).collect()
}

fn started(lab: &Lab, count: usize) -> (Edged, BTreeMap<String, String>) {
    let mut edged = lab.spawn();
    edged.wait_control();
    let found = until("addresses of all Gateways", || Some(addresses(&edged)).filter(|found| found.len() >= count));
    for address in found.values() {
        edged.wait_port(format!("{address}:{HTTP}").parse().unwrap());
    }
    (edged, found)
}

#[test]
fn kill_9_at_any_moment_keeps_addresses_authority_and_certificates() {
    let (lab, _origin) = lab();
    let (mut edged, first) = started(&lab, 3);
    let ca = lab.internal_ca();
    let certificates = serials(&first, &ca);
    let mut random = Instant::now().elapsed().subsec_nanos().max(1);
    for round in 0..10u32 {
        // While it reloads: a Gateway whose name sorts before all others must not take anybody's address.
        for i in 0..5 {
            let text = if (round + i) % 2 == 0 {
                gateway("early", "    - {name: http, port: 8080, protocol: HTTP}\n")
            } else {
                String::new()
            };
            lab.manifest(
                "early.yaml",
                &(text + &http_route("more", &[&format!("more-{round}-{i}.test")], &to("a", 80))),
            );
            edged.reload();
        }
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_micros(u64::from(random >> 16)));
        edged.kill();
        let (next, found) = started(&lab, 3);
        edged = next;
        for (gateway, address) in &first {
            assert_eq!(found.get(gateway), Some(address), "round {round}: {gateway} moved: {found:?}");
        }
        assert_eq!(lab.internal_ca(), ca, "round {round}: another authority");
        assert_eq!(serials(&first, &ca), certificates, "round {round}: other certificates");
    }
}

#[test]
fn a_state_directory_of_any_condition_keeps_nobody_from_serving() {
    let (lab, _origin) = lab();
    let (mut edged, first) = started(&lab, 3);
    let ca = lab.internal_ca();
    let certificates = serials(&first, &ca);
    edged.kill();
    let state = lab.path("state");
    let pristine = lab.path("pristine");
    copy(&state, &pristine);

    // The database is garbage: the plain copies bring everything back.
    overwrite_all(&state.join("state"), b"garbage");
    let (mut edged, found) = started(&lab, 3);
    assert_eq!((&found, lab.internal_ca(), serials(&found, &ca)), (&first, ca.clone(), certificates.clone()));
    edged.kill();

    // The database is gone.
    restore(&pristine, &state);
    let _ = std::fs::remove_dir_all(state.join("state"));
    let (mut edged, found) = started(&lab, 3);
    assert_eq!((&found, lab.internal_ca(), serials(&found, &ca)), (&first, ca.clone(), certificates.clone()));
    edged.kill();

    // The copies are gone: the database has everything.
    restore(&pristine, &state);
    let _ = std::fs::remove_dir_all(state.join("copies"));
    let (mut edged, found) = started(&lab, 3);
    assert_eq!((&found, lab.internal_ca(), serials(&found, &ca)), (&first, ca.clone(), certificates));
    edged.kill();

    // Both are garbage, or the directory is a file: nothing to restore, and yet it serves, and says so.
    restore(&pristine, &state);
    overwrite_all(&state, b"garbage");
    let (mut edged, found) = started(&lab, 3);
    serves(&found);
    assert!(!edged.ctl(&["status"]).stdout.is_empty());
    edged.kill();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "a file").unwrap();
    let (mut edged, found) = started(&lab, 3);
    serves(&found);
    let said = edged.ctl(&["status"]).text() + &edged.log();
    assert!(said.contains("state"), "the state directory is unusable and nobody says so: {said}");
    edged.kill();
}

#[test]
fn a_stop_finishes_what_is_under_way_and_a_start_follows_at_once() {
    let (lab, _origin) = lab();
    let (mut edged, found) = started(&lab, 3);
    let at = format!("{}:{HTTP}", found["Gateway default/m"]).parse().unwrap();
    let slow = std::thread::spawn(move || block_on(fetch(at, None, "m.test", "/delay/800")));
    until("the slow request under way", || (_origin.origin.count("/delay") == 1).then_some(()));
    let status = edged.terminate().expect("ends within the drain timeout");
    assert_eq!(status.code(), Some(0), "{}", edged.log());
    assert_eq!(slow.join().unwrap().map(|reply| reply.status).map_err(|e| e.to_string()), Ok(200));
    let (_edged, again) = started(&lab, 3);
    assert_eq!(again, found);
    let load = Load::start(Plan {
        http: at,
        https: None,
        host: "m.test".to_owned(),
        backend: "a".to_owned(),
        h1: 2,
        h2: 1,
        websockets: 1,
        every: Duration::from_millis(2),
    })
    .unwrap();
    load.pass(50);
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{tally:?}");
}

fn serves(addresses: &BTreeMap<String, String>) {
    for (gateway, address) in addresses {
        let name = format!("{}.test", gateway.rsplit('/').next().unwrap());
        let at = format!("{address}:{HTTP}").parse().unwrap();
        assert_eq!(block_on(fetch(at, None, &name, "/")).unwrap().status, 200, "{name}");
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn overwrite_all(directory: &Path, with: &[u8]) {
    let found = files(directory);
    assert!(!found.is_empty(), "{} holds nothing to spoil", directory.display());
    for file in found {
        std::fs::write(file, with).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let words = ["-a", &*from.to_string_lossy(), &*to.to_string_lossy()];
    assert_eq!(edge_integration::edged::run(Path::new("cp"), &words).code, Some(0));
}

fn restore(pristine: &Path, state: &Path) {
    let _ = std::fs::remove_dir_all(state);
    copy(pristine, state);
}
