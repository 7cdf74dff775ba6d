//! From a VIP down to endpoints: each lane shows the parts of what is chosen in the lane before it.

use std::net::IpAddr;

use edge_config::names::{Kind, ObjectRef};
use edge_config::snapshot::{Action, Backend, ListenerServe, Rule, StreamRoute, Target};

use super::node::{self, Entry};
use super::{Chosen, Fact, Lane, Map, Node, PAGE, listener_id, vip_id};
use crate::control::certificates;
use crate::control::explain::describe;
use crate::control::rates::{Rate, Rates};
use crate::control::status::{forwarded, rule_health, rule_text, streams_of, target_health};
use crate::control::view::{BackendRow, Health, ListenerRow, State, VipRow};
use crate::control::why;
use crate::proxy::metrics::ListenerLabel;

/// Of one rule, so many matches are written out.
const MATCHES: usize = 20;

/// A route at one listener.
pub(super) enum Way<'m> {
    /// By its place among the rows.
    Route(usize),
    /// A Service that has the listener itself.
    Service(&'m StreamRoute),
}

pub(super) fn lanes(map: &Map, chosen: &Chosen, rates: &Rates) -> Vec<Lane> {
    let status = &map.status;
    let vips = shown(chosen, status.vips.iter().map(|row| Entry::new(vip_id(row), &row.health, row)).collect());
    let (vip, at) = pick(&vips, chosen.vip.as_deref());
    let from = chosen.vips_from.unwrap_or(at / PAGE * PAGE);
    let mut vip_lane = lane("vip", &vips, from, at, |row| vip_node(map, row, rates));
    let Some(vip) = vip else { return vec![vip_lane] };
    vip_facts(map, vip, &mut vip_lane);

    let rows = map.listeners_of(vip).into_iter().map(|place| &status.listeners[place]);
    let listeners = shown(chosen, rows.map(|row| Entry::new(listener_id(row), &row.health, row)).collect());
    let (listener, at) = pick(&listeners, chosen.listener.as_deref());
    let mut listener_lane = lane("listener", &listeners, at / PAGE * PAGE, at, |row| listener_node(map, row, rates));
    let Some(listener) = listener else { return vec![vip_lane, listener_lane] };
    listener_lane.facts = listener_facts(listener);

    let rows = status.certificates.iter().filter(|row| listener.certificates.contains(&row.secret));
    let held: Vec<_> = rows.map(|row| Entry::new(row.secret.clone(), &row.health, row)).collect();
    let (certificate, at) = pick(&held, chosen.certificate.as_deref());
    let mut certificate_lane = lane("certificate", &held, at / PAGE * PAGE, at, |row| node::certificate(row));
    if let Some(row) = certificate {
        certificate_lane.facts = node::certificate_facts(row);
        if let Some(id) = find_certificate(map, &row.secret) {
            let why = certificates::why(&map.world, &id, map.at);
            certificate_lane.facts.extend(why.map(|why| Fact::new("why", why.sentence)));
        }
        certificate_lane.ask = Some(format!("edgectl cert why {}", row.secret));
    }

    let routes = routes_at(map, listener, chosen);
    let (route, at) = pick(&routes, chosen.route.as_deref());
    let from = chosen.routes_from.unwrap_or(at / PAGE * PAGE);
    let mut route_lane = lane("route", &routes, from, at, |way| route_node(map, way, rates));
    let mut lanes = vec![vip_lane, listener_lane, certificate_lane];
    let Some(route) = route else {
        lanes.push(route_lane);
        return lanes;
    };
    route_facts(map, vip, listener, route, &mut route_lane);
    lanes.push(route_lane);

    let rules = rules_at(map, listener, route);
    let rules: Vec<_> = rules.iter().map(|rule| Entry::new(rule.id.clone(), &rule.health, rule)).collect();
    let (rule, at) = pick(&rules, chosen.rule.as_deref());
    let mut rule_lane = lane("rule", &rules, at / PAGE * PAGE, at, |rule| rule.node());
    let Some(rule) = rule else {
        lanes.push(rule_lane);
        return lanes;
    };
    rule_lane.facts = rule.facts();
    lanes.push(rule_lane);

    let backends: Vec<Step<'_>> = steps(map, rule.backends);
    let backends: Vec<_> = backends.iter().map(|step| Entry::new(step.id.clone(), &step.health, step)).collect();
    let (backend, at) = pick(&backends, chosen.backend.as_deref());
    let mut backend_lane = lane("backend", &backends, at / PAGE * PAGE, at, |step| step.node(map, rates));
    let row = backend.and_then(|step| step.row);
    if let Some(step) = backend {
        backend_lane.facts = step.facts(map);
    }
    lanes.push(backend_lane);
    let Some(row) = row else { return lanes };

    let endpoints: Vec<_> = row.endpoints.iter().map(|row| Entry::new(row.address.clone(), &row.health, row)).collect();
    let (endpoint, at) = pick(&endpoints, chosen.endpoint.as_deref());
    let mut endpoint_lane = lane("endpoint", &endpoints, at / PAGE * PAGE, at, |row| node::endpoint(row));
    if let Some(row) = endpoint {
        endpoint_lane.facts = node::endpoint_facts(row);
        endpoint_lane.ask = Some("edgectl endpoint list".to_owned());
    }
    lanes.push(endpoint_lane);
    lanes
}

