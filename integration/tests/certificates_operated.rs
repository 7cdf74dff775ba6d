//! What operators do to certificates of a running edged with a real ACME CA: list, show, why, renew, revoke, export,
//! import, and a store that is put away and brought back.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use edge_integration::acme::{Pebble, Settings};
use edge_integration::client::{Connection, Tls};
use edge_integration::edged::{Said, edgectl, until_within};
use edge_integration::lab::{Lab, block_on, skip};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki;
use serde_json::Value;

/// For an order on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SHOP: &str = "shop.example.com";
const INNER: &str = "shop.cluster.local";

struct Bench {
    lab: Lab,
    pebble: Pebble,
    /// The CA's certificate, also for when it is away.
    root: String,
}

/// A CA, and an edged (not started) that is to have a certificate for the shop from it.
fn bench(scenario: &str) -> Option<Bench> {
    let lab = Lab::new();
    let settings = Settings { names_lead_to: lab.vip, ..Settings::default() };
    let pebble = match Pebble::start(&settings) {
        Ok(pebble) => pebble,
        Err(why) => {
            skip(scenario, &why);
            return None;
        }
    };
    lab.write_file("ca.pem", pebble.trust());
    lab.write_config(&format!(
        "[certificates]\nissuers = [\"issuers.pebble\"]\nresolvers = [\"{}\"]\n\n[issuers.pebble]\ndirectory = \
         \"{}\"\nca_file = \"{}\"\n",
        pebble.names.dns,
        pebble.directory(),
        lab.path("ca.pem").display(),
    ));
    let listener = |name: &str, host: &str| {
        format!(
            "    - {{name: {name}, port: 443, protocol: HTTPS, hostname: \"{host}\", tls: {{certificateRefs: [{{name: \
             {name}-tls}}]}}}}\n"
        )
    };
    let listeners =
        ["    - {name: http, port: 80, protocol: HTTP}\n", &listener("shop", SHOP), &listener("inner", INNER)].concat();
    let origin = lab.origin("shop");
    let service = service("default", "shop", 80, &[origin.address]);
    // Its handle may go: nobody asks the backend.
    lab.manifest(
        "web.yaml",
        &[CLASS, &gateway("web", &listeners), &service, &http_route("shop", &[SHOP], &to("shop", 80))].concat(),
    );
    let root = pebble.root(0);
    Some(Bench { lab, pebble, root })
}

impl Bench {
    /// The leaf that is served, once it is one of the CA's.
    fn served(&self) -> Vec<u8> {
        let config = pki::client(&self.root, &["http/1.1"], None).unwrap();
        let tls = Tls { config, server_name: Some(SHOP.to_owned()) };
        until_within(PATIENCE, "the shop is served with a certificate of the CA", || {
            let opened = block_on(Connection::open(self.lab.at(443), Some(&tls))).ok()?;
            opened.handshake.certificates.first().map(|leaf| leaf.to_vec())
        })
    }

    /// Another leaf than `known`.
    fn replaced(&self, known: &[u8]) -> Vec<u8> {
        until_within(PATIENCE, "another certificate is served", || Some(self.served()).filter(|leaf| *leaf != known))
    }

    fn cert(&mut self, arguments: &[&str]) -> Said {
        let mut all = vec!["cert"];
        all.extend(arguments);
        self.lab.edged().ctl(&all)
    }

    /// Waits for a look at the shop's certificate.
    fn why(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        until_within(PATIENCE, what, || {
            let said = self.cert(&["why", SHOP, "-o", "json"]);
            Some(said).filter(|said| matches!(said.code, Some(0..=2))).map(|said| said.json()).filter(&is_it)
        })
    }

    /// The certificate is held, and nothing is under way.
    fn rests(&mut self) -> Value {
        self.why("nothing is wrong", |why| why["cause"] == "fine" && why["step"] == "held")
    }
}

#[track_caller]
fn expect(said: &Said, code: i32, part: &str) {
    assert_eq!(said.code, Some(code), "{}", said.text());
    assert!(said.text().contains(part), "{part:?} is not in:\n{}", said.text());
}

