//! h2spec, all of it, against the plain port (prior knowledge) and the HTTPS port (ALPN): RFC 9113 and RFC 7541 as
//! somebody else reads them.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::process::Command;

use edge_integration::edged::workspace;
use edge_integration::lab::{HTTP, HTTPS, Lab};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

/// Cases in h2spec 2.6.0. Fewer would mean that the pin has moved, or that not all of it ran.
const CASES: &str = "146 tests, 146 passed, 0 skipped, 0 failed";

fn h2spec() -> String {
    let built = Command::new(workspace().join("integration/run/h2spec")).output().unwrap();
    assert!(built.status.success(), "no h2spec: {}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim().to_owned()
}

#[test]
fn all_of_h2spec_passes_in_clear_and_inside_tls() {
    let h2spec = h2spec();
    let mut lab = Lab::new();
    let origin = lab.origin("a");
    let text = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "a", 80, &[origin.address]),
        // Of any host: h2spec asks for the address.
        &http_route("all", &[], &to("a", 80)),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.start(&[HTTP, HTTPS]);
    let vip = lab.vip.to_string();
    for (port, flags) in [(HTTP, &[][..]), (HTTPS, &["--tls", "--insecure"])] {
        let port = port.to_string();
        // Bytes enough to be cut by the windows that the cases set.
        let common = ["--host", &vip, "--port", &port, "--path", "/bytes/1024", "--timeout", "5"];
        let run = Command::new(&h2spec).args(common).args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        let failures = said.find("Failures:").map_or("", |start| &said[start..]);
        assert!(said.contains(CASES), "port {port}: {failures}{}", said.lines().last().unwrap_or_default());
    }
}
