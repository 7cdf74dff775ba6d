//! Random configurations of a few Gateways, sets, routes and grants over a small set of names, so that they collide.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{add, base};
use crate::compile::{Compiled, compile};
use crate::inputs::Inputs;
use crate::matching::RequestView;
use crate::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::snapshot::{ListenerServe, PortServe, Snapshot};
use crate::status::{Observed, render};

const HOSTS: [&str; 6] = ["", "a.example", "b.a.example", "*.example", "*.a.example", "c.test"];
pub(super) const NAMESPACES: [&str; 3] = ["one", "two", "three"];

/// One object: what it is, and its spec.
pub(super) type Piece = (Kind, String, u32, Value);

fn host() -> impl Strategy<Value = &'static str> {
    prop::sample::select(HOSTS.to_vec())
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMESPACES.to_vec())
}

fn listener(index: usize) -> impl Strategy<Value = Value> {
    let protocol = prop::sample::select(vec!["HTTP", "HTTP", "HTTP", "HTTPS", "TLS", "TCP", "UDP", "example.com/x"]);
    let from = prop::sample::select(vec!["All", "All", "Same"]);
    let port = prop::sample::select(vec![80, 443]);
    (protocol, host(), port, from).prop_map(move |(protocol, host, port, from)| {
        let mut listener = json!({
            "name": format!("l{index}"), "port": port, "protocol": protocol,
            "allowedRoutes": {"namespaces": {"from": from}},
        });
        if !host.is_empty() && matches!(protocol, "HTTP" | "HTTPS" | "TLS") {
            listener["hostname"] = json!(host);
        }
        match protocol {
            "HTTPS" => listener["tls"] = json!({"certificateRefs": [{"name": "cert"}]}),
            "TLS" => listener["tls"] = json!({"mode": "Passthrough"}),
            _ => {}
        }
        listener
    })
}

fn listeners() -> impl Strategy<Value = Vec<Value>> {
    (0usize..4).prop_flat_map(|count| (0..=count).map(listener).collect::<Vec<_>>())
}

fn gateway() -> impl Strategy<Value = Piece> {
    (0..3u32, listeners(), 0..4u32).prop_map(|(name, listeners, created)| {
        let spec = json!({
            "gatewayClassName": "edge", "listeners": listeners,
            "allowedListeners": {"namespaces": {"from": "All"}},
        });
        (Kind::Gateway, format!("one/g{name}"), created, spec)
    })
}

fn set() -> impl Strategy<Value = Piece> {
    (0..3u32, namespace(), 0..3u32, listeners(), 0..4u32).prop_map(|(name, ns, gateway, listeners, created)| {
        let spec = json!({"parentRef": {"name": format!("g{gateway}"), "namespace": "one"}, "listeners": listeners});
        (Kind::ListenerSet, format!("{ns}/s{name}"), created, spec)
    })
}

fn route() -> impl Strategy<Value = Piece> {
    let path = prop::sample::select(vec!["/", "/a", "/a/b"]);
    let backend = prop::sample::select(vec!["web", "nowhere"]);
    let hosts = prop::collection::vec(host(), 0..3);
    let section = prop::option::weighted(0.3, 0..4u32);
    (0..8u32, namespace(), (0..3u32, section), hosts, path, (backend, namespace()), 0..4u32).prop_map(
        |(name, ns, (gateway, section), hosts, path, (backend, backend_ns), created)| {
            let mut parent = json!({"name": format!("g{gateway}"), "namespace": "one"});
            if let Some(section) = section {
                parent["sectionName"] = json!(format!("l{section}"));
            }
            let hosts: Vec<&str> = hosts.into_iter().filter(|host| !host.is_empty()).collect();
            let spec = json!({
                "parentRefs": [parent],
                "hostnames": hosts,
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                    "backendRefs": [{"name": backend, "namespace": backend_ns, "port": 80}],
                }],
            });
            (Kind::HTTPRoute, format!("{ns}/r{name}"), created, spec)
        },
    )
}

fn grant() -> impl Strategy<Value = Piece> {
    (namespace(), namespace()).prop_map(|(from, to)| {
        let spec = json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from}],
            "to": [{"group": "", "kind": "Service"}],
        });
        (Kind::ReferenceGrant, format!("{to}/from-{from}"), 0, spec)
    })
}

/// Few addresses, ports and keys, so that they meet.
fn service() -> impl Strategy<Value = Piece> {
    let key = prop::sample::select(vec!["", "", "k", "k", "l"]);
    let asked = prop::sample::select(vec!["", "", "10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"]);
    let policy = prop::sample::select(vec!["Cluster", "Local"]);
    let app = prop::sample::select(vec!["x", "y"]);
    let port = (prop::sample::select(vec![80, 443, 5432]), prop::sample::select(vec!["TCP", "UDP", "SCTP"]));
    let ports = prop::collection::btree_set(port, 1..3);
    (0..6u32, namespace(), (key, asked), (policy, app), ports, 0..4u32).prop_map(
        |(name, ns, (key, asked), (policy, app), ports, created)| {
            let port = |(port, protocol): &(i32, &str)| json!({"name": format!("p{port}{protocol}").to_lowercase(), "port": port, "protocol": protocol});
            let spec = json!({
                "type": "LoadBalancer", "loadBalancerClass": "edge.internal/load-balancer",
                "externalTrafficPolicy": policy, "selector": {"app": app},
                "ports": ports.iter().map(port).collect::<Vec<_>>(),
            });
            let annotations = json!({"metallb.io/allow-shared-ip": key, "metallb.io/loadBalancerIPs": asked});
            (Kind::Service, format!("{ns}/lb{name}"), created, json!({"spec": spec, "annotations": annotations}))
        },
    )
}