/// What is left when only trouble is asked for.
fn shown<'m, T>(chosen: &Chosen, mut all: Vec<Entry<'m, T>>) -> Vec<Entry<'m, T>> {
    if chosen.troubled {
        all.retain(|entry| entry.health.state != State::Up);
    }
    all
}

/// The one that is wanted, else the first: the worst.
fn pick<'e, T>(all: &'e [Entry<'_, T>], wanted: Option<&str>) -> (Option<&'e T>, usize) {
    let at = wanted.and_then(|wanted| all.iter().position(|entry| entry.id == wanted)).unwrap_or(0);
    (all.get(at).map(|entry| &entry.of), at)
}

fn lane<T>(
    kind: &'static str,
    all: &[Entry<'_, T>],
    from: usize,
    chosen: usize,
    node: impl Fn(&T) -> (String, String, Option<Rate>),
) -> Lane {
    let from = from.min(all.len().saturating_sub(1) / PAGE * PAGE);
    let mut states = [0; State::ALL.len()];
    for entry in all {
        if let Some(place) = State::ALL.iter().position(|state| *state == entry.health.state) {
            states[place] += 1;
        }
    }
    let nodes = all.iter().skip(from).take(PAGE).map(|entry| {
        let (title, detail, rate) = node(&entry.of);
        Node { id: entry.id.clone(), title, detail, health: entry.health.clone().into_owned(), rate }
    });
    Lane {
        kind,
        total: all.len(),
        states,
        from,
        nodes: nodes.collect(),
        chosen: all.get(chosen).map(|entry| entry.id.clone()),
        facts: Vec::new(),
        ask: None,
    }
}

fn label(map: &Map, row: &ListenerRow) -> Option<ListenerLabel> {
    Some((map.parents.get(&row.parent)?.clone(), row.name.as_str().into(), row.port))
}

fn vip_node(map: &Map, row: &VipRow, rates: &Rates) -> (String, String, Option<Rate>) {
    let labels: Vec<ListenerLabel> =
        map.listeners_of(row).into_iter().filter_map(|place| label(map, &map.status.listeners[place])).collect();
    let mut rate = rates.listeners(labels.iter());
    let owners: Vec<&ObjectRef> = row.owners.iter().filter_map(|owner| map.parents.get(owner)).collect();
    let ports = labels.iter().map(|(_, _, port)| *port);
    let ports: std::collections::BTreeSet<u16> = ports.collect();
    let of = owners.iter().flat_map(|owner| {
        ports.iter().flat_map(|port| ["tcp", "udp"].map(|transport| ((*owner).clone(), *port, transport)))
    });
    let of: Vec<_> = of.collect();
    rate.connections = Some(rates.connections(of.iter()));
    let title = row.address.clone().unwrap_or_else(|| "no address".to_owned());
    let told = row.announced.as_ref().map(|by| format!(" · {by}")).unwrap_or_default();
    (title, format!("{}{told}", row.owners.join(", ")), Some(rate))
}

fn vip_facts(map: &Map, row: &VipRow, lane: &mut Lane) {
    lane.facts.extend((!row.source.is_empty()).then(|| Fact::new("from", &*row.source)));
    lane.facts.extend((!row.ports.is_empty()).then(|| Fact::new("ports", row.ports.join(", "))));
    let Some(address) = row.address.as_ref().and_then(|address| address.parse::<IpAddr>().ok()) else { return };
    lane.ask = Some(format!("edgectl why {address}"));
    let Some(why) = why::why(map.world.scene(), &map.world.edge, address) else { return };
    let rules = why.rules.into_iter();
    lane.facts.extend(rules.map(|row| Fact { about: row.rule, text: row.evidence, good: Some(row.allows) }));
    for peer in why.peers {
        let said = if peer.health.reason.is_empty() { "told".to_owned() } else { peer.health.reason };
        let good = Some(peer.health.state == State::Up);
        lane.facts.push(Fact { about: format!("peer {}", peer.peer), text: said, good });
    }
    for election in why.elections {
        let about = format!("{} router {} on {}", election.family, election.router, election.interface);
        let text = format!("{}: {}", election.role, election.because);
        lane.facts.push(Fact { about, text, good: Some(election.health.state == State::Up) });
    }
}

fn listener_node(map: &Map, row: &ListenerRow, rates: &Rates) -> (String, String, Option<Rate>) {
    let rate = label(map, row).map(|label| rates.listeners([label].iter()));
    (row.name.clone(), format!("{}/{} {}", row.port, row.protocol, row.hostname), rate)
}

fn listener_facts(row: &ListenerRow) -> Vec<Fact> {
    let mut facts = vec![
        Fact::new("of", &*row.parent),
        Fact::new("host", &*row.hostname),
        Fact::new("port", format!("{} {}", row.port, row.protocol)),
        Fact::new("routes", row.attached_routes.to_string()),
    ];
    facts.extend((!row.certificates.is_empty()).then(|| Fact::new("certificates", row.certificates.join(", "))));
    facts
}

fn find_certificate(map: &Map, secret: &str) -> Option<edge_config::names::CertId> {
    certificates::find(&map.world, secret).ok()
}

/// The routes that a listener serves, and those that would be there if nothing spoke against it.
pub(super) fn routes_at<'m>(map: &'m Map, row: &ListenerRow, chosen: &Chosen) -> Vec<Entry<'m, Way<'m>>> {
    let mut places: Vec<usize> = Vec::new();
    let mut services = Vec::new();
    if let Some(listener) = map.serving(row) {
        if let ListenerServe::Http { routes } | ListenerServe::Https { routes, .. } = &listener.serve {
            let rules = &map.world.compiled.snapshot.rules;
            let mut last: Option<&ObjectRef> = None;
            for entry in routes.iter().flat_map(|(_, matches)| matches) {
                let Some(rule) = rules.get(entry.rule.index()) else { continue };
                if last != Some(&rule.route) {
                    places.extend(map.routes.get(&rule.route));
                    last = Some(&rule.route);
                }
            }
        }
        for stream in streams_of(listener) {
            match map.routes.get(&stream.route) {
                Some(place) => places.push(*place),
                None => services.push(stream),
            }
        }
    }
    let parent = row.parent.split_once(' ').map_or(&*row.parent, |(_, key)| key);
    let section = format!("{parent}/{}", row.name);
    let refused = map.status.routes.iter().enumerate().filter(|(place, route)| {
        !map.served.contains(place) && route.parents.iter().any(|name| name == parent || *name == section)
    });
    places.extend(refused.map(|(place, _)| place));
    places.sort_unstable();
    places.dedup();
    let rows = places.into_iter().map(|place| (place, &map.status.routes[place]));
    let rows = rows.filter(|(_, row)| {
        let is_asked = |text: &str| text.to_ascii_lowercase().contains(&chosen.routes);
        chosen.routes.is_empty()
            || is_asked(&row.route)
            || row.hostnames.iter().any(|host| is_asked(host))
            || row.backends.iter().any(|backend| is_asked(backend))
    });
    let mut all: Vec<Entry<'m, Way<'m>>> = rows
        .map(|(place, row)| Entry::new(format!("{} {}", row.kind, row.route), &row.health, Way::Route(place)))
        .collect();
    for stream in services {
        let health = forwarded(&stream.backends, |id| map.upstream(id));
        all.push(Entry::owned(stream.route.to_string(), health, Way::Service(stream)));
    }
    if chosen.troubled {
        all.retain(|entry| entry.health.state != State::Up);
    }
    all
}

