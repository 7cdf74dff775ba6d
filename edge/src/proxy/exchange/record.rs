//! What happened in an exchange, for the access log and the counters. Filled step by step, written once at the end.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edge_config::snapshot::{ListenerId, RuleId, UpstreamId};

use crate::proxy::access_log::{Entry, RuleOf, TlsOf};
use crate::proxy::message::{RequestHead, Version};
use crate::proxy::reason::Reason;
use crate::proxy::tap::Phases;
use crate::proxy::trace::Trace;
use crate::proxy::trace::span::Told;
use crate::proxy::worker::{Arrival, Current, Worker};

#[derive(Debug)]
pub struct Record {
    begun: Instant,
    pub client: IpAddr,
    pub listener: Option<ListenerId>,
    pub rule: Option<RuleId>,
    /// By its place among the backends of the rule.
    pub backend: Option<usize>,
    pub upstream: Option<UpstreamId>,
    pub endpoint: Option<SocketAddr>,
    pub status: u16,
    /// What an endpoint answered, where one did; the client may have got another one.
    pub endpoint_status: Option<u16>,
    /// How a call of gRPC ended, as its endpoint says.
    pub grpc_status: Option<u8>,
    pub reason: Option<Reason>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub tries: u32,
    /// When the last try began with a connection at hand, and how long it took from there to the head of the response.
    pub sent: Option<Instant>,
    pub latency: Option<Duration>,
    pub upgraded: bool,
    /// The client may come by HTTP/3 next time.
    pub announces_http3: bool,
    /// The response was cut off, or there is none.
    is_broken: bool,
    /// `None`: nothing is traced.
    pub trace: Option<Trace>,
}

impl Record {
    pub fn begin(arrival: &Arrival) -> Self {
        Self {
            begun: Instant::now(),
            client: arrival.peer.ip(),
            listener: None,
            rule: None,
            backend: None,
            upstream: None,
            endpoint: None,
            status: 0,
            endpoint_status: None,
            grpc_status: None,
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
            tries: 0,
            sent: None,
            latency: None,
            upgraded: false,
            announces_http3: false,
            is_broken: false,
            trace: None,
        }
    }

    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Edge answers itself.
    pub fn answered(&mut self, status: u16, reason: Reason) {
        self.status = status;
        self.reason = Some(reason);
    }

    /// The exchange broke off; the first reason counts.
    pub fn fail(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
        self.is_broken = true;
    }

    /// What the endpoint of the last try answered.
    pub fn answered_try(&mut self, status: u16) {
        if let Some(trace) = &mut self.trace {
            trace.answered_try(status);
        }
    }

    /// The last try is over, and why where it came to nothing.
    pub fn end_try(&mut self, reason: Option<Reason>) {
        if let Some(trace) = &mut self.trace {
            trace.end_try(reason);
        }
    }

    /// Counts, traces, logs, and shows it to who looks.
    pub fn write(&self, worker: &Worker, current: &Current, arrival: &Arrival, request: &RequestHead) {
        let duration = self.begun.elapsed();
        self.count(worker, current, duration);
        let trace = self.trace.as_ref().filter(|trace| trace.is_sampled());
        let is_watched = worker.watched.is_any();
        if worker.log.is_none() && trace.is_none() && !is_watched {
            return;
        }
        let mut entry = self.entry(current, arrival, request);
        entry.duration = duration;
        if let Some(trace) = trace {
            let (begun, grpc_status, is_broken) = (self.begun, self.grpc_status, self.is_broken);
            let told = Told { entry: &entry, request, begun, duration, grpc_status, is_broken };
            trace.write(&mut worker.spans.borrow_mut(), &told);
        }
        if let Some(log) = &worker.log {
            let mut log = log.borrow_mut();
            entry.at = log.wall(self.begun);
            log.record(&entry);
        } else if is_watched {
            entry.at = SystemTime::now().checked_sub(duration).unwrap_or(UNIX_EPOCH);
        }
        if is_watched {
            let phases = Phases::of(self.begun, self.sent, self.latency, duration);
            worker.watched.show(worker.index, &entry, phases, Some((&request.fields, &current.generation)));
        }
    }

    /// All of it but the times.
    fn entry<'a>(&'a self, current: &'a Current, arrival: &'a Arrival, request: &'a RequestHead) -> Entry<'a> {
        let snapshot = current.snapshot();
        let client = if self.client == arrival.peer.ip() { arrival.peer } else { SocketAddr::new(self.client, 0) };
        let protocol = match request.version {
            Version::Http11 => "HTTP/1.1",
            Version::Http10 => "HTTP/1.0",
            Version::Http2 => "HTTP/2",
            Version::Http3 => "HTTP/3",
        };
        let mut entry = Entry::new(UNIX_EPOCH, client, arrival.destination(), protocol);
        let listener = self.listener.and_then(|id| snapshot.listeners.get(id.index()));
        entry.listener = listener.map(|listener| (&listener.parent, &*listener.name));
        let rule = self.rule.and_then(|id| snapshot.rules.get(id.index()));
        entry.rule =
            rule.map(|rule| RuleOf { route: &rule.route, index: Some(rule.index), name: rule.name.as_deref() });
        entry.backend = rule
            .zip(self.backend)
            .and_then(|(rule, place)| super::backends_of(rule).get(place))
            .map(|backend| &*backend.reference);
        entry.endpoint = self.endpoint;
        entry.method = request.method().as_bytes();
        entry.host = request.host().as_bytes();
        entry.path = request.path().as_bytes();
        entry.status = self.status;
        entry.bytes_in = self.bytes_in;
        entry.bytes_out = self.bytes_out;
        entry.upstream = self.latency;
        entry.tries = self.tries;
        entry.proxied_by = arrival.proxied.as_ref().map(|proxied| proxied.by);
        entry.tls = arrival.tls.as_ref().map(|tls| TlsOf {
            version: tls.version,
            cipher: tls.cipher,
            server_name: arrival.server_name.as_deref(),
        });
        entry.user_agent = request.fields.first(b"user-agent");
        entry.request_id = request.fields.first(b"x-request-id");
        entry.trace_id = self.trace.as_ref().map(Trace::id);
        entry.reason = self.reason;
        entry
    }

    fn count(&self, worker: &Worker, current: &Current, duration: Duration) {
        if let Some(reason) = self.reason {
            worker.metrics.count(reason);
        }
        if let Some(series) = self.listener.and_then(|id| current.series.listener(id)) {
            series.responses.count(self.status);
            series.duration.observe(duration);
            series.received.add(self.bytes_in);
            series.sent.add(self.bytes_out);
            series.tunnels_closed.add(u64::from(self.upgraded));
        }
        if let Some(series) = self.rule.and_then(|id| current.series.rule(id)) {
            series.responses.count(self.status);
        }
        if let Some(series) = self.upstream.and_then(|id| current.series.upstream(id)) {
            if let Some(status) = self.endpoint_status {
                series.responses.count(status);
            }
            if let Some(latency) = self.latency {
                series.latency.observe(latency);
            }
            series.sent.add(self.bytes_in);
            series.received.add(self.bytes_out);
            series.retries.add(u64::from(self.tries.saturating_sub(1)));
        }
    }
}

/// The wall clock, for what other machines and later days must understand.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}
