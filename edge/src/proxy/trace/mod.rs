//! Traces: who called, what Edge did, how each endpoint answered, as spans that an exporter sends to a collector.
//!
//! In: a request's context and the record of its exchange. Out: the context that endpoints get, and bytes of spans. Without
//! `[tracing]` a request costs one look at an Option; one that is not sampled, the reading of its field and, unless it says
//! the right thing already, the writing of another. Mirrored copies, authorizers and what is below HTTP have no spans.
//!
//! Standards: W3C Trace Context level 2, OTLP 1 (`opentelemetry.proto.trace.v1`), OpenTelemetry semantic conventions for
//! HTTP spans.

pub mod context;
#[cfg(test)]
pub mod messages;
pub mod sampling;
pub mod sink;
pub mod span;
pub mod wire;

use std::net::SocketAddr;
use std::time::Instant;

use edge_config::snapshot::UpstreamProtocol;

use self::context::{Context, Flags, TRACEPARENT, TRACESTATE};
pub use self::sink::{Batch, Sink, Tally, Tracer};
use crate::proxy::message::{RequestHead, Span as Piece};
use crate::proxy::reason::Reason;

/// The place of one request in its trace.
#[derive(Debug)]
pub struct Trace {
    /// What an endpoint is told: Edge's own span, or that of the caller where Edge has none.
    context: Context,
    /// The caller's span.
    parent: Option<[u8; 8]>,
    /// The request says so already.
    is_told: bool,
    recording: Option<Box<Recording>>,
}

/// What a span is to say and nobody else keeps. The head only grows, so its pieces stay what they were.
#[derive(Debug)]
struct Recording {
    method: Piece,
    authority: Piece,
    path: Piece,
    user_agent: Option<Piece>,
    /// The part of the path that a rule names.
    route: Option<Piece>,
    tries: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    span_id: [u8; 8],
    begun: Instant,
    ended: Option<Instant>,
    endpoint: SocketAddr,
    protocol: UpstreamProtocol,
    is_tls: bool,
    /// As it was sent.
    path: Piece,
    status: Option<u16>,
    reason: Option<Reason>,
}

impl Trace {
    /// Takes up the context of a request, or begins a trace.
    pub fn begin(tracer: &Tracer, sink: &mut Sink, request: &mut RequestHead) -> Self {
        let given = Context::take(&mut request.fields);
        let parent = tracer.sampler.believed(given);
        if given.is_some() && parent.is_none() {
            request.fields.remove(TRACESTATE);
        }
        let (context, is_told) = match parent {
            Some(parent) => match (tracer.sampler.follows(&parent), parent.flags.is_sampled()) {
                (false, false) => (parent, true),
                // Level 2, §2.3.2.1: who changes the flag is a new parent.
                (is_sampled, _) => {
                    (Context { span_id: sink.id(), flags: parent.flags.with_sampled(is_sampled), ..parent }, false)
                }
            },
            None => {
                let trace_id = sink.id();
                let flags = Flags::begun(tracer.sampler.draws(&trace_id));
                (Context { trace_id, span_id: sink.id(), flags }, false)
            }
        };
        let recording = context.flags.is_sampled().then(|| {
            Box::new(Recording {
                method: request.method,
                authority: request.authority,
                path: request.path,
                user_agent: request.fields.find(b"user-agent"),
                route: None,
                tries: Vec::new(),
            })
        });
        Self { context, parent: parent.map(|parent| parent.span_id), is_told, recording }
    }

    pub fn id(&self) -> &[u8; 16] {
        &self.context.trace_id
    }

    pub fn is_sampled(&self) -> bool {
        self.recording.is_some()
    }

    /// The path as it was matched, and how much of it a rule names.
    pub fn route(&mut self, path: Piece, named: usize) {
        if let Some(recording) = &mut self.recording {
            recording.route = Some(path.part(0..named));
        }
    }

    /// Lets a request say where it comes from.
    pub fn tell(&mut self, request: &mut RequestHead) {
        if !std::mem::replace(&mut self.is_told, true) {
            request.fields.set(TRACEPARENT, &self.context.write());
        }
    }

    /// Another endpoint is asked; its parent is a span of its own.
    pub fn begin_try(
        &mut self,
        sink: &mut Sink,
        request: &mut RequestHead,
        endpoint: SocketAddr,
        (protocol, is_tls): (UpstreamProtocol, bool),
    ) {
        let Some(recording) = &mut self.recording else { return };
        let span_id = sink.id();
        request.fields.set(TRACEPARENT, &Context { span_id, ..self.context }.write());
        recording.tries.push(Attempt {
            span_id,
            begun: Instant::now(),
            ended: None,
            endpoint,
            protocol,
            is_tls,
            path: request.path,
            status: None,
            reason: None,
        });
    }

