//! Each section of `edge.toml`, in the order of its manual page.

mod bgp;
mod certificates;
mod dashboard;
mod fleet;
mod issuers;
mod kubernetes;
mod l2;
mod pools;
mod selector;
mod tracing;
mod vips;

use std::net::IpAddr;
use std::path::PathBuf;

use super::reader::{Section, Sink};
use crate::names::{Kind, ObjectKey};
use crate::settings::{
    AccessLog, AddressRange, ControlSettings, DotSegments, EscapedSlashes, IoBackend, LogFormat, LogLevel, LogSettings,
    ManifestSource, PatchSource, PatchTarget, PatchType, ProxySettings, ReachMode, RepeatedSlashes, SecretSource,
    Settings, TextSource, TlsRecords,
};
use crate::snapshot::ProxyPresence;
use crate::suggest;
use crate::validate::{is_label, is_object_name};
use crate::yaml::Quoted;

pub(super) fn settings(mut root: Section<'_>, sink: &mut Sink<'_>) -> Settings {
    let mut settings = Settings::default();
    if let Some(section) = root.section(sink, "edge") {
        settings.edge = vips::edge(section, sink);
    }
    if let Some(mut section) = root.section(sink, "state") {
        set(&mut settings.state_directory, section.parsed(sink, "directory", path));
        settings.state_key_file = section.parsed(sink, "key_file", path);
        section.finish(sink);
    }
    if let Some(mut section) = root.section(sink, "gateway") {
        set(&mut settings.controller_names, section.list(sink, "controller_names", controller_name));
        section.finish(sink);
    }
    if let Some(mut section) = root.section(sink, "services") {
        set(&mut settings.services.classes, section.list(sink, "classes", load_balancer_class));
        set(&mut settings.services.without_class, section.boolean(sink, "without_class"));
        section.finish(sink);
    }
    if let Some(mut section) = root.section(sink, "reach") {
        let modes = [
            ("auto", ReachMode::Auto),
            ("direct", ReachMode::Direct),
            ("pod-route", ReachMode::PodRoute),
            ("node-port", ReachMode::NodePort),
        ];
        set(&mut settings.reach.mode, section.word(sink, "mode", &modes));
        set(&mut settings.reach.keep_routes, section.boolean(sink, "keep_routes"));
        section.finish(sink);
    }
    settings.manifests =
        root.sections(sink, "manifests").into_iter().filter_map(|section| manifest(section, sink)).collect();
    settings.patches = root.sections(sink, "patch").into_iter().filter_map(|section| patch(section, sink)).collect();
    settings.secrets = root.sections(sink, "secret").into_iter().filter_map(|section| secret(section, sink)).collect();
    settings.substitute = root.texts(sink, "substitute");
    settings.pools = pools::pools(&mut root, sink);
    if let Some(section) = root.section(sink, "vips") {
        vips::vips(section, &mut settings.vips, sink);
    }
    settings.bgp = root.section(sink, "bgp").map(|section| bgp::bgp(section, sink));
    settings.l2 = root.section(sink, "l2").map(|section| l2::l2(section, sink));
    if let Some(section) = root.section(sink, "proxy") {
        proxy(section, &mut settings.proxy, sink);
    }
    if let Some(mut section) = root.section(sink, "access_log") {
        let place = section.parsed(sink, "path", |text| {
            Ok(match text {
                "off" => AccessLog::Off,
                "stdout" => AccessLog::Stdout,
                file => AccessLog::File(path(file)?),
            })
        });
        set(&mut settings.access_log, place);
        section.finish(sink);
    }
    settings.tracing = root.section(sink, "tracing").and_then(|section| tracing::tracing(section, sink));
    if let Some(section) = root.section(sink, "log") {
        log(section, &mut settings.log, sink);
    }
    if let Some(section) = root.section(sink, "control") {
        control(section, &mut settings.control, sink);
    }
    let places = (root.value_start("certificates"), root.value_start("certificate"));
    if let Some(section) = root.section(sink, "certificates") {
        certificates::certificates(section, &mut settings.certificates, sink);
    }
    issuers::issuers(&mut root, &mut settings.issuers, sink);
    certificates::wishes(&mut root, &mut settings.issuers, sink);
    issuers::known(&settings, sink, places);
    if let Some(section) = root.section(sink, "kubernetes") {
        let start = section.value_start("edge_name");
        settings.kubernetes = kubernetes::kubernetes(section, sink);
        vips::one_name(&mut settings, start, sink);
    }
    if let Some(mut section) = root.section(sink, "history") {
        set(&mut settings.history.revisions, narrow(section.integer(sink, "revisions", 0, 1000)));
        set(&mut settings.history.max_size, section.size(sink, "max_size", 1 << 20, 1 << 30));
        section.finish(sink);
    }
    settings.fleet = root.section(sink, "fleet").and_then(|section| fleet::fleet(section, sink));
    settings.dashboard = root.section(sink, "dashboard").and_then(|section| dashboard::dashboard(section, sink));
    root.finish(sink);
    settings
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{} is no path", Quoted(text)));
    }
    Ok(PathBuf::from(text))
}

