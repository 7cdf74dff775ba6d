//! `[tracing]`, and what every section has that names a collector.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Section, Sink, not_empty, path};
use crate::issuer::UrlHost;
use crate::settings::{Collector, OtlpProtocol, ParentRule, Ratio, TracingSettings};
use crate::yaml::Quoted;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);
const LEAST_QUEUE: usize = 64 << 10;
const MOST_QUEUE: usize = 1 << 30;
const QUEUE: usize = 4 << 20;

pub(super) fn tracing(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<TracingSettings> {
    let collector = collector(&mut section, sink);
    let sample_ratio = section.ratio(sink, "sample_ratio");
    let rules = [("follow", ParentRule::Follow), ("ratio", ParentRule::Ratio), ("ignore", ParentRule::Ignore)];
    let parent = section.word(sink, "parent", &rules);
    let queue = section.size(sink, "queue", LEAST_QUEUE, MOST_QUEUE);
    section.finish(sink);
    Some(TracingSettings {
        collector: collector?,
        sample_ratio: sample_ratio.unwrap_or(Ratio::ONE),
        parent: parent.unwrap_or(ParentRule::Follow),
        queue: queue.unwrap_or(QUEUE),
    })
}

fn collector(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<Collector> {
    let start = section.value_start("endpoint");
    let endpoint = section.required(sink, "endpoint", endpoint);
    let protocols = [("http/protobuf", OtlpProtocol::HttpProtobuf), ("grpc", OtlpProtocol::Grpc)];
    let protocol = section.word(sink, "protocol", &protocols).unwrap_or(OtlpProtocol::HttpProtobuf);
    let service_name = section.parsed(sink, "service_name", not_empty);
    let attributes = attributes(section, sink);
    let headers_file = section.parsed(sink, "headers_file", path);
    let ca_file = section.parsed(sink, "ca_file", path);
    let timeout = section.duration_in(sink, "timeout", SHORTEST, LONGEST);
    let endpoint = endpoint?;
    if protocol == OtlpProtocol::Grpc && has_path(&endpoint) {
        let message = format!("{}: {} has a path, and gRPC has its own", section.path("endpoint"), Quoted(&endpoint));
        sink.error(start..start, message);
    }
    Some(Collector {
        endpoint,
        protocol,
        service_name: service_name.unwrap_or_else(|| "edge".to_owned()),
        attributes,
        headers_file,
        ca_file,
        timeout: timeout.unwrap_or(TIMEOUT),
    })
}

fn endpoint(text: &str) -> Result<String, String> {
    match UrlHost::parse(text) {
        Ok(_) if text.contains('?') => Err(format!("{} has a query, expected a URL without", Quoted(text))),
        Ok(_) => Ok(text.to_owned()),
        Err(why) => Err(format!("{} {why}", Quoted(text))),
    }
}

fn has_path(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_once('/').is_some_and(|(_, path)| !path.is_empty())
}

fn attributes(section: &mut Section<'_>, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
    let start = section.value_start("attributes");
    let attributes = section.texts(sink, "attributes");
    // One thing is said in one place.
    if attributes.contains_key("service.name") {
        let message = format!("{}: service.name has a key of its own, service_name", section.path("attributes"));
        sink.error(start..start, message);
    }
    attributes
}
