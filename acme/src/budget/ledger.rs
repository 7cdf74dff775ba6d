//! The account book: one number per bucket, and what the CA itself has refused.
//!
//! The number is the moment at which the bucket will be full again (the generic cell rate algorithm: a token bucket in
//! one number that needs no upkeep). Full buckets are forgotten, so the book is as long as what was lately spent.

use std::collections::{BTreeMap, BTreeSet};

use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use serde::{Deserialize, Serialize};

use super::{Bucket, Charge, Haste, Limit, Limits};
use crate::plan::IssuerState;

/// Entries of each kind. Far more than one edge can spend; beyond it the bucket that is full soonest is forgotten.
const MOST: usize = 20_000;
/// A wait that the CA asked for is believed up to here.
const LONGEST_REFUSAL: i64 = 8 * 86_400;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Record", into = "Record")]
pub struct Ledger {
    full_at: BTreeMap<Bucket, i64>,
    refused: BTreeMap<Bucket, i64>,
    /// What orders under way have taken.
    reserved: BTreeMap<CertId, Charge>,
}

/// JSON has text as keys of maps only.
#[derive(Serialize, Deserialize)]
struct Record {
    full_at: Vec<(Bucket, i64)>,
    refused: Vec<(Bucket, i64)>,
    reserved: Vec<(String, Charge)>,
}

impl From<Record> for Ledger {
    fn from(record: Record) -> Self {
        let reserved = record.reserved.into_iter().map(|(id, charge)| (parse_id(&id), charge));
        let mut ledger = Self {
            full_at: record.full_at.into_iter().collect(),
            refused: record.refused.into_iter().collect(),
            reserved: reserved.collect(),
        };
        ledger.bound();
        ledger
    }
}

impl From<Ledger> for Record {
    fn from(ledger: Ledger) -> Self {
        Self {
            full_at: ledger.full_at.into_iter().collect(),
            refused: ledger.refused.into_iter().collect(),
            reserved: ledger.reserved.into_iter().map(|(id, charge)| (id.to_string(), charge)).collect(),
        }
    }
}

fn parse_id(text: &str) -> CertId {
    CertId(edge_config::names::ObjectKey::parse(text))
}

/// One line of the book, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub bucket: Bucket,
    pub used: u32,
    pub most: u32,
    /// When one more can be had, where there is none now.
    pub until: Option<i64>,
    /// When all is there again.
    pub full_at: i64,
    /// The CA itself refuses until then.
    pub refused_until: Option<i64>,
}

impl Ledger {
    pub const fn new() -> Self {
        Self { full_at: BTreeMap::new(), refused: BTreeMap::new(), reserved: BTreeMap::new() }
    }

    /// Takes what an order costs, before it is made, and keeps it in mind until the order is over.
    pub fn reserve(&mut self, id: &CertId, charge: &Charge, limits: &Limits, now: i64) {
        for bucket in &charge.buckets {
            self.take(bucket, limits, now);
        }
        self.reserved.insert(id.clone(), charge.clone());
        self.bound();
    }

    /// What these orders have taken, with the buckets that they have taken it from.
    pub(crate) fn of_orders(&self, ids: &[&CertId]) -> Self {
        let reserved: BTreeMap<CertId, Charge> =
            ids.iter().filter_map(|id| Some(((*id).clone(), self.reserved.get(*id)?.clone()))).collect();
        let buckets = reserved.values().flat_map(|charge| &charge.buckets);
        let full_at = buckets.filter_map(|bucket| Some((bucket.clone(), *self.full_at.get(bucket)?))).collect();
        Self { full_at, refused: BTreeMap::new(), reserved }
    }

    /// The certificate was issued: all of it is spent.
    pub fn settle(&mut self, id: &CertId) {
        self.reserved.remove(id);
    }