fn controller_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((domain, rest)) if is_object_name(Kind::Secret, domain) && !rest.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("{} is no controller name, expected \"domain/path\"", Quoted(text))),
    }
}

/// Kubernetes: a label-style name, with a prefix unless it is reserved for end users.
fn load_balancer_class(text: &str) -> Result<String, String> {
    let (prefix, name) = text.split_once('/').unwrap_or(("a", text));
    let is_name = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric());
    match is_name && is_object_name(Kind::Secret, prefix) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no loadBalancerClass, expected \"name\" or \"domain/name\"", Quoted(text))),
    }
}

/// Addresses as pools have them.
fn range(text: &str) -> Result<AddressRange, String> {
    AddressRange::parse(text).map_err(|fault| format!("{}: {fault}", Quoted(text)))
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{} is no IP address", Quoted(text)))
}

/// IFNAMSIZ holds 15 bytes and a zero.
fn interface(text: &str) -> Result<String, String> {
    let is_name = (1..=15).contains(&text.len()) && !matches!(text, "." | "..");
    if is_name && !text.contains(['/', '\0']) && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is no interface name", Quoted(text)))
    }
}

/// The name of an edge, or a part of the name of a Lease.
fn label(text: &str) -> Result<String, String> {
    if is_label(text) { Ok(text.to_owned()) } else { Err(format!("{} is no DNS label", Quoted(text))) }
}

fn namespace(text: &str) -> Result<String, String> {
    if is_label(text) { Ok(text.to_owned()) } else { Err(format!("{} is no namespace", Quoted(text))) }
}

