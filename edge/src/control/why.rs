//! Why an address is announced, or is not: every rule with its evidence, and what each peer has really been told.
//!
//! A world and the time flow in, rows flow out. Pure. The rules are those of `vip::wanted` and `vip::gate`, asked one by one; what
//! peers were told is what adj-out says.

use std::net::IpAddr;

use edge_bgp::vrrp::Role;
use edge_bgp::{EngineState, PeerSeen, SessionState, Told};
use edge_config::announce::Bgp;
use serde::{Deserialize, Serialize};

use super::span::rfc3339;
use super::view::{Health, State};
use super::world::{Scene, World};
use crate::vip::gate::Stance;
use crate::vip::l2::{ElectionSeen, GroupSeen, VipHeld, VipSeen};
use crate::vip::{Sight, rules};

/// Of one VIP on one edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    #[serde(flatten)]
    pub health: Health,
    pub edge: String,
    pub address: String,
    pub owners: Vec<String>,
    /// `pool NAME`, or `spec.addresses`.
    pub source: String,
    /// In the order in which they are asked. The first that stops the VIP is the reason.
    pub rules: Vec<RuleRow>,
    /// Every peer, whether it is to be told of the VIP or not.
    pub peers: Vec<PeerRow>,
    /// Where an election decides which edge answers ARP and NDP for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elections: Vec<ElectionRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    pub rule: String,
    /// Whether it lets the VIP be announced.
    pub allows: bool,
    pub evidence: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    #[serde(flatten)]
    pub health: Health,
    pub peer: String,
    /// `established`, `active`, …
    pub session: String,
    /// RFC 3339, UTC.
    pub session_since: String,
    /// What adj-out holds; absent: nothing.
    pub told: Option<ToldRow>,
}

/// What a peer has been told, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldRow {
    pub prefix: String,
    /// RFC 3339, UTC.
    pub since: String,
    pub next_hop: Option<String>,
    pub as_path: Vec<u32>,
    /// `65535:0`, `64512:1:2`, …
    pub communities: Vec<String>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
}

/// A virtual router of one family, as this edge takes part in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionRow {
    #[serde(flatten)]
    pub health: Health,
    pub group: String,
    pub interface: String,
    /// VRID
    pub router: u8,
    /// `IPv4` or `IPv6`
    pub family: String,
    /// `active`, `backup` or `down`
    pub role: String,
    /// RFC 3339, UTC.
    pub since: String,
    /// Why the role was taken.
    pub because: String,
    /// What this edge brings into the election; absent: it takes no part.
    pub priority: Option<u8>,
    /// Address and priority of whoever is active.
    pub leader: Option<String>,
    /// Whether the address is on the interface and told to the link. Of a whole router: whether this edge leads it.
    pub is_held: bool,
}

impl Why {
    /// Whether anybody has been told of it.
    pub fn is_told(&self) -> bool {
        self.peers.iter().any(|peer| peer.told.is_some()) || self.elections.iter().any(|election| election.is_held)
    }
}

/// One row for each VIP, in the order of addresses.
pub fn all(world: &World) -> Vec<Why> {
    world.compiled.snapshot.vips.iter().filter_map(|vip| why(world.scene(), &world.edge, vip.address)).collect()
}

/// `None`: no VIP of this edge has the address.
pub fn why(scene: Scene<'_>, edge: &str, address: IpAddr) -> Option<Why> {
    let Scene { snapshot, observed, endpoints, .. } = scene;
    let vip = snapshot.vips.iter().find(|vip| vip.address == address)?;
    let network = &observed.network;
    let sight = Sight { snapshot, endpoints, addresses: &network.addresses, observed };
    let plan = &snapshot.announce;
    let mut rows = vec![selected(scene, address)];
    rows.extend(rules(sight, vip).into_iter().map(|(rule, outcome)| row(rule, outcome)));
    rows.push(row(
        "nothing stands still",
        match &network.guard.failing {
            None => Ok("every worker and the supervisor move".to_owned()),
            Some(why) => Err(why.clone()),
        },
    ));
    rows.push(row(
        "this edge stays",
        match &observed.drain {
            None => Ok("it is not draining".to_owned()),
            Some(drain) => Err(drain.text()),
        },
    ));
    rows.push(row(
        "no hold-down",
        match network.stances.get(&address) {
            Some(stance @ Stance::Held { .. }) => Err(stance.to_string()),
            _ => Ok(format!("{:?} after a failure", plan.hold_down)),
        },
    ));
    let peers: Vec<PeerRow> = plan.bgp.iter().flat_map(|bgp| peer_rows(scene, bgp, address)).collect();
    let elections: Vec<ElectionRow> = network.l2.vip(address).into_iter().map(election_row).collect();
    let stopped = rows.iter().find(|row| !row.allows);
    let is_told = peers.iter().any(|peer| peer.told.is_some());
    let health = match (stopped, is_told) {
        // Only who leads tells anybody else.
        (None, false) if !elections.is_empty() => elections[0].health.clone(),
        (None, true) if elections.iter().any(|election| election.health.state != State::Up) => {
            elections[0].health.clone()
        }
        (None, true) if peers.iter().all(|peer| peer.health.state == State::Up) => Health::up(),
        (None, true) => Health::new(State::Degraded, "some peers have not been told"),
        (None, false) if plan.bgp.is_some() => {
            let why = peers.iter().map(|peer| &*peer.health.reason).find(|reason| !reason.is_empty());
            Health::new(State::Down, format!("nobody has been told: {}", why.unwrap_or("there is no peer")))
        }
        (None, false) => Health::new(State::Degraded, "nobody is to be told"),
        (Some(row), _) => Health::new(State::Down, format!("{}: {}", row.rule, row.evidence)),
    };
    Some(Why {
        health,
        edge: edge.to_owned(),
        address: address.to_string(),
        owners: vip.owners.iter().map(ToString::to_string).collect(),
        source: vip.source.clone(),
        rules: rows,
        peers,
        elections,
    })
}

