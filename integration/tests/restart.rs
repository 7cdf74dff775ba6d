//! Restarts: killed at any moment, edged comes back with the same addresses, authority and certificates, whatever became
//! of its state directory.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_integration::client::fetch;
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, block_on};
use edge_integration::load::{Load, Plan};
use edge_integration::ordeals::kills::{Site, kills, serials};
use edge_integration::trials::Findings;

#[test]
fn kill_9_at_any_moment_keeps_addresses_authority_and_certificates() {
    let mut findings = Findings::aloud();
    kills(&mut findings, 10, 0, 1);
    // How soon it is back is a figure of `make ordeals`.
    let broken: Vec<String> = findings.broken().into_iter().filter(|line| !line.contains("first answer")).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_state_directory_of_any_condition_keeps_nobody_from_serving() {
    let site = Site::new(0);
    let lab = &site.lab;
    let (mut edged, first) = site.start(3);
    let ca = lab.internal_ca();
    let certificates = serials(&first, &ca);
    edged.kill();
    let state = lab.path("state");
    let pristine = lab.path("pristine");
    copy(&state, &pristine);

    // The database is garbage: the plain copies bring everything back.
    overwrite_all(&state.join("state"), b"garbage");
    let (mut edged, found) = site.start(3);
    assert_eq!((&found, lab.internal_ca(), serials(&found, &ca)), (&first, ca.clone(), certificates.clone()));
    edged.kill();

    // The database is gone.
    restore(&pristine, &state);
    let _ = std::fs::remove_dir_all(state.join("state"));
    let (mut edged, found) = site.start(3);
    assert_eq!((&found, lab.internal_ca(), serials(&found, &ca)), (&first, ca.clone(), certificates.clone()));
    edged.kill();

    // The copies are gone: the database has everything.
    restore(&pristine, &state);
    let _ = std::fs::remove_dir_all(state.join("copies"));
    let (mut edged, found) = site.start(3);
    assert_eq!((&found, lab.internal_ca(), serials(&found, &ca)), (&first, ca.clone(), certificates));
    edged.kill();

    // Both are garbage, or the directory is a file: nothing to restore, and yet it serves, and says so.
    restore(&pristine, &state);
    overwrite_all(&state, b"garbage");
    let (mut edged, found) = site.start(3);
    serves(&found);
    assert!(!edged.ctl(&["status"]).stdout.is_empty());
    edged.kill();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "a file").unwrap();
    let (mut edged, found) = site.start(3);
    serves(&found);
    let said = edged.ctl(&["status"]).text() + &edged.log();
    assert!(said.contains("state"), "the state directory is unusable and nobody says so: {said}");
    edged.kill();
}

#[test]
fn a_stop_finishes_what_is_under_way_and_a_start_follows_at_once() {
    let site = Site::new(0);
    let (mut edged, found) = site.start(3);
    let at = format!("{}:{HTTP}", found["Gateway default/m"]).parse().unwrap();
    let slow = std::thread::spawn(move || block_on(fetch(at, None, "m.test", "/delay/800")));
    until("the slow request under way", || (site.origin.origin.count("/delay") == 1).then_some(()));
    let status = edged.terminate().expect("ends within the drain timeout");
    assert_eq!(status.code(), Some(0), "{}", edged.log());
    assert_eq!(slow.join().unwrap().map(|reply| reply.status).map_err(|e| e.to_string()), Ok(200));
    let (_edged, again) = site.start(3);
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
