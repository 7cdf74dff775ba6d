//! How much may pass: priority, sizes, rates, concurrency, admission, bandwidth.
//!
//! In: the protection of a rule and a request. Out: an answer instead of the backend's, or what is left to do until the
//! exchange ends ([`Protected`]). Rules without protection never come here. What is counted is counted by all workers
//! together ([`ledger`]), some of it by all edges of a fleet (`crate::fleet`).
//!
//! Standards: RFC 6585 §4 (429), RFC 9110 §10.2.3 (Retry-After) and §15.5.14 (413), draft-polli-ratelimit-headers-03.

pub mod admission;
pub mod bucket;
pub mod connections;
pub mod ledger;
pub mod rates;
pub mod select;
pub mod table;
pub mod throttle;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use edge_config::policy::Protection;
use edge_config::policy::protection::{
    Admission, LogLevel, Priority, RateList, TOO_MANY_REQUESTS, UNAVAILABLE, UNBOUNDED,
};
use edge_config::snapshot::Rule;

use self::admission::Sample;
pub use self::ledger::{Account, Entry, Ledger, Near};
use self::rates::{Debts, Denied, Meter, Standing};
pub use self::throttle::{Throttle, pieces};
use crate::proxy::exchange::answer::Answer;
use crate::proxy::exchange::gate::{Gate, Passed, Stopped};
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead};
use crate::proxy::reason::Reason;
use crate::proxy::upstream::hashing::Hash;

/// What protection leaves behind of a request that passed, until its exchange ends.
#[derive(Default)]
pub struct Protected {
    /// The most bytes of its body.
    pub max_body: Option<u64>,
    /// Its body is taken whole before anything of it goes on.
    pub buffer: Option<u64>,
    pub request: Option<Throttle>,
    pub response: Option<Throttle>,
    /// What the names of trailers begin with that tell how long it was held up.
    pub trailers: Option<Box<str>>,
    admission: Option<Judge>,
    _running: Option<Running>,
    _debts: Option<Debts>,
}

struct Judge {
    policy: Arc<Admission>,
    sample: Arc<Sample>,
}

/// A request under way, counted until this is dropped.
struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Asks every limit that the policy has.
pub async fn pass(
    protection: &Protection,
    gate: &Gate<'_, '_>,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    passed: &mut Passed,
) -> Result<(), Stopped> {
    let is_grpc = gate.rule.grpc || request.is_grpc();
    let worker = gate.worker;
    let (ledger, near) = (worker.ledger(), &worker.near);
    let mut stop = |status, reason| stop(status, reason, is_grpc, response);
    if protection.priority.is_some_and(|priority| is_shed(priority, worker.load())) {
        return Err(stop(503, Reason::PriorityShed));
    }
    let mut protected = Box::new(Protected {
        max_body: protection.max_body.filter(|most| *most != UNBOUNDED),
        buffer: protection.buffer,
        ..Protected::default()
    });
    let most = protected.max_body.into_iter().chain(protected.buffer).min();
    if let (Some(most), Length::Known(length)) = (most, request.length)
        && length > most
    {
        return Err(stop(413, Reason::TooLarge));
    }
    let mut wait = Duration::ZERO;
    let mut debts = Vec::new();
    if protection.rates.is_some() || protection.zones.is_some() {
        let meter = Meter {
            ledger,
            near,
            current: gate.current,
            listener: gate.listener,
            owner: gate.current.port_at(gate.arrival.local).map_or(0, |port| of_object(&port.owner)),
            rule: gate.rule,
            client: gate.sender.client,
            now: ledger.now(),
        };
        let headers = gate.listener.client.rate_limit_headers;
        let lists = [(&protection.rates, TOO_MANY_REQUESTS), (&protection.zones, UNAVAILABLE)];
        for (rates, absent) in lists {
            let Some(rates) = rates else { continue };
            match meter.ask(rates, request, headers) {
                Ok(admitted) => {
                    wait = wait.max(admitted.wait);
                    debts.extend(admitted.debts);
                    if let Some(standing) = admitted.standing {
                        tell(&standing, &mut passed.fields);
                    }
                }
                Err(denied) => {
                    let stopped = stop(denied.status.unwrap_or(absent), Reason::RateLimited);
                    log(&denied, gate);
                    refuse(&denied, response);
                    return Err(stopped);
                }
            }
        }
    }
    protected._debts = Debts::new(worker, debts);
    if !wait.is_zero() {
        // The client's connection has no other use meanwhile; longer than a minute it never is.
        let _ = worker.clock.timer().within(wait, std::future::pending::<()>()).await;
    }
    if let Some(most) = protection.parallel {
        let count = ledger.running(near, of_rule(gate.rule));
        if count.fetch_add(1, Relaxed) >= most {
            count.fetch_sub(1, Relaxed);
            return Err(stop(503, Reason::ConcurrencyLimited));
        }
        protected._running = Some(Running(count));
    }
    if let Some(policy) = &protection.admission {
        let sample = ledger.sample(near, policy.digest ^ of_rule(gate.rule), policy.window);
        if worker.random.next_u32() < sample.refusal(policy, ledger.now()) {
            return Err(stop(503, Reason::AdmissionRefused));
        }
        protected.admission = Some(Judge { policy: Arc::clone(policy), sample });
    }
    if let Some(bandwidth) = &protection.bandwidth {
        let place = bandwidth.digest ^ of_rule(gate.rule);
        let throttle = |rate: Option<u64>, direction: u64| {
            rate.map(|rate| Throttle::new(worker, ledger.stream(near, place ^ direction, ledger.now()), rate))
        };
        protected.request = throttle(bandwidth.request, 1);
        protected.response = throttle(bandwidth.response, 2);
        protected.trailers = bandwidth.trailers.clone();
    }
    passed.protected = Some(protected);
    Ok(())
}

