//! What may be wished of a certificate, with real CAs: addresses, profiles, kinds of keys, external accounts, chains,
//! revocation, certificates in Secrets of files.

use std::time::Duration;

use edge_integration::acme::{Edition, Pebble, Profile, Settings};
use edge_integration::client::{Connection, Tls};
use edge_integration::edged::until_within;
use edge_integration::lab::skip;
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bench::{Bench, PATIENCE, PORT_80, bench, https, served, served_by, shop};

fn parsed(leaf: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(leaf).unwrap().1
}

fn days(leaf: &[u8]) -> i64 {
    let validity = parsed(leaf).validity().clone();
    (validity.not_after.timestamp() - validity.not_before.timestamp() + 43_200) / 86_400
}

fn key(leaf: &[u8]) -> Vec<u8> {
    parsed(leaf).public_key().raw.to_vec()
}

/// Another leaf than this one.
fn next(bench: &Bench, name: &str, held: &[u8]) -> Vec<u8> {
    until_within(PATIENCE, "another certificate", || Some(bench.served(name)).filter(|leaf| leaf != held))
}

/// Adds to `edge.toml` below the issuer.
fn of_issuer(bench: &Bench, more: &str) {
    let text = std::fs::read_to_string(bench.lab.config()).unwrap();
    bench.lab.write_file("edge.toml", &format!("{text}\n{more}"));
}

