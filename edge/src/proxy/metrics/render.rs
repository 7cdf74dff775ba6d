//! From the workers' counters to a page: the same series of all workers are added up.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::series::{
    Handshake, LimitSeries, ListenerLabel, ListenerSeries, PortLabel, PortSeries, RouteSeries, UdpDrop, UpstreamSeries,
};
use super::text::{Format, MetricType, Text};
use super::{Classes, CodingCounters, Counter, Histogram, WorkerMetrics};
use crate::proxy::reason::Reason;
use edge_config::names::{Kind, ObjectRef};
use edge_config::policy::Coding;
use edge_config::policy::protection::RateName;
use edge_config::snapshot::UpstreamKey;

/// A whole page of the data plane's metrics. `log_lines_dropped` comes from the access log, if there is one.
pub fn render(workers: &[Arc<WorkerMetrics>], log_lines_dropped: u64, format: Format) -> String {
    let mut text = Text::new(format);
    write(workers, log_lines_dropped, &mut text);
    text.finish()
}

/// Appends the data plane's families to a page that has others too.
pub fn write(workers: &[Arc<WorkerMetrics>], log_lines_dropped: u64, text: &mut Text) {
    let current: Vec<_> = workers.iter().map(|worker| worker.current()).collect();
    let listeners = grouped(current.iter().flat_map(|series| &series.listeners));
    let ports = grouped(current.iter().flat_map(|series| &series.ports));
    // Of thousands of routes and upstreams most may never be met: they would be a page of megabytes that says nothing.
    let is_met = |route: &RouteSeries| route.responses.values().iter().any(|count| *count > 0);
    let routes = grouped(current.iter().flat_map(|series| &series.routes).filter(|(_, route)| is_met(route)));
    let upstreams = current.iter().flat_map(|series| &*series.upstreams);
    let upstreams = grouped(upstreams.filter(|(_, upstream)| upstream.is_met()));
    write_ports(&ports, text);
    write_listeners(&listeners, text);
    write_tunnels(&listeners, text);
    write_routes(&routes, text);
    write_upstreams(&upstreams, text);
    write_limits(&grouped(current.iter().flat_map(|series| &series.limits)), text);

    text.family(
        "edge_local_responses",
        MetricType::Counter,
        "Responses and closed connections that Edge itself decided, by reason.",
    );
    for (place, code) in Reason::CODES.iter().enumerate() {
        text.sample(&[("reason", code)], sum(workers.iter().map(|worker| &worker.reasons.0[place])));
    }
    let crowded = workers.iter().map(|worker| worker.crowded.load(Ordering::Relaxed)).max().unwrap_or_default();
    if crowded > 0 {
        let family = "Requests that were counted together for want of places for their clients.";
        text.family("edge_limit_crowded_requests", MetricType::Counter, family);
        text.sample(&[], crowded);
    }
    text.family(
        "edge_access_log_dropped_lines",
        MetricType::Counter,
        "Access log lines that were lost because the writer could not keep up.",
    );
    text.sample(&[], log_lines_dropped);
    text.family(
        "edge_worker_generations",
        MetricType::Counter,
        "Generations of the configuration that workers have taken up.",
    );
    text.sample(&[], sum(workers.iter().map(|worker| &worker.generations)));
    text.family("edge_worker_panics", MetricType::Counter, "Panics in a worker, each of which cost one connection.");
    text.sample(&[], sum(workers.iter().map(|worker| &worker.panics)));
    text.family(
        "edge_csrf_requests",
        MetricType::Counter,
        "Requests that change something and were judged by their origin, by outcome; also those that passed in shadow.",
    );
    for (place, outcome) in ["invalid", "valid"].into_iter().enumerate() {
        text.sample(&[("outcome", &outcome)], sum(workers.iter().map(|worker| &worker.csrf[place])));
    }
    write_compression(workers, text);
}

