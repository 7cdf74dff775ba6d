mod announce;
mod dashboard;
mod fleet;
mod tracing;

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::names::{Kind, ObjectKey};
use crate::settings::{Credentials, IoBackend, KubernetesSettings, PatchType, SecretScope, TextSource, TlsRecords};

pub(super) fn faults(text: &str) -> Vec<String> {
    let problems = decode(&"edge.toml".into(), text).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(decode(&"edge.toml".into(), ""), Ok(Settings::default()));
}

#[test]
fn every_key() {
    let text = r#"
[state]
directory = "state"
[gateway]
controller_names = ["edge.internal/gateway-controller", "gateway.envoyproxy.io/gatewayclass-controller"]
[[manifests]]
path = "manifests"
exclude = ["kustomization.yaml", "./old/"]
namespace = "shop"
[[manifests]]
inline = """
kind: Gateway
"""
[[patch]]
target = { kind = "Gateway", namespace = "envoy-gateway", name = "flex-gateway" }
path = "listeners"
[[patch]]
type = "merge"
target = { kind = "GatewayClass", name = "eg", group = "gateway.networking.k8s.io" }
inline = "spec: {}"
[[secret]]
name = "default/my-tls"
certificate = "tls.crt"
key = "tls.key"
[substitute]
"your.domain.tld" = "cloud.example.test"
[[pool]]
name = "loopback"
addresses = ["127.0.0.10-127.0.0.20", "192.0.2.0/28"]
auto_assign = false
avoid_buggy_ips = true
[vips]
bind = "never"
interface = "eth0"
[proxy]
workers = 3
io = "epoll"
tls_records = "rustls"
max_connections = 7
max_head = "4KiB"
max_fields = 10
max_udp_sessions = 0
head_timeout = "1s"
idle_timeout = "2s"
stream_idle_timeout = "3s"
tunnel_idle_timeout = "4s"
connect_timeout = "5s"
upstream_idle_timeout = "6s"
upstream_idle_connections = 8
drain_timeout = "0s"
trusted_hops = 2
proxy_protocol = "required"
proxy_protocol_from = ["192.0.2.0/28", "2001:db8::1"]
[access_log]
path = "access.json"
[log]
level = "debug"
format = "json"
[control]
socket = "edged.sock"
metrics = "[::1]:9901"
[services]
classes = ["edge.internal/load-balancer", "mine"]
without_class = true
[reach]
mode = "pod-route"
keep_routes = true
[certificates]
placeholder = false
internal_ca = "Example CA"
"#;
    let settings = decode(&"edge.toml".into(), text).unwrap();
    assert_eq!(settings.state_directory, PathBuf::from("state"));
    assert_eq!(settings.controller_names.len(), 2);
    assert_eq!((settings.services.classes.len(), settings.services.without_class), (2, true));
    assert_eq!((settings.reach.mode, settings.reach.keep_routes), (crate::settings::ReachMode::PodRoute, true));
    assert_eq!(settings.manifests[0].exclude, ["kustomization.yaml", "old"]);
    assert_eq!(settings.manifests[0].namespace, "shop");
    assert_eq!(
        settings.manifests[1].source,
        TextSource::Inline { text: "kind: Gateway\n".to_owned(), line: 12 },
        "the content begins on the line below its quotes"
    );
    assert_eq!(settings.patches[0].format, PatchType::Json);
    assert_eq!(settings.patches[0].target.key, ObjectKey::new("envoy-gateway", "flex-gateway"));
    assert_eq!(settings.patches[0].line, 14);
    assert_eq!(settings.patches[1].format, PatchType::Merge);
    assert_eq!(settings.patches[1].target.kind, Kind::GatewayClass);
    assert_eq!(settings.patches[1].target.key, ObjectKey::new("", "eg"));
    assert_eq!(settings.secrets[0].key, ObjectKey::new("default", "my-tls"));
    assert_eq!(settings.substitute["your.domain.tld"], "cloud.example.test");
    assert!(!settings.pools[0].auto_assign && settings.pools[0].avoid_buggy_ips);
    assert_eq!(settings.pools[0].addresses.len(), 2);
    let proxy = &settings.proxy;
    assert_eq!((proxy.workers, proxy.max_connections, proxy.max_head, proxy.max_fields), (3, 7, 4096, 10));
    assert_eq!(
        [
            proxy.head_timeout,
            proxy.idle_timeout,
            proxy.stream_idle_timeout,
            proxy.tunnel_idle_timeout,
            proxy.connect_timeout,
            proxy.upstream_idle_timeout,
            proxy.drain_timeout
        ],
        [1, 2, 3, 4, 5, 6, 0].map(Duration::from_secs)
    );
    assert_eq!((proxy.upstream_idle_connections, proxy.trusted_hops), (8, 2));
    assert_eq!((proxy.io, proxy.tls_records), (IoBackend::Epoll, TlsRecords::Rustls));
    assert_eq!(proxy.max_udp_sessions, 0);
    assert_eq!(proxy.proxy_protocol, Some(crate::snapshot::ProxyPresence::Required));
    assert_eq!(proxy.proxy_protocol_from.len(), 2);
    assert_eq!(settings.control.metrics, Some("[::1]:9901".parse().unwrap()));
    assert_eq!(settings.certificates.internal_ca, "Example CA");
    assert!(!settings.certificates.placeholder);
}