/// Exactly one of `path` and `inline`.
fn text_source(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<TextSource> {
    let has = (section.has("path"), section.has("inline"));
    let start = section.value_start("inline");
    let path = section.parsed(sink, "path", path);
    let inline = section.string(sink, "inline");
    match has {
        (true, true) => {
            section.error(sink, "has both path and inline, expected one of them");
            None
        }
        (false, false) => {
            section.error(sink, "has neither path nor inline, expected one of them");
            None
        }
        (true, false) => path.map(TextSource::Path),
        (false, true) => {
            let line = sink.content_line(start);
            inline.map(|text| TextSource::Inline { text, line })
        }
    }
}

fn manifest(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<ManifestSource> {
    let source = text_source(&mut section, sink);
    let exclude = section.list(sink, "exclude", |text| {
        path(text).map(|_| text.strip_prefix("./").unwrap_or(text).trim_end_matches('/').to_owned())
    });
    let namespace = section.parsed(sink, "namespace", namespace);
    section.finish(sink);
    Some(ManifestSource {
        source: source?,
        exclude: exclude.unwrap_or_default(),
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
    })
}

fn patch(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<PatchSource> {
    let line = sink.line(section.start());
    let format = section.word(sink, "type", &[("json", PatchType::Json), ("merge", PatchType::Merge)]);
    let source = text_source(&mut section, sink);
    if !section.has("target") {
        section.error(sink, "target is missing");
    }
    let target = section.section(sink, "target").and_then(|target| patch_target(target, sink));
    section.finish(sink);
    Some(PatchSource { source: source?, format: format.unwrap_or(PatchType::Json), target: target?, line })
}

fn patch_target(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<PatchTarget> {
    let group = section.string(sink, "group");
    let kind = section.required(sink, "kind", |text| {
        Kind::named(text).ok_or_else(|| {
            let hint = suggest::hint(text, Kind::ALL.iter().map(|kind| kind.as_str()));
            format!("{} is no kind that Edge reads{hint}", Quoted(text))
        })
    });
    let name = section.required(sink, "name", not_empty);
    let namespace = section.parsed(sink, "namespace", namespace);
    if let (Some(group), Some(kind)) = (&group, kind)
        && group != kind.group()
    {
        section.error(sink, &format!("{kind} belongs to group {:?}, not {group:?}", kind.group()));
    }
    section.finish(sink);
    let (kind, name) = (kind?, name?);
    let namespace = match namespace {
        _ if kind.is_cluster_scoped() => String::new(),
        Some(namespace) => namespace,
        None => "default".to_owned(),
    };
    Some(PatchTarget { group, kind, key: ObjectKey::new(namespace, name) })
}

fn secret_key(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_object_name(Kind::Secret, name) => {
            Ok(ObjectKey::new(namespace, name))
        }
        _ => Err(format!("{} is no Secret, expected \"namespace/name\"", Quoted(text))),
    }
}

fn secret(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<SecretSource> {
    let line = sink.line(section.start());
    let key = section.required(sink, "name", secret_key);
    let certificate = section.required(sink, "certificate", path);
    let private_key = section.required(sink, "key", path);
    section.finish(sink);
    Some(SecretSource { key: key?, certificate: certificate?, private_key: private_key?, line })
}

fn proxy(mut section: Section<'_>, proxy: &mut ProxySettings, sink: &mut Sink<'_>) {
    set(&mut proxy.workers, narrow(section.integer(sink, "workers", 0, 512)));
    let words = [("auto", IoBackend::Auto), ("io_uring", IoBackend::IoUring), ("epoll", IoBackend::Epoll)];
    set(&mut proxy.io, section.word(sink, "io", &words));
    let words = [("own", TlsRecords::Own), ("rustls", TlsRecords::Rustls)];
    set(&mut proxy.tls_records, section.word(sink, "tls_records", &words));
    set(&mut proxy.max_connections, narrow(section.integer(sink, "max_connections", 1, 10_000_000)));
    set(&mut proxy.max_udp_sessions, narrow(section.integer(sink, "max_udp_sessions", 0, 10_000_000)));
    set(&mut proxy.max_head, section.size(sink, "max_head", 4 << 10, 1 << 20));
    set(&mut proxy.max_fields, narrow(section.integer(sink, "max_fields", 10, 1000)));
    for (key, field) in [
        ("head_timeout", &mut proxy.head_timeout),
        ("idle_timeout", &mut proxy.idle_timeout),
        ("stream_idle_timeout", &mut proxy.stream_idle_timeout),
        ("connect_timeout", &mut proxy.connect_timeout),
        ("upstream_idle_timeout", &mut proxy.upstream_idle_timeout),
    ] {
        let start = section.value_start(key);
        let duration = section.duration(sink, key);
        if duration.is_some_and(|duration| duration.is_zero()) {
            // Every wait has a deadline; only tunnels may live for ever.
            sink.error(start..start, format!("{}: 0s is out of range, expected more", section.path(key)));
        }
        set(field, duration);
    }
    set(&mut proxy.tunnel_idle_timeout, section.duration(sink, "tunnel_idle_timeout"));
    set(&mut proxy.drain_timeout, section.duration(sink, "drain_timeout"));
    let idle = section.integer(sink, "upstream_idle_connections", 0, 1_000_000);
    set(&mut proxy.upstream_idle_connections, narrow(idle));
    set(&mut proxy.trusted_hops, narrow(section.integer(sink, "trusted_hops", 0, 16)));
    let escaped = [
        ("reject", EscapedSlashes::Reject),
        ("keep", EscapedSlashes::Keep),
        ("unescape", EscapedSlashes::Unescape),
        ("redirect", EscapedSlashes::Redirect),
    ];
    set(&mut proxy.path.escaped_slashes, section.word(sink, "escaped_slashes", &escaped));
    let dots = [("reject", DotSegments::Reject), ("resolve", DotSegments::Resolve)];
    set(&mut proxy.path.dot_segments, section.word(sink, "dot_segments", &dots));
    let repeated = [("keep", RepeatedSlashes::Keep), ("merge", RepeatedSlashes::Merge)];
    set(&mut proxy.path.repeated_slashes, section.word(sink, "repeated_slashes", &repeated));
    set(&mut proxy.min_body_rate, narrow(section.integer(sink, "min_body_rate", 0, 1_000_000_000)));
    set(&mut proxy.min_body_rate_grace, section.duration(sink, "min_body_rate_grace"));
    let presences =
        [("off", None), ("optional", Some(ProxyPresence::Optional)), ("required", Some(ProxyPresence::Required))];
    let start = section.value_start("proxy_protocol");
    set(&mut proxy.proxy_protocol, section.word(sink, "proxy_protocol", &presences));
    let has_sources = section.has("proxy_protocol_from");
    let sources = section.list(sink, "proxy_protocol_from", range);
    if proxy.proxy_protocol.is_some() && (!has_sources || sources.as_ref().is_some_and(Vec::is_empty)) {
        // With nobody to believe, every connection that has a header would be closed.
        let message = format!("{} needs sources that are trusted", section.path("proxy_protocol"));
        sink.error(start..start, format!("{message}, expected {}", section.path("proxy_protocol_from")));
    }
    set(&mut proxy.proxy_protocol_from, sources);
    section.finish(sink);
}

/// The range was checked against the narrower type's.
fn narrow<T: TryFrom<u64>>(number: Option<u64>) -> Option<T> {
    number.and_then(|number| T::try_from(number).ok())
}

fn log(mut section: Section<'_>, log: &mut LogSettings, sink: &mut Sink<'_>) {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    set(&mut log.level, section.word(sink, "level", &levels));
    let formats = [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
    set(&mut log.format, section.word(sink, "format", &formats));
    section.finish(sink);
}

fn control(mut section: Section<'_>, control: &mut ControlSettings, sink: &mut Sink<'_>) {
    let socket = section.parsed(sink, "socket", |text| {
        // sun_path holds 108 bytes with its zero.
        if text.len() > 107 { Err("is longer than 107 bytes".to_owned()) } else { path(text) }
    });
    set(&mut control.socket, socket);
    let metrics = section.parsed(sink, "metrics", |text| match text {
        "off" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{} is no address, expected \"off\" or one such as \"127.0.0.1:9901\"", Quoted(text))),
    });
    set(&mut control.metrics, metrics);
    section.finish(sink);
}
