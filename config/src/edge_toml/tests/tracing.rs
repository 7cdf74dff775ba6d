use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::faults;
use crate::edge_toml::decode;
use crate::settings::{Collector, OtlpProtocol, ParentRule, Ratio, TracingSettings};

#[test]
fn tracing() {
    let text = r#"
[tracing]
endpoint = "https://collector.example:4317"
protocol = "grpc"
sample_ratio = 0.01
parent = "ratio"
service_name = "edge-west"
attributes = { "deployment.environment.name" = "staging" }
headers_file = "otlp.headers"
ca_file = "/etc/ca.pem"
timeout = "3s"
queue = "1MiB"
"#;
    let settings = decode(&"edge.toml".into(), text).unwrap().anchored("/etc/edge".as_ref());
    let expected = TracingSettings {
        collector: Collector {
            endpoint: "https://collector.example:4317".into(),
            protocol: OtlpProtocol::Grpc,
            service_name: "edge-west".into(),
            attributes: BTreeMap::from([("deployment.environment.name".into(), "staging".into())]),
            headers_file: Some(PathBuf::from("/etc/edge/otlp.headers")),
            ca_file: Some(PathBuf::from("/etc/ca.pem")),
            timeout: Duration::from_secs(3),
        },
        sample_ratio: Ratio::new(0.01).unwrap(),
        parent: ParentRule::Ratio,
        queue: 1 << 20,
    };
    assert_eq!(settings.tracing, Some(expected));
    assert_eq!(decode(&"edge.toml".into(), "").unwrap().tracing, None);

    let least = decode(&"edge.toml".into(), "[tracing]\nendpoint = \"http://127.0.0.1:4318\"\n").unwrap();
    let least = least.tracing.unwrap();
    assert_eq!((least.sample_ratio, least.parent, least.queue), (Ratio::ONE, ParentRule::Follow, 4 << 20));
    assert_eq!(least.collector.protocol, OtlpProtocol::HttpProtobuf);
    assert_eq!((least.collector.service_name.as_str(), least.collector.timeout), ("edge", Duration::from_secs(10)));
}

#[test]
fn ratios() {
    for (text, expected) in [
        ("0", 0),
        ("1", 1_000_000),
        ("0.5", 500_000),
        ("1e-9", 1),
        ("0.0", 0),
        ("1.0", 1_000_000),
        ("0.3333333", 333_333),
    ] {
        let text = format!("[tracing]\nendpoint = \"http://a\"\nsample_ratio = {text}\n");
        let settings = decode(&"edge.toml".into(), &text).unwrap();
        assert_eq!(settings.tracing.unwrap().sample_ratio.millionths(), expected, "{text}");
    }
}

#[test]
fn faults_of_tracing() {
    for (text, expected) in [
        ("", "edge.toml:1:1: tracing.endpoint is missing"),
        (
            "endpoint = \"collector:4318\"",
            "edge.toml:2:12: tracing.endpoint: \"collector:4318\" is no URL, expected one such as \"https://host/path\"",
        ),
        (
            "endpoint = \"http://a/?x\"",
            "edge.toml:2:12: tracing.endpoint: \"http://a/?x\" has a query, expected a URL without",
        ),
        (
            "endpoint = \"http://a/v1/traces\"\nprotocol = \"grpc\"",
            "edge.toml:2:12: tracing.endpoint: \"http://a/v1/traces\" has a path, and gRPC has its own",
        ),
        (
            "endpoint = \"http://a\"\nprotocol = \"zipkin\"",
            "edge.toml:3:12: tracing.protocol: unknown value \"zipkin\", expected http/protobuf, grpc",
        ),
        (
            "endpoint = \"http://a\"\nsample_ratio = 1.5",
            "edge.toml:3:16: tracing.sample_ratio: 1.5 is out of range, expected 0 to 1",
        ),
        (
            "endpoint = \"http://a\"\nsample_ratio = -1",
            "edge.toml:3:16: tracing.sample_ratio: -1 is out of range, expected 0 to 1",
        ),
        (
            "endpoint = \"http://a\"\nsample_ratio = nan",
            "edge.toml:3:16: tracing.sample_ratio: nan is out of range, expected 0 to 1",
        ),
        (
            "endpoint = \"http://a\"\nsample_ratio = \"1%\"",
            "edge.toml:3:16: tracing.sample_ratio: found the string \"1%\", expected a number from 0 to 1",
        ),
        (
            "endpoint = \"http://a\"\nattributes = { \"service.name\" = \"x\" }",
            "edge.toml:3:14: tracing.attributes: service.name has a key of its own, service_name",
        ),
        ("endpoint = \"http://a\"\ncolour = 1", "edge.toml:3:1: unknown key `tracing.colour`"),
        (
            "endpoint = \"http://a\"\ntimeout = \"2m\"",
            "edge.toml:3:11: tracing.timeout: 2m is out of range, expected 100ms to 1m",
        ),
        (
            "endpoint = \"http://a\"\nqueue = \"1KiB\"",
            "edge.toml:3:9: tracing.queue: 1KiB is out of range, expected 64KiB to 1024MiB",
        ),
    ] {
        let found = faults(&format!("[tracing]\n{text}\n"));
        assert_eq!(found, [expected], "{text}");
    }
}
