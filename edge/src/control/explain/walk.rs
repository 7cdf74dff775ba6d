//! The steps of a request through one port of one Gateway.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use edge_config::hosts::HostMap;
use edge_config::matching::{Loss, Outcome, RouteTable};
use edge_config::names::{HostPattern, Kind as ObjectKind, ObjectRef};
use edge_config::snapshot::{Listener, ListenerId, ListenerServe, Port, PortServe, RuleId, StreamRoute, Transport};

use super::{
    Answer, Asked, CANDIDATES, CandidateStep, Kind, ListenerStep, Question, SocketStep, Walk, answer, clients,
    describe, question,
};
use crate::control::observed::{SocketState, VipState};
use crate::control::status::{Lookup, certificate_row, certificates_of, first_fault};
use crate::control::view::{BackendRow, Health, State};
use crate::proxy::filters::rewrite::is_path;

#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub lookup: &'a Lookup<'a>,
    /// By upstream id.
    pub backends: &'a [BackendRow],
    pub asked: &'a Asked,
    pub question: &'a Question,
    pub now: SystemTime,
}

/// The ports that a client could mean: those with the number, of the Gateway with the address where one is given.
pub fn gateways<'a>(context: &Context<'a>) -> Vec<&'a Port> {
    let snapshot = context.lookup.scene.snapshot;
    let address = context.question.vip.or_else(|| {
        let host = context.asked.host.parse::<IpAddr>().ok()?;
        snapshot.vips.iter().any(|vip| vip.address == host).then_some(host)
    });
    let udp = context.asked.protocol == "udp";
    snapshot
        .ports
        .iter()
        .filter(|port| port.number == context.asked.port && matches!(port.serve, PortServe::Udp { .. }) == udp)
        .filter(|port| {
            address.is_none_or(|address| {
                snapshot.vips.iter().any(|vip| vip.address == address && vip.owners.contains(&port.owner))
            })
        })
        .collect()
}

/// No Gateway has the port.
pub fn unreachable(context: &Context<'_>) -> Answer {
    let snapshot = context.lookup.scene.snapshot;
    let ports: BTreeSet<u16> = snapshot.ports.iter().map(|port| port.number).collect();
    let text = if let Some(vip) =
        context.question.vip.filter(|vip| !snapshot.vips.iter().any(|known| known.address == *vip))
    {
        format!("no Gateway has the address {vip}")
    } else if ports.is_empty() {
        "no listener of any Gateway serves".to_owned()
    } else {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        format!("no Gateway listens on port {}; there are {}", context.asked.port, ports.join(", "))
    };
    Answer::new(Kind::Nothing, None, text)
}

/// Also returns the objects that had a part in it.
pub fn walk(context: &Context<'_>, port: &Port) -> (Walk, Vec<ObjectRef>) {
    let snapshot = context.lookup.scene.snapshot;
    let mut walk = Walk {
        owner: port.owner.to_string(),
        sockets: sockets(context, port),
        listeners: Vec::new(),
        certificates: Vec::new(),
        clients: Vec::new(),
        candidates: Vec::new(),
        omitted: 0,
        other_hosts: 0,
        rule: None,
        answer: Answer::new(Kind::Nothing, None, ""),
    };
    let mut concerned = vec![port.owner.clone()];
    let asked = context.asked;
    let encrypted = asked.server_name.is_some() || asked.protocol == "https" || asked.protocol == "tls";
    let name = if encrypted { asked.server_name.as_deref().unwrap_or_default() } else { &asked.host };
    let (map, chosen) = match &port.serve {
        PortServe::Http { hosts } => (Some(hosts), hosts.best(name).copied()),
        PortServe::Tls { names } => (Some(names), names.best(name).copied()),
        PortServe::Tcp { listener } | PortServe::Udp { listener } => (None, Some(*listener)),
    };
    walk.listeners = listeners(context, port, map, chosen, name);
    walk.answer = match (&port.serve, chosen.and_then(|id| Some((id, snapshot.listeners.get(id.index())?)))) {
        (PortServe::Http { .. }, _) if encrypted => Answer::new(
            Kind::Nothing,
            None,
            format!("port {} speaks HTTP without TLS: the handshake fails", port.number),
        ),
        (PortServe::Tls { .. }, _) if !encrypted => {
            Answer::new(Kind::Nothing, None, format!("port {} speaks TLS only: the connection is closed", port.number))
        }
        (PortServe::Http { .. }, None) => {
            Answer::new(Kind::Error, 404, format!("no listener on port {} takes the host {}", port.number, asked.host))
        }
        (PortServe::Tls { .. }, None) if name.is_empty() => Answer::new(
            Kind::Nothing,
            None,
            "no listener takes a client that sends no server name: the handshake fails",
        ),
        (PortServe::Tls { .. }, None) => Answer::new(
            Kind::Nothing,
            None,
            format!("no listener on port {} takes the server name {name}: the handshake fails", port.number),
        ),
        (_, None) => Answer::new(Kind::Nothing, None, "no listener serves: the connection is closed"),
        (_, Some((id, listener))) => {
            concerned.push(listener.parent.clone());
            let ids = certificates_of(listener);
            walk.certificates = ids.iter().map(|id| certificate_row(context.lookup, id, context.now)).collect();
            walk.clients = clients::of_listener(snapshot, listener);
            through(context, &mut walk, &mut concerned, (id, listener), map)
        }
    };
    let worst_everywhere = walk.sockets.iter().map(|socket| socket.health.clone()).max();
    if let Some(health) = worst_everywhere.filter(|health| health.state == State::Down) {
        walk.answer = Answer::new(
            Kind::Nothing,
            None,
            format!("no address of the {} can be reached: {}", port.owner.kind, health.reason),
        );
    }
    (walk, concerned)
}

