//! Rates and latencies: what lies between two looks at the counters of the data plane.
//!
//! Two [`Sample`]s flow in, numbers per second and quantiles flow out. Pure. What a generation no longer has is gone from
//! the newer sample, and with it its rate; what is new counts from nothing.

use std::hash::Hash;

use edge_config::names::ObjectRef;
use edge_config::snapshot::UpstreamKey;
use foldhash::HashMap;
use serde::Serialize;

use crate::proxy::metrics::{Asked, Buckets, Connections, Histogram, ListenerLabel, PortLabel, Sample, Served};

/// Per second, unless it says otherwise. `None` and absent: it cannot be known of this kind of thing, or not yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rate {
    pub requests: f64,
    /// Responses with 5xx and, of backends, connections that could not be made.
    pub errors: f64,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Open now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Bytes from and to clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<f64>,
}

/// Of everything between two samples.
#[derive(Debug, Clone)]
pub struct Rates {
    older: Option<Sample>,
    newer: Sample,
}

impl Rates {
    /// `older`: the look before, if there was one.
    pub fn new(older: Option<Sample>, newer: Sample) -> Self {
        Self { older, newer }
    }

    /// What rates are averages of, in seconds; `None` after one look.
    pub fn seconds(&self) -> Option<f64> {
        let older = self.older.as_ref()?;
        let seconds = self.newer.at.checked_duration_since(older.at)?.as_secs_f64();
        (seconds > 0.0).then_some(seconds)
    }

    pub fn total(&self) -> Rate {
        let listeners = self.newer.listeners.keys().filter_map(|label| self.served(label));
        let mut rate = self.rate_of(sum(listeners));
        rate.connections = Some(self.newer.ports.values().map(|port| port.open).sum());
        rate
    }

    /// Of several listeners together.
    pub fn listeners<'l>(&self, labels: impl Iterator<Item = &'l ListenerLabel>) -> Rate {
        let mut open = 0;
        let all = sum(labels.filter_map(|label| {
            open += self.newer.listeners.get(label).map_or(0, |now| now.tunnels_open);
            self.served(label)
        }));
        let mut rate = self.rate_of(all);
        rate.connections = (open > 0).then_some(open);
        rate
    }

    pub fn connections<'l>(&self, ports: impl Iterator<Item = &'l PortLabel>) -> u64 {
        ports.filter_map(|label| self.newer.ports.get(label)).map(|port: &Connections| port.open).sum()
    }

    /// `None`: no request has met it yet.
    pub fn route(&self, route: &ObjectRef) -> Option<Rate> {
        let now = self.newer.routes.get(route)?;
        let seconds = self.seconds().filter(|_| self.is_whole())?;
        let before = self.before(|sample| &sample.routes, route);
        Some(per_second(&less(now, &before.unwrap_or_default()), 0, seconds))
    }

    /// `None`: no request has met it yet.
    pub fn upstream(&self, key: &UpstreamKey) -> Option<Rate> {
        let now = self.newer.upstreams.get(key)?;
        let seconds = self.seconds().filter(|_| self.is_whole())?;
        let before: Asked = self.before(|sample| &sample.upstreams, key).unwrap_or_default();
        let failures = now.connect_failures.saturating_sub(before.connect_failures);
        let latency = less(&now.latency, &before.latency);
        Some(Rate {
            p50: quantile(&latency, 0.5),
            p99: quantile(&latency, 0.99),
            connections: Some(now.connections_open),
            ..per_second(&less(&now.responses, &before.responses), failures, seconds)
        })
    }

    /// Without routes and upstreams in the older look, theirs would count from nothing.
    fn is_whole(&self) -> bool {
        self.older.as_ref().is_some_and(|older| older.is_whole)
    }

    fn before<L: Eq + Hash, S: Copy>(&self, of: impl Fn(&Sample) -> &HashMap<L, S>, label: &L) -> Option<S> {
        of(self.older.as_ref()?).get(label).copied()
    }

    fn served(&self, label: &ListenerLabel) -> Option<Served> {
        let now = self.newer.listeners.get(label)?;
        let before: Served = self.before(|sample| &sample.listeners, label).unwrap_or_default();
        Some(Served {
            responses: less(&now.responses, &before.responses),
            duration: less(&now.duration, &before.duration),
            received: now.received.saturating_sub(before.received),
            sent: now.sent.saturating_sub(before.sent),
            tunnels: now.tunnels.saturating_sub(before.tunnels),
            tunnels_open: now.tunnels_open,
        })
    }

    fn rate_of(&self, all: Served) -> Rate {
        let Some(seconds) = self.seconds() else { return Rate::default() };
        Rate {
            p50: quantile(&all.duration, 0.5),
            p99: quantile(&all.duration, 0.99),
            connections: None,
            received: Some(all.received as f64 / seconds),
            sent: Some(all.sent as f64 / seconds),
            ..per_second(&all.responses, 0, seconds)
        }
    }
}