    /// No certificate came of it. What is counted by certificates is given back; and all, where the order never reached
    /// the CA.
    pub fn give_back(&mut self, id: &CertId, ordered: bool, limits: &Limits) {
        let Some(charge) = self.reserved.remove(id) else { return };
        for bucket in &charge.buckets {
            let by_certificate = matches!(bucket.limit, Limit::PerDomain | Limit::ExactSet);
            let by_order = bucket.limit == Limit::NewOrders && !ordered;
            if let (true, Some(rate)) = (by_certificate || by_order, limits.rate(bucket.limit))
                && let Some(full_at) = self.full_at.get_mut(bucket)
            {
                *full_at = full_at.saturating_sub(rate.interval());
            }
        }
    }

    /// An authorization of this name failed, or something else was spent beyond any plan.
    pub fn take(&mut self, bucket: &Bucket, limits: &Limits, now: i64) {
        let Some(rate) = limits.rate(bucket.limit) else { return };
        let full_at = self.full_at(bucket, rate.interval() * i64::from(rate.count), now);
        self.full_at.insert(bucket.clone(), full_at + rate.interval());
    }

    /// The CA said no until then; its word goes before the own count.
    pub fn refuse(&mut self, bucket: Bucket, until: i64) {
        let known = self.refused.entry(bucket).or_insert(until);
        *known = (*known).max(until);
        self.bound();
    }

    /// What another edge has spent: of each bucket the emptier one, since all draw from the same.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, full_at) in &other.full_at {
            let own = self.full_at.entry(bucket.clone()).or_insert(*full_at);
            *own = (*own).max(*full_at);
        }
        for (bucket, until) in &other.refused {
            self.refuse(bucket.clone(), *until);
        }
        for (id, charge) in &other.reserved {
            self.reserved.entry(id.clone()).or_insert_with(|| charge.clone());
        }
        self.bound();
    }

    /// Forgets full buckets, refusals that are over, and orders of nobody.
    pub fn prune(&mut self, wanted: &BTreeSet<&CertId>, now: i64) {
        self.full_at.retain(|_, full_at| *full_at > now);
        self.refused.retain(|_, until| *until > now);
        self.reserved.retain(|id, _| wanted.contains(id));
    }

    /// The book, for these issuers: each bucket that is not full.
    pub fn usage(&self, issuers: &BTreeMap<IssuerId, IssuerState>, now: i64) -> Vec<Usage> {
        let limits: BTreeMap<&str, &Limits> = issuers.values().map(|one| (&*one.directory, &one.limits)).collect();
        let buckets: BTreeSet<&Bucket> = self.full_at.keys().chain(self.refused.keys()).collect();
        let usage = buckets.into_iter().filter_map(|bucket| {
            let rate = limits.get(&*bucket.directory)?.rate(bucket.limit)?;
            let full_at = self.full_at(bucket, rate.interval() * i64::from(rate.count), now);
            let used = (full_at - now + rate.interval() - 1) / rate.interval();
            let refused_until = self.refusal(bucket, now);
            let next = full_at + rate.interval() * (1 - i64::from(rate.count));
            let until = refused_until.into_iter().chain((next > now).then_some(next)).max();
            let used = u32::try_from(used).unwrap_or(u32::MAX);
            (used > 0 || until.is_some()).then(|| Usage {
                bucket: bucket.clone(),
                used,
                most: rate.count,
                until,
                full_at,
                refused_until,
            })
        });
        usage.collect()
    }

    /// When the bucket is full; now, if it is. A clock that was set back must not make a wait longer than from empty.
    fn full_at(&self, bucket: &Bucket, longest: i64, now: i64) -> i64 {
        self.full_at.get(bucket).map_or(now, |full_at| (*full_at).clamp(now, now.saturating_add(longest)))
    }

    fn refusal(&self, bucket: &Bucket, now: i64) -> Option<i64> {
        let until = *self.refused.get(bucket)?;
        (until > now && until - now <= LONGEST_REFUSAL).then_some(until)
    }

    fn bound(&mut self) {
        for map in [&mut self.full_at, &mut self.refused] {
            if map.len() > MOST {
                let mut moments: Vec<i64> = map.values().copied().collect();
                let (_, least, _) = moments.select_nth_unstable(map.len() - MOST);
                let least = *least;
                map.retain(|_, moment| *moment >= least);
            }
        }
    }
}