fn route_node(map: &Map, way: &Way<'_>, rates: &Rates) -> (String, String, Option<Rate>) {
    match way {
        Way::Route(place) => {
            let row = &map.status.routes[*place];
            (row.route.clone(), node::few(&row.hostnames, 2), object_of(map, row).and_then(|route| rates.route(&route)))
        }
        Way::Service(stream) => (stream.route.key.to_string(), "Service".to_owned(), None),
    }
}

pub(super) fn object_of(map: &Map, row: &crate::control::view::RouteRow) -> Option<ObjectRef> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == row.kind)?;
    let object = ObjectRef::new(kind, edge_config::names::ObjectKey::parse(&row.route));
    map.routes.contains_key(&object).then_some(object)
}

fn route_facts(map: &Map, vip: &VipRow, listener: &ListenerRow, way: &Way<'_>, lane: &mut Lane) {
    let Way::Route(place) = way else {
        lane.facts.push(Fact::new("of", &*listener.parent));
        return;
    };
    let row = &map.status.routes[*place];
    lane.facts = vec![
        Fact::new("kind", &*row.kind),
        Fact::new("hosts", node::few(&row.hostnames, MATCHES)),
        Fact::new("parents", node::few(&row.parents, MATCHES)),
    ];
    lane.facts.extend((!row.backends.is_empty()).then(|| Fact::new("backends", node::few(&row.backends, MATCHES))));
    let host = row.hostnames.iter().find(|host| !host.contains('*'));
    let scheme = match &*listener.protocol {
        "HTTP" => "http",
        "HTTPS" => "https",
        _ => return,
    };
    if let (Some(host), Some(_)) = (host, &vip.address) {
        lane.ask = Some(format!("edgectl explain {scheme}://{host}:{}/", listener.port));
    }
}

