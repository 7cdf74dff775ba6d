//! The API server and its database gone for a long time, under load, with a restart of edged in the middle.

use std::time::{Duration, Instant};

use super::Field;
use super::field::{DOMAIN, HOME, ORIGINS, host};
use super::findings::{Findings, millis};
use super::objects::{self, Plural};
use crate::cluster::process::check_interrupt;
use crate::lab::block_on;

/// Until what is new is served, once the API server is ready again: watches come back within 20 seconds each, and are
/// waited for together for 5.
const CATCH_UP: Duration = Duration::from_secs(30);

pub fn outage(field: &mut Field, time: Duration, findings: &mut Findings) {
    field.await_rest();
    let load = field.load();
    pass(field, Duration::from_secs(3));
    field.cluster.control.stop();
    pass(field, time / 2);

    let stopped = Instant::now();
    field.cluster.edge().restart(Duration::from_secs(60));
    field.await_status(&host(0), 200);
    let served = Instant::now();
    pass(field, time / 2);

    field.cluster.control.start_again();
    let ready = Instant::now();
    let new = format!("after.{DOMAIN}");
    block_on(async {
        let [(one, _), _] = ORIGINS;
        field.objects().await.create(Plural::HttpRoutes, &objects::route(HOME, "after", &new, one)).await;
    });
    field.await_status(&new, 200);
    let caught_up = ready.elapsed();
    pass(field, Duration::from_secs(3));
    field.await_rest();
    let outcome = load.stop();

    let what = format!("API server and etcd gone for {:.1} min under load", time.as_secs_f64() / 60.0);
    let outside = outcome.failures_outside(Some((stopped, served)));
    findings.none(format!("{what}: failed requests outside the restart"), outcome.exchanges, &outside);
    let inside = outcome.failures.len() as u64 - outside.values().sum::<u64>();
    let restart = millis(served - stopped);
    findings.note(format!("{what}: restart of edged in the middle"), format!("{restart}, {inside} failed requests"));
    findings.check(
        format!("{what}: a route written after it is served"),
        format!("after {}", millis(caught_up)),
        format!("≤ {CATCH_UP:?}"),
        caught_up <= CATCH_UP,
    );
    let status = block_on(async {
        let objects = field.objects().await;
        let route = objects.look(Plural::HttpRoutes, HOME, "after").await.unwrap_or_default();
        objects.delete(Plural::HttpRoutes, HOME, "after").await;
        objects::condition(&route, "Accepted")
    });
    let is_said = status.as_ref().is_some_and(|(status, _)| status == "True");
    findings.check(format!("{what}: its status"), format!("Accepted {status:?}"), "True", is_said);
}

/// Lets time pass, as long as everybody lives.
pub fn pass(field: &mut Field, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_interrupt();
        field.must_live();
        std::thread::sleep(Duration::from_millis(100).min(time));
    }
}
