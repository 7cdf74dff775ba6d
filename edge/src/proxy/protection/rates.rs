//! The rates of one rule: which of them a request counts against, whether it fits into all of them, and how long it waits.
//!
//! A request that one rate refuses takes nothing from the others.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use edge_config::policy::protection::{Counts, LogLevel, Rate, RateList, Rates};
use edge_config::snapshot::{Listener, Rule};

use super::bucket::{Pace, Refused, Taken, Tick, duration};
use super::ledger::{Account, Ledger, Near};
use super::select;
use super::table::Key;
use crate::proxy::message::RequestHead;
use crate::proxy::upstream::hashing::Hash;
use crate::proxy::worker::{Current, Worker};

/// A request waits no longer for its turn; one that would have to is refused.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Where requests are counted.
pub struct Meter<'a, 'g> {
    pub ledger: &'a Ledger,
    pub near: &'a Near,
    pub current: &'a Current,
    pub listener: &'g Listener,
    /// Of the Gateway, or whoever has the port.
    pub owner: u64,
    pub rule: &'g Rule,
    pub client: IpAddr,
    pub now: Tick,
}

/// What is told of the limit that is the nearest.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub requests: u32,
    pub per: Duration,
    pub list: RateList,
    pub left: u64,
    pub reset: Duration,
}

/// It fits.
#[derive(Debug, Default)]
pub struct Admitted {
    pub wait: Duration,
    pub standing: Option<Standing>,
    pub debts: Vec<Debt>,
}

/// What the end of the request takes.
#[derive(Debug, Clone, Copy)]
pub struct Debt {
    account: Account,
    cost: u64,
    most: Duration,
}

/// It does not.
#[derive(Debug)]
pub struct Denied<'g> {
    pub rate: &'g Rate,
    pub status: Option<u16>,
    pub log: Option<LogLevel>,
    pub retry: Option<Duration>,
    pub standing: Option<Standing>,
}

struct Held {
    account: Account,
    ticks: Tick,
}

/// Which rates of a list a request counts against, with what it is counted by. The way of the data plane and of
/// `edgectl explain`.
pub fn counted<'g>(
    rates: &'g Rates,
    request: &RequestHead,
    client: IpAddr,
    place: impl Fn(&Rate) -> u64,
) -> impl Iterator<Item = (&'g Rate, Key)> {
    let mut is_local = false;
    let mut found: Vec<(&Rate, Key)> = Vec::with_capacity(rates.list.len().min(8));
    // Those for everybody else come last.
    for otherwise in [false, true] {
        for rate in rates.list.iter().filter(|rate| rate.otherwise == otherwise) {
            if otherwise && is_local || rate.when.as_ref().is_some_and(|when| !select::is_about(when, request, client))
            {
                continue;
            }
            let Some(key) = select::key(rate, place(rate), request, client) else { continue };
            is_local |= rate.name.list == RateList::Local && !otherwise;
            found.push((rate, key));
        }
    }
    found.into_iter()
}

impl<'g> Meter<'_, 'g> {
    /// Asks all rates of a list. `headers`: whether the listener tells of limits.
    pub fn ask(&self, rates: &'g Rates, request: &RequestHead, headers: bool) -> Result<Admitted, Denied<'g>> {
        let mut admitted = Admitted::default();
        let mut held: Vec<Held> = Vec::new();
        for (rate, key) in counted(rates, request, self.client, |rate| self.place(rate.counts)) {
            let pace = Pace::new(rate.requests, rate.per, rate.burst);
            let series = self.current.series.limit(rate.digest);
            let account = Account { reach: rate.reach, key, pace };
            let taken = self.ledger.take(self.near, account, rate.cost, self.now);
            let wait = taken.as_ref().map_or(Duration::ZERO, |taken| wait(rate, pace, taken));
            let denied = match taken {
                Ok(taken) if wait > LONGEST_DELAY => {
                    self.ledger.give_back(self.near, account, taken.ticks, self.now);
                    Some(Refused { retry: Some(wait - LONGEST_DELAY), reset: taken.reset })
                }
                Ok(taken) => {
                    if taken.ticks > 0 {
                        held.push(Held { account, ticks: taken.ticks });
                    }
                    admitted.stand(rate, headers, taken.left, taken.reset);
                    None
                }
                Err(refused) => Some(refused),
            };
            let is_dry = rate.dry_run || rates.dry_run == Some(true);
            let Some(refused) = denied else {
                if let Some(series) = series {
                    series.allowed.one();
                    series.delayed.add(u64::from(!wait.is_zero() && !is_dry));
                }
                if !is_dry {
                    admitted.wait = admitted.wait.max(wait);
                }
                if rate.response_cost > 0 {
                    let (cost, most) = (rate.response_cost, rate.per.saturating_mul(2));
                    admitted.debts.push(Debt { account, cost, most });
                }
                continue;
            };
            if is_dry {
                if let Some(series) = series {
                    series.dry_run.one();
                }
                continue;
            }
            if let Some(series) = series {
                series.limited.one();
            }
            for Held { account, ticks } in held {
                self.ledger.give_back(self.near, account, ticks, self.now);
            }
            let mut told = Admitted::default();
            told.stand(rate, headers, 0, refused.reset);
            let (status, log, standing) = (rates.status, rates.log, told.standing);
            return Err(Denied { rate, status, log, retry: refused.retry, standing });
        }
        Ok(admitted)
    }

    fn place(&self, counts: Counts) -> u64 {
        match counts {
            Counts::Policy => 0,
            Counts::Gateway => self.owner,
            Counts::Route => route(self.listener, self.rule),
        }
    }
}

/// Each route at each listener.
fn route(listener: &Listener, rule: &Rule) -> u64 {
    let mut hash = Hash::default();
    for object in [&listener.parent, &rule.route] {
        hash.add(&[object.kind as u8]);
        hash.add(object.key.namespace.as_bytes());
        hash.add(object.key.name.as_bytes());
    }
    hash.add(listener.name.as_bytes());
    hash.finish()
}

/// As NGINX delays: what is beyond `delay_after` goes on when it is due.
fn wait(rate: &Rate, pace: Pace, taken: &Taken) -> Duration {
    match rate.delay_after {
        None => Duration::ZERO,
        Some(at_once) => taken.due.saturating_sub(duration(pace.cost(u64::from(at_once)))),
    }
}

impl Admitted {
    /// The nearest limit is told of.
    fn stand(&mut self, rate: &Rate, headers: bool, left: u64, reset: Duration) {
        if rate.headers.unwrap_or(headers) && self.standing.is_none_or(|known| left < known.left) {
            let (requests, per, list) = (rate.requests, rate.per, rate.name.list);
            self.standing = Some(Standing { requests, per, list, left, reset });
        }
    }
}

/// Charges what the end of a request takes, when it is dropped.
pub struct Debts {
    worker: Rc<Worker>,
    list: Vec<Debt>,
}

impl Debts {
    pub fn new(worker: &Rc<Worker>, list: Vec<Debt>) -> Option<Self> {
        (!list.is_empty()).then(|| Self { worker: Rc::clone(worker), list })
    }
}

impl Drop for Debts {
    fn drop(&mut self) {
        let (ledger, near) = (self.worker.ledger(), &self.worker.near);
        let now = ledger.now();
        for Debt { account, cost, most } in self.list.iter().copied() {
            ledger.charge(near, account, cost, most, now);
        }
    }
}
