//! The message that carries spans, and what comes back (opentelemetry-proto 1).

use edge_config::settings::Collector;
use prost::Message;

use crate::proxy::trace::span::SCHEMA;
use crate::proxy::trace::{Batch, wire};

/// `ExportTraceServiceRequest.resource_spans`, `ResourceSpans.resource`
const FIRST: wire::Field = 1;
/// `ResourceSpans.scope_spans`
const SCOPE_SPANS: wire::Field = 2;
/// `ResourceSpans.schema_url`, `ScopeSpans.schema_url`
const SCHEMA_URL: wire::Field = 3;

/// What a collector answers that has taken a message.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `google.rpc.Status`, as which HTTP carries what went wrong.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Who Edge is.
pub fn resource(collector: &Collector) -> Vec<u8> {
    let mut out = Vec::new();
    wire::text(&mut out, FIRST, "service.name", collector.service_name.as_bytes());
    // An attribute that is said in the settings is said by nobody else.
    let version = ("service.version", env!("CARGO_PKG_VERSION"));
    let sdk =
        [("telemetry.sdk.name", "edge"), ("telemetry.sdk.language", "rust"), ("telemetry.sdk.version", version.1)];
    for (key, value) in [version].into_iter().chain(sdk) {
        if !collector.attributes.contains_key(key) {
            wire::text(&mut out, FIRST, key, value.as_bytes());
        }
    }
    for (key, value) in &collector.attributes {
        wire::text(&mut out, FIRST, key, value.as_bytes());
    }
    out
}

/// `ExportTraceServiceRequest`
pub fn request(resource: &[u8], batches: &[Batch]) -> Vec<u8> {
    let spans: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    let mut scoped = Vec::with_capacity(spans + 128);
    let mut scope = Vec::new();
    wire::bytes(&mut scope, 1, b"edge");
    wire::bytes(&mut scope, 2, env!("CARGO_PKG_VERSION").as_bytes());
    wire::bytes(&mut scoped, FIRST, &scope);
    for batch in batches {
        scoped.extend_from_slice(&batch.bytes);
    }
    wire::bytes(&mut scoped, SCHEMA_URL, SCHEMA.as_bytes());
    let mut of_resource = Vec::with_capacity(scoped.len() + resource.len() + 128);
    wire::bytes(&mut of_resource, FIRST, resource);
    wire::bytes(&mut of_resource, SCOPE_SPANS, &scoped);
    drop(scoped);
    wire::bytes(&mut of_resource, SCHEMA_URL, SCHEMA.as_bytes());
    let mut out = Vec::with_capacity(of_resource.len() + 16);
    wire::bytes(&mut out, FIRST, &of_resource);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use edge_config::settings::{OtlpProtocol, ParentRule, Ratio};

    use super::*;
    use crate::proxy::trace::messages::{Export, KeyValue};
    use crate::proxy::trace::sampling::Sampler;
    use crate::proxy::trace::{Sink, Tracer};

    fn told(pairs: &[KeyValue]) -> Vec<(&str, &str)> {
        pairs.iter().map(|pair| (pair.key.as_str(), pair.text())).collect()
    }

    #[test]
    fn batches_of_several_workers_are_one_message() {
        let collector = Collector {
            endpoint: "http://127.0.0.1:4318".into(),
            protocol: OtlpProtocol::HttpProtobuf,
            service_name: "edge-west".into(),
            attributes: BTreeMap::from([
                ("service.version".into(), "mine".into()),
                ("deployment.environment.name".into(), "staging".into()),
            ]),
            headers_file: None,
            ca_file: None,
            timeout: Duration::from_secs(1),
        };
        let (tracer, mut spans) = Tracer::new(Sampler::new(Ratio::ONE, ParentRule::Follow), 1 << 20, Arc::default());
        let tracer = Arc::new(tracer);
        for worker in [b"one", b"two"] {
            let mut sink = Sink::default();
            sink.adopt(Some(&tracer));
            // `Span.name`
            sink.span(|_, out| wire::bytes(out, 5, worker));
            sink.span(|_, out| wire::bytes(out, 5, worker));
        }
        let batches = [spans.try_recv().unwrap(), spans.try_recv().unwrap()];
        let message = request(&resource(&collector), &batches);
        let export = Export::decode(&*message).unwrap();
        let [of_resource] = &export.resources[..] else { panic!("{export:?}") };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            told(&of_resource.resource.as_ref().unwrap().attributes),
            [
                ("service.name", "edge-west"),
                ("telemetry.sdk.name", "edge"),
                ("telemetry.sdk.language", "rust"),
                ("telemetry.sdk.version", version),
                ("deployment.environment.name", "staging"),
                ("service.version", "mine"),
            ]
        );
        let [scope] = &of_resource.scopes[..] else { panic!("{export:?}") };
        assert_eq!(scope.schema_url, SCHEMA);
        let names: Vec<&str> = scope.spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["one", "one", "two", "two"]);
    }
}