impl Protected {
    /// How the exchange ended, for the admission of those after it.
    pub fn settle(&self, ledger: &Ledger, status: u16, grpc: Option<u8>) {
        if let Some(Judge { policy, sample }) = self.admission.as_ref().filter(|_| status > 0) {
            sample.note(admission::is_good(policy, status, grpc), ledger.now());
        }
    }

    /// The trailers that tell how long bodies were held up.
    pub fn trailers(&self, from_endpoint: Option<Fields>, begun: Instant) -> Option<Fields> {
        let Some(prefix) = &self.trailers else { return from_endpoint };
        let mut fields = from_endpoint.unwrap_or_default();
        let whole = begun.elapsed();
        let waited = |throttle: &Option<Throttle>| throttle.as_ref().map(Throttle::waited);
        let all = [
            ("bandwidth-request-delay-ms", waited(&self.request).map(|_| whole)),
            ("bandwidth-response-delay-ms", waited(&self.response).map(|_| whole)),
            ("bandwidth-request-filter-delay-ms", waited(&self.request)),
            ("bandwidth-response-filter-delay-ms", waited(&self.response)),
        ];
        for (name, time) in all {
            if let Some(time) = time.filter(|time| !time.is_zero()) {
                fields.add(format!("{prefix}{name}").as_bytes(), time.as_millis().to_string().as_bytes());
            }
        }
        Some(fields).filter(|fields| !fields.is_empty())
    }
}

/// `load`: open connections, in thousandths of those that there may be.
fn is_shed(priority: Priority, load: u32) -> bool {
    match priority {
        Priority::Low => load > 800,
        Priority::Normal => load > 900,
        Priority::High => false,
    }
}

fn of_object(object: &edge_config::names::ObjectRef) -> u64 {
    let mut hash = Hash::default();
    hash.add(&[object.kind as u8]);
    hash.add(object.key.namespace.as_bytes());
    hash.add(object.key.name.as_bytes());
    hash.finish()
}

fn of_rule(rule: &Rule) -> u64 {
    let mut hash = Hash::default();
    hash.add(&of_object(&rule.route).to_be_bytes());
    hash.add(&rule.index.to_be_bytes());
    hash.finish()
}

fn stop(status: u16, reason: Reason, is_grpc: bool, response: &mut ResponseHead) -> Stopped {
    Stopped { reason, body: Answer::new(status, reason).fill(is_grpc, response) }
}

/// The fields of a refusal.
fn refuse(denied: &Denied<'_>, response: &mut ResponseHead) {
    response.fields.remove(b"retry-after");
    if let Some(retry) = denied.retry {
        let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
        response.fields.add(b"retry-after", seconds.max(1).to_string().as_bytes());
    }
    if let Some(standing) = &denied.standing {
        tell(standing, &mut response.fields);
    }
}

/// As Envoy writes them: of local limits the number alone, of shared ones with the window.
fn tell(standing: &Standing, fields: &mut Fields) {
    let mut text = standing.requests.to_string();
    if standing.list == RateList::Global {
        // Writing to a string cannot fail.
        let _ = write!(text, ", {};w={}", standing.requests, standing.per.as_secs());
    }
    let reset = standing.reset.as_secs() + u64::from(standing.reset.subsec_nanos() > 0);
    fields.add(b"x-ratelimit-limit", text.as_bytes());
    fields.add(b"x-ratelimit-remaining", standing.left.to_string().as_bytes());
    fields.add(b"x-ratelimit-reset", reset.to_string().as_bytes());
}

/// Where a policy asks for lines about refusals, one now and then.
fn log(denied: &Denied<'_>, gate: &Gate<'_, '_>) {
    let Some(level) = denied.log else { return };
    let Some(more) = gate.worker.near.complaints.note(Instant::now()) else { return };
    let (limit, route, client) = (&denied.rate.name, &gate.rule.route, gate.sender.client);
    match level {
        LogLevel::Error => tracing::error!(%limit, %route, %client, more, "requests are refused"),
        LogLevel::Warn => tracing::warn!(%limit, %route, %client, more, "requests are refused"),
        LogLevel::Info | LogLevel::Notice => tracing::info!(%limit, %route, %client, more, "requests are refused"),
    }
}