fn sockets(context: &Context<'_>, port: &Port) -> Vec<SocketStep> {
    let scene = context.lookup.scene;
    let transport = if matches!(port.serve, PortServe::Udp { .. }) { Transport::Udp } else { Transport::Tcp };
    let own = |address: &IpAddr| {
        scene.snapshot.vips.iter().any(|vip| vip.address == *address && vip.owners.contains(&port.owner))
    };
    let sockets = scene.snapshot.sockets.iter().filter(|socket| {
        socket.transport == transport
            && socket.address.port() == port.number
            && own(&socket.address.ip())
            && context.question.vip.is_none_or(|vip| vip == socket.address.ip())
    });
    sockets
        .map(|socket| {
            let health = if scene.observed.offline {
                Health::up()
            } else {
                let vip = match scene.observed.vips.get(&socket.address.ip()) {
                    Some(VipState::Bound { .. }) => Health::up(),
                    Some(VipState::Withheld(reason)) => {
                        Health::new(State::Degraded, format!("not announced: {reason}"))
                    }
                    Some(VipState::Failed(reason)) => {
                        Health::new(State::Down, format!("address not on this machine: {reason}"))
                    }
                    None => Health::new(State::Pending, "address not bound yet"),
                };
                vip.and(match scene.observed.sockets.get(&(socket.address, socket.transport)) {
                    Some(SocketState::Bound) => Health::up(),
                    Some(SocketState::Failed(error)) => Health::new(State::Down, format!("cannot listen: {error}")),
                    None => Health::new(State::Pending, "socket not bound yet"),
                })
            };
            SocketStep { health, address: socket.address.to_string() }
        })
        .collect()
}

