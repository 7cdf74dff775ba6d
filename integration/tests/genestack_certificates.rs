//! Genestack's flow from empty stores: `letsencrypt-prod`, `gateway-letsencrypt.yaml`, 26 listener patches and the redirect,
//! on two edges that announce one anycast VIP. The CA asks through the routers, so each of its questions reaches either edge.
//! Needs root, frr, gobgpd, pebble and the files (`EDGE_GENESTACK`, or `../shared/genestack` beside the workspace).

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use edge_integration::client::fetch;
use edge_integration::edged::{until, until_within};
use edge_integration::genestack::watch::{Watch, failures};
use edge_integration::genestack::{Cloud, Plan, files, sessions};
use edge_integration::lab::{block_on, skip};
use edge_integration::region::Region;
use rustix::process::Signal;
use rustls::HandshakeKind;

/// For all orders on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// The second of two edges waits a minute for the first before it orders alone (`alone_after`).
const TAKE_OVER: Duration = Duration::from_secs(240);

fn cloud(scenario: &str, plan: Plan) -> Option<Cloud> {
    match Cloud::new(plan) {
        Ok(cloud) => Some(cloud),
        Err(why) => {
            skip(scenario, &why);
            None
        }
    }
}

/// Waits until an edge serves every host with a certificate of the CA; gives the leaves.
fn all_issued(cloud: &mut Cloud, edge: &str, hosts: &[String], patience: Duration) -> BTreeMap<String, Vec<u8>> {
    let root = cloud.pebble.root(0);
    let edge = cloud.edge(edge);
    until_within(patience, &format!("edge {} serves {} hosts", edge.name, hosts.len()), || {
        let leaves = edge.leaves(&root, hosts);
        (leaves.len() == hosts.len()).then_some(leaves)
    })
}

#[test]
fn from_nothing_every_listener_has_its_certificate_once() {
    let Some(mut cloud) = cloud("genestack_certificates", Plan::default()) else { return };
    let hosts = files::hosts();
    assert_eq!(files::patches(&files::files().unwrap()), hosts.len() + 2, "each listener but two of port 80");

    let routes = cloud.routes();
    let watch = Watch::start(cloud.client(), hosts.clone());
    cloud.edges.iter_mut().for_each(|edge| edge.start());
    // Both routers have a way: from now on nobody may be left without TLS.
    until("the VIP is announced to both routers", || routes.iter().all(|one| !one.now().is_empty()).then_some(()));
    let announced = Instant::now();
    cloud.wait_ways(2);

    // Challenges are answered and everything else is redirected while orders are under way, and afterwards.
    let leaves = all_issued(&mut cloud, "a", &hosts, PATIENCE);
    assert_eq!(all_issued(&mut cloud, "b", &hosts, PATIENCE), leaves, "both edges serve the same certificates");
    let ledger = cloud.ledger();
    assert!(ledger.is_once_each(hosts.len()) && ledger.failed_orders == 0, "{ledger:#?}");
    assert!(ledger.proofs.values().all(|proofs| *proofs == 1), "{ledger:#?}");
    assert!(!ledger.proofs.keys().any(|name| name.ends_with("cluster.local")), "{ledger:#?}");
    assert_eq!(ledger.accounts, 1, "one account for both edges");
    let answered = cloud.edges.iter().map(|edge| edge.challenges()).collect::<Vec<_>>();
    assert!(answered.iter().all(|count| *count > 0), "questions of the CA by edge: {answered:?}");

    redirects(&cloud, &hosts);
    serves(&cloud);
    resumes(&mut cloud, &hosts[0]);

    let changes: Vec<Instant> = routes.iter().flat_map(|one| one.moments()).collect();
    let tries = watch.stop();
    let failed = failures(&tries, announced, &changes);
    assert!(
        failed.is_empty(),
        "{} of {} handshakes failed: {:#?}",
        failed.len(),
        tries.len(),
        &failed[..failed.len().min(5)]
    );
    let of = |issuer: &str| {
        tries.iter().filter(|one| one.outcome.as_ref().is_ok_and(|found| found.contains(issuer))).count()
    };
    eprintln!(
        "{} handshakes: {} placeholders, {} of the CA, questions by edge {answered:?}",
        tries.len(),
        of("Edge internal"),
        of("Pebble")
    );
    assert!(of("Pebble") > 0);
}

/// http leads to https for every host and path, but for what a CA asks, whichever edge is asked.
fn redirects(cloud: &Cloud, hosts: &[String]) {
    let region = Region { vip: Cloud::http().ip(), http: 80, https: 443 };
    cloud
        .client()
        .run(|| {
            block_on(async {
                for host in hosts {
                    region.redirects(host).await;
                }
                // Nobody manages it, and a token that is none: the user's route, which redirects.
                for (host, path) in [
                    (
                        "nobody.cloud.example.com",
                        "/.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0",
                    ),
                    (&*hosts[0], "/.well-known/acme-challenge/a.b"),
                    (&*hosts[0], "/.well-known/acme-challenge/"),
                ] {
                    let reply = fetch(Cloud::http(), None, host, path).await.unwrap();
                    assert_eq!(reply.status, 301, "{host}{path}");
                }
            });
        })
        .unwrap();
    for edge in &cloud.edges {
        edge.run(|| {
            block_on(async {
                for host in hosts {
                    let token = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
                    let path = format!("/.well-known/acme-challenge/{token}");
                    let reply = fetch(Cloud::http(), None, host, &path).await.unwrap();
                    let body = String::from_utf8(reply.body).unwrap();
                    assert!(
                        reply.status == 200 && body.starts_with(&format!("{token}.")),
                        "{host} at {}: {body}",
                        edge.name
                    );
                }
            });
        });
    }
}