/// A ledger as it would be once the orders of this plan are made.
pub struct Tentative<'a> {
    ledger: &'a Ledger,
    taken: BTreeMap<Bucket, i64>,
    /// What is taken by those that wait before: it tells the next one in the queue when its turn comes.
    queued: BTreeMap<Bucket, i64>,
    now: i64,
}

impl<'a> Tentative<'a> {
    pub fn new(ledger: &'a Ledger, now: i64) -> Self {
        Self { ledger, taken: BTreeMap::new(), queued: BTreeMap::new(), now }
    }

    /// Whether the charge can be taken now; else the bucket that is empty longest, and until when. `haste`
    /// says which of the limits that Edge sets itself count.
    pub fn check(&self, charge: &Charge, limits: &Limits, haste: Haste) -> Result<(), (Bucket, i64)> {
        let empty =
            |bucket: &Bucket| self.until(&self.taken, bucket, limits, haste).max(self.ledger.refusal(bucket, self.now));
        let buckets = charge.buckets.iter().chain(&charge.must_have);
        let worst = buckets.filter_map(|bucket| Some((empty(bucket)?, bucket))).max();
        match worst {
            Some((until, bucket)) => Err((bucket.clone(), until)),
            None => Ok(()),
        }
    }

    pub fn take(&mut self, charge: &Charge, limits: &Limits) {
        for bucket in &charge.buckets {
            if let Some(rate) = limits.rate(bucket.limit) {
                let full_at = Self::now_full_at(self.ledger, &self.taken, bucket, rate, self.now);
                self.taken.insert(bucket.clone(), full_at + rate.interval());
                // Who waits, waits for what is left.
                if let Some(queued) = self.queued.get_mut(bucket) {
                    *queued += rate.interval();
                }
            }
        }
    }

    /// Puts an order that must wait behind all others that wait: returns when its turn comes.
    pub fn queue(&mut self, charge: &Charge, limits: &Limits, haste: Haste) -> i64 {
        let mut turn = self.now;
        for bucket in charge.buckets.iter().chain(&charge.must_have) {
            let queued = if self.queued.contains_key(bucket) { &self.queued } else { &self.taken };
            let until = self.until(queued, bucket, limits, haste).max(self.ledger.refusal(bucket, self.now));
            turn = turn.max(until.unwrap_or(turn));
        }
        for bucket in &charge.buckets {
            if let Some(rate) = limits.rate(bucket.limit) {
                let queued = if self.queued.contains_key(bucket) { &self.queued } else { &self.taken };
                let full_at = Self::now_full_at(self.ledger, queued, bucket, rate, self.now);
                self.queued.insert(bucket.clone(), full_at + rate.interval());
            }
        }
        turn
    }

    fn until(&self, taken: &BTreeMap<Bucket, i64>, bucket: &Bucket, limits: &Limits, haste: Haste) -> Option<i64> {
        if bucket.limit == Limit::Pace && !haste.paced {
            return None;
        }
        let rate = limits.rate(bucket.limit)?;
        let kept = if haste.keeps { limits.kept(bucket.limit).min(rate.count.saturating_sub(1)) } else { 0 };
        let burst = i64::from(rate.count.max(1) - kept);
        let full_at = Self::now_full_at(self.ledger, taken, bucket, rate, self.now);
        let until = full_at + rate.interval() - burst * rate.interval();
        (until > self.now).then_some(until)
    }

    fn now_full_at(
        ledger: &Ledger,
        taken: &BTreeMap<Bucket, i64>,
        bucket: &Bucket,
        rate: super::Rate,
        now: i64,
    ) -> i64 {
        let longest = rate.interval() * i64::from(rate.count);
        taken.get(bucket).copied().unwrap_or_else(|| ledger.full_at(bucket, longest, now))
    }
}