#[test]
fn a_certificate_is_seen_renewed_revoked_exported_and_imported() {
    let Some(mut bench) = bench("operated") else { return };
    bench.lab.start(&[80, 443]);
    let first = bench.served();
    let why = bench.rests();
    assert_eq!(why["served"], "real", "{why}");
    assert!(why["sentence"].as_str().unwrap().starts_with("nothing is wrong: it is valid until "), "{why}");
    expect(&bench.cert(&["why", SHOP]), 0, "nothing is wrong");

    let list = bench.cert(&["list", "--all"]);
    expect(&list, 0, "default/shop-tls");
    expect(&list, 0, "2 certificates, 0 with a problem");
    let inner = bench.cert(&["why", INNER, "-o", "json"]).json();
    assert_eq!((&inner["cause"], &inner["served"]), (&"not-public".into(), &"stand-in".into()), "{inner}");
    let shown = bench.cert(&["show", "default/shop-tls", "-o", "json"]).json();
    assert_eq!(shown["issued_by"], "issuers.pebble", "{shown}");
    assert!(shown["accounts"][0]["account"].as_str().unwrap().starts_with("https://"), "{shown}");
    let serial = shown["chain"][0]["serial"].as_str().unwrap().to_owned();
    assert!(shown["chain"].as_array().unwrap().len() > 1, "the chain of the CA: {shown}");
    expect(&bench.cert(&["why", "nobody.example.com"]), 2, "no HTTPS listener and no attached route has that name");
    expect(&bench.cert(&["budget"]), 0, "issuers.pebble");

    // Renewed: another certificate, by an order that is said to be made.
    expect(&bench.cert(&["renew", SHOP]), 0, "default/shop-tls is ordered from issuers.pebble now");
    let second = bench.replaced(&first);
    bench.rests();
    let shown = bench.cert(&["show", SHOP, "-o", "json"]).json();
    let revoked = shown["chain"][0]["serial"].as_str().unwrap().to_owned();
    assert_ne!(revoked, serial);

    // Exported with its key, which no other may read and no file is written over for.
    let (chain, key) = (bench.lab.path("out.pem"), bench.lab.path("out.key"));
    let export = bench.cert(&["export", SHOP, "--key", key.to_str().unwrap()]);
    expect(&export, 0, "BEGIN CERTIFICATE");
    assert!(!export.stdout.contains("PRIVATE KEY"), "the key is in its file only");
    std::fs::write(&chain, &export.stdout).unwrap();
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    expect(&bench.cert(&["export", SHOP, "--key", key.to_str().unwrap()]), 74, "File exists");
    expect(&bench.cert(&["export", SHOP]), 0, "BEGIN CERTIFICATE");

    // Imported over a newer one: what was exported serves again, without an order, found by its names.
    expect(&bench.cert(&["renew", SHOP]), 0, "is ordered from issuers.pebble now");
    let third = bench.replaced(&second);
    bench.rests();
    let orders = bench.pebble.orders();
    let files = [chain.to_str().unwrap(), key.to_str().unwrap()];
    expect(&bench.cert(&["import", files[0]]), 2, "no private key");
    expect(&bench.cert(&["import", files[0], files[1], "--name", INNER]), 1, "does not bear all names");
    expect(&bench.cert(&["import", files[0], files[1]]), 0, "is served from now on");
    assert_eq!(bench.replaced(&third), second);
    assert_eq!(bench.pebble.orders(), orders, "nothing was ordered");

    // Revoked: the CA says so, and another one is there.
    expect(&bench.cert(&["revoke", SHOP, "--reason", "key-compromise"]), 0, "is revoked");
    let fourth = bench.replaced(&second);
    assert_eq!(bench.pebble.status(&revoked), "Revoked");
    bench.rests();
    let key_of = |leaf: &[u8]| pki::facts(&leaf.to_vec().into()).unwrap().key;
    assert_ne!(key_of(&fourth), key_of(&second), "a key that others have must not be certified again");
}

#[test]
fn a_backup_brings_back_what_was_served() {
    let Some(mut bench) = bench("backup") else { return };
    bench.lab.start(&[80, 443]);
    let leaf = bench.served();
    bench.rests();
    let ca = bench.lab.internal_ca();
    let path = bench.lab.path("edge.backup");
    let file = path.to_str().unwrap().to_owned();
    let said = bench.lab.edged().ctl(&["backup", &file]);
    expect(&said, 0, "certificates");
    expect(&said, 0, "accounts");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    expect(&bench.lab.edged().ctl(&["backup", &file]), 74, "File exists");

    let config = bench.lab.config();
    let restore = |more: &[&str]| {
        let mut all = vec!["restore", &file, "--config", config.to_str().unwrap()];
        all.extend(more);
        edgectl(&all)
    };
    expect(&restore(&["--dry-run"]), 0, "nothing was changed");
    expect(&restore(&[]), 1, "is in use by another edged");
    bench.lab.edged().terminate();
    expect(&restore(&[]), 1, "is not empty");

    // Another machine: nothing is there but the file.
    std::fs::rename(bench.lab.path("state"), bench.lab.path("state.lost")).unwrap();
    let damaged = bench.lab.path("damaged");
    std::fs::write(&damaged, &std::fs::read(&path).unwrap()[1..]).unwrap();
    expect(&edgectl(&["restore", damaged.to_str().unwrap(), "--config", config.to_str().unwrap()]), 2, "not a backup");
    expect(&restore(&[]), 0, "restored into");
    let orders = bench.pebble.orders();
    bench.lab.start(&[80, 443]);
    assert_eq!(bench.served(), leaf, "the same certificate");
    assert_eq!(bench.lab.internal_ca(), ca);
    bench.rests();
    assert_eq!(bench.pebble.orders(), orders, "nothing was ordered");
    // The account came along: a renewal is its.
    let account =
        |bench: &mut Bench| bench.cert(&["show", SHOP, "-o", "json"]).json()["accounts"][0]["account"].clone();
    let known = account(&mut bench);
    expect(&bench.cert(&["renew", SHOP]), 0, "is ordered from issuers.pebble now");
    bench.replaced(&leaf);
    bench.rests();
    assert_eq!(account(&mut bench), known);
}

/// What people ask while the CA cannot be reached: the old one serves, and the sentence says what is wrong.
#[test]
fn a_ca_that_is_away_is_told_of() {
    let Some(mut bench) = bench("away") else { return };
    bench.lab.start(&[80, 443]);
    let leaf = bench.served();
    bench.rests();
    bench.pebble.stop();
    bench.cert(&["renew", SHOP]);
    let why = bench.why("the CA is down", |why| why["cause"] == "ca-down");
    assert_eq!(why["served"], "last-good", "{why}");
    let sentence = why["sentence"].as_str().unwrap();
    assert!(sentence.contains("is down or cannot be reached") && sentence.contains("next try at"), "{sentence}");
    assert_eq!(why["last_failure"]["class"], "transient", "{why}");
    expect(&bench.cert(&["list"]), 1, "1 with a problem");
    assert_eq!(bench.served(), leaf);
    let page = bench.lab.edged().ctl(&["status"]);
    expect(&page, 1, "not renewed");
}