/// Every listener of the port with the reason why it is chosen or not, also those that do not serve.
fn listeners(
    context: &Context<'_>,
    port: &Port,
    map: Option<&HostMap<ListenerId>>,
    chosen: Option<ListenerId>,
    name: &str,
) -> Vec<ListenerStep> {
    let lookup = context.lookup;
    let scene = lookup.scene;
    let winner = chosen.and_then(|id| scene.snapshot.listeners.get(id.index()));
    let mut steps: Vec<(u8, usize, ListenerStep)> = Vec::new();
    for (parent, report) in &scene.report.objects {
        if !belongs(context, parent, port) {
            continue;
        }
        for listener in report.listeners.iter().filter(|listener| listener.port == port.number) {
            let hostname = listener.hostname.as_deref().filter(|host| !host.is_empty());
            let pattern = HostPattern::parse(hostname).ok();
            let matches = pattern.as_ref().is_some_and(|pattern| pattern.matches(name) || map.is_none());
            let served = lookup.listener(parent, &listener.name);
            let is_chosen = served.is_some_and(|(id, _)| Some(id) == chosen);
            let why = if is_chosen {
                match winner.map(|winner| &winner.hostname) {
                    Some(HostPattern::Any) if map.is_some() => "takes every host".to_owned(),
                    Some(_) if map.is_some() => "the most specific hostname that matches".to_owned(),
                    _ => "the only listener of the port".to_owned(),
                }
            } else if !matches {
                "hostname does not match".to_owned()
            } else if served.is_none() {
                let reason = first_fault(&listener.conditions).or_else(|| first_fault(&report.conditions));
                format!("does not serve: {}", reason.unwrap_or_else(|| "not programmed".to_owned()))
            } else {
                format!("less specific than {}", winner.map_or("another", |winner| &winner.name))
            };
            let rank = match (is_chosen, matches) {
                (true, _) => 0,
                (_, true) => 1,
                _ => 2,
            };
            let specificity = usize::MAX - hostname.map_or(0, str::len);
            let step = ListenerStep {
                parent: parent.to_string(),
                name: listener.name.to_string(),
                hostname: hostname.unwrap_or("*").to_owned(),
                protocol: listener.protocol.to_string(),
                chosen: is_chosen,
                why,
            };
            steps.push((rank, specificity, step));
        }
    }
    steps.sort_by(|a, b| (a.0, a.1, &a.2.parent, &a.2.name).cmp(&(b.0, b.1, &b.2.parent, &b.2.name)));
    steps.into_iter().map(|(_, _, step)| step).collect()
}

/// Whether an object has its listeners on this port of this Gateway or Service.
fn belongs(context: &Context<'_>, parent: &ObjectRef, port: &Port) -> bool {
    match parent.kind {
        ObjectKind::Gateway | ObjectKind::Service => *parent == port.owner,
        ObjectKind::ListenerSet => context.lookup.scene.inputs.listener_sets.get(&parent.key).is_some_and(|set| {
            let reference = &set.spec.parent_ref;
            port.owner.kind == ObjectKind::Gateway
                && *reference.name == *port.owner.key.name
                && *reference.namespace.as_deref().unwrap_or(&parent.key.namespace) == *port.owner.key.namespace
        }),
        _ => false,
    }
}

fn through(
    context: &Context<'_>,
    walk: &mut Walk,
    concerned: &mut Vec<ObjectRef>,
    (id, listener): (ListenerId, &Listener),
    map: Option<&HostMap<ListenerId>>,
) -> Answer {
    let asked = context.asked;
    match &listener.serve {
        ListenerServe::Http { routes } => matched(context, walk, concerned, listener, routes),
        ListenerServe::Https { .. } if asked.protocol == "tls" => Answer::new(
            Kind::Backend,
            None,
            "the listener terminates TLS and speaks HTTP; ask with https:// for the route",
        ),
        ListenerServe::Https { routes, .. } => {
            // Gateway API, Listener.hostname: a Host that belongs to another listener than the server name is misdirected.
            if map.is_some_and(|map| map.best(&asked.host) != Some(&id)) {
                let text = format!(
                    "Host {} does not belong to listener {}, which the server name {} chose",
                    asked.host,
                    listener.name,
                    asked.server_name.as_deref().unwrap_or("(none)")
                );
                return Answer::new(Kind::Error, 421, text);
            }
            matched(context, walk, concerned, listener, routes)
        }
        ListenerServe::TlsTerminate { routes, .. } | ListenerServe::TlsPassthrough { routes } => {
            let name = asked.server_name.as_deref().unwrap_or_default();
            for (host, stream) in routes.iter() {
                let matches =
                    HostPattern::parse(Some(&*host).filter(|host| *host != "*")).is_ok_and(|host| host.matches(name));
                if !matches {
                    walk.other_hosts += 1;
                    continue;
                }
                let won = routes.best(name).is_some_and(|best| std::ptr::eq(best, stream));
                let why = if won { "the most specific host" } else { "a more specific host goes first" };
                walk.candidates.push(stream_candidate(stream, host, won, why));
            }
            streamed(context, walk, concerned, routes.best(name), "no TLSRoute takes the server name")
        }
        ListenerServe::Tcp { route } | ListenerServe::Udp { route } => {
            if let Some(stream) = route {
                walk.candidates.push(stream_candidate(stream, "*".to_owned(), true, "the route of the port"));
            }
            streamed(context, walk, concerned, route.as_ref(), "no route is attached to the listener")
        }
    }
}

