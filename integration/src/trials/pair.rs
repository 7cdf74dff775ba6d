//! Two edges on one API, of one group: one writes status, the other takes over when it dies, and although they disagree
//! about addresses nothing is written in a loop.

use std::time::{Duration, Instant};

use super::Field;
use super::field::{DOMAIN, HOME, ORIGINS, beside, metrics, more, sum, writes};
use super::findings::{Findings, millis};
use super::objects::{self, Plural};
use super::outage::pass;
use crate::cluster::edge::{EdgeHost, toml};
use crate::cluster::process::await_within;
use crate::lab::block_on;

/// A Lease of a dead edge runs out, and somebody looks.
const TAKE_OVER: Duration = Duration::from_secs(60);

pub fn pair(field: &mut Field, rest: Duration, findings: &mut Findings) {
    let dir = beside(field.cluster.dir(), "other");
    let host = field.cluster.fabric.other_edge("other");
    // Another pool: what it would give the Gateway is never what the first one gave.
    let text = toml(&dir, &field.cluster.control.kubeconfig("edge"))
        .replace("[kubernetes]\n", "[kubernetes]\nedge_name = \"other\"\n")
        .replace("10.99.0.1-10.99.0.199", "10.99.0.200-10.99.0.249");
    let sockets = [field.cluster.dir().join("edged.sock"), dir.join("edged.sock")];
    field.await_rest();
    let load = field.load();
    let before = sockets.each_ref().map(|socket| writes(socket));
    let mut other = EdgeHost::run(&host, &dir, &text);
    await_within(TAKE_OVER, "the other edge serves", || {
        (sum(&metrics(&sockets[1]), "edge_generation") > 0).then_some(())
    });
    pass(field, Duration::from_secs(3));
    let writers = |sockets: &[std::path::PathBuf]| {
        sockets.iter().map(|socket| sum(&metrics(socket), "edge_kubernetes_status_writer")).sum::<u64>()
    };
    findings.check("two edges: writers of status", writers(&sockets).to_string(), "1", writers(&sockets) == 1);
    let joined = sockets.each_ref().map(|socket| writes(socket));
    let written: u64 = before.iter().zip(&joined).map(|(before, after)| more(before, after)).sum();
    findings.check("two edges: writes of status when the second came", written.to_string(), "≤ 10", written <= 10);
    pass(field, rest);
    let rested = sockets.each_ref().map(|socket| writes(socket));
    let written: u64 = joined.iter().zip(&rested).map(|(before, after)| more(before, after)).sum();
    let what = format!("two edges that disagree about addresses: writes of status in {:.0} s", rest.as_secs_f64());
    findings.check(what, written.to_string(), "0", written == 0);
    let outcome = load.stop();
    findings.none("two edges: failed requests", outcome.exchanges, &outcome.failures_outside(None));

    // The writer dies; the other one says what is new. Its own death must not cost the client an edge, so the first is
    // the one that stays.
    let is_first_writer = sum(&metrics(&sockets[0]), "edge_kubernetes_status_writer") == 1;
    if is_first_writer {
        field.cluster.edge().process.stop(Duration::ZERO);
    } else {
        other.process.stop(Duration::ZERO);
    }
    let died = Instant::now();
    let [(one, _), _] = ORIGINS;
    let status = block_on(async {
        let objects = field.objects().await;
        let route = objects::route(HOME, "heir", &format!("heir.{DOMAIN}"), one);
        objects.create(Plural::HttpRoutes, &route).await;
        loop {
            let route = objects.look(Plural::HttpRoutes, HOME, "heir").await.unwrap_or_default();
            let said = objects::condition(&route, "Accepted");
            if said.is_some() || died.elapsed() > TAKE_OVER {
                objects.delete(Plural::HttpRoutes, HOME, "heir").await;
                break said;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    findings.check(
        "two edges: the writer killed, status of a new route",
        format!("{} after {}", if status.is_some() { "written" } else { "not written" }, millis(died.elapsed())),
        format!("≤ {TAKE_OVER:?}"),
        status.is_some(),
    );
    if is_first_writer {
        field.cluster.edge().restart(Duration::ZERO);
    }
    field.await_status(&super::field::host(0), 200);
}