/// What happens to some of the requests of a route.
struct Part<'m> {
    id: String,
    title: String,
    detail: String,
    health: Health,
    matches: Vec<String>,
    does: Vec<String>,
    backends: &'m [Backend],
}

impl Part<'_> {
    fn node(&self) -> (String, String, Option<Rate>) {
        (self.title.clone(), self.detail.clone(), None)
    }

    fn facts(&self) -> Vec<Fact> {
        let matches = self.matches.iter().take(MATCHES).map(|text| Fact::new("match", &**text));
        let more =
            self.matches.len().checked_sub(MATCHES + 1).map(|more| Fact::new("match", format!("{} more", more + 1)));
        matches.chain(more).chain(self.does.iter().map(|text| Fact::new("does", &**text))).collect()
    }
}

fn rules_at<'m>(map: &'m Map, row: &ListenerRow, way: &Way<'m>) -> Vec<Part<'m>> {
    let upstream = |id| map.upstream(id);
    let of_stream = |stream: &'m StreamRoute| Part {
        id: "all".to_owned(),
        title: "every connection".to_owned(),
        detail: "rule 0".to_owned(),
        health: forwarded(&stream.backends, upstream),
        matches: Vec::new(),
        does: Vec::new(),
        backends: &stream.backends,
    };
    let place = match way {
        Way::Service(stream) => return vec![of_stream(stream)],
        Way::Route(place) => *place,
    };
    let (Some(listener), Some(route)) = (map.serving(row), object_of(map, &map.status.routes[place])) else {
        return Vec::new();
    };
    let snapshot = &map.world.compiled.snapshot;
    let (ListenerServe::Http { routes } | ListenerServe::Https { routes, .. }) = &listener.serve else {
        return streams_of(listener)
            .into_iter()
            .find(|stream| stream.route == route)
            .map(of_stream)
            .into_iter()
            .collect();
    };
    let mut found: Vec<(&'m Rule, Vec<String>)> = Vec::new();
    for (host, matches) in routes.iter() {
        for entry in matches {
            let Some(rule) = snapshot.rules.get(entry.rule.index()).filter(|rule| rule.route == route) else {
                continue;
            };
            let text = describe::conditions(entry);
            // A route with one host says it already.
            let is_said = host == row.hostname || map.status.routes[place].hostnames.len() == 1;
            let text = if is_said { text } else { format!("{host}: {text}") };
            match found.iter_mut().find(|(known, _)| std::ptr::eq(*known, &**rule)) {
                Some((_, matches)) => matches.push(text),
                None => found.push((&**rule, vec![text])),
            }
        }
    }
    found.sort_by_key(|(rule, _)| rule.index);
    let part = |(rule, matches): (&'m Rule, Vec<String>)| {
        let (what, backends): (String, &[Backend]) = match &rule.action {
            Action::Redirect(redirect) => (describe::redirect(redirect), &[]),
            Action::Respond(answer) => (format!("answers {} itself", answer.status.unwrap_or(200)), &[]),
            Action::Refuse { status, .. } => (format!("answers {status}"), &[]),
            Action::Forward(backends) => (format!("to {}", counted(backends.len())), backends),
        };
        let first = matches.first().cloned().unwrap_or_default();
        let more = if matches.len() > 1 { format!(" and {} more", matches.len() - 1) } else { String::new() };
        Part {
            id: rule.index.to_string(),
            title: format!("{first}{more}"),
            detail: format!("{} · {what}", rule_text(rule)),
            health: rule_health(&rule.action, upstream),
            matches,
            does: describe::rule(rule),
            backends,
        }
    };
    found.into_iter().map(part).collect()
}