pub(super) fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![3 => gateway(), 2 => set(), 8 => route(), 1 => grant(), 4 => service()];
    // The first of a name counts, whatever the order of insertion.
    prop::collection::vec(piece, 1..30).prop_map(|pieces| {
        let mut seen = BTreeSet::new();
        pieces.into_iter().filter(|(kind, name, ..)| seen.insert((*kind, name.clone()))).collect()
    })
}

pub(super) fn inputs(pieces: &[Piece]) -> Inputs {
    let mut inputs = base();
    for namespace in NAMESPACES {
        add(&mut inputs.services, &format!("{namespace}/web"), 0, json!({"ports": [{"port": 80}]}));
    }
    for (kind, name, created, spec) in pieces {
        let spec = spec.clone();
        match kind {
            Kind::Gateway => add(&mut inputs.gateways, name, *created, spec),
            Kind::ListenerSet => add(&mut inputs.listener_sets, name, *created, spec),
            Kind::HTTPRoute => add(&mut inputs.http_routes, name, *created, spec),
            Kind::Service => {
                add(&mut inputs.services, name, *created, spec["spec"].clone());
                let object = inputs.services.get_mut(&ObjectKey::parse(name)).unwrap();
                let annotations = &mut Arc::make_mut(object).meta.annotations;
                *annotations = serde_json::from_value(spec["annotations"].clone()).unwrap();
                annotations.retain(|_, value| !value.is_empty());
            }
            _ => add(&mut inputs.reference_grants, name, *created, spec),
        }
    }
    inputs
}

pub(super) fn bytes(compiled: &Compiled) -> String {
    let parts = (&compiled.snapshot, &compiled.report, &compiled.endpoints, &compiled.assigned);
    serde_json::to_string(&parts).unwrap()
}

fn listeners_of(port: &PortServe) -> Vec<crate::snapshot::ListenerId> {
    match port {
        PortServe::Http { hosts: map } | PortServe::Tls { names: map } => map.values().copied().collect(),
        PortServe::Tcp { listener } | PortServe::Udp { listener } => vec![*listener],
    }
}

/// Who may be reached on a port under a host, from the text of the specification: the routes of the most specific
/// listener that is not conflicted, whose own hostnames cover the host and whose namespace the listener lets in.
fn isolation(inputs: &Inputs, snapshot: &Snapshot) {
    for port in &snapshot.ports {
        let PortServe::Http { hosts } = &port.serve else { continue };
        for host in ["a.example", "b.a.example", "x.example", "c.test", "other"] {
            let Some(listener) = hosts.best(host).map(|id| &snapshot.listeners[id.index()]) else { continue };
            assert!(listener.hostname.matches(host), "{host} on {}", listener.hostname);
            let more_specific = snapshot.listeners.iter().filter(|other| {
                hosts.values().any(|id| &snapshot.listeners[id.index()] == *other)
                    && other.hostname.matches(host)
                    && specificity(&other.hostname) > specificity(&listener.hostname)
            });
            assert_eq!(more_specific.count(), 0, "{host} on {}", listener.hostname);
            let ListenerServe::Http { routes } = &listener.serve else { panic!("an HTTP port") };
            let none: [(String, String); 0] = [];
            for path in ["/", "/a", "/a/b/c"] {
                let view = RequestView { host, method: "GET", path, query: None, fields: &none[..] };
                let Some(found) = routes.find(&view) else { continue };
                let rule = &snapshot.rules[found.rule.index()];
                let route = &inputs.http_routes[&rule.route.key];
                let covered = route.spec.hostnames.is_empty()
                    || route.spec.hostnames.iter().any(|name| HostPattern::parse(Some(name)).unwrap().matches(host));
                assert!(covered, "{} takes {host}", rule.route);
                assert_eq!(listener.parent.kind, Kind::Gateway, "routes here name Gateways as parents only");
                let spec = &inputs.gateways[&listener.parent.key].spec;
                let spec = spec.listeners.iter().find(|spec| *spec.name == *listener.name).unwrap();
                let same = rule.route.key.namespace == listener.parent.key.namespace;
                assert!(same || spec.allowed_routes.namespaces.from.as_str() == "All", "{} on {host}", rule.route);
                let parent = &route.spec.parent_refs[0];
                assert_eq!(*parent.name, *listener.parent.key.name);
                assert!(parent.section_name.as_deref().is_none_or(|section| *section == *listener.name));
            }
        }
    }
}