fn row(rule: &str, outcome: Result<String, String>) -> RuleRow {
    let allows = outcome.is_ok();
    RuleRow { rule: rule.to_owned(), allows, evidence: outcome.unwrap_or_else(|reason| reason) }
}

/// Whether the configuration has anything announce it.
fn selected(scene: Scene<'_>, address: IpAddr) -> RuleRow {
    let plan = &scene.snapshot.announce;
    let mut by = Vec::new();
    for prefix in plan.bgp.iter().flat_map(|bgp| &bgp.prefixes).filter(|prefix| prefix.vips.contains(&address)) {
        let peers: usize = prefix.offers.iter().map(|offer| offer.peers.len()).sum();
        let to = if peers == 1 { "1 peer".to_owned() } else { format!("{peers} peers") };
        by.push(format!("BGP prefix {} to {to}", prefix.prefix));
    }
    for group in plan.l2.iter().filter(|group| group.vips.contains(&address)) {
        by.push(format!("virtual router {} on {}", group.router, group.interface));
    }
    let silent = plan.silent.iter().find(|(silent, _)| *silent == address).map(|(_, reason)| reason.clone());
    row(
        "something announces it",
        match (by.is_empty(), silent) {
            (false, _) => Ok(by.join(", ")),
            (true, Some(reason)) => Err(reason),
            (true, None) => {
                Ok("nothing: edge.toml has neither [bgp] nor [l2], so routes to it are somebody else's".to_owned())
            }
        },
    )
}

fn peer_rows(scene: Scene<'_>, bgp: &Bgp, address: IpAddr) -> Vec<PeerRow> {
    let network = &scene.observed.network;
    let Some(seen) = &network.bgp else { return Vec::new() };
    let stance = network.stances.get(&address);
    let prefixes: Vec<_> = bgp.prefixes.iter().filter(|prefix| prefix.vips.contains(&address)).collect();
    let rows = bgp.peers.iter().map(|peer| {
        let is_offered =
            prefixes.iter().any(|prefix| prefix.offers.iter().any(|offer| offer.peers.contains(&peer.name)));
        let found = prefixes.iter().find_map(|prefix| {
            let told = seen.prefix(&prefix.prefix)?.told.iter().find(|told| told.peer == peer.name)?;
            Some((prefix.prefix.to_string(), told))
        });
        let session = seen.peer(&peer.name);
        let may_be = stance.is_some_and(Stance::is_told);
        let health = match (is_offered, &found, may_be) {
            (false, None, _) => Health::new(State::Up, "no advertisement names it"),
            (_, Some(_), true) => Health::up(),
            (_, Some(_), false) => Health::new(State::Pending, "not withdrawn yet"),
            (true, None, false) => Health::new(State::Down, "withheld, see the rules"),
            (true, None, true) => Health::new(State::Down, untold(seen.engine.state, &seen.engine.error, session)),
        };
        PeerRow {
            health,
            peer: format!("{} ({})", peer.name, peer.address),
            session: session.map_or("absent", |session| word(session.session)).to_owned(),
            session_since: session.map(|session| rfc3339(session.since)).unwrap_or_default(),
            told: found.map(|(prefix, told)| told_row(prefix, told)),
        }
    });
    rows.collect()
}

