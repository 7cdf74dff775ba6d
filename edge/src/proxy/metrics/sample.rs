//! The counters that people watch, of all workers, at one moment: what rates and latencies are made of.
//!
//! Workers flow in, plain numbers flow out; two samples make rates (`control::rates`). Only what was ever met is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use edge_config::names::ObjectRef;
use edge_config::snapshot::UpstreamKey;
use foldhash::{HashMap, HashMapExt as _};

use super::{Classes, Histogram, ListenerLabel, PortLabel, WorkerMetrics};

/// Of a histogram; the last bucket is beyond all bounds.
pub type Buckets = [u64; Histogram::BOUNDS.len() + 1];

#[derive(Debug, Clone)]
pub struct Sample {
    pub at: Instant,
    /// Routes and upstreams were looked at too.
    pub is_whole: bool,
    pub listeners: HashMap<ListenerLabel, Served>,
    pub ports: HashMap<PortLabel, Connections>,
    pub routes: HashMap<ObjectRef, [u64; 5]>,
    pub upstreams: HashMap<UpstreamKey, Asked>,
}

/// Of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// By [`Classes::LABELS`].
    pub responses: [u64; 5],
    pub duration: Buckets,
    pub received: u64,
    pub sent: u64,
    /// Of TCP and TLS routes, and sessions of UDP routes.
    pub tunnels: u64,
    pub tunnels_open: u64,
}

/// Of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    pub accepted: u64,
    pub open: u64,
    /// Closed at accept: a limit, or a client that is not let in.
    pub refused: u64,
    pub failed_handshakes: u64,
}

/// Of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub responses: [u64; 5],
    pub latency: Buckets,
    pub connect_failures: u64,
    pub connections_open: u64,
}

impl Sample {
    /// Adds up what all workers have counted; of routes and upstreams, of which there may be thousands, where they are asked for.
    /// It writes nothing that a worker reads.
    pub fn take(workers: &[Arc<WorkerMetrics>], is_whole: bool) -> Self {
        let mut sample = Self {
            at: Instant::now(),
            is_whole,
            listeners: HashMap::new(),
            ports: HashMap::new(),
            routes: HashMap::new(),
            upstreams: HashMap::new(),
        };
        for worker in workers {
            let series = worker.current();
            // Two indices of a snapshot may share a label, and then a series: it counts once.
            let mut last = std::ptr::null();
            for (label, one) in series.listeners.iter().filter(|(_, one)| differs(&mut last, one)) {
                let sum = sample.listeners.entry(label.clone()).or_default();
                add(&mut sum.responses, &one.responses.values());
                add(&mut sum.duration, &buckets(&one.duration));
                sum.received = sum.received.wrapping_add(one.received.value());
                sum.sent = sum.sent.wrapping_add(one.sent.value());
                let begun = one.tunnels_opened.value().wrapping_add(one.udp_sessions_opened.value());
                let ended = one.tunnels_closed.value().wrapping_add(one.udp_sessions_closed.value());
                sum.tunnels = sum.tunnels.wrapping_add(begun);
                sum.tunnels_open += begun.saturating_sub(ended);
            }
            let mut last = std::ptr::null();
            for (label, one) in series.ports.iter().filter(|(_, one)| differs(&mut last, one)) {
                let sum = sample.ports.entry(label.clone()).or_default();
                sum.accepted = sum.accepted.wrapping_add(one.accepted.value());
                sum.open += one.accepted.value().saturating_sub(one.closed.value());
                sum.refused = sum.refused.wrapping_add(one.refused.value()).wrapping_add(one.forbidden.value());
                let failed = &one.handshakes[super::Handshake::Failed as usize];
                sum.failed_handshakes = sum.failed_handshakes.wrapping_add(failed.value());
            }
            if !is_whole {
                continue;
            }
            for (label, one) in &series.routes {
                let responses = one.responses.values();
                if responses.iter().any(|count| *count > 0) {
                    add(sample.routes.entry(label.clone()).or_default(), &responses);
                }
            }
            for (label, one) in series.upstreams.iter().filter(|(_, one)| one.is_met()) {
                let one = one.read();
                let sum = sample.upstreams.entry(label.clone()).or_default();
                add(&mut sum.responses, &one.responses.values());
                add(&mut sum.latency, &buckets(&one.latency));
                sum.connect_failures = sum.connect_failures.wrapping_add(one.connect_failures.value());
                sum.connections_open += one.connections_opened.value().saturating_sub(one.connections_closed.value());
            }
        }
        sample
    }
}

fn differs<S>(last: &mut *const S, one: &Arc<S>) -> bool {
    let before = std::mem::replace(last, Arc::as_ptr(one));
    !std::ptr::eq(before, *last)
}

fn buckets(histogram: &Histogram) -> Buckets {
    std::array::from_fn(|place| histogram.buckets[place].0.load(Ordering::Relaxed))
}

fn add<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.wrapping_add(*more);
    }
}

const _: () = assert!(Classes::LABELS.len() == 5);
