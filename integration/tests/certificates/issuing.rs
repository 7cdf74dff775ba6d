//! Every way to prove a name, and what is served meanwhile.

use std::time::{Duration, Instant};

use edge_integration::acme::{Pebble, Settings};
use edge_integration::client::{Tls, fetch};
use edge_integration::cluster::process::{Process, Program};
use edge_integration::edged::until_within;
use edge_integration::lab::{Lab, block_on, skip};
use edge_integration::manifests::{http_route, to};

use super::bench::{Bench, PATIENCE, PORT_80, TSIG, bench, configure, https, placeholder, redirect, served, shop};

#[test]
fn http_01_goes_before_a_redirect_and_a_placeholder_before_both() {
    let Some(mut bench) = bench("http_01", |_| {}, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.manifest("redirect.yaml", &redirect());
    bench.lab.start(&[80, 443]);
    bench.served("shop.example.com");
    let reply = block_on(fetch(bench.lab.at(80), None, "shop.example.com", "/x")).unwrap();
    assert_eq!(reply.status, 301);
    let tls = Tls { server_name: Some("shop.example.com".into()), ..bench.trust() };
    let reply = block_on(fetch(bench.https(), Some(&tls), "shop.example.com", "/")).unwrap();
    assert_eq!(reply.backend(), Some("shop"));
    assert_eq!(bench.orders(), 1);
    until_within(PATIENCE, "the answer to the CA is in the log", || {
        bench.lab.access_log().iter().any(|entry| entry["reason"] == "acme_challenge").then_some(())
    });

    // A restart orders nothing, and serves it from the first moment.
    bench.lab.edged().kill();
    bench.lab.start(&[443]);
    block_on(fetch(bench.https(), Some(&tls), "shop.example.com", "/")).unwrap();
    assert_eq!(bench.orders(), 1);
}

#[test]
fn tls_alpn_01_needs_no_port_80_and_http_01_opens_it() {
    for (solvers, reason) in [("[[solver]]\ntype = \"tls-alpn-01\"\n", "tls-alpn-01"), ("", "http-01")] {
        let Some(mut bench) = bench(reason, |_| {}, solvers) else { return };
        let _origin = shop(&bench.lab, &https("shop", "shop.example.com"), &["shop.example.com"]);
        bench.lab.start(&[443]);
        bench.served("shop.example.com");
        assert_eq!(bench.orders(), 1, "{reason}");
        let log = bench.pebble.log();
        let by_http = log.contains("Attempting to validate w/ HTTP");
        assert_eq!(by_http, reason == "http-01", "{log}");
    }
}

#[test]
fn a_wildcard_listener_has_a_certificate_for_each_host_of_its_routes() {
    let Some(mut bench) = bench("per_host", |_| {}, "") else { return };
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["a.example.com", "b.example.com"]);
    bench.lab.start(&[80, 443]);
    let (a, b) = (bench.served("a.example.com"), bench.served("b.example.com"));
    assert!(a != b && bench.orders() == 2, "{}", bench.orders());
    // Another host comes while it runs: nothing else is ordered.
    let began = Instant::now();
    bench.lab.manifest("more.yaml", &http_route("more", &["c.example.com"], &to("shop", 80)));
    bench.served("c.example.com");
    eprintln!("another host after {:?}", began.elapsed());
    assert!(bench.served("a.example.com") == a && bench.orders() == 3);
}

#[test]
fn a_ca_that_is_away_costs_nothing_and_is_used_when_it_is_back() {
    let Some(mut bench) = bench("ca_down", |_| {}, "") else { return };
    let (address, dns) = (bench.pebble.address, bench.pebble.names.dns);
    bench.pebble.process.stop(Duration::from_secs(5));
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    // No listener without TLS.
    assert!(placeholder(&bench.lab, "shop.example.com").is_some());
    let why = until_within(PATIENCE, "the reason is shown", || {
        let text = bench.lab.edged().ctl(&["status"]).text();
        text.contains("connect").then_some(text)
    });
    assert!(placeholder(&bench.lab, "shop.example.com").is_some(), "{why}");
    let settings = Settings { names_lead_to: bench.lab.vip, port: Some(address.port()), ..Settings::default() };
    bench.pebble = Pebble::start(&settings).unwrap();
    assert_ne!(bench.pebble.names.dns, dns);
    configure(&bench.lab, &[("pebble", &bench.pebble)], "");
    bench.lab.edged().reload();
    let _ = bench.lab.edged().ctl(&["cert", "renew", "default/shop-tls"]);
    bench.served("shop.example.com");
    assert_eq!(bench.orders(), 1);
}