fn write_compression(workers: &[Arc<WorkerMetrics>], text: &mut Text) {
    let each = |text: &mut Text, value: fn(&CodingCounters) -> &Counter| {
        for coding in Coding::ALL {
            let total = sum(workers.iter().map(|worker| value(worker.compression.of(coding))));
            if total > 0 {
                text.sample(&[("coding", &coding.token())], total);
            }
        }
    };
    text.family("edge_compression_responses", MetricType::Counter, "Responses that were coded for clients.");
    each(text, |counters| &counters.responses);
    text.family("edge_compression_in_bytes", MetricType::Counter, "Bytes of bodies before they were coded.");
    each(text, |counters| &counters.bytes_in);
    text.family("edge_compression_out_bytes", MetricType::Counter, "Bytes of bodies after they were coded.");
    each(text, |counters| &counters.bytes_out);
    text.family(
        "edge_compression_skipped",
        MetricType::Counter,
        "Responses sent as they are because too many were coded at once.",
    );
    text.sample(&[], sum(workers.iter().map(|worker| &worker.compression.skipped)));
}

/// One series per worker under each label, in the order of labels.
type Grouped<'a, L, S> = BTreeMap<&'a L, Vec<&'a S>>;

fn grouped<'a, L: Ord + 'a, S: 'a>(all: impl Iterator<Item = &'a (L, Arc<S>)>) -> Grouped<'a, L, S> {
    let mut groups: Grouped<'a, L, S> = BTreeMap::new();
    for (label, series) in all {
        let group = groups.entry(label).or_default();
        // Two indices of a snapshot may share a label, and then a series.
        if !group.iter().any(|known| std::ptr::eq(*known, &**series)) {
            group.push(series);
        }
    }
    groups
}

fn sum<'a>(counters: impl Iterator<Item = &'a Counter>) -> u64 {
    counters.map(Counter::value).fold(0, u64::wrapping_add)
}

/// One sample per label.
fn write_each<'a, L, S>(
    text: &mut Text,
    groups: &Grouped<'a, L, S>,
    labels: impl Fn(&'a L, &mut dyn FnMut(Labels<'_>)),
    value: impl Fn(&S) -> u64,
) {
    for (label, series) in groups {
        let value = series.iter().map(|series| value(series)).fold(0, u64::wrapping_add);
        labels(label, &mut |labels| text.sample(labels, value));
    }
}

/// One sample per label and kind; kinds that never happened are left out, since most never do.
fn write_kinds<'a, L, S>(
    text: &mut Text,
    groups: &Grouped<'a, L, S>,
    labels: impl Fn(&'a L, &mut dyn FnMut(Labels<'_>)),
    (kind, kinds): (&str, &[&str]),
    value: impl Fn(&S, usize) -> u64,
) {
    for (label, series) in groups {
        for (place, name) in kinds.iter().enumerate() {
            let value = series.iter().map(|series| value(series, place)).fold(0, u64::wrapping_add);
            if value > 0 {
                labels(label, &mut |labels| text.sample(&with(labels, (kind, name)), value));
            }
        }
    }
}

fn write_histogram<'a, L, S: 'a>(
    text: &mut Text,
    groups: &Grouped<'a, L, S>,
    labels: impl Fn(&'a L, &mut dyn FnMut(Labels<'_>)),
    histogram: impl Fn(&S) -> &Histogram,
) {
    for (label, series) in groups {
        let bucket = |place: usize| sum(series.iter().map(|series| &histogram(series).buckets[place]));
        let bounds = Histogram::BOUNDS.iter().map(|(_, seconds)| *seconds).chain(["+Inf"]);
        let mut count = 0;
        labels(label, &mut |labels| {
            for (place, bound) in bounds.clone().enumerate() {
                count += bucket(place);
                text.sample_of("_bucket", &with(labels, ("le", &bound)), count);
            }
            let micros = sum(series.iter().map(|series| &histogram(series).micros));
            text.sample_of("_sum", labels, format_args!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
            text.sample_of("_count", labels, count);
        });
    }
}

type Labels<'l> = &'l [(&'l str, &'l dyn Display)];

fn with<'l>(labels: Labels<'l>, label: (&'l str, &'l dyn Display)) -> Vec<(&'l str, &'l dyn Display)> {
    labels.iter().copied().chain([label]).collect()
}

