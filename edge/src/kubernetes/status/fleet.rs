//! Several edges, one status. Pure.
//!
//! Every edge says in the annotation [`ANNOTATION`] of its own Lease what it serves: the generation of each Gateway and
//! ListenerSet that all its workers have taken, and what failed on it. The one edge that writes status joins that with
//! what it sees itself, so that `Programmed` is true once every edge that is alive serves the object as it is now. A
//! Lease that is not renewed stops counting: a dead edge carries no traffic either.
//!
//! The API is the only thing that edges have in common here; they need not reach each other.

use std::collections::BTreeMap;

use edge_config::names::{Kind, ObjectRef};
use edge_config::report::Report;
use edge_config::snapshot::Transport;
use edge_config::status::{CertificateState, Observed};
use serde::{Deserialize, Serialize};

/// Where an edge's Lease holds its [`Acknowledgement`] as JSON.
pub const ANNOTATION: &str = "edge.internal/acknowledged";

/// Annotations of one object may have 256 KiB together; names are at most 63 + 253 characters long.
const MOST_SERVED: usize = 512;
const MOST_FAULTS: usize = 64;
const LONGEST_FAULT: usize = 160;

/// What one edge says of itself. Members that are absent or not known are passed over, so that edges of different
/// versions understand each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acknowledgement {
    /// Whether it has served everything once. Until then no traffic is led to it, and it does not count.
    pub is_ready: bool,
    /// `Gateway shop/web` → generation.
    pub serves: BTreeMap<String, i64>,
    /// Over all that it serves, in case there is more than fits: equal digests mean that the same is served.
    pub digest: String,
    /// `192.0.2.1:443/tcp` → why not.
    pub sockets: BTreeMap<String, String>,
    /// `192.0.2.1` → why not.
    pub addresses: BTreeMap<String, String>,
    /// `namespace/name` of the Secret → why not.
    pub certificates: BTreeMap<String, String>,
}

/// Another edge that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// What it says; nothing where that cannot be read.
    pub said: Acknowledgement,
}

/// The generations of objects that this edge's workers serve.
///
/// It is kept apart from the generation of the whole configuration, which changes with every route: a Gateway that
/// stays as it is must not become pending each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    generations: BTreeMap<ObjectRef, i64>,
    is_ready: bool,
}

impl Served {
    /// Takes note of a report that all workers serve, or of one that they do not serve yet; `is_whole` once it is made
    /// of everything that the API holds.
    pub fn note(&mut self, report: &Report, is_acknowledged: bool, is_whole: bool) {
        if is_acknowledged {
            self.generations = judged(report).map(|(object, generation)| (object.clone(), generation)).collect();
            self.is_ready |= is_whole;
        } else {
            self.generations.retain(|object, _| report.objects.contains_key(object));
        }
    }