    /// What the endpoint answered, as soon as it is known.
    pub fn answered_try(&mut self, status: u16) {
        if let Some(last) = self.last_try() {
            last.status = Some(status);
        }
    }

    /// The try is over, and why where it came to nothing.
    pub fn end_try(&mut self, reason: Option<Reason>) {
        if let Some(last) = self.last_try() {
            last.ended = Some(Instant::now());
            // An answer that another try is to better says why by itself.
            last.reason = reason.filter(|_| last.status.is_none());
        }
    }

    fn last_try(&mut self) -> Option<&mut Attempt> {
        self.recording.as_mut()?.tries.last_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edge_config::settings::{ParentRule, Ratio};

    use super::sampling::Sampler;
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    const FUTURE: &str = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more";

    fn begin(ratio: f64, rule: ParentRule, fields: &[(&str, &str)]) -> (Trace, RequestHead) {
        let sampler = Sampler::new(Ratio::new(ratio).unwrap(), rule);
        let (tracer, _receiver) = Tracer::new(sampler, 1 << 20, Arc::default());
        let mut request = RequestHead::default();
        for (name, value) in fields {
            request.fields.add(name.as_bytes(), value.as_bytes());
        }
        let mut trace = Trace::begin(&tracer, &mut Sink::default(), &mut request);
        trace.tell(&mut request);
        (trace, request)
    }

    fn first(request: &RequestHead, name: &[u8]) -> Option<String> {
        request.fields.first(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn what_endpoints_are_told() {
        use ParentRule::{Follow, Ignore, Ratio};
        let (id, caller) = (&PARENT[3..35], &PARENT[36..52]);
        // (ratio, rule, field, sampled, the same trace, the same parent, flags)
        for (ratio, rule, parent, is_sampled, same_trace, same_parent, flags) in [
            (0.0, Follow, PARENT, true, true, false, "01"),
            (1.0, Follow, UNSAMPLED, false, true, true, "00"),
            (1.0, Ratio, UNSAMPLED, true, true, false, "01"),
            (0.0, Ratio, PARENT, false, true, false, "00"),
            (0.0, Ratio, UNSAMPLED, false, true, true, "00"),
            (1.0, Ignore, UNSAMPLED, true, false, false, "03"),
            (0.0, Ignore, PARENT, false, false, false, "02"),
            (1.0, Follow, "garbage", true, false, false, "03"),
            (0.0, Follow, "garbage", false, false, false, "02"),
        ] {
            let (trace, request) = begin(ratio, rule, &[("traceparent", parent), ("tracestate", "a=1")]);
            let what = format!("{ratio} {rule:?} {parent}");
            assert_eq!(trace.is_sampled(), is_sampled, "{what}");
            let told = first(&request, TRACEPARENT).unwrap();
            assert_eq!(told.len(), context::LENGTH, "{what}");
            assert_eq!(&told[3..35] == id, same_trace, "{what}: {told}");
            assert_eq!(&told[36..52] == caller, same_parent, "{what}: {told}");
            assert_eq!(&told[53..], flags, "{what}: {told}");
            assert_eq!(trace.parent.is_some(), same_trace, "{what}");
            // What others keep in the state goes with their trace.
            assert_eq!(first(&request, TRACESTATE).is_some(), same_trace, "{what}");
            assert_eq!(request.fields.all(TRACEPARENT).count(), 1);
        }
    }

    #[test]
    fn a_field_of_a_version_to_come_that_is_only_passed_on_stays_whole() {
        let (_, request) = begin(1.0, ParentRule::Follow, &[("traceparent", FUTURE)]);
        assert_eq!(first(&request, TRACEPARENT).as_deref(), Some(FUTURE));
    }

    #[test]
    fn each_try_has_a_span_of_its_own() {
        let (mut trace, mut request) = begin(1.0, ParentRule::Follow, &[]);
        let own = first(&request, TRACEPARENT).unwrap();
        let mut seen = vec![own.clone()];
        for _ in 0..2 {
            let to = (UpstreamProtocol::Http1, false);
            trace.begin_try(&mut Sink::default(), &mut request, "192.0.2.1:80".parse().unwrap(), to);
            seen.push(first(&request, TRACEPARENT).unwrap());
        }
        assert!(seen.iter().all(|told| told[..35] == own[..35] && told.ends_with("-03")), "{seen:?}");
        assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{seen:?}");
        let (mut trace, mut request) = begin(0.0, ParentRule::Follow, &[]);
        let own = first(&request, TRACEPARENT);
        let to = (UpstreamProtocol::Http1, false);
        trace.begin_try(&mut Sink::default(), &mut request, "192.0.2.1:80".parse().unwrap(), to);
        assert_eq!(first(&request, TRACEPARENT), own);
    }
}