fn per_second(responses: &[u64; 5], failures: u64, seconds: f64) -> Rate {
    // An interim response is no answer yet.
    let requests: u64 = responses[1..].iter().sum();
    Rate {
        requests: (requests + failures) as f64 / seconds,
        errors: (responses[4] + failures) as f64 / seconds,
        ..Rate::default()
    }
}

fn sum(all: impl Iterator<Item = Served>) -> Served {
    all.fold(Served::default(), |mut sum, one| {
        sum.responses.iter_mut().zip(one.responses).for_each(|(sum, one)| *sum += one);
        sum.duration.iter_mut().zip(one.duration).for_each(|(sum, one)| *sum += one);
        sum.received += one.received;
        sum.sent += one.sent;
        sum.tunnels += one.tunnels;
        sum
    })
}

/// Counters that begin anew with their series count from nothing.
fn less<const N: usize>(now: &[u64; N], before: &[u64; N]) -> [u64; N] {
    std::array::from_fn(|place| now[place].saturating_sub(before[place]))
}

/// In seconds, by the straight line through the bucket in which it lies; what is beyond all bounds is the last of them.
/// `None`: nothing was observed.
pub fn quantile(buckets: &Buckets, share: f64) -> Option<f64> {
    let all: u64 = buckets.iter().sum();
    if all == 0 {
        return None;
    }
    let wanted = share * all as f64;
    let mut below = 0;
    for (place, count) in buckets.iter().enumerate() {
        let reached = (below + count) as f64;
        if *count > 0 && reached >= wanted {
            let bound = |place: usize| Histogram::BOUNDS.get(place).map(|(micros, _)| *micros as f64 / 1e6);
            let from = place.checked_sub(1).and_then(bound).unwrap_or(0.0);
            let to = bound(place).unwrap_or(from);
            return Some(from + (to - from) * (wanted - below as f64) / *count as f64);
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use edge_config::names::{Kind, ObjectKey};

    use super::*;

    fn label() -> ListenerLabel {
        (ObjectRef::new(Kind::Gateway, ObjectKey::parse("edge/public")), "https".into(), 443)
    }

    fn sample(at: Instant, responses: [u64; 5], fast: u64, slow: u64) -> Sample {
        let mut duration = Buckets::default();
        (duration[4], duration[10]) = (fast, slow);
        Sample {
            at,
            is_whole: true,
            listeners: [(label(), Served { responses, duration, sent: 1000 * fast, ..Served::default() })]
                .into_iter()
                .collect(),
            ports: [((label().0, 443, "tcp"), Connections { accepted: 9, open: 4, ..Connections::default() })]
                .into_iter()
                .collect(),
            routes: HashMap::default(),
            upstreams: HashMap::default(),
        }
    }

    #[test]
    fn between_two_looks() {
        let start = Instant::now();
        let older = sample(start, [0, 100, 0, 0, 0], 100, 0);
        let newer = sample(start + Duration::from_secs(10), [7, 280, 10, 0, 10], 290, 10);
        let one = Rates::new(None, newer.clone());
        assert_eq!((one.seconds(), one.total().requests, one.total().p50), (None, 0.0, None));
        let rates = Rates::new(Some(older), newer);
        let total = rates.total();
        assert_eq!((total.requests, total.errors, total.connections), (20.0, 1.0, Some(4)));
        assert_eq!(total.sent, Some(19_000.0));
        assert!((0.005..=0.01).contains(&total.p50.unwrap()), "{total:?}");
        assert!((0.5..=1.0).contains(&total.p99.unwrap()), "{total:?}");
        assert_eq!(rates.listeners([&label()].into_iter()).requests, 20.0);
    }

    #[test]
    fn series_that_begin_anew_and_quantiles_at_the_ends() {
        let start = Instant::now();
        let rates = Rates::new(
            Some(sample(start, [0, 500, 0, 0, 0], 500, 0)),
            sample(start + Duration::from_secs(1), [0, 3, 0, 0, 0], 3, 0),
        );
        assert_eq!(rates.total().requests, 0.0, "never below nothing");
        let mut beyond = Buckets::default();
        beyond[Buckets::default().len() - 1] = 5;
        assert_eq!(quantile(&beyond, 0.99), Some(60.0));
        assert_eq!(quantile(&Buckets::default(), 0.5), None);
    }
}