    fn digest(&self) -> String {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (object, generation) in &self.generations {
            for byte in format!("{object}={generation};").bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}

/// What the other edges are to know of this one.
pub fn acknowledgement(served: &Served, observed: &Observed) -> Acknowledgement {
    let short = |text: &str| text.chars().take(LONGEST_FAULT).collect::<String>();
    let sockets = observed.sockets.iter().filter_map(|(socket, outcome)| {
        let why = outcome.as_ref().err()?;
        Some((socket_name(socket), short(why)))
    });
    let addresses = observed.vips.iter().filter_map(|(address, state)| {
        let why = state.bound.as_ref().err()?;
        Some((address.to_string(), short(why)))
    });
    let certificates = observed.certificates.iter().filter_map(|(id, state)| {
        let why = match state {
            CertificateState::Present => return None,
            CertificateState::Placeholder { why }
            | CertificateState::Unfit { why }
            | CertificateState::Failed { why } => why,
        };
        Some((id.to_string(), short(why)))
    });
    let serves = served.generations.iter().take(MOST_SERVED);
    Acknowledgement {
        is_ready: served.is_ready,
        serves: serves.map(|(object, generation)| (object.to_string(), *generation)).collect(),
        digest: served.digest(),
        sockets: sockets.take(MOST_FAULTS).collect(),
        addresses: addresses.take(MOST_FAULTS).collect(),
        certificates: certificates.take(MOST_FAULTS).collect(),
    }
}

/// What is true of all edges together: something is fine where it is fine everywhere.
pub fn join(mut own: Observed, report: &Report, served: &Served, peers: &[Peer]) -> Observed {
    let digest = served.digest();
    // Edges that serve the very same need no look at every object.
    let peers: Vec<&Peer> = peers.iter().filter(|peer| peer.said.is_ready).collect();
    let behind: Vec<&Peer> = peers.iter().copied().filter(|peer| peer.said.digest != digest).collect();
    own.acknowledged = true;
    for (object, generation) in judged(report) {
        let why = match served.generations.get(object) {
            Some(known) if *known == generation => {
                let text = object.to_string();
                behind.iter().find_map(|peer| unserved_by(peer, &text, generation))
            }
            Some(known) => Some(format!("generation {known} of it is served; {generation} is not yet")),
            None => Some("it is not served yet".to_owned()),
        };
        if let Some(why) = why {
            own.pending.insert(object.clone(), why);
        }
    }
    for Peer { name, said } in peers {
        let by = |why: &String| format!("edge {name}: {why}");
        for (socket, outcome) in own.sockets.iter_mut().filter(|(_, outcome)| outcome.is_ok()) {
            if let Some(why) = said.sockets.get(&socket_name(socket)) {
                *outcome = Err(by(why));
            }
        }
        for (address, state) in own.vips.iter_mut().filter(|(_, state)| state.bound.is_ok()) {
            if let Some(why) = said.addresses.get(&address.to_string()) {
                state.bound = Err(by(why));
            }
        }
        for (id, state) in own.certificates.iter_mut().filter(|(_, state)| **state == CertificateState::Present) {
            if let Some(why) = said.certificates.get(&id.to_string()) {
                *state = CertificateState::Failed { why: by(why) };
            }
        }
    }
    own
}

fn unserved_by(peer: &Peer, object: &str, generation: i64) -> Option<String> {
    let name = &peer.name;
    match peer.said.serves.get(object) {
        Some(known) if *known == generation => None,
        Some(known) => {
            Some(format!("edge {name} serves generation {known} of it; {generation} is not served there yet"))
        }
        None => Some(format!("edge {name} does not serve it yet")),
    }
}

/// What edges acknowledge: the objects that have `Programmed`.
fn judged(report: &Report) -> impl Iterator<Item = (&ObjectRef, i64)> {
    let objects = report.objects.iter().filter(|(object, _)| matches!(object.kind, Kind::Gateway | Kind::ListenerSet));
    objects.map(|(object, report)| (object, report.generation))
}

fn socket_name((address, transport): &(std::net::SocketAddr, Transport)) -> String {
    format!("{address}/{}", transport.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edge_config::names::{CertId, ObjectKey};
    use edge_config::report::ObjectReport;
    use edge_config::status::VipState;

    use super::*;

    fn gateway(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Gateway, ObjectKey::new("ns", name))
    }

    fn report(gateways: &[(&str, i64)]) -> Report {
        let object = |(name, generation): &(&str, i64)| {
            (gateway(name), Arc::new(ObjectReport { generation: *generation, ..ObjectReport::default() }))
        };
        Report { objects: gateways.iter().map(object).collect(), problems: Vec::new() }
    }

    fn served(gateways: &[(&str, i64)]) -> Served {
        let mut served = Served::default();
        served.note(&report(gateways), true, true);
        served
    }

    fn peer(name: &str, gateways: &[(&str, i64)]) -> Peer {
        let said = acknowledgement(&served(gateways), &Observed::default());
        // As it comes back from the API.
        let text = serde_json::to_string(&said).unwrap();
        Peer { name: name.to_owned(), said: serde_json::from_str(&text).unwrap() }
    }

    #[test]
    fn an_object_is_pending_until_every_edge_serves_it() {
        let now = [("a", 2), ("b", 1)];
        // It has just started: nothing reaches it yet.
        let new = Peer { name: "c".into(), said: Acknowledgement::default() };
        type Pending = &'static [(&'static str, &'static str)];
        let cases: [(&str, Served, Vec<Peer>, Pending); 6] = [
            ("alone", served(&now), vec![], &[]),
            ("all", served(&now), vec![peer("b", &now), peer("c", &now)], &[]),
            ("not here", served(&[("a", 2)]), vec![peer("b", &now)], &[("b", "it is not served yet")]),
            (
                "an older one here",
                served(&[("a", 1), ("b", 1)]),
                vec![],
                &[("a", "generation 1 of it is served; 2 is not yet")],
            ),
            (
                "an older one there",
                served(&now),
                vec![peer("b", &[("a", 1), ("b", 1), ("x", 1)])],
                &[("a", "edge b serves generation 1 of it; 2 is not served there yet")],
            ),
            ("a new one", served(&now), vec![new], &[]),
        ];
        for (name, mine, peers, expected) in cases {
            let joined = join(Observed::default(), &report(&now), &mine, &peers);
            let expected: BTreeMap<ObjectRef, String> =
                expected.iter().map(|(object, why)| (gateway(object), (*why).to_owned())).collect();
            assert_eq!(joined.pending, expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_acknowledged_keeps_what_was() {
        let mut served = served(&[("a", 1), ("b", 1)]);
        // Another route made a new generation of the configuration; the Gateways are as they were.
        served.note(&report(&[("a", 1), ("b", 2)]), false, true);
        let joined = join(Observed::default(), &report(&[("a", 1), ("b", 2)]), &served, &[]);
        assert_eq!(joined.pending.keys().collect::<Vec<_>>(), [&gateway("b")]);
        served.note(&report(&[("b", 2)]), false, true);
        assert!(!served.generations.contains_key(&gateway("a")), "what is gone is forgotten");
    }

    #[test]
    fn a_fault_of_one_edge_is_a_fault() {
        let address: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        let socket = (std::net::SocketAddr::new(address, 80), Transport::Tcp);
        let id = CertId(ObjectKey::parse("ns/cert"));
        let good = Observed {
            acknowledged: true,
            sockets: [(socket, Ok(()))].into(),
            vips: [(address, VipState { bound: Ok(()), announced: Ok(()) })].into(),
            certificates: [(id.clone(), CertificateState::Present)].into(),
            pending: BTreeMap::new(),
            troubles: BTreeMap::new(),
        };
        let mut bad = good.clone();
        bad.sockets.insert(socket, Err("in use".into()));
        bad.vips.insert(address, VipState { bound: Err("no permission".into()), announced: Ok(()) });
        bad.certificates.insert(id.clone(), CertificateState::Failed { why: "x".repeat(500) });
        let peer = Peer { name: "b".into(), said: acknowledgement(&served(&[]), &bad) };
        let joined = join(good.clone(), &Report::default(), &Served::default(), std::slice::from_ref(&peer));
        assert_eq!(joined.sockets[&socket], Err("edge b: in use".to_owned()));
        assert_eq!(joined.vips[&address].bound, Err("edge b: no permission".to_owned()));
        let CertificateState::Failed { why } = &joined.certificates[&id] else { unreachable!("it failed there") };
        assert_eq!(why.len(), "edge b: ".len() + LONGEST_FAULT);
        assert_eq!(join(good.clone(), &Report::default(), &Served::default(), &[]), good);
    }
}
