//! Faults that must stay where they are: broken routes among good ones, a Secret that is useless every other second,
//! namespaces deleted under live routes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Field;
use super::field::{DOMAIN, HOME, host, more, name, origin, secret_content};
use super::findings::Findings;
use super::objects::{self, Objects, Plural};
use super::outage::pass;
use crate::client::Connection;
use crate::cluster::process::check_interrupt;
use crate::lab::block_on;

/// What is at rest may still be ahead of a write that a busy machine has not come to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ways to be wrong: the rules, the condition that must say so, its reason, and what a client gets.
fn faults() -> [(&'static str, Value, &'static str, &'static str, u16); 5] {
    let to = |backend: Value| json!([{"backendRefs": [backend]}]);
    [
        ("no such Service", to(json!({"name": "nobody", "port": 80})), "ResolvedRefs", "BackendNotFound", 500),
        (
            "a Service of somebody else",
            to(json!({"name": "one", "namespace": HOME, "port": 80})),
            "ResolvedRefs",
            "RefNotPermitted",
            500,
        ),
        (
            "a backend of an unknown kind",
            to(json!({"group": "example.com", "kind": "Cauldron", "name": "x"})),
            "ResolvedRefs",
            "InvalidKind",
            500,
        ),
        (
            "a filter that nobody has",
            json!([{"filters": [{"type": "ExtensionRef", "extensionRef":
                {"group": "example.com", "kind": "Spell", "name": "x"}}]}]),
            "",
            "",
            500,
        ),
        (
            "a regular expression that is none",
            json!([{"matches": [{"path": {"type": "RegularExpression", "value": "/(("}}]}]),
            "",
            "",
            404,
        ),
    ]
}

pub fn broken_routes(field: &mut Field, count: u32, findings: &mut Findings) {
    let what = format!("{count} broken routes among {}", field.routes);
    field.await_rest();
    let load = field.load();
    let before = field.writes();
    let space = field.namespace(0);
    let kinds = faults();
    let of = |index: u32| &kinds[index as usize % kinds.len()];
    block_on(async {
        let objects = field.objects().await;
        for index in 0..count {
            let host = format!("broken-{index}.{DOMAIN}");
            let route = objects::route_with(&space, &format!("broken-{index}"), &host, &of(index).1);
            objects.create(Plural::HttpRoutes, &route).await;
        }
    });
    field.await_rest();
    let written = more(&before, &field.writes());

    let mut wrong: BTreeMap<String, u64> = BTreeMap::new();
    block_on(async {
        let objects = field.objects().await;
        for index in 0..count {
            let (fault, _, condition, reason, status) = of(index);
            let end = Instant::now() + PATIENCE;
            loop {
                let route = format!("broken-{index}");
                let route = objects.look(Plural::HttpRoutes, &space, &route).await.unwrap_or_default();
                if is_told(&route, condition, reason) {
                    break;
                }
                if Instant::now() > end {
                    *wrong.entry(format!("{fault}: status says {}", route["status"])).or_default() += 1;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let answer = ask(field, &[format!("broken-{index}.{DOMAIN}")]).await;
            if answer.keys().any(|seen| *seen != format!("status {status}")) {
                *wrong.entry(format!("{fault}: {answer:?} instead of {status}")).or_default() += 1;
            }
        }
    });
    findings.none(format!("{what}: status or answer that is not the truth"), u64::from(count), &wrong);
    let hosts: Vec<String> = (0..field.routes).map(host).collect();
    let mut good = block_on(ask(field, &hosts));
    good.remove("status 200");
    findings.none(format!("{what}: good routes that do not answer 200"), hosts.len() as u64, &good);
    let most = u64::from(count) * 2 + 10;
    findings.check(format!("{what}: writes of status"), written.to_string(), format!("≤ {most}"), written <= most);
    block_on(async {
        let objects = field.objects().await;
        for index in 0..count {
            objects.delete(Plural::HttpRoutes, &space, &format!("broken-{index}")).await;
        }
    });
    let outcome = load.stop();
    findings.none(format!("{what}: failed requests of the load"), outcome.exchanges, &outcome.failures_outside(None));
}

/// Whether a condition of a route says no for this reason; without one, whether one of them does for any.
fn is_told(route: &Value, condition: &str, reason: &str) -> bool {
    match condition {
        "" => ["Accepted", "ResolvedRefs", "PartiallyInvalid"]
            .iter()
            .filter_map(|kind| objects::condition(route, kind).map(|(status, _)| (*kind, status)))
            .any(|(kind, status)| (status == "True") == (kind == "PartiallyInvalid")),
        kind => objects::condition(route, kind).is_some_and(|(status, said)| status == "False" && said == reason),
    }
}

/// One answer of each host, counted.
async fn ask(field: &Field, hosts: &[String]) -> BTreeMap<String, u64> {
    let mut answers = BTreeMap::new();
    let mut connection = None;
    for host in hosts {
        if connection.is_none() {
            connection = Connection::open(field.http(), None).await.ok();
        }
        let Some(open) = &mut connection else { continue };
        let answer = match open.get(host, "/").await {
            Ok(reply) => format!("status {}", reply.status),
            Err(error) => {
                connection = None;
                error.to_string()
            }
        };
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

/// Good, garbage, good, …, one a second, and good at the end.
pub fn secret(field: &mut Field, flips: u32, findings: &mut Findings) {
    let what = format!("a Secret that is good and garbage in turn, {flips} times");
    field.await_rest();
    let before = field.writes();
    let load = field.load();
    for flip in 1..=flips {
        let content = match flip % 4 {
            0 | 2 => {
                let pair = field.certificate();
                secret_content(&pair.certificate, &pair.key)
            }
            1 => secret_content("garbage", "garbage"),
            // A key of another certificate.
            _ => secret_content(&field.certificate().certificate, &field.certificate().key),
        };
        block_on(async {
            let objects = field.objects().await;
            objects.merge(Plural::Secrets, HOME, "web-tls", &json!({"data": content})).await;
        });
        pass(field, Duration::from_secs(1));
    }
    let pair = field.certificate();
    block_on(async {
        let content = secret_content(&pair.certificate, &pair.key);
        field.objects().await.merge(Plural::Secrets, HOME, "web-tls", &json!({"data": content})).await;
    });
    field.await_rest();
    let written = more(&before, &field.writes());
    let outcome = load.stop();
    findings.none(
        format!("{what}: failed requests over HTTP and HTTPS"),
        outcome.exchanges,
        &outcome.failures_outside(None),
    );
    let most = u64::from(flips) + 4;
    findings.check(format!("{what}: writes of status"), written.to_string(), format!("≤ {most}"), written <= most);
    let gateway =
        block_on(async { field.objects().await.look(Plural::Gateways, HOME, "web").await.unwrap_or_default() });
    let listeners = gateway["status"]["listeners"].as_array().cloned().unwrap_or_default();
    let is_well = |listener: &Value| {
        let conditions = listener["conditions"].as_array().cloned().unwrap_or_default();
        let is = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
        is("Accepted") && is("ResolvedRefs") && is("Programmed")
    };
    let all_well = !listeners.is_empty() && listeners.iter().all(is_well);
    findings.check(
        format!("{what}: status at the end"),
        if all_well { "all well" } else { "a fault" },
        "all well",
        all_well,
    );
}

/// Namespaces with routes under load are deleted.
pub fn namespaces(field: &mut Field, count: u32, findings: &mut Findings) {
    const ROUTES: u32 = 20;
    let what = format!("{count} namespaces of {ROUTES} routes deleted under load");
    let space = |index: u32| format!("doomed-{index}");
    let host = |index: u32, route: u32| format!("doomed-{index}-{route}.{DOMAIN}");
    block_on(async {
        let objects = field.objects().await;
        for index in 0..count {
            doomed(&objects, &space(index), |route| host(index, route), ROUTES).await;
        }
    });
    for index in 0..count {
        field.await_status(&host(index, ROUTES - 1), 200);
    }
    field.await_rest();
    let before = field.writes();
    let load = field.load();
    block_on(async {
        let objects = field.objects().await;
        for index in 0..count {
            objects.delete(Plural::Namespaces, "", &space(index)).await;
        }
    });
    let began = Instant::now();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let hosts: Vec<String> = (0..count)
        .flat_map(|index| (0..ROUTES).map(move |route| (index, route)))
        .map(|(index, route)| host(index, route))
        .collect();
    loop {
        check_interrupt();
        let answers = block_on(ask(field, &hosts));
        let is_over = answers.get("status 404") == Some(&(hosts.len() as u64));
        for (answer, times) in answers {
            *seen.entry(answer).or_default() += times;
        }
        if is_over || began.elapsed() > Duration::from_secs(120) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    field.await_rest();
    let written = more(&before, &field.writes());
    let outcome = load.stop();
    let is_gone = seen.contains_key("status 404");
    // Services may go before the routes to them: an honest 500, or 503 without endpoints.
    let known = ["status 200", "status 404", "status 500", "status 503"];
    let is_known = seen.keys().all(|answer| known.contains(&answer.as_str()));
    findings.check(
        format!("{what}: their answers"),
        format!("{seen:?}"),
        "200, 500 or 503, 404 at the end",
        is_gone && is_known,
    );
    findings.none(format!("{what}: failed requests of others"), outcome.exchanges, &outcome.failures_outside(None));
    let most = u64::from(count * ROUTES) * 2 + 10;
    findings.check(format!("{what}: writes of status"), written.to_string(), format!("≤ {most}"), written <= most);
}

async fn doomed(objects: &Objects, space: &str, host: impl Fn(u32) -> String, routes: u32) {
    objects.create(Plural::Namespaces, &objects::namespace(space)).await;
    for route in 0..routes {
        let own = name(route);
        objects.create(Plural::Services, &objects::service(space, &own)).await;
        objects.create(Plural::EndpointSlices, &objects::slice(space, &own, origin(0))).await;
        objects.create(Plural::HttpRoutes, &objects::route(space, &own, &host(route), &own)).await;
    }
}
