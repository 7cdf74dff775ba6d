//! A route whose backend is another one every 200 ms: every answer is a 200 from one of the two.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::Field;
use super::field::{DOMAIN, HOME, ORIGINS};
use super::findings::Findings;
use super::objects::{self, Plural};
use super::steady::Steady;
use crate::client::Connection;
use crate::cluster::process::check_interrupt;
use crate::lab::block_on;

const EVERY: Duration = Duration::from_millis(200);
/// The next flip is made after [`EVERY`], and this one should have been seen by then.
pub const IN_TIME: Duration = Duration::from_millis(150);

/// Each flip is waited for so long; a busy machine, of which no time is asked, is given more than [`IN_TIME`].
pub fn flip(field: &mut Field, time: Duration, patience: Duration, findings: &mut Findings) {
    let host = format!("flip.{DOMAIN}");
    block_on(async {
        let [(one, _), _] = ORIGINS;
        field.objects().await.create(Plural::HttpRoutes, &objects::route(HOME, "flip", &host, one)).await;
    });
    field.await_status(&host, 200);
    let load = Steady::start(field.plan(vec![host.clone()]));
    let (flips, seen) = block_on(flips(field, &host, time, patience));
    let outcome = load.stop();
    let what = format!("backend flipped every {EVERY:?} for {:.1} min", time.as_secs_f64() / 60.0);
    findings.none(format!("{what}: answers but 200"), outcome.exchanges, &outcome.failures_outside(None));
    let wanted = "both answer, every flip is seen";
    let is_even = ORIGINS.iter().all(|(name, _)| outcome.backends.get(*name).is_some_and(|times| *times > 0));
    findings.check(
        what,
        format!("{flips} flips, {seen} seen within {patience:?}"),
        wanted,
        is_even && seen * 100 >= flips * 90,
    );
    block_on(async { field.objects().await.delete(Plural::HttpRoutes, HOME, "flip").await });
}

/// How often it was flipped, and how often the other backend answered before the next flip.
async fn flips(field: &Field, host: &str, time: Duration, patience: Duration) -> (u32, u32) {
    let objects = field.objects().await;
    let end = Instant::now() + time;
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut flips, mut seen) = (0, 0);
    let mut connection = None;
    while Instant::now() < end {
        check_interrupt();
        pace.tick().await;
        flips += 1;
        let (name, _) = ORIGINS[flips as usize % ORIGINS.len()];
        let rules = json!([{"backendRefs": [{"name": name, "port": 80}]}]);
        objects.merge(Plural::HttpRoutes, HOME, "flip", &json!({"spec": {"rules": rules}})).await;
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if connection.is_none() {
                connection = Connection::open(field.http(), None).await.ok();
            }
            let Some(open) = &mut connection else { break };
            match open.get(host, "/").await {
                Ok(reply) if reply.backend() == Some(name) => {
                    seen += 1;
                    break;
                }
                Ok(_) => {}
                Err(_) => connection = None,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    (flips, seen)
}
