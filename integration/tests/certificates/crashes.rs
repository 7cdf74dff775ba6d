//! What a crash, a renewal under load, a wrong key of the store and the death of the edge that orders cost.

use std::time::{Duration, Instant};

use edge_integration::acme::{Pebble, Settings};
use edge_integration::client::{Connection, Tls};
use edge_integration::edged::until_within;
use edge_integration::lab::{Lab, block_on, skip};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki;

use super::bench::{PATIENCE, PORT_80, TSIG, bench, https, served, shop};

#[test]
fn kill_9_at_any_point_of_an_order_makes_no_second_order_and_loses_no_key() {
    let Some(mut bench) = bench("kill_9", |_| {}, "") else { return };
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["h0.example.com"]);
    bench.lab.start(&[80, 443]);
    bench.served("h0.example.com");
    // An order takes some 50 ms: the knife falls before it, in it, and behind it.
    let rounds: u64 = 12;
    for round in 1..=rounds {
        let host = format!("h{round}.example.com");
        bench.lab.manifest(&format!("r{round}.yaml"), &http_route(&format!("r{round}"), &[&host], &to("shop", 80)));
        std::thread::sleep(Duration::from_millis(round * 14));
        bench.lab.edged().kill();
        bench.lab.start(&[80, 443]);
        let leaf = bench.served(&host);
        bench.lab.edged().kill();
        bench.lab.start(&[443]);
        assert_eq!(bench.served(&host), leaf, "round {round}: served from the store");
        let (orders, in_vain) = (bench.orders(), bench.validated_in_vain());
        // Where the CA looked just while nobody was there, that order is over, and one more it is.
        assert_eq!(
            orders,
            round as usize + 1 + in_vain,
            "round {round}, {in_vain} in vain: {}",
            bench.lab.edged().log()
        );
    }
}

#[test]
fn renewals_under_load_fail_no_handshake() {
    let short = |settings: &mut Settings| settings.validity = Some(24);
    let Some(mut bench) = bench("renewals", short, "") else { return };
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    let mut leaves = vec![bench.served("shop.example.com")];
    let (root, address) = (bench.pebble.root(0), bench.https());
    // A resumed session shows the certificate that it began with: each client is a new one.
    let client = || Tls {
        config: pki::client(&root, &["http/1.1"], None).unwrap(),
        server_name: Some("shop.example.com".to_owned()),
    };
    let (mut handshakes, began) = (0_u32, Instant::now());
    block_on(async {
        let mut kept = Connection::open(address, Some(&client())).await.unwrap();
        while leaves.len() < 3 {
            assert!(began.elapsed() < 2 * PATIENCE, "{} certificates in {:?}", leaves.len(), began.elapsed());
            let mut fresh = Connection::open(address, Some(&client())).await.unwrap();
            assert_eq!(fresh.get("shop.example.com", "/").await.unwrap().status, 200);
            // The one from before all renewals is still good.
            assert_eq!(kept.get("shop.example.com", "/").await.unwrap().status, 200);
            let leaf = fresh.handshake.certificates[0].to_vec();
            handshakes += 1;
            if *leaves.last().unwrap() != leaf {
                leaves.push(leaf);
            }
        }
    });
    eprintln!("{handshakes} handshakes over 2 renewals in {:?}, none failed", began.elapsed());
}

#[test]
fn kill_9_while_the_ca_takes_its_time_goes_on_with_the_same_order() {
    let slow = |settings: &mut Settings| settings.sleeps = true;
    let Some(mut bench) = bench("kill_9_slow", slow, "") else { return };
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["h0.example.com"]);
    bench.lab.start(&[80, 443]);
    bench.served("h0.example.com");
    for round in 1..=3_u64 {
        let host = format!("h{round}.example.com");
        bench.lab.manifest(&format!("r{round}.yaml"), &http_route(&format!("r{round}"), &[&host], &to("shop", 80)));
        let before = bench.orders();
        until_within(PATIENCE, "the order is made", || (bench.orders() > before).then_some(()));
        // The CA sleeps up to five seconds before it validates.
        std::thread::sleep(Duration::from_millis(round * 300));
        bench.lab.edged().kill();
        bench.lab.start(&[80, 443]);
        bench.served(&host);
        // The CA may have looked just while nobody was there; then one more order it is.
        let orders = bench.orders() - before;
        assert!((1..=2).contains(&orders), "round {round}: {orders} orders: {}", bench.lab.edged().log());
    }
}