fn counted(backends: usize) -> String {
    if backends == 1 { "1 backend".to_owned() } else { format!("{backends} backends") }
}

/// A reference of a rule.
struct Step<'m> {
    id: String,
    health: Health,
    backend: &'m Backend,
    row: Option<&'m BackendRow>,
}

fn steps<'m>(map: &'m Map, backends: &'m [Backend]) -> Vec<Step<'m>> {
    let mut all: Vec<Step<'m>> = Vec::with_capacity(backends.len());
    for backend in backends {
        let row = match &backend.target {
            Target::Upstream(id) => map.upstream(*id),
            Target::Invalid { .. } => None,
        };
        let name = row.map_or_else(|| backend.reference.to_string(), |row| row.backend.clone());
        // A rule may name one twice, with different filters.
        let before = all.iter().filter(|step| step.id == name || step.id.starts_with(&format!("{name} #"))).count();
        let id = if before == 0 { name } else { format!("{name} #{}", before + 1) };
        let health = match row {
            Some(row) => row.health.clone(),
            None => target_health(&backend.target, |id| map.upstream(id)),
        };
        all.push(Step { id, health, backend, row });
    }
    all
}

impl Step<'_> {
    fn node(&self, map: &Map, rates: &Rates) -> (String, String, Option<Rate>) {
        let title = self.backend.reference.strip_prefix("Service ").unwrap_or(&self.backend.reference).to_owned();
        let weight = format!("weight {}", self.backend.weight);
        let detail = match self.row {
            Some(row) => format!("{weight} · {} of {} ready · {}", row.ready, row.endpoints.len(), row.protocol),
            None => weight,
        };
        let rate = match &self.backend.target {
            Target::Upstream(id) => {
                map.world.compiled.snapshot.upstreams.get(id.index()).and_then(|upstream| rates.upstream(&upstream.key))
            }
            Target::Invalid { .. } => None,
        };
        (title, detail, rate)
    }

    fn facts(&self, map: &Map) -> Vec<Fact> {
        let mut facts = vec![Fact::new("weight", self.backend.weight.to_string())];
        let Some(row) = self.row else { return facts };
        facts.push(Fact::new("protocol", &*row.protocol));
        facts.push(Fact::new(
            "endpoints",
            format!("{} ready, {} ejected, {} in all", row.ready, row.ejected, row.endpoints.len()),
        ));
        facts.push(Fact::new("in flight", row.in_flight.to_string()));
        facts.push(Fact::new("routes", row.routes.to_string()));
        if let Some(way) = row.reach {
            let why = if row.reach_reason.is_empty() { String::new() } else { format!(": {}", row.reach_reason) };
            facts.push(Fact::new("reached by", format!("{way}{why}")));
        }
        if let Target::Upstream(id) = &self.backend.target
            && let Some(policy) =
                map.world.compiled.snapshot.upstreams.get(id.index()).and_then(|upstream| upstream.policy.as_ref())
        {
            facts.extend(describe::policy(policy).into_iter().map(|text| Fact::new("policy", text)));
        }
        facts
    }
}
