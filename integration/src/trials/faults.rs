//! An API server that is slow, overloaded, forgetful or lying, by order of `api-fault`: nobody under load notices, what
//! changed meanwhile is served once the fault is over, and little is written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Field;
use super::field::{DOMAIN, HOME, ORIGINS};
use super::findings::{Findings, millis};
use super::objects::{self, Plural};
use super::outage::pass;
use super::steady::Steady;
use crate::lab::block_on;

/// A fault: what it is, the orders that begin it, for how long, and until when a change made during it is served.
struct Case {
    what: &'static str,
    orders: &'static [&'static str],
    /// Whether a change made during the fault is served before its end.
    is_passable: bool,
    is_short: bool,
}

const CASES: [Case; 12] = [
    Case { what: "410 to every watch", orders: &["watches gone"], is_passable: true, is_short: true },
    Case {
        what: "410 again and again",
        orders: &["gone times=40", "watches gone"],
        is_passable: false,
        is_short: false,
    },
    Case { what: "watches dropped", orders: &["watches drop"], is_passable: true, is_short: false },
    Case {
        what: "429 with Retry-After: 2",
        orders: &["fail 429 retry-after=2", "watches drop"],
        is_passable: false,
        is_short: true,
    },
    Case { what: "500 to all", orders: &["fail 500", "watches drop"], is_passable: false, is_short: false },
    Case { what: "503 to half", orders: &["fail 503 share=50", "watches drop"], is_passable: true, is_short: false },
    Case {
        what: "stale lists",
        orders: &["stale resource=httproutes", "watches gone resource=httproutes"],
        is_passable: false,
        is_short: false,
    },
    Case {
        what: "conflicts on status",
        orders: &["fail 409 resource=httproutes/status"],
        is_passable: true,
        is_short: true,
    },
    Case {
        what: "refused status",
        orders: &["fail 422 resource=httproutes/status"],
        is_passable: true,
        is_short: false,
    },
    Case { what: "no connections", orders: &["refuse"], is_passable: false, is_short: false },
    Case { what: "a token that expires", orders: &["expire", "watches drop"], is_passable: false, is_short: true },
    Case { what: "answers after 2 s", orders: &["delay 2000"], is_passable: true, is_short: false },
];

/// Status is written at most so often during a fault and its end, for one route that is new.
const MOST_WRITES: u64 = 40;
/// Watches return within 20 seconds of each other and are waited for together; busy machines take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// All of them, or those that take few seconds.
pub fn faults(field: &mut Field, time: Duration, is_short: bool, findings: &mut Findings) {
    field.await_rest();
    let load = field.load();
    for (index, case) in CASES.iter().enumerate().filter(|(_, case)| case.is_short || !is_short) {
        fault(field, index, case, time, findings);
    }
    if !is_short {
        silence(field, findings);
    }
    ends(load, findings);
}

fn ends(load: Steady, findings: &mut Findings) {
    let outcome = load.stop();
    findings.none("failed requests during all faults", outcome.exchanges, &outcome.failures_outside(None));
}

fn fault(field: &mut Field, index: usize, case: &Case, time: Duration, findings: &mut Findings) {
    let what = format!("fault: {}", case.what);
    let (route, host) = (format!("fault-{index}"), format!("fault-{index}.{DOMAIN}"));
    field.tell("reset-counts");
    case.orders.iter().for_each(|order| drop(field.tell(order)));
    let began = Instant::now();
    create(field, &route, &host);
    if case.is_passable {
        field.await_status(&host, 200);
        findings.note(format!("{what}: a change during it is served"), format!("after {}", millis(began.elapsed())));
    }
    pass(field, time.saturating_sub(began.elapsed()));
    let during = field.counts();
    field.tell("clear");
    if case.orders.contains(&"expire") {
        field.tell("renew");
    }
    let over = Instant::now();
    field.await_status(&host, 200);
    let served = over.elapsed();
    let accepted = accepted(field, &route);
    let settled = over.elapsed();
    if !case.is_passable {
        let measured = format!("{} after its end", millis(served));
        findings.check(
            format!("{what}: a change during it is served"),
            measured,
            format!("≤ {PATIENCE:?}"),
            served <= PATIENCE,
        );
    }
    findings.check(
        format!("{what}: and its status written"),
        format!("{} after its end", millis(settled)),
        "Accepted",
        accepted,
    );
    field.await_rest();
    let all = field.counts();
    let (tried, total) = (requests(&during, true), requests(&all, true));
    let asked = requests(&during, false);
    findings.check(
        format!("{what}: writes of status"),
        format!("{tried} during, {} after; {asked} reads during {:.0} s", total - tried, time.as_secs_f64()),
        format!("≤ {MOST_WRITES}"),
        total <= MOST_WRITES,
    );
    block_on(async { field.objects().await.delete(Plural::HttpRoutes, HOME, &route).await });
}

/// Watches that are open and say nothing: they are found dead after 33 to 48 seconds.
fn silence(field: &mut Field, findings: &mut Findings) {
    let what = "fault: watches that fall silent";
    let host = format!("silent.{DOMAIN}");
    field.tell("watches silence");
    let began = Instant::now();
    create(field, "silent", &host);
    field.await_status(&host, 200);
    let served = began.elapsed();
    field.tell("clear");
    let most = Duration::from_secs(60);
    findings.check(
        format!("{what}: a change during it is served"),
        format!("after {:.0} s", served.as_secs_f64()),
        format!("≤ {most:?}"),
        served <= most,
    );
    block_on(async { field.objects().await.delete(Plural::HttpRoutes, HOME, "silent").await });
}

fn create(field: &Field, route: &str, host: &str) {
    let [(one, _), _] = ORIGINS;
    block_on(async {
        field.objects().await.create(Plural::HttpRoutes, &objects::route(HOME, route, host, one)).await;
    });
}

/// Waits until the API says that the route is accepted.
fn accepted(field: &Field, route: &str) -> bool {
    let began = Instant::now();
    block_on(async {
        let objects = field.objects().await;
        while began.elapsed() < PATIENCE {
            let object = objects.look(Plural::HttpRoutes, HOME, route).await.unwrap_or_default();
            if objects::condition(&object, "Accepted").is_some_and(|(status, _)| status == "True") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    })
}

/// Requests to `…/status`, or lists and watches.
fn requests(counts: &BTreeMap<String, u64>, is_write: bool) -> u64 {
    let is_wanted = |line: &&String| match is_write {
        true => line.contains("/status "),
        false => line.starts_with("list ") || line.starts_with("watch "),
    };
    counts.iter().filter(|(line, _)| is_wanted(line)).map(|(_, times)| times).sum()
}

/// Somebody else who writes the same conditions of a Gateway: nobody wins, and nobody writes in a loop.
pub fn quarrel(field: &mut Field, time: Duration, findings: &mut Findings) {
    field.await_rest();
    let before = field.writes();
    let began = Instant::now();
    let mut undone = 0;
    while began.elapsed() < time {
        block_on(async {
            let status = json!({"status": {"conditions": [{
                "type": "Accepted", "status": "False", "reason": "Mine", "message": "no, mine",
                "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]}});
            field.objects().await.merge(Plural::GatewayStatus, HOME, "web", &status).await;
        });
        undone += 1;
        pass(field, Duration::from_millis(200));
    }
    let written = super::field::more(&before, &field.writes());
    let most = 20 + time.as_secs();
    findings.check(
        format!(
            "a quarrel over the status of a Gateway, undone {undone} times in {:.0} s: our writes",
            time.as_secs_f64()
        ),
        written.to_string(),
        format!("≤ {most}"),
        written <= most,
    );
}
