//! The flow: from empty stores to 24 certificates on two edges, a crash in the middle of it included.

use std::time::{Duration, Instant};

use edge_integration::client::fetch;
use edge_integration::cluster::process::await_within;
use edge_integration::genestack::watch::{Watch, failures};
use edge_integration::genestack::{Cloud, Edge, Plan, VIP, files, sessions};
use edge_integration::lab::block_on;
use rustix::process::Signal;
use rustls::HandshakeKind;

use super::{Steps, quote};

const PATIENCE: Duration = Duration::from_secs(240);

pub fn show() -> Result<(), String> {
    steadily()?;
    with_a_crash()
}

fn count(edge: &Edge, root: &str, hosts: &[String]) -> usize {
    edge.leaves(root, hosts).len()
}

fn steadily() -> Result<(), String> {
    let steps = Steps::begin("Genestack's certificates from empty stores, two edges, one anycast VIP");
    let mut cloud = Cloud::new(Plan::default())?;
    let hosts = files::hosts();
    let root = cloud.pebble.root(0);
    steps.say(&format!(
        "two routers (FRR), a CA (Pebble at {}) and a client behind them, {} listener patches, letsencrypt-prod aimed at the CA",
        cloud.pebble.address,
        files::patches(&files::files()?)
    ));
    let routes = cloud.routes();
    let watch = Watch::start(cloud.client(), hosts.clone());
    cloud.edges.iter_mut().for_each(Edge::start);
    steps.say("edged starts at a and b; a client shakes hands with every name, again and again, from now on");
    await_within(PATIENCE, "both routers have a way", || routes.iter().all(|one| !one.now().is_empty()).then_some(()));
    let announced = Instant::now();
    steps.say(&format!("both routers have a way to {VIP}: every listener serves a placeholder"));
    cloud.wait_ways(2);
    steps.say("both routers have two ways");
    for wanted in [1, hosts.len()] {
        await_within(PATIENCE, "certificates come", || (cloud.ledger().certificates >= wanted).then_some(()));
        steps.say(&format!("{wanted} of {} certificates issued", hosts.len()));
    }
    await_within(PATIENCE, "all are served", || {
        cloud.edges.iter().all(|edge| count(edge, &root, &hosts) == hosts.len()).then_some(())
    });
    steps.say("both edges serve all of them");
    let ledger = cloud.ledger();
    let asked: Vec<usize> = cloud.edges.iter().map(Edge::challenges).collect();
    steps.say(&format!(
        "the CA counts {} orders, {} certificates, {} failed orders, {} account; a answered {} of its questions, b {}",
        ledger.orders, ledger.certificates, ledger.failed_orders, ledger.accounts, asked[0], asked[1]
    ));
    let same = cloud.edges[0].leaves(&root, &hosts) == cloud.edges[1].leaves(&root, &hosts);
    steps.say(if same { "both serve the same certificates" } else { "the edges serve different certificates" });
    let redirected = cloud
        .client()
        .run(|| {
            block_on(async {
                let mut redirected = 0;
                for host in &hosts {
                    let reply = fetch(Cloud::http(), None, host, "/v3?x=1").await;
                    let to = format!("https://{host}/v3?x=1");
                    redirected += usize::from(reply.is_ok_and(|reply| reply.header("location") == Some(to.as_str())));
                }
                redirected
            })
        })
        .map_err(|error| error.to_string())?;
    steps.say(&format!("http leads to https for {redirected} of {} names", hosts.len()));
    quote("edgectl cert list --all", &cloud.edges[0].ctl(&["cert", "list", "--all"]).stdout);
    quote("edgectl cert budget", &cloud.edges[0].ctl(&["cert", "budget"]).stdout);

    await_within(PATIENCE, "both edges seal sessions with the same key", || {
        let since = |edge: &Edge| edge.fleet()["ticket_keys_since"].as_str().map(str::to_owned);
        (since(&cloud.edges[0])? == since(&cloud.edges[1])?).then_some(())
    });
    steps.say("both edges seal TLS sessions with the same key");
    let resumed = cloud
        .client()
        .run(|| {
            let config = sessions::client(&root);
            let _ = sessions::visit(&config, &hosts[0]);
            (0..40).filter(|_| matches!(sessions::visit(&config, &hosts[0]), Ok(Some(HandshakeKind::Resumed)))).count()
        })
        .map_err(|error| error.to_string())?;
    steps.say(&format!("{resumed} of 40 further visits resumed the session, at whichever edge"));
    let changes: Vec<Instant> = routes.iter().flat_map(|one| one.moments()).collect();
    let tries = watch.stop();
    let failed = failures(&tries, announced, &changes).len();
    let after = tries.iter().filter(|one| one.began >= announced).count();
    steps.say(&format!("{after} handshakes since the first announcement, {failed} failed"));
    let is_kept = ledger.is_once_each(hosts.len()) && same && redirected == hosts.len() && resumed == 40 && failed == 0;
    if is_kept { Ok(()) } else { Err("a promise of the flow does not hold".to_owned()) }
}

fn with_a_crash() -> Result<(), String> {
    let steps = Steps::begin("The same with a slow CA, and kill -9 of the edge that orders");
    let mut cloud = Cloud::new(Plan { is_ca_slow: true })?;
    let hosts = files::hosts();
    let root = cloud.pebble.root(0);
    cloud.edges.iter_mut().for_each(Edge::start);
    cloud.wait_ways(2);
    steps.say("both edges are announced");
    let halfway = await_within(PATIENCE, "a part of the orders is done", || {
        Some(cloud.ledger()).filter(|ledger| ledger.certificates >= 5)
    });
    cloud.pebble.process.signal(Signal::STOP);
    cloud.edge("a").kill();
    let killed = Instant::now();
    steps.say(&format!(
        "{} certificates issued, {} orders open: the CA hangs, and a, which orders, is killed",
        halfway.certificates,
        halfway.orders - halfway.certificates
    ));
    cloud.wait_ways(1);
    steps.say(&format!("both routers have b alone, {:.0} ms later", killed.elapsed().as_secs_f64() * 1e3));
    cloud.pebble.process.signal(Signal::CONT);
    let waiting = hosts.iter().find(|host| cloud.edges[1].leaves(&root, std::slice::from_ref(host)).is_empty());
    if let Some(host) = waiting {
        await_within(PATIENCE, "b knows that a is gone", || cloud.edges[1].who_orders().is_none().then_some(()));
        let why = cloud.edges[1].ctl(&["cert", "why", host]).stdout;
        quote(&format!("edgectl cert why {host}   # at b"), why.lines().next().unwrap_or_default());
    }
    await_within(PATIENCE, "b finishes", || (count(&cloud.edges[1], &root, &hosts) == hosts.len()).then_some(()));
    let ledger = cloud.ledger();
    steps.say(&format!(
        "b has finished what a began: {} orders, {} certificates, {} failed orders",
        ledger.orders, ledger.certificates, ledger.failed_orders
    ));
    cloud.edge("a").start();
    cloud.wait_ways(2);
    await_within(PATIENCE, "a has all", || (count(&cloud.edges[0], &root, &hosts) == hosts.len()).then_some(()));
    await_within(PATIENCE, "a orders", || (cloud.edges[1].who_orders()? == "a").then_some(()));
    let after = cloud.ledger();
    steps.say(&format!(
        "a is back, has all {} of them, and is the one that orders; {} orders as before",
        hosts.len(),
        after.orders
    ));
    let is_kept = ledger.is_once_each(hosts.len()) && after.orders == ledger.orders;
    if is_kept { Ok(()) } else { Err("a certificate was ordered twice".to_owned()) }
}