#[test]
fn the_second_issuer_is_asked_where_the_first_refuses() {
    let blocked = |settings: &mut Settings| settings.blocked = vec!["example.com".into()];
    let Some(mut bench) = bench("two_issuers", blocked, "") else { return };
    let second = Settings { names_lead_to: bench.lab.vip, ..Settings::default() };
    let Ok(second) = Pebble::start(&second) else { return };
    configure(&bench.lab, &[("pebble", &bench.pebble), ("second", &second)], "");
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    served(bench.lab.at(443), &second, "shop.example.com");
}

#[test]
fn one_name_that_no_ca_wants_costs_itself() {
    let blocked = |settings: &mut Settings| settings.blocked = vec!["poison.example.com".into()];
    let Some(mut bench) = bench("poisoned", blocked, "") else { return };
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let mut hosts: Vec<String> = (0..12).map(|number| format!("n{number}.example.com")).collect();
    hosts.push("poison.example.com".into());
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let _origin = shop(&bench.lab, &listeners, &names);
    bench.lab.start(&[80, 443]);
    for host in &names[..12] {
        bench.served(host);
    }
    let text = until_within(PATIENCE, "the reason is shown", || {
        let text = bench.lab.edged().ctl(&["cert", "why", "poison.example.com"]).text();
        text.contains("does not issue for such a name").then_some(text)
    });
    assert!(placeholder(&bench.lab, "poison.example.com").is_some(), "{text}");
    // A refusal is not asked for again and again.
    assert!(bench.pebble.log().matches("rejectedIdentifier").count() <= 3, "{}", bench.pebble.log());
}

/// knot, with `example.com` on port 53 of the VIP; updates are let in by a key.
fn knot(lab: &Lab) -> Process {
    let (ip, dir) = (lab.vip, lab.path("knot"));
    let dir = dir.display();
    std::fs::create_dir(lab.path("knot")).unwrap();
    lab.write_file(
        "knot/example.com.zone",
        &format!(
            "$ORIGIN example.com.\n$TTL 5\n@ SOA ns1 admin 1 60 60 60 5\n@ NS ns1\nns1 A {ip}\n* A {ip}\n@ A {ip}\n"
        ),
    );
    lab.write_file(
        "knot/knot.conf",
        &format!(
            "server:\n    listen: {ip}@53\n    rundir: {dir}\ndatabase:\n    storage: {dir}\nlog:\n  - target: stderr\n    any: info\n\
             key:\n  - id: edge.\n    algorithm: hmac-sha256\n    secret: {TSIG}\n\
             acl:\n  - id: update\n    key: edge.\n    action: update\n\
             zone:\n  - domain: example.com\n    storage: {dir}\n    file: example.com.zone\n    acl: update\n"
        ),
    );
    let program = Program::new("/usr/sbin/knotd").args(["-c", &format!("{dir}/knot.conf")]);
    let mut knot = Process::start("knotd", "", &program, &lab.path("knot.log"));
    let at = lab.at(53);
    knot.until("knot answers", || std::net::TcpStream::connect(at).ok());
    knot
}

#[test]
fn dns_01_gets_a_wildcard_by_signed_updates() {
    if !std::path::Path::new("/usr/sbin/knotd").exists() {
        return skip("dns_01", "no knotd (Debian package knot)");
    }
    let lab = Lab::new();
    let _knot = knot(&lab);
    let settings = Settings { names_lead_to: lab.vip, dns: Some(lab.at(53)), ..Settings::default() };
    let pebble = match Pebble::start(&settings) {
        Ok(pebble) => pebble,
        Err(why) => return skip("dns_01", &why),
    };
    lab.write_file("tsig", TSIG);
    lab.write_file("ca.pem", pebble.trust());
    let (dns, directory) = (lab.at(53), pebble.directory());
    lab.write_config(&format!(
        "[certificates]\nissuers = [\"issuers.pebble\"]\nresolvers = [\"{dns}\"]\nwildcard = \"dns-01\"\n\n\
         [issuers.pebble]\ndirectory = \"{directory}\"\nca_file = \"{}\"\n\n\
         [[issuers.pebble.solver]]\ntype = \"dns-01\"\nprovider = \"rfc2136\"\nserver = \"{dns}\"\n\
         tsig_key_name = \"edge\"\ntsig_key_file = \"{}\"\ntsig_algorithm = \"hmac-sha256\"\n",
        lab.path("ca.pem").display(),
        lab.path("tsig").display(),
    ));
    let mut bench = Bench { lab, pebble };
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["a.example.com", "b.example.com"]);
    bench.lab.start(&[80, 443]);
    let leaf = bench.served("a.example.com");
    assert!(bench.served("b.example.com") == leaf && bench.orders() == 1, "{}", bench.orders());
}