fn specificity(pattern: &HostPattern) -> (u8, usize) {
    match pattern {
        HostPattern::Any => (0, 0),
        HostPattern::Wildcard(suffix) => (1, suffix.as_str().split('.').count()),
        HostPattern::Exact(_) => (2, 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_order_gives_the_same_bytes(pieces in pieces(), seed in any::<u64>()) {
        let mut shuffled = pieces.clone();
        shuffled.sort_by_key(|(_, name, ..)| {
            name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
        });
        let (one, two) = (compile(&inputs(&pieces)), compile(&inputs(&shuffled)));
        prop_assert_eq!(bytes(&one), bytes(&two));
        prop_assert_eq!(one, two);
    }

    #[test]
    fn nothing_is_bound_that_does_not_serve(pieces in pieces()) {
        let inputs = inputs(&pieces);
        let Compiled { snapshot, endpoints, .. } = compile(&inputs);
        let vips: BTreeSet<_> = snapshot.vips.iter().map(|vip| vip.address).collect();
        prop_assert_eq!(vips.len(), snapshot.vips.len(), "an address twice");
        let sockets: BTreeSet<_> = snapshot.sockets.iter().map(|it| (it.address, it.transport)).collect();
        prop_assert_eq!(sockets.len(), snapshot.sockets.len(), "a port of an address twice");
        let mut reached = BTreeSet::new();
        for socket in &snapshot.sockets {
            prop_assert!(vips.contains(&socket.address.ip()), "a socket without a VIP");
            let port = &snapshot.ports[socket.port.index()];
            prop_assert_eq!(port.number, socket.address.port());
            let listeners = listeners_of(&port.serve);
            prop_assert!(!listeners.is_empty(), "a socket without a listener");
            for id in listeners {
                let listener = &snapshot.listeners[id.index()];
                prop_assert_eq!(listener.port, port.number);
                reached.insert(id);
            }
        }
        for vip in &vips {
            prop_assert!(snapshot.sockets.iter().any(|socket| socket.address.ip() == *vip), "a VIP without a socket");
        }
        for vip in snapshot.vips.iter().filter(|vip| vip.owners.len() > 1) {
            let key = |owner: &ObjectRef| {
                let object = inputs.services.get(&owner.key).filter(|_| owner.kind == Kind::Service)?;
                object.meta.annotations.get("metallb.io/allow-shared-ip")
            };
            let first = key(&vip.owners[0]);
            prop_assert!(first.is_some() && vip.owners.iter().all(|owner| key(owner) == first), "{:?}", vip.owners);
        }
        prop_assert_eq!(reached.len(), snapshot.listeners.len(), "a listener that nothing reaches");
        prop_assert_eq!(endpoints.len(), snapshot.upstreams.len());
        prop_assert!(snapshot.sockets.is_sorted());
    }

    #[test]
    fn no_route_takes_a_host_that_is_not_its_own(pieces in pieces()) {
        let inputs = inputs(&pieces);
        isolation(&inputs, &compile(&inputs).snapshot);
    }

    #[test]
    fn addresses_stay(pieces in pieces(), more in pieces()) {
        let mut first = inputs(&pieces);
        let before = compile(&first);
        first.assigned = before.assigned.clone();
        prop_assert_eq!(&compile(&first), &before, "giving back the assignment changes nothing");
        let known: BTreeSet<_> = pieces.iter().map(|(kind, name, ..)| (*kind, name.clone())).collect();
        let added = more.into_iter().filter(|(kind, name, ..)| !known.contains(&(*kind, name.clone())));
        let mut second = inputs(&pieces.iter().cloned().chain(added).collect::<Vec<_>>());
        second.assigned = before.assigned.clone();
        let after = compile(&second);
        for (gateway, addresses) in &before.assigned {
            prop_assert_eq!(after.assigned.get(gateway), Some(addresses));
        }
    }

    #[test]
    fn status_agrees_with_the_snapshot(pieces in pieces()) {
        let compiled = compile(&inputs(&pieces));
        let all = render(&compiled.snapshot, &compiled.report, &Observed::programmed(&compiled.snapshot));
        for (object, status) in &all {
            for listener in status["listeners"].as_array().into_iter().flatten() {
                let name = listener["name"].as_str().unwrap();
                let served = compiled.snapshot.listeners.iter().any(|l| l.parent == *object && *l.name == *name);
                let conditions = listener["conditions"].as_array().unwrap();
                let programmed = conditions.iter().find(|c| c["type"] == "Programmed").unwrap()["status"] == "True";
                // The HTTPS listeners here have a placeholder only, which serves without being programmed.
                prop_assert!(served || !programmed, "{} {}", object, name);
                let accepted = conditions.iter().find(|c| c["type"] == "Accepted").unwrap()["status"] == "True";
                prop_assert!(accepted || !programmed);
                prop_assert!(conditions.iter().all(|c| c["observedGeneration"] == 1));
            }
        }
    }
}