#[test]
fn every_fault_at_once() {
    let text = r#"
[prxoy]
[proxy]
worker = 3
max_head = "64kb"
max_fields = 5
idle_timeout = "1d"
connect_timeout = "0s"
io = "uring"
[[pool]]
name = "a"
addresses = ["10.0.0.300", 7]
[[manifests]]
[[manifests]]
path = "a"
inline = "b"
[[patch]]
path = "x"
[[patch]]
path = "x"
target = { kind = "Gatway", name = "x" }
[control]
metrics = "localhost"
"#;
    assert_eq!(
        faults(text),
        [
            "edge.toml:2:2: unknown table `prxoy`, did you mean `proxy`?",
            "edge.toml:4:1: unknown key `proxy.worker`, did you mean `workers`?",
            "edge.toml:5:12: proxy.max_head: \"64kb\" is no size, expected one such as \"64KiB\" or \"512B\"",
            "edge.toml:6:14: proxy.max_fields: 5 is out of range, expected 10 to 1000",
            "edge.toml:7:16: proxy.idle_timeout: \"1d\" is no duration, expected one such as \"10s\" or \"1m30s\"",
            "edge.toml:8:19: proxy.connect_timeout: 0s is out of range, expected more",
            "edge.toml:9:6: proxy.io: unknown value \"uring\", expected auto, io_uring, epoll",
            "edge.toml:12:14: pool[0].addresses: \"10.0.0.300\": not an IP address, expected an address, \"first-last\" or a network such as \"192.0.2.0/28\"",
            "edge.toml:12:28: pool[0].addresses: found the number 7, expected a string",
            "edge.toml:13:1: manifests[0]: has neither path nor inline, expected one of them",
            "edge.toml:14:1: manifests[1]: has both path and inline, expected one of them",
            "edge.toml:17:1: patch[0]: target is missing",
            "edge.toml:21:19: patch[1].target.kind: \"Gatway\" is no kind that Edge reads, did you mean `Gateway`?",
            "edge.toml:23:11: control.metrics: \"localhost\" is no address, expected \"off\" or one such as \"127.0.0.1:9901\"",
        ]
    );
}