/// From their own backends, over both HTTP versions, through the routers.
fn serves(cloud: &Cloud) {
    let region = Region { vip: Cloud::https().ip(), http: 80, https: 443 };
    cloud
        .client()
        .run(|| {
            block_on(async {
                for (label, service, _) in files::OPENSTACK {
                    let second = format!("{service}-2");
                    region.serves(&format!("{label}.{}", files::DOMAIN), &[service, &second]).await;
                }
                region.serves(&format!("{}.{}", files::GRAFANA, files::DOMAIN), &[files::GRAFANA]).await;
            });
        })
        .unwrap();
}

/// A session of either edge goes on at the other one.
fn resumes(cloud: &mut Cloud, host: &str) {
    // Keys are given to all a minute before they seal.
    until_within(PATIENCE, "both edges seal with the same key", || {
        let since =
            |edge: &edge_integration::genestack::Edge| edge.fleet()["ticket_keys_since"].as_str().map(str::to_owned);
        (since(&cloud.edges[0])? == since(&cloud.edges[1])?).then_some(())
    });
    let root = cloud.pebble.root(0);
    let before: Vec<usize> = cloud.edges.iter().map(|edge| edge.requests().len()).collect();
    cloud
        .client()
        .run(|| {
            let config = sessions::client(&root);
            assert_eq!(sessions::visit(&config, host).unwrap(), Some(HandshakeKind::Full));
            for visit in 0..40 {
                assert_eq!(sessions::visit(&config, host).unwrap(), Some(HandshakeKind::Resumed), "visit {visit}");
            }
        })
        .unwrap();
    until("both edges have answered some of them", || {
        cloud.edges.iter().zip(&before).all(|(edge, before)| edge.requests().len() > *before).then_some(())
    });
}

#[test]
fn the_edge_that_orders_is_killed_in_the_middle_and_the_other_one_finishes() {
    let Some(mut cloud) = cloud("genestack_take_over", Plan { is_ca_slow: true }) else { return };
    let hosts = files::hosts();
    let routes = cloud.routes();
    let watch = Watch::start(cloud.client(), hosts.clone());
    cloud.edges.iter_mut().for_each(|edge| edge.start());
    cloud.wait_ways(2);
    let announced = Instant::now();
    assert_eq!(until("somebody orders", || cloud.edges[1].who_orders()), "a");

    // Some have their certificates, others are being proved, when the CA comes to a halt and the edge dies.
    let halfway = until_within(PATIENCE, "a part of the orders is done", || {
        let ledger = cloud.ledger();
        (ledger.certificates >= 5).then_some(ledger)
    });
    cloud.pebble.process.signal(Signal::STOP);
    cloud.edge("a").kill();
    let killed = Instant::now();
    cloud.wait_ways(1);
    let withdrawn = Instant::now();
    cloud.pebble.process.signal(Signal::CONT);
    assert!(halfway.certificates < hosts.len(), "{halfway:?}");

    let leaves = all_issued(&mut cloud, "b", &hosts, TAKE_OVER);
    let taken = killed.elapsed();
    assert_eq!(cloud.edges[1].who_orders().as_deref(), Some("b"));
    let ledger = cloud.ledger();
    assert!(ledger.is_once_each(hosts.len()), "{ledger:#?}");
    assert_eq!(ledger.accounts, 1);

    // It comes back, gets what it missed, orders nothing, and is first again.
    cloud.edge("a").start();
    cloud.wait_ways(2);
    assert_eq!(all_issued(&mut cloud, "a", &hosts, PATIENCE), leaves);
    until("the first edge orders again", || (cloud.edges[1].who_orders()? == "a").then_some(()));
    assert_eq!(all_issued(&mut cloud, "b", &hosts, PATIENCE), leaves);
    let after = cloud.ledger();
    assert_eq!((after.orders, after.certificates), (ledger.orders, ledger.certificates));

    let mut changes: Vec<Instant> = routes.iter().flat_map(|one| one.moments()).collect();
    // Until the routers know of its end, it is asked in vain.
    changes.extend([killed, withdrawn]);
    let tries = watch.stop();
    let failed = failures(&tries, announced, &changes);
    let unexplained: Vec<_> = failed.into_iter().filter(|one| one.began < killed || one.began > withdrawn).collect();
    assert!(unexplained.is_empty(), "{:#?}", &unexplained[..unexplained.len().min(5)]);
    eprintln!(
        "killed after {} of {} certificates, {} orders open; routers knew after {:?}, all were there after {taken:?}; {} proofs failed on the way",
        halfway.certificates,
        hosts.len(),
        halfway.orders - halfway.certificates,
        withdrawn - killed,
        ledger.failed_orders
    );
}