fn stream_candidate(stream: &StreamRoute, host: String, won: bool, why: &str) -> CandidateStep {
    CandidateStep {
        route: stream.route.to_string(),
        rule: 0,
        rule_name: None,
        host,
        matches: "every connection".to_owned(),
        won,
        why: why.to_owned(),
    }
}

fn streamed(
    context: &Context<'_>,
    walk: &mut Walk,
    concerned: &mut Vec<ObjectRef>,
    stream: Option<&StreamRoute>,
    none: &str,
) -> Answer {
    let Some(stream) = stream else {
        return Answer::new(Kind::Nothing, None, format!("{none}: the connection is closed"));
    };
    concerned.push(stream.route.clone());
    let (rule, answer) = answer::stream(context, stream);
    walk.rule = Some(rule);
    answer
}

fn matched(
    context: &Context<'_>,
    walk: &mut Walk,
    concerned: &mut Vec<ObjectRef>,
    listener: &Listener,
    table: &RouteTable,
) -> Answer {
    let asked = context.asked;
    let mut head = question::head(asked, context.question);
    if !is_path(head.path()) && head.path() != "*" {
        let text = format!("path {} is refused: a dot segment, an encoded slash or the like", asked.path);
        return Answer::new(Kind::Error, 400, text);
    }
    if let Some(closure) = context.lookup.scene.observed.closures.of(head.host()) {
        let until = closure.until.map(|until| format!(" until {}", crate::control::span::rfc3339(until)));
        let (host, until) = (&closure.host, until.unwrap_or_default());
        let but = if closure.allow.is_empty() { "" } else { ", but for who is let in" };
        return Answer::new(Kind::Error, 503, format!("{host} is in maintenance by command{until}{but}"));
    }
    let view = head.view();
    let rules = &context.lookup.scene.snapshot.rules;
    for candidate in table.explain(&view) {
        if candidate.outcome == Outcome::Lost(Loss::Host) {
            walk.other_hosts += 1;
            continue;
        }
        let Some(rule) = rules.get(candidate.matched.rule.index()) else { continue };
        let won = candidate.outcome == Outcome::Won;
        if walk.candidates.len() >= CANDIDATES && !won {
            walk.omitted += 1;
            continue;
        }
        walk.candidates.push(CandidateStep {
            route: rule.route.to_string(),
            rule: rule.index,
            rule_name: rule.name.as_ref().map(ToString::to_string),
            host: candidate.host,
            matches: describe::conditions(&candidate.matched),
            won,
            why: why(context, &candidate.outcome),
        });
    }
    let Some(found) = table.find(&view) else {
        let text = format!("no route of listener {} matches", listener.name);
        // gRPC over HTTP/2: a client that speaks gRPC gets the fault in trailers, with HTTP status 200.
        let grpc = context.question.field("content-type").is_some_and(|kind| kind.starts_with("application/grpc"));
        return if grpc {
            Answer::new(Kind::Error, 200, format!("grpc-status 12 (unimplemented): {text}"))
        } else {
            Answer::new(Kind::Error, 404, text)
        };
    };
    let Some(rule) = rules.get(found.rule.index()) else {
        return Answer::new(Kind::Error, 500, "the rule is gone");
    };
    concerned.push(rule.route.clone());
    let (step, answer) = answer::rule(context, listener, rule, found.prefix, &mut head);
    walk.rule = Some(step);
    answer
}

fn why(context: &Context<'_>, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Won => "takes the request".to_owned(),
        Outcome::Lost(Loss::Precedence { winner, because }) => {
            format!("would match, but {} goes first: {because}", rule_name(context, *winner))
        }
        Outcome::Lost(loss) => loss.to_string(),
    }
}

fn rule_name(context: &Context<'_>, id: RuleId) -> String {
    match context.lookup.scene.snapshot.rules.get(id.index()) {
        Some(rule) => format!("{} rule {}", rule.route.key, rule.index),
        None => "another".to_owned(),
    }
}