fn port_labels((owner, port, transport): &PortLabel, write: &mut dyn FnMut(Labels<'_>)) {
    let kind = if owner.kind == Kind::Service { "service" } else { "gateway" };
    let key = &owner.key;
    write(&[("namespace", &key.namespace), (kind, &key.name), ("port", port), ("transport", transport)]);
}

fn listener_labels((parent, name, port): &ListenerLabel, write: &mut dyn FnMut(Labels<'_>)) {
    let key = &parent.key;
    write(&[
        ("kind", &parent.kind.as_str()),
        ("namespace", &key.namespace),
        ("name", &key.name),
        ("listener", name),
        ("port", port),
    ]);
}

fn route_labels(route: &ObjectRef, write: &mut dyn FnMut(Labels<'_>)) {
    write(&[("kind", &route.kind.as_str()), ("namespace", &route.key.namespace), ("name", &route.key.name)]);
}

fn upstream_labels(key: &UpstreamKey, write: &mut dyn FnMut(Labels<'_>)) {
    let object = &key.object;
    let labels: [(&str, &dyn Display); 5] = [
        ("kind", &object.kind.as_str()),
        ("namespace", &object.key.namespace),
        ("name", &object.key.name),
        ("port", &key.port),
        ("variant", &key.variant),
    ];
    // An empty label is the same as none.
    write(if key.variant.is_empty() { &labels[..4] } else { &labels });
}

fn write_ports(ports: &Grouped<'_, PortLabel, PortSeries>, text: &mut Text) {
    use MetricType::{Counter, Gauge};
    text.family("edge_connections", Counter, "Connections accepted.");
    write_each(text, ports, port_labels, |port| port.accepted.value());
    text.family("edge_connections_open", Gauge, "Connections that are open.");
    write_each(text, ports, port_labels, |port| open(&port.accepted, &port.closed));
    text.family("edge_connections_refused", Counter, "Connections closed at accept because a limit was reached.");
    write_each(text, ports, port_labels, |port| port.refused.value());
    text.family(
        "edge_connections_forbidden",
        Counter,
        "Connections closed at accept because the client is not let in.",
    );
    write_each(text, ports, port_labels, |port| port.forbidden.value());
    text.family("edge_tls_handshakes", Counter, "TLS handshakes with clients, by how they ended.");
    write_kinds(text, ports, port_labels, ("result", &Handshake::LABELS), |port, place| port.handshakes[place].value());
}

fn write_listeners(listeners: &Grouped<'_, ListenerLabel, ListenerSeries>, text: &mut Text) {
    use MetricType::{Counter, Histogram};
    text.family("edge_listener_responses", Counter, "Responses sent to clients, by status class.");
    write_kinds(text, listeners, listener_labels, ("code", &Classes::LABELS), |it, place| it.responses.values()[place]);
    text.family(
        "edge_listener_request_duration_seconds",
        Histogram,
        "From the complete request head to the end of the response.",
    );
    write_histogram(text, listeners, listener_labels, |it| &it.duration);
    text.family("edge_listener_received_bytes", Counter, "Request bodies and tunnelled bytes from clients.");
    write_each(text, listeners, listener_labels, |it| it.received.value());
    text.family("edge_listener_sent_bytes", Counter, "Response bodies and tunnelled bytes to clients.");
    write_each(text, listeners, listener_labels, |it| it.sent.value());
}

fn write_tunnels(listeners: &Grouped<'_, ListenerLabel, ListenerSeries>, text: &mut Text) {
    use MetricType::{Counter, Gauge};
    text.family("edge_tunnels", Counter, "Connections of TCP and TLS routes.");
    write_each(text, listeners, listener_labels, |it| it.tunnels_opened.value());
    text.family("edge_tunnels_open", Gauge, "Tunnels that are open.");
    write_each(text, listeners, listener_labels, |it| open(&it.tunnels_opened, &it.tunnels_closed));
    text.family("edge_udp_sessions", Counter, "UDP sessions begun.");
    write_each(text, listeners, listener_labels, |it| it.udp_sessions_opened.value());
    text.family("edge_udp_sessions_open", Gauge, "UDP sessions that are open.");
    write_each(text, listeners, listener_labels, |it| open(&it.udp_sessions_opened, &it.udp_sessions_closed));
    text.family("edge_udp_received_datagrams", Counter, "Datagrams from clients.");
    write_each(text, listeners, listener_labels, |it| it.udp_datagrams_received.value());
    text.family("edge_udp_sent_datagrams", Counter, "Datagrams to clients.");
    write_each(text, listeners, listener_labels, |it| it.udp_datagrams_sent.value());
    text.family("edge_udp_dropped_datagrams", Counter, "Datagrams that went no further, by reason.");
    write_kinds(text, listeners, listener_labels, ("reason", &UdpDrop::LABELS), |it, place| {
        it.udp_dropped[place].value()
    });
}

fn write_routes(routes: &Grouped<'_, ObjectRef, RouteSeries>, text: &mut Text) {
    text.family("edge_route_responses", MetricType::Counter, "Responses of routes, by status class.");
    write_kinds(text, routes, route_labels, ("code", &Classes::LABELS), |route, place| route.responses.values()[place]);
}

fn limit_labels(name: &RateName, write: &mut dyn FnMut(Labels<'_>)) {
    let RateName { policy, list, index } = name;
    write(&[
        ("kind", &policy.kind.as_str()),
        ("namespace", &policy.key.namespace),
        ("name", &policy.key.name),
        ("list", &list.as_str()),
        ("rule", index),
    ]);
}

fn write_limits(limits: &Grouped<'_, RateName, LimitSeries>, text: &mut Text) {
    if limits.is_empty() {
        return;
    }
    const OUTCOMES: [&str; 3] = ["allowed", "limited", "dry_run"];
    let family = "Requests that were counted against a rate of a policy, by what became of them.";
    text.family("edge_limit_requests", MetricType::Counter, family);
    write_kinds(text, limits, limit_labels, ("outcome", &OUTCOMES), |it, place| {
        [&it.allowed, &it.limited, &it.dry_run][place].value()
    });
    text.family("edge_limit_delayed_requests", MetricType::Counter, "Requests that waited for their turn.");
    write_each(text, limits, limit_labels, |it| it.delayed.value());
}

fn write_upstreams(upstreams: &Grouped<'_, UpstreamKey, UpstreamSeries>, text: &mut Text) {
    use MetricType::{Counter, Gauge, Histogram};
    text.family("edge_upstream_responses", Counter, "Responses received from endpoints, by status class.");
    write_kinds(text, upstreams, upstream_labels, ("code", &Classes::LABELS), |it, place| {
        it.read().responses.values()[place]
    });
    text.family("edge_upstream_latency_seconds", Histogram, "From the sent request head to the response head.");
    write_histogram(text, upstreams, upstream_labels, |it| &it.read().latency);
    text.family("edge_upstream_sent_bytes", Counter, "Bytes of bodies and tunnels sent to endpoints.");
    write_each(text, upstreams, upstream_labels, |it| it.read().sent.value());
    text.family("edge_upstream_received_bytes", Counter, "Bytes of bodies and tunnels received from endpoints.");
    write_each(text, upstreams, upstream_labels, |it| it.read().received.value());
    text.family("edge_upstream_connections", Counter, "Connections made to endpoints.");
    write_each(text, upstreams, upstream_labels, |it| it.read().connections_opened.value());
    text.family("edge_upstream_connections_open", Gauge, "Connections to endpoints that are open, idle ones included.");
    write_each(text, upstreams, upstream_labels, |it| {
        open(&it.read().connections_opened, &it.read().connections_closed)
    });
    text.family("edge_upstream_connect_failures", Counter, "Connections to endpoints that could not be made.");
    write_each(text, upstreams, upstream_labels, |it| it.read().connect_failures.value());
    text.family("edge_upstream_retries", Counter, "Tries after the first.");
    write_each(text, upstreams, upstream_labels, |it| it.read().retries.value());
    text.family("edge_upstream_ejections", Counter, "Endpoints taken out of the choice because they failed.");
    write_each(text, upstreams, upstream_labels, |it| it.read().ejections.value());
}

/// A scrape may see the end of something whose beginning it has not seen, so this never goes below zero.
fn open(begun: &Counter, ended: &Counter) -> u64 {
    begun.value().saturating_sub(ended.value())
}