/// Whether any file below a directory says this.
pub fn is_written(directory: &std::path::Path, text: &str) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_written(&path, text);
        }
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn a_sealed_store_shows_no_key_and_survives_a_wrong_one() {
    let Some(mut bench) = bench("sealed", |_| {}, "") else { return };
    let plain = std::fs::read_to_string(bench.lab.config()).unwrap();
    let key_file = bench.lab.path("store.key");
    bench
        .lab
        .write_file("edge.toml", &plain.replace("[state]", &format!("[state]\nkey_file = \"{}\"", key_file.display())));
    let [right, wrong] = [3_u8, 4].map(|seed| (0..32).map(|at| format!("{:02x}", at ^ seed)).collect::<String>());
    let seal = |lab: &Lab, key: &str| {
        lab.write_file("store.key", key);
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(lab.path("store.key"), private).unwrap();
    };
    seal(&bench.lab, &right);
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&bench.lab, &listeners, &["shop.example.com"]);
    bench.lab.start(&[80, 443]);
    let leaf = bench.served("shop.example.com");
    bench.lab.edged().kill();
    assert!(!is_written(&bench.lab.path("state"), "PRIVATE KEY"));

    // Another key: served is a placeholder, nothing is destroyed, and one line says it.
    seal(&bench.lab, &wrong);
    let (names, plain) = (bench.lab.path("edge.toml"), std::fs::read_to_string(bench.lab.config()).unwrap());
    bench.lab.write_file("edge.toml", &plain.split("[issuers.").next().unwrap().replace("[\"issuers.pebble\"]", "[]"));
    bench.lab.start(&[443]);
    until_within(PATIENCE, "the line about the key", || {
        bench.lab.edged().log().contains("records are sealed by the key").then_some(())
    });
    bench.lab.edged().kill();
    std::fs::write(&names, plain).unwrap();
    seal(&bench.lab, &right);
    bench.lab.start(&[443]);
    assert_eq!(bench.served("shop.example.com"), leaf);
    assert_eq!(bench.orders(), 1);
}

/// Three edges behind one name; the CA goes to any of them.
#[test]
fn of_three_edges_one_orders_all_serve_and_another_ends_what_it_began() {
    let mut labs: Vec<Lab> = (0..3).map(|_| Lab::new()).collect();
    let settings = Settings { names_lead_to: labs[0].vip, sleeps: true, ..Settings::default() };
    let pebble = match Pebble::start(&settings) {
        Ok(pebble) => pebble,
        Err(why) => return skip("three_edges", &why),
    };
    let vips: Vec<std::net::IpAddr> = labs.iter().map(|lab| lab.vip).collect();
    let members: String = (0..3)
        .map(|number| format!("[[fleet.edge]]\nname = \"edge-{number}\"\naddress = \"{}:7946\"\n", vips[number]))
        .collect();
    let origin = labs[0].origin("shop");
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let route = |host: &str| http_route(host, &[&format!("{host}.example.com")], &to("shop", 80));
    for (number, lab) in labs.iter().enumerate() {
        lab.write_file("ca.pem", pebble.trust());
        lab.write_file("fleet.key", TSIG);
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(lab.path("fleet.key"), private).unwrap();
        lab.write_config(&format!(
            "[edge]\nname = \"edge-{number}\"\n\n[certificates]\nissuers = [\"issuers.pebble\"]\nresolvers = [\"{}\"]\n\
             preflight = false\n\n[issuers.pebble]\ndirectory = \"{}\"\nca_file = \"{}\"\n\n\
             [fleet]\nlisten = \"{}:7946\"\nsecret_file = \"{}\"\n{members}",
            pebble.names.dns,
            pebble.directory(),
            lab.path("ca.pem").display(),
            lab.vip,
            lab.path("fleet.key").display(),
        ));
        let parts =
            [CLASS, &gateway("web", &listeners), &service("default", "shop", 80, &[origin.address]), &route("one")];
        lab.manifest("web.yaml", &parts.concat());
    }
    pebble.names.addresses("one.example.com", &vips);
    pebble.names.addresses("two.example.com", &vips);
    for lab in &mut labs {
        lab.start(&[80, 443]);
    }
    let orders = || pebble.log().matches("Added order").count();
    let leaves: Vec<_> = labs.iter().map(|lab| served(lab.at(443), &pebble, "one.example.com")).collect();
    assert!(leaves.iter().all(|leaf| *leaf == leaves[0]) && orders() == 1, "{}", orders());

    let orders_here = |lab: &mut Lab| lab.edged().log().contains("obtained");
    let leader = (0..3).find(|number| orders_here(&mut labs[*number])).unwrap();
    for lab in &labs {
        lab.manifest("two.yaml", &route("two"));
    }
    until_within(PATIENCE, "the order is made", || (orders() == 2).then_some(()));
    labs[leader].edged().kill();
    let live: Vec<_> = (0..3).filter(|number| *number != leader).collect();
    pebble.names.addresses("two.example.com", &live.iter().map(|number| vips[*number]).collect::<Vec<_>>());
    let leaves: Vec<_> = live.iter().map(|number| served(labs[*number].at(443), &pebble, "two.example.com")).collect();
    assert_eq!(leaves[0], leaves[1]);
    eprintln!("{} orders for two certificates, over the death of the edge that ordered", orders());
    // The CA may have judged the order while its edge died; whoever takes over then makes one more, not one each.
    assert!((2..=3).contains(&orders()), "{}", orders());
    // The one that comes back orders nothing.
    let made = orders();
    labs[leader].start(&[443]);
    assert_eq!(served(labs[leader].at(443), &pebble, "two.example.com"), leaves[0]);
    assert_eq!(orders(), made);
}
