//! Our words to GoBGP's messages; pure. What the series number differently is counted here from series 3.

use std::net::IpAddr;

use ipnet::IpNet;
use prost::Message as _;

use super::{Series, wire};
use crate::plan::model::{Assignment, Class, Direction, Family, Global, Path, PeerConfig, PeerKey, Rule, Set, SetKind};

/// RFC 8326 §5.
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// The name under which both series keep the policy of the whole table.
pub const GLOBAL: &str = "global";

const UNICAST: i32 = 1;
const ROUTE_TYPE_LOCAL: i32 = 3;
const ACCEPT: i32 = 1;
const REJECT: i32 = 2;

/// Values of series 3 that series 4 shifts.
pub mod table {
    pub const GLOBAL: i32 = 0;
    pub const ADJ_OUT: i32 = 3;
}
const MATCH_ANY: i32 = 0;
const COMMUNITY_ADD: i32 = 0;
const COMMUNITY_REPLACE: i32 = 2;
const MED_REPLACE: i32 = 1;
const DEFINED_NEIGHBOR: i32 = 1;
const DEFINED_LARGE_COMMUNITY: i32 = 6;

pub fn family(family: Family) -> wire::Family {
    wire::Family { afi: if family == Family::V4 { 1 } else { 2 }, safi: UNICAST }
}

pub fn global(global: &Global) -> wire::Global {
    wire::Global {
        asn: global.asn,
        router_id: global.router_id.to_string(),
        listen_port: global.port,
        listen_addresses: global.addresses.iter().map(IpAddr::to_string).collect(),
    }
}

pub fn defined_type(series: Series, kind: SetKind) -> i32 {
    series.shift(match kind {
        SetKind::Neighbors => DEFINED_NEIGHBOR,
        SetKind::Tags => DEFINED_LARGE_COMMUNITY,
    })
}

pub fn set(series: Series, set: &Set) -> wire::DefinedSet {
    wire::DefinedSet { defined_type: defined_type(series, set.kind), name: set.name.clone(), list: set.members.clone() }
}

/// The policy that lets in only what was put in through the API.
pub fn import() -> wire::Policy {
    let conditions = wire::Conditions { route_type: ROUTE_TYPE_LOCAL, ..wire::Conditions::default() };
    let actions = wire::Actions { route_action: ACCEPT, ..wire::Actions::default() };
    let name = crate::plan::IMPORT.to_owned();
    let statement =
        wire::Statement { name: format!("{name}-local"), conditions: Some(conditions), actions: Some(actions) };
    wire::Policy { name, statements: vec![statement] }
}