#[test]
fn an_address_gets_a_certificate_of_six_days() {
    let profiles =
        vec![Profile { name: "classic", validity: 90 * 86_400 }, Profile { name: "shortlived", validity: 518_400 }];
    let newest = |settings: &mut Settings| {
        (settings.edition, settings.profiles) = (Edition::Newest, profiles);
    };
    let Some(mut bench) = bench("address", newest, "profile = \"classic\"\n") else { return };
    of_issuer(
        &bench,
        "[[certificate]]\nsecret = \"default/vip-tls\"\naddresses = [\"vip:default/web\"]\nprofile = \"shortlived\"\n",
    );
    // Whoever asks for an address names nobody (RFC 6066 §3): a listener without a hostname.
    let listeners = [PORT_80, &https("shop", "shop.example.com"), &https("vip", "")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    let shop = bench.served("shop.example.com");
    assert_eq!(days(&shop), 90);
    let name = bench.lab.vip.to_string();
    let leaf = bench.served(&name);
    assert_eq!(days(&leaf), 6);
    assert_eq!(bench.orders(), 2, "{}", bench.pebble.log());
    let text = bench.lab.edged().ctl(&["cert", "show", "default/vip-tls"]).text();
    assert!(text.contains(&name), "{text}");
}

#[test]
fn keys_are_of_the_kind_that_is_wanted_and_kept_where_that_is_wanted() {
    let Some(mut bench) = bench("keys", |_| {}, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    let annotated = |policy: &str, algorithm: &str| {
        let annotations = format!(
            "metadata: {{name: web, namespace: default, annotations: {{\
             cert-manager.io/private-key-algorithm: {algorithm}, \
             cert-manager.io/private-key-rotation-policy: {policy}}}}}"
        );
        std::fs::read_to_string(bench.lab.path("manifests/web.yaml"))
            .unwrap()
            .lines()
            .map(|line| if line.starts_with("metadata: {name: web,") { annotations.clone() } else { line.to_owned() })
            .collect::<Vec<_>>()
            .join("\n")
    };
    let (kept, renewed) = (annotated("Never", "RSA"), annotated("Always", "ECDSA"));
    bench.lab.manifest("web.yaml", &kept);
    bench.lab.start(&[80, 443]);
    let first = bench.served("shop.example.com");
    let rsa = x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
    assert_eq!(parsed(&first).public_key().algorithm.algorithm, rsa);
    bench.lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    let second = next(&bench, "shop.example.com", &first);
    assert_eq!(key(&second), key(&first));
    // Another kind of key is another certificate; and from then on each has a key of its own.
    bench.lab.manifest("web.yaml", &renewed);
    let third = next(&bench, "shop.example.com", &second);
    assert_ne!(parsed(&third).public_key().algorithm.algorithm, rsa);
    bench.lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    let fourth = next(&bench, "shop.example.com", &third);
    assert_ne!(key(&fourth), key(&third));
}

#[test]
fn an_external_account_is_bound_by_the_key_in_its_file() {
    let hmac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let demand = |settings: &mut Settings| settings.external_accounts = vec![("kid-1".into(), hmac.into())];
    let Some(mut bench) = bench("eab", demand, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    let why = |bench: &mut Bench| bench.lab.edged().ctl(&["cert", "why", "shop.example.com"]).text();
    until_within(PATIENCE, "the demand is shown", || why(&mut bench).contains("EAB").then_some(()));
    of_issuer(&bench, "[issuers.pebble.external_account]\nkey_id = \"kid-1\"\nkey_file = \"hmac\"\n");
    bench.lab.edged().reload();
    until_within(PATIENCE, "the missing file is shown", || why(&mut bench).contains("hmac").then_some(()));
    assert_eq!(bench.orders(), 0);
    bench.lab.write_file("hmac", &format!("{hmac}\n"));
    let _ = bench.lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    bench.lab.edged().reload();
    bench.served("shop.example.com");
}

#[test]
fn another_chain_is_served_where_it_is_preferred() {
    let chains = |settings: &mut Settings| (settings.alternate_roots, settings.chain_length) = (2, 2);
    let Some(mut bench) = bench("chain", chains, "") else { return };
    let root = bench.pebble.root(2);
    let facts = pki::facts(&pki::certificates(&root).unwrap()[0]).unwrap();
    let name = facts.subject.trim_start_matches("CN=").to_owned();
    let text = std::fs::read_to_string(bench.lab.config()).unwrap();
    bench.lab.write_file("edge.toml", &format!("{text}preferred_chain = \"{name}\"\n"));
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    let tls = Tls {
        config: pki::client(&root, &["http/1.1"], None).unwrap(),
        server_name: Some("shop.example.com".to_owned()),
    };
    served_by(bench.https(), &tls, "shop.example.com");
}

#[test]
fn what_is_revoked_is_replaced_with_another_key() {
    let newest = |settings: &mut Settings| settings.edition = Edition::Newest;
    let Some(mut bench) = bench("revoked", newest, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    let first = bench.served("shop.example.com");
    let serial = parsed(&first).raw_serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(bench.pebble.status(&serial), "Valid");
    let said = bench.lab.edged().ctl(&["cert", "revoke", "shop.example.com", "--reason", "key-compromise"]).text();
    until_within(PATIENCE, &format!("the CA revoked it: {said}"), || {
        (bench.pebble.status(&serial) == "Revoked").then_some(())
    });
    let second = next(&bench, "shop.example.com", &first);
    assert_ne!(key(&second), key(&first), "a key that is out is not used again");
    assert_eq!(bench.orders(), 2);
}

/// A certificate that somebody else got, in a Secret of a file: served, replaced, spoiled and taken away by hand.
#[test]
fn a_secret_that_is_put_changed_or_removed_by_hand() {
    let Some(mut bench) = bench("secret", |_| {}, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    let own = pki::Authority::new("Own CA").unwrap();
    let secret = |days: i64| {
        let pair =
            own.sign(&pki::Leaf { dns: &["shop.example.com"], days: Some(days), ..pki::Leaf::default() }).unwrap();
        let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let text = format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: shop-tls, namespace: default}}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indented(&pair.certificate),
            indented(&pair.key)
        );
        (text, pki::certificates(&pair.certificate).unwrap()[0].to_vec())
    };
    let tls = || Tls {
        config: pki::client(&own.certificate, &["http/1.1"], None).unwrap(),
        server_name: Some("shop.example.com".to_owned()),
    };
    let (text, first) = secret(80);
    bench.lab.manifest("secret.yaml", &text);
    bench.lab.start(&[80, 443]);
    let at = bench.https();
    assert_eq!(served_by(at, &tls(), "shop.example.com"), first);
    assert_eq!(bench.orders(), 0, "what is there is not ordered again");
    // Replaced by hand.
    let (text, second) = secret(85);
    bench.lab.manifest("secret.yaml", &text);
    until_within(PATIENCE, "the other one", || (served_by(at, &tls(), "the own one") == second).then_some(()));
    // Nonsense in its place: at no moment is there another one than the last that was good.
    bench.lab.manifest("secret.yaml", &text.replace("BEGIN CERTIFICATE", "BEGIN NONSENSE"));
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(served_by(at, &tls(), "the last good one"), second);
    }
    assert_eq!(bench.orders(), 0);
    // Removed: the CA is asked at once, and what was there serves until it has answered.
    let roots = format!("{}{}", own.certificate, bench.pebble.root(0));
    let either = Tls {
        config: pki::client(&roots, &["http/1.1"], None).unwrap(),
        server_name: Some("shop.example.com".to_owned()),
    };
    bench.lab.remove_manifest("secret.yaml");
    until_within(PATIENCE, "a certificate of the CA", || {
        let opened = edge_integration::lab::block_on(Connection::open(at, Some(&either)));
        let leaf = opened.expect("never a placeholder").handshake.certificates[0].to_vec();
        (leaf != second).then_some(())
    });
    assert_eq!(bench.orders(), 1);
}

/// The key of the store as systemd hands it over.
#[test]
fn a_key_from_the_credentials_of_systemd_seals_the_store() {
    let Some(bench) = bench("credentials", |_| {}, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    let directory = bench.lab.path("credentials");
    let key: String = (0..32).map(|at| format!("{:02x}", at ^ 5)).collect();
    bench.lab.write_file("credentials/edge-store-key", &format!("{key}\n"));
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(directory.join("edge-store-key"), private).unwrap();
    let given = format!("CREDENTIALS_DIRECTORY={}", directory.display());
    let start = |before: &[&str]| {
        let mut edged = edge_integration::edged::Edged::spawn_by(
            before,
            &bench.lab.config(),
            &bench.lab.path("edged.sock"),
            &bench.lab.path("edged.log"),
        );
        edged.wait_port(bench.https());
        edged
    };
    let mut edged = start(&["/usr/bin/env", &given]);
    let leaf = bench.served("shop.example.com");
    edged.kill();
    assert!(!super::crashes::is_written(&bench.lab.path("state"), "PRIVATE KEY"));
    let mut edged = start(&["/usr/bin/env", &given]);
    assert_eq!(bench.served("shop.example.com"), leaf);
    assert_eq!(bench.orders(), 1);
    edged.kill();
}

/// The first is away for good: what has no certificate waits a quarter of an hour for it, what is refused does not wait.
#[test]
fn of_two_issuers_each_is_named_by_its_certificates() {
    let Some(mut bench) = bench("named", |_| {}, "") else { return };
    let second = Settings { names_lead_to: bench.lab.vip, ..Settings::default() };
    let second = match Pebble::start(&second) {
        Ok(second) => second,
        Err(why) => return skip("named", &why),
    };
    super::bench::configure(&bench.lab, &[("pebble", &bench.pebble), ("second", &second)], "");
    let origin = bench.lab.origin("shop");
    let mut web =
        gateway("web", &[PORT_80, &https("one", "one.example.com"), &https("two", "two.example.com")].concat());
    web.push_str(&http_route("shop", &["one.example.com", "two.example.com"], &to("shop", 80)));
    of_issuer(
        &bench,
        "[[certificate]]\nsecret = \"default/two-tls\"\nnames = [\"two.example.com\"]\nissuer = \"issuers.second\"\n",
    );
    bench.lab.manifest("web.yaml", &[CLASS, &web, &service("default", "shop", 80, &[origin.address])].concat());
    bench.lab.start(&[80, 443]);
    bench.served("one.example.com");
    served(bench.https(), &second, "two.example.com");
    assert_eq!((bench.orders(), second.orders()), (1, 1));
}
