//! `kill -9` again and again, while edged takes changes: what a client was ever served must be served again, from the
//! same addresses and with the same certificates, and soon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Dice;
use crate::client::{Connection, Tls, fetch};
use crate::edged::{Edged, until};
use crate::lab::{HTTP, HTTPS, Lab, Running, block_on};
use crate::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use crate::pki;
use crate::trials::Findings;
use crate::trials::findings::Times;

/// Gateways that stay.
const LASTING: [&str; 3] = ["m", "n", "o"];
/// After a death, to the first answer.
const PROMISE: Duration = Duration::from_secs(1);

/// An edged with addresses of its own for each Gateway, and how it can be asked.
pub struct Site {
    pub lab: Lab,
    pub origin: Running,
}

impl Site {
    /// Three Gateways with a route each, a pool of eight addresses, and further routes at the first of them.
    pub fn new(routes: usize) -> Self {
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
        for name in LASTING {
            text += &gateway(name, LISTENERS).replace("web-tls", &format!("{name}-tls"));
            text += &route(name, name, &format!("{name}.test"));
        }
        lab.manifest("base.yaml", &text);
        for (file, numbers) in (0..routes).collect::<Vec<_>>().chunks(100).enumerate() {
            let text: String = numbers.iter().map(|n| route(&format!("r{n}"), "m", &format!("h{n}.test"))).collect();
            lab.manifest(&format!("routes-{file}.yaml"), &text);
        }
        Self { lab, origin }
    }

    /// Starts edged; returns when it serves at so many addresses, with the address of each Gateway.
    pub fn start(&self, count: usize) -> (Edged, BTreeMap<String, String>) {
        let mut edged = self.lab.spawn();
        edged.wait_control();
        let found = until("addresses of all Gateways", || Some(addresses(&edged)).filter(|found| found.len() >= count));
        for address in found.values() {
            edged.wait_port(format!("{address}:{HTTP}").parse().unwrap());
        }
        (edged, found)
    }
}

/// A route of everything at this host.
fn route(name: &str, gateway: &str, host: &str) -> String {
    http_route(name, &[host], &to("a", 80)).replace("{name: web}", &format!("{{name: {gateway}}}"))
}

/// `Gateway ns/name` of each Gateway and its address.
pub fn addresses(edged: &Edged) -> BTreeMap<String, String> {
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

/// Of the Gateways that stay.
pub fn serials(addresses: &BTreeMap<String, String>, ca: &str) -> BTreeMap<String, String> {
    let of = |(gateway, address): (&String, &String)| {
        let name = format!("{}.test", gateway.rsplit('/').next().unwrap());
        (gateway.clone(), until(&format!("a certificate for {name}"), || serial(address, &name, ca)))
    };
    addresses.iter().filter(|(gateway, _)| !gateway.ends_with("/early")).map(of).collect()
}

/// Kills edged so often, at moments that the seed decides, while a Gateway comes and goes and routes change.
pub fn kills(findings: &mut Findings, times: u32, routes: usize, seed: u64) {
    let site = Site::new(routes);
    let lab = &site.lab;
    let (mut edged, first) = site.start(LASTING.len());
    let ca = lab.internal_ca();
    let certificates = serials(&first, &ca);
    let mut dice = Dice::new(seed);
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    let mut restarts = Times::default();
    // The one that is read last.
    let (host, at) = match routes {
        0 => ("m.test".to_owned(), &first["Gateway default/m"]),
        routes => (format!("h{}.test", routes - 1), &first["Gateway default/m"]),
    };
    let at = format!("{at}:{HTTP}").parse().unwrap();
    for round in 0..times {
        // While it reloads: a Gateway whose name sorts before all others must not take anybody's address.
        for i in 0..5 {
            let early = "    - {name: http, port: 8080, protocol: HTTP}\n";
            let text = if (round + i) % 2 == 0 { gateway("early", early) } else { String::new() };
            let more = http_route("more", &[&format!("more-{round}-{i}.test")], &to("a", 80));
            lab.manifest("early.yaml", &(text + &more));
            edged.reload();
        }
        std::thread::sleep(Duration::from_micros(dice.below(65_000)));
        edged.kill();
        let begin = Instant::now();
        let next = lab.spawn();
        until("the first answer", || {
            let reply = block_on(fetch(at, None, &host, "/")).ok()?;
            (reply.status == 200).then_some(())
        });
        restarts.add(begin.elapsed());
        edged = next;
        edged.wait_shown();
        let found = until("addresses of all Gateways", || {
            Some(addresses(&edged)).filter(|found| first.keys().all(|gateway| found.contains_key(gateway)))
        });
        let mut note = |what: String| *lost.entry(what).or_default() += 1;
        for (gateway, address) in &first {
            if found.get(gateway) != Some(address) {
                note(format!("{gateway} moved from {address}, round {round}"));
            }
        }
        if lab.internal_ca() != ca {
            note(format!("another authority, round {round}"));
        } else if serials(&first, &ca) != certificates {
            note(format!("other certificates, round {round}"));
        }
    }
    findings.none("addresses, certificates and authorities lost", u64::from(times), &lost);
    let most = restarts.most();
    findings.check(
        format!("start to the first answer of the last of {routes} routes, after kill -9"),
        restarts.to_string(),
        format!("≤ {} s", PROMISE.as_secs()),
        most <= PROMISE,
    );
}