/// What an election means for one of its VIPs.
fn election_row((group, election, vip): (&GroupSeen, &ElectionSeen, &VipSeen)) -> ElectionRow {
    let mut health = match (&vip.state, &election.leader) {
        (VipHeld::Held, _) => Health::up(),
        (VipHeld::Taking, _) => Health::new(State::Pending, "it is on its way to the interface"),
        (VipHeld::Failed(reason), _) => Health::new(State::Down, reason.clone()),
        (VipHeld::Withheld, _) => Health::new(State::Down, "withheld, see the rules"),
        (VipHeld::NotHeld, Some(leader)) => {
            Health::new(State::Up, format!("the edge at {} leads with priority {}", leader.address, leader.priority))
        }
        (VipHeld::NotHeld, None) => match (&group.link, election.priority) {
            (Err(reason), _) => Health::new(State::Down, reason.clone()),
            // It takes no part, for a reason.
            (Ok(()), None) => Health::new(State::Down, election.reason.clone()),
            (Ok(()), Some(_)) => Health::new(State::Pending, "no edge leads yet"),
        },
    };
    if let Some(conflict) = conflict(vip) {
        health = health.and(conflict);
    }
    ElectionRow { health, is_held: vip.state == VipHeld::Held, ..router_row(group, election) }
}

/// Somebody else answers for an address of ours.
pub(super) fn conflict(vip: &VipSeen) -> Option<Health> {
    let conflict = vip.conflicts.first()?;
    let text = format!("{} claims it too, last at {}", conflict.mac, rfc3339(conflict.last));
    Some(Health::new(State::Degraded, text))
}

/// A whole virtual router.
pub(super) fn router_row(group: &GroupSeen, election: &ElectionSeen) -> ElectionRow {
    let is_active = election.role == Role::Active;
    let health = match (&group.link, election.problems.first(), &election.leader) {
        (Err(reason), ..) => Health::new(State::Down, reason.clone()),
        (Ok(()), Some(problem), _) => Health::new(State::Degraded, problem.clone()),
        (Ok(()), None, Some(_)) => Health::up(),
        (Ok(()), None, None) if is_active => Health::up(),
        (Ok(()), None, None) => {
            let state = if election.priority.is_none() { State::Down } else { State::Pending };
            Health::new(state, election.reason.clone())
        }
    };
    ElectionRow {
        health,
        group: group.name.to_string(),
        interface: group.interface.clone(),
        router: group.router,
        family: election.family.name().to_owned(),
        role: election.role.name().to_owned(),
        since: rfc3339(election.since),
        because: election.reason.clone(),
        priority: election.priority,
        leader: election.leader.map(|leader| format!("{} ({})", leader.address, leader.priority)),
        is_held: is_active,
    }
}

/// Why a peer that should have been told has not been.
fn untold(engine: EngineState, error: &Option<String>, session: Option<&PeerSeen>) -> String {
    match (engine, session) {
        (EngineState::Idle | EngineState::Starting, _) => "gobgpd is being started".to_owned(),
        (EngineState::Down, _) => error.clone().unwrap_or_else(|| "gobgpd is down".to_owned()),
        (EngineState::Running, None) => "gobgpd does not have the peer yet".to_owned(),
        (EngineState::Running, Some(seen)) if seen.session == SessionState::Established => {
            "the session is up, and adj-out does not hold it".to_owned()
        }
        (EngineState::Running, Some(seen)) => {
            let why = seen.error.as_deref().unwrap_or("no reason is known yet");
            format!("session {} since {}: {why}", word(seen.session), rfc3339(seen.since))
        }
    }
}

/// As people who know BGP write it.
pub(super) fn word(session: SessionState) -> &'static str {
    match session {
        SessionState::Absent => "absent",
        SessionState::Idle => "idle",
        SessionState::Connect => "connect",
        SessionState::Active => "active",
        SessionState::OpenSent => "open-sent",
        SessionState::OpenConfirm => "open-confirm",
        SessionState::Established => "established",
        SessionState::AdminDown => "admin-down",
    }
}

fn told_row(prefix: String, told: &Told) -> ToldRow {
    let standard = told.communities.iter().map(|community| format!("{}:{}", community >> 16, community & 0xffff));
    let large = told.large_communities.iter().map(|(global, one, two)| format!("{global}:{one}:{two}"));
    ToldRow {
        prefix,
        since: rfc3339(told.since),
        next_hop: told.next_hop.map(|address| address.to_string()),
        as_path: told.as_path.clone(),
        communities: standard.chain(large).collect(),
        med: told.med,
        local_pref: told.local_pref,
    }
}

#[cfg(test)]
mod tests;