pub fn policy(series: Series, class: &Class) -> wire::Policy {
    let any = |name: String| wire::MatchSet { r#type: series.shift(MATCH_ANY), name };
    let statement = |(index, rule): (usize, &Rule)| wire::Statement {
        name: class.rule_name(index),
        conditions: Some(wire::Conditions {
            neighbor_set: Some(any(class.rule_name(index))),
            large_community_set: Some(any(class.name.clone())),
            ..wire::Conditions::default()
        }),
        actions: Some(actions(series, rule)),
    };
    wire::Policy { name: class.name.clone(), statements: class.rules.iter().enumerate().map(statement).collect() }
}

fn actions(series: Series, rule: &Rule) -> wire::Actions {
    let actions = &rule.actions;
    let communities =
        |kind: i32, communities: Vec<String>| wire::CommunityAction { r#type: series.shift(kind), communities };
    let standard = actions.communities.iter().map(|word| format!("{}:{}", word >> 16, word & 0xffff)).collect();
    let large = actions.large_communities.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect();
    wire::Actions {
        route_action: ACCEPT,
        // Added, so that GRACEFUL_SHUTDOWN stays; replaced, so that the tag goes.
        community: (!actions.communities.is_empty()).then(|| communities(COMMUNITY_ADD, standard)),
        large_community: Some(communities(COMMUNITY_REPLACE, large)),
        med: actions.med.map(|med| wire::MedAction { r#type: series.shift(MED_REPLACE), value: i64::from(med) }),
        as_prepend: actions.prepend.map(|(asn, times)| wire::AsPrependAction { asn, repeat: u32::from(times) }),
        nexthop: actions.next_hop.map(|address| wire::NexthopAction { address: address.to_string() }),
        local_pref: actions.local_pref.map(|value| wire::LocalPrefAction { value }),
    }
}

pub fn direction(direction: Direction) -> i32 {
    match direction {
        Direction::Import => 1,
        Direction::Export => 2,
    }
}

pub fn assignment(of: Direction, assignment: &Assignment) -> wire::PolicyAssignment {
    let named = |name: &String| wire::Policy { name: name.clone(), statements: Vec::new() };
    wire::PolicyAssignment {
        name: GLOBAL.to_owned(),
        direction: direction(of),
        policies: assignment.policies.iter().map(named).collect(),
        default_action: if assignment.accepts { ACCEPT } else { REJECT },
    }
}

pub fn peer(peer: &PeerConfig) -> wire::Peer {
    let restart = peer.graceful_restart;
    let (neighbor_address, neighbor_interface) = match &peer.key {
        PeerKey::Address(address) => (address.to_string(), String::new()),
        PeerKey::Interface(name) => (String::new(), name.clone()),
    };
    let afi_safi = |of: &Family| wire::AfiSafi {
        mp_graceful_restart: restart
            .map(|_| wire::MpGracefulRestart { config: Some(wire::mp_graceful_restart::Config { enabled: true }) }),
        config: Some(wire::afi_safi::Config { family: Some(family(*of)), enabled: true }),
        state: None,
        prefix_limits: Some(wire::afi_safi::PrefixLimit {
            family: Some(family(*of)),
            // GoBGP takes 0 for no limit.
            max_prefixes: peer.max_prefixes.max(1),
        }),
    };
    wire::Peer {
        conf: Some(wire::PeerConf {
            auth_password: peer.password.as_ref().map_or_else(String::new, |secret| secret.expose().to_owned()),
            description: peer.description(),
            local_asn: peer.local_asn,
            neighbor_address,
            peer_asn: peer.asn,
            neighbor_interface,
        }),
        ebgp_multihop: peer.multihop.map(|ttl| wire::EbgpMultihop { enabled: true, multihop_ttl: u32::from(ttl) }),
        // Series 3 takes an unnumbered peer only with this; it is where the engine would put it itself.
        state: peer
            .neighbor
            .as_ref()
            .map(|address| wire::PeerState { neighbor_address: address.clone(), ..wire::PeerState::default() }),
        timers: Some(wire::Timers {
            config: Some(wire::TimersConfig {
                connect_retry: peer.connect_retry,
                hold_time: peer.hold_time,
                keepalive_interval: peer.keepalive,
                idle_hold_time_after_reset: 0,
            }),
            state: None,
        }),
        transport: Some(wire::Transport {
            local_address: peer.source.map_or_else(String::new, |address| address.to_string()),
            passive_mode: peer.is_passive,
            remote_port: u32::from(peer.port),
        }),
        graceful_restart: restart.map(|time| wire::GracefulRestart {
            enabled: true,
            // 12 bits (RFC 4724 §3).
            restart_time: time.min(4095),
            // Paths are in before peers, so there is nothing to wait for; 0 would be GoBGP's own six minutes.
            deferral_time: 1,
            // RFC 8538 would keep our routes over a NOTIFICATION; our orderly end must withdraw them.
            notification_enabled: false,
            local_restarting: peer.is_restarting,
        }),
        afi_safis: peer.families.iter().map(afi_safi).collect(),
        ttl_security: peer.ttl_security.map(|ttl| wire::TtlSecurity { enabled: true, ttl_min: u32::from(ttl) }),
    }
}

/// The parts of a path that both series wrap in their own way.
fn parts(path: &Path) -> (wire::IpAddressPrefix, Vec<wire::attribute::Attr>) {
    use wire::attribute::Attr;
    let nlri = wire::IpAddressPrefix {
        prefix_len: u32::from(path.prefix.prefix_len()),
        prefix: path.prefix.network().to_string(),
    };
    let mut attributes = vec![Attr::Origin(wire::OriginAttribute { origin: 0 })];
    if Family::of(&path.prefix) == Family::V4 && path.next_hop.is_ipv4() {
        attributes.push(Attr::NextHop(wire::NextHopAttribute { next_hop: path.next_hop.to_string() }));
    }
    if path.is_leaving {
        attributes.push(Attr::Communities(wire::CommunitiesAttribute { communities: vec![GRACEFUL_SHUTDOWN] }));
    }
    let tag =
        wire::LargeCommunity { global_admin: path.tag.asn, local_data1: path.tag.high, local_data2: path.tag.low };
    attributes.push(Attr::LargeCommunities(wire::LargeCommunitiesAttribute { communities: vec![tag] }));
    (nlri, attributes)
}

/// MP_REACH_NLRI (RFC 4760) for what NEXT_HOP cannot say.
fn mp_reach(path: &Path, nlri: Vec<u8>) -> Option<wire::MpReachNlriAttribute> {
    let of = Family::of(&path.prefix);
    (of == Family::V6 || path.next_hop.is_ipv6()).then(|| wire::MpReachNlriAttribute {
        family: Some(family(of)),
        next_hops: vec![path.next_hop.to_string()],
        nlris: vec![nlri],
    })
}

pub fn path3(path: &Path, is_withdraw: bool) -> wire::Path3 {
    let (nlri, attributes) = parts(path);
    let nlri = any("IPAddressPrefix", &nlri);
    let mp_reach = mp_reach(path, nlri.encode_to_vec()).map(|attribute| any("MpReachNLRIAttribute", &attribute));
    wire::Path3 {
        nlri: Some(nlri),
        pattrs: attributes.iter().map(attribute3).chain(mp_reach).collect(),
        is_withdraw,
        family: Some(family(Family::of(&path.prefix))),
        neighbor_ip: String::new(),
    }
}

pub fn path4(path: &Path, is_withdraw: bool) -> wire::Path4 {
    let (nlri, attributes) = parts(path);
    let nlri = wire::Nlri { prefix: Some(nlri) };
    let mp_reach = mp_reach(path, nlri.encode_to_vec()).map(wire::attribute::Attr::MpReach);
    wire::Path4 {
        nlri: Some(nlri),
        pattrs: attributes.into_iter().chain(mp_reach).map(|attr| wire::Attribute { attr: Some(attr) }).collect(),
        is_withdraw,
        family: Some(family(Family::of(&path.prefix))),
        neighbor_ip: String::new(),
    }
}

pub fn any(name: &str, message: &impl prost::Message) -> wire::Any {
    wire::Any { type_url: format!("type.googleapis.com/apipb.{name}"), value: message.encode_to_vec() }
}

fn attribute3(attribute: &wire::attribute::Attr) -> wire::Any {
    use wire::attribute::Attr;
    match attribute {
        Attr::Origin(message) => any("OriginAttribute", message),
        Attr::AsPath(message) => any("AsPathAttribute", message),
        Attr::NextHop(message) => any("NextHopAttribute", message),
        Attr::MultiExitDisc(message) => any("MultiExitDiscAttribute", message),
        Attr::LocalPref(message) => any("LocalPrefAttribute", message),
        Attr::Communities(message) => any("CommunitiesAttribute", message),
        Attr::MpReach(message) => any("MpReachNLRIAttribute", message),
        Attr::LargeCommunities(message) => any("LargeCommunitiesAttribute", message),
    }
}

/// The prefix of an answer.
pub fn prefix(nlri: &wire::IpAddressPrefix) -> Option<IpNet> {
    IpNet::new(nlri.prefix.parse().ok()?, u8::try_from(nlri.prefix_len).ok()?).ok()
}