#[test]
fn proxy_protocol_needs_somebody_to_believe() {
    let missing =
        "edge.toml:2:18: proxy.proxy_protocol needs sources that are trusted, expected proxy.proxy_protocol_from";
    let text = "[proxy]\nproxy_protocol = \"optional\"\n";
    assert_eq!(faults(text), [missing]);
    assert_eq!(faults(&format!("{text}proxy_protocol_from = []\n")), [missing]);
    assert!(decode(&"edge.toml".into(), "[proxy]\nproxy_protocol = \"off\"\n").is_ok());
    let [fault] = &faults(&format!("{text}proxy_protocol_from = [\"10.0.0.0/33\"]\n"))[..] else { panic!() };
    assert!(fault.contains("\"10.0.0.0/33\": not a network"), "{fault}");
}

#[test]
fn syntax_faults_have_places_too() {
    let found = faults("[proxy\nworkers = \n[log]\nlevel = \"loud\"\n");
    assert!(found.iter().any(|fault| fault.starts_with("edge.toml:1:")), "{found:#?}");
    assert!(found.iter().any(|fault| fault.starts_with("edge.toml:4:9: log.level: unknown value")), "{found:#?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_text_does_not_panic(text in "[\\[\\]a-z_=\"' .\\n0-9{},#]{0,120}") {
        let _ = decode(&"edge.toml".into(), &text);
    }
}

#[test]
fn kubernetes() {
    let decoded = |text: &str| decode(&"edge.toml".into(), text).unwrap().kubernetes;
    assert_eq!(decoded(""), None);
    assert_eq!(decoded("[kubernetes]\n"), Some(KubernetesSettings::default()));
    assert_eq!(decoded("[kubernetes]\nenabled = false\nkubeconfig = \"k\"\n"), None);
    let text = r#"
[kubernetes]
kubeconfig = "kube/config"
context = "admin@lab"
namespaces = ["shop", "api", "shop"]
gateway_selector = "shard in (a, b)"
secrets = "referenced"
sync_timeout = "10s"
write_status = false
group = "edge-a"
edge_name = "rack-1"
lease_namespace = "kube-system"
gateway_services = false
cert_manager_lease = "cert-manager/cm"
"#;
    let expected = KubernetesSettings {
        credentials: Credentials::Kubeconfig {
            path: PathBuf::from("kube/config"),
            context: Some("admin@lab".to_owned()),
        },
        namespaces: vec!["api".to_owned(), "shop".to_owned()],
        gateway_selector: Some("shard in (a, b)".to_owned()),
        secrets: SecretScope::Referenced,
        sync_timeout: Duration::from_secs(10),
        write_status: false,
        group: "edge-a".to_owned(),
        edge_name: Some("rack-1".to_owned()),
        lease_namespace: "kube-system".to_owned(),
        gateway_services: false,
        cert_manager_lease: ObjectKey::new("cert-manager", "cm"),
    };
    assert_eq!(decoded(text), Some(expected));
    let text = r#"
[kubernetes]
context = "lab"
namespaces = []
gateway_selector = "a b"
secrets = "some"
sync_timeout = "0s"
group = "a.b"
cert_manager_lease = "cm"
kubeconf = "x"
"#;
    assert_eq!(
        faults(text),
        [
            "edge.toml:3:11: kubernetes.context needs a file that has contexts, expected kubernetes.kubeconfig",
            "edge.toml:4:14: kubernetes.namespaces has 0 items, expected 1 to 64, or none of it for all",
            "edge.toml:5:20: kubernetes.gateway_selector: \"a b\" is no label selector: \"a\" has no operator, expected =, ==, !=, in (…) or notin (…)",
            "edge.toml:6:11: kubernetes.secrets: unknown value \"some\", expected all, referenced",
            "edge.toml:7:16: kubernetes.sync_timeout is out of range, expected 1s to 10m",
            "edge.toml:8:9: kubernetes.group: \"a.b\" is no DNS label",
            "edge.toml:9:22: kubernetes.cert_manager_lease: \"cm\" is no Lease, expected \"namespace/name\"",
            "edge.toml:10:1: unknown key `kubernetes.kubeconf`, did you mean `kubeconfig`?",
        ]
    );
}
