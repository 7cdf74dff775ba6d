//! A CA, a disk and a directory that misbehave while certificates are served: what is served stays, one sentence says
//! why, few requests are made, and all is well again by itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edge_integration::acme::small::{Fault, Leaf, Manner, Place, Reply, Small};
use edge_integration::client::Tls;
use edge_integration::edged::{Edged, until_within};
use edge_integration::lab::{Lab, skip};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki;

use super::bench::{PATIENCE, PORT_80, https, served_by, shop};

/// An edged (not started) that orders from a small CA.
pub fn with_small(small: &Small) -> Lab {
    let lab = Lab::new();
    lab.write_config(&format!(
        "[certificates]\nissuers = [\"issuers.small\"]\npreflight = false\n\n[issuers.small]\ndirectory = \"{}\"\n",
        small.directory()
    ));
    lab
}

fn trust(root: &str, name: &str) -> Tls {
    Tls { config: pki::client(root, &["http/1.1"], None).unwrap(), server_name: Some(name.to_owned()) }
}

/// The leaf, waited for.
pub fn leaf(at: SocketAddr, small: &Small, name: &str) -> Vec<u8> {
    served_by(at, &trust(small.root(), name), name)
}

/// Waits until the one sentence of a certificate says this; gives it.
pub fn why(edged: &Edged, name: &str, expected: &str) -> String {
    let began = Instant::now();
    loop {
        let sentence = edged.ctl(&["cert", "why", name]).text().lines().next().unwrap_or_default().to_owned();
        if sentence.contains(expected) {
            return sentence;
        }
        assert!(began.elapsed() < PATIENCE, "{name}: expected {expected:?}: {sentence}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_served_stays_whatever_the_ca_does() {
    let small = Small::start();
    let mut lab = with_small(&small);
    let listeners = [PORT_80, &https("shop", "shop.example.com")].concat();
    let _origin = shop(&lab, &listeners, &["shop.example.com"]);
    lab.start(&[80, 443]);
    let at = lab.at(443);
    let mut held = leaf(at, &small, "shop.example.com");
    let says = |status, kind: &str, detail: &str| Fault::Says(Reply::problem(status, kind, detail));
    let soon = |reply: Reply| Fault::Says(reply.with("retry-after", "2"));
    let set = "too many certificates (5) already issued for this exact set of identifiers";
    let faults: Vec<(Place, Fault, &str)> = vec![
        (Place::NewOrder, soon(Reply::problem(429, "rateLimited", set)), "too many certificates (5)"),
        (Place::NewOrder, soon(Reply::of(503, "text/html", "<h1>later</h1>")), "HTTP 503"),
        (Place::NewOrder, Fault::Cut, "broke off"),
        (Place::NewOrder, Fault::Says(Reply::of(200, "text/html", "<html>hotel</html>")), "cannot be used"),
        (Place::Authorization, Fault::Endless, "longer than"),
        (Place::Finalize, says(500, "serverInternal", "out of ink"), "out of ink"),
        (Place::Certificate, Fault::HalfThenCut, "broke off"),
        (Place::NewOrder, says(400, "badNonce", "not ours"), "not ours"),
        (Place::NewOrder, says(403, "rejectedIdentifier", "not on our list"), "not on our list"),
        (
            Place::NewOrder,
            Fault::Says(Reply::of(302, "text/html", "").with("location", "http://192.0.2.7/")),
            "192.0.2.7",
        ),
    ];
    for (place, fault, expected) in faults {
        let title = format!("{fault:?} at {place:?}");
        small.fault(place, usize::MAX, fault);
        renewed_after(&mut lab, &small, &mut held, (&title, expected));
    }
    for (wrong, expected) in [
        (Leaf::OtherNames, "its names are"),
        (Leaf::OtherKey, "another key"),
        (Leaf::Expired, "ended at"),
        (Leaf::BrokenChain, "the chain is broken"),
        (Leaf::SelfSigned, "another key"),
        (Leaf::Garbage, "no certificate in them"),
    ] {
        small.set(Manner { leaf: wrong, ..Manner::default() });
        renewed_after(&mut lab, &small, &mut held, (&format!("{wrong:?}"), expected));
    }

    // It offers no other challenge: that is not what went wrong.
    small.set(Manner { refuses: Some(("connection", "203.0.113.9: connection refused")), ..Manner::default() });
    renewed_after(&mut lab, &small, &mut held, ("validation", "was refused the connection"));

    // The CA forgets everybody: nobody notices.
    small.forget_accounts();
    lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    let last = until_within(PATIENCE, "another certificate", || {
        Some(leaf(at, &small, "shop.example.com")).filter(|leaf| *leaf != held)
    });
    // It is gone for good: what is there is served, also after a restart.
    drop(small);
    lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    why(lab.edged(), "shop.example.com", "cannot reach 127.0.0.1");
    lab.edged().kill();
    lab.start(&[443]);
    assert!(!last.is_empty() && !lab.edged().log().contains("panicked"), "{}", lab.edged().log());
}

/// Asks for a renewal that fails, and for one that does not.
fn renewed_after(lab: &mut Lab, small: &Small, held: &mut Vec<u8>, (title, expected): (&str, &str)) {
    let at = lab.at(443);
    let (requests, began) = (small.requests(), Instant::now());
    lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    let sentence = why(lab.edged(), "shop.example.com", expected);
    assert!((20..900).contains(&sentence.len()), "{title}: {sentence}");
    assert_eq!(leaf(at, small, "shop.example.com"), *held, "{title}");
    let (requests, took) = (small.requests() - requests, began.elapsed());
    // One try, or one in five seconds.
    let tries = 2 + took.as_secs() as usize / 5;
    assert!(requests <= 80 * tries, "{title}: {requests} requests in {took:?}");
    eprintln!("    {title:.60}: {requests} requests, {sentence}");
    small.behave();
    lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
    *held = until_within(PATIENCE, &format!("another certificate after {title}"), || {
        Some(leaf(at, small, "shop.example.com")).filter(|leaf| leaf != held)
    });
}

/// One name in a thousand that the CA wants nothing to do with, and one that never ends.
#[test]
fn of_a_thousand_certificates_one_is_poisoned() {
    const MANY: usize = 1_000;
    let small = Small::start();
    small.set(Manner { rejects: Some("h500.example.com"), ..Manner::default() });
    let mut lab = with_small(&small);
    let origin = lab.origin("shop");
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let mut manifest =
        [CLASS, &gateway("web", &listeners), &service("default", "shop", 80, &[origin.address])].concat();
    let hosts: Vec<String> = (0..MANY).map(|number| format!("h{number}.example.com")).collect();
    for (number, some) in hosts.chunks(16).enumerate() {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        manifest.push_str(&http_route(&format!("r{number}"), &some, &to("shop", 80)));
    }
    lab.manifest("web.yaml", &manifest);
    lab.start(&[80, 443]);
    let began = Instant::now();
    until_within(6 * PATIENCE, "all others are there", || (small.asked(Place::Certificate) >= MANY - 1).then_some(()));
    let took = began.elapsed();
    let at = lab.at(443);
    for host in [0, 499, 501, 999] {
        leaf(at, &small, &format!("h{host}.example.com"));
    }
    why(lab.edged(), "h500.example.com", "the CA issues nothing for h500.example.com");
    eprintln!("    {} certificates in {took:?}, {} requests", MANY - 1, small.requests());
    assert_eq!(small.orders(), MANY - 1);
    // It is not asked for again and again.
    let before = small.requests();
    std::thread::sleep(Duration::from_secs(5));
    assert!(small.requests() - before <= 3, "{}", small.requests() - before);
}

/// A state directory of its own, eight megabytes, in a mount namespace of edged alone.
#[test]
fn a_full_disk_orders_nothing_and_loses_nothing() {
    let tool = std::path::Path::new("/usr/bin/unshare");
    if !tool.exists() || !rustix::process::geteuid().is_root() {
        return skip("full_disk", "it takes root and unshare(1)");
    }
    let small = Small::start();
    let lab = with_small(&small);
    let listeners = [PORT_80, &https("shop", "*.example.com")].concat();
    let _origin = shop(&lab, &listeners, &["a.example.com"]);
    let state = lab.path("state");
    std::fs::create_dir_all(&state).unwrap();
    let script = format!("mount -t tmpfs -o size=24m none {} && exec \"$@\"", state.display());
    let before = ["/usr/bin/unshare", "-m", "sh", "-c", &script, "sh"];
    let mut edged = Edged::spawn_by(&before, &lab.config(), &lab.path("edged.sock"), &lab.path("edged.log"));
    let at = lab.at(443);
    edged.wait_port(at);
    let a = leaf(at, &small, "a.example.com");
    let inside = std::path::PathBuf::from(format!("/proc/{}/root{}", edged.pid(), state.display()));
    let filler = inside.join("filler");
    fill(&filler);

    let (orders, requests) = (small.orders(), small.requests());
    lab.manifest("b.yaml", &http_route("b", &["b.example.com"], &to("shop", 80)));
    let text = why(&edged, "b.example.com", "o space left");
    std::thread::sleep(Duration::from_secs(3));
    // What cannot be journaled is not ordered; and nobody asks the CA about it in a loop.
    assert_eq!(small.orders(), orders, "{text}");
    assert!(small.requests() - requests < 10, "{} requests", small.requests() - requests);
    assert_eq!(leaf(at, &small, "a.example.com"), a);

    std::fs::remove_file(&filler).unwrap();
    let b = leaf(at, &small, "b.example.com");
    assert_eq!(small.orders(), orders + 1);
    // It is on the disk now.
    let copied = || std::fs::read_dir(inside.join("copies/certificates")).unwrap().count();
    until_within(PATIENCE, "both are on the disk", || (copied() >= 2).then_some(()));
    assert_eq!(leaf(at, &small, "b.example.com"), b);
    edged.kill();
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// The issuer is deleted and comes back, as a GitOps tool may have it: what it issued serves on, for one host and for
/// each of many, also after a restart, and nothing is ordered.
#[test]
fn what_was_issued_outlives_its_issuer() {
    let small = Small::start();
    let mut lab = Lab::new();
    lab.write_config("[certificates]\npreflight = false\n");
    let listeners =
        [PORT_80, &https("shop", "shop.example.com"), &https("many", "*.example.com").replace("443", "8443")].concat();
    let asks = "namespace: default, annotations: {cert-manager.io/cluster-issuer: small}}";
    let origin = lab.origin("shop");
    lab.manifest(
        "web.yaml",
        &[
            CLASS,
            &gateway("web", &listeners).replacen("namespace: default}", asks, 1),
            &service("default", "shop", 80, &[origin.address]),
            &http_route("shop", &["shop.example.com", "a.example.com"], &to("shop", 80)),
        ]
        .concat(),
    );
    let issuer = format!(
        "apiVersion: cert-manager.io/v1\nkind: ClusterIssuer\nmetadata: {{name: small}}\nspec: {{acme: {{server: {}, \
         privateKeySecretRef: {{name: small}}, solvers: [{{http01: {{gatewayHTTPRoute: {{}}}}}}]}}}}\n",
        small.directory()
    );
    lab.manifest("issuer.yaml", &issuer);
    lab.start(&[80, 443, 8443]);
    let one = leaf(lab.at(443), &small, "shop.example.com");
    let many = leaf(lab.at(8443), &small, "a.example.com");
    leaf(lab.at(8443), &small, "shop.example.com");
    let orders = small.orders();
    lab.remove_manifest("issuer.yaml");
    let end = "what is held serves until it ends at ";
    for name in ["default/shop-tls", "default/many-tls-a.example.com"] {
        let sentence = why(lab.edged(), name, "ClusterIssuer small not found");
        assert!(sentence.contains(end), "{sentence}");
        let row = lab.edged().ctl(&["cert", "list"]).text();
        assert!(row.contains("last good"), "{row}");
    }
    let status = lab.edged().ctl(&["status"]).text();
    assert!(status.contains(end), "{status}");
    let stays = |lab: &Lab, when: &str| {
        assert_eq!(leaf(lab.at(443), &small, "shop.example.com"), one, "{when}");
        assert_eq!(leaf(lab.at(8443), &small, "a.example.com"), many, "{when}");
        assert_eq!(leaf(lab.at(8443), &small, "shop.example.com"), one, "{when}");
        assert_eq!(small.orders(), orders, "{when}");
    };
    stays(&lab, "the issuer is gone");
    lab.edged().kill();
    lab.start(&[443, 8443]);
    stays(&lab, "and edged was killed");
    // No renewal can be asked of nobody.
    let asked = lab.edged().ctl(&["cert", "renew", "default/shop-tls"]).text();
    stays(&lab, &asked);
    lab.manifest("issuer.yaml", &issuer);
    why(lab.edged(), "default/shop-tls", "nothing is wrong");
    stays(&lab, "the issuer is back");
}
