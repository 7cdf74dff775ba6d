//! GoBGP's answers in our own words; pure. Whatever cannot be read is left out: an engine is foreign ground.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use prost::Message as _;

use super::convert::{self, GRACEFUL_SHUTDOWN};
use super::{Series, wire};
use crate::observed::SessionState;
use crate::plan::model::{Assignment, Family, Global, OURS, Path, PeerKey, SeenPeer, Tag};
use crate::wanted::Secret;

/// A path as the engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePath {
    pub prefix: IpNet,
    /// Who told it; `None`: it was put in through the API.
    pub neighbor: Option<IpAddr>,
    pub next_hop: Option<IpAddr>,
    pub communities: Vec<u32>,
    pub large_communities: Vec<(u32, u32, u32)>,
    pub as_path: Vec<u32>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
}

/// A neighbor as the engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub key: PeerKey,
    pub there: SeenPeer,
    pub session: SessionState,
    /// It sent more prefixes than it may.
    pub is_over_limit: bool,
    /// What it said in its last OPEN.
    pub asn: Option<u32>,
    pub router_id: Option<Ipv4Addr>,
    pub received: u64,
    pub hold_time: Option<u64>,
    pub up_since: Option<SystemTime>,
    pub down_since: Option<SystemTime>,
    pub flaps: u32,
    pub notifications_received: u64,
    pub notifications_sent: u64,
    /// The engine holds back its updates until the peer has told it everything (RFC 4724 §4.1).
    pub is_deferring: bool,
    /// Series 4: why the session ended, as its number and in its words.
    pub reason: i32,
    pub message: String,
}

impl PeerStatus {
    pub fn is_ours(&self) -> bool {
        self.there.description.starts_with(OURS)
    }
}

/// `None`: it was not started.
pub fn global(global: wire::Global) -> Option<Global> {
    (global.asn != 0).then(|| Global {
        asn: global.asn,
        router_id: global.router_id.parse().unwrap_or(Ipv4Addr::UNSPECIFIED),
        port: global.listen_port,
        addresses: global.listen_addresses.iter().filter_map(|text| text.parse().ok()).collect(),
    })
}

pub fn assignment(assignment: wire::PolicyAssignment) -> Assignment {
    let mut policies: Vec<String> = assignment.policies.into_iter().map(|policy| policy.name).collect();
    policies.sort();
    Assignment { policies, accepts: assignment.default_action != 2 }
}

pub fn peer(series: Series, peer: wire::Peer) -> Option<PeerStatus> {
    let conf = peer.conf?;
    let state = peer.state.unwrap_or_default();
    let timers = peer.timers.and_then(|timers| timers.state).unwrap_or_default();
    let key = if conf.neighbor_interface.is_empty() {
        PeerKey::Address(conf.neighbor_address.parse().ok()?)
    } else {
        PeerKey::Interface(conf.neighbor_interface)
    };
    let address = if state.neighbor_address.is_empty() { conf.neighbor_address } else { state.neighbor_address };
    let admin = state.admin_state - series.shift(0);
    let messages = state.messages.unwrap_or_default();
    Some(PeerStatus {
        key,
        there: SeenPeer {
            address,
            description: conf.description,
            password: (!conf.auth_password.is_empty()).then(|| Secret::new(conf.auth_password)),
        },
        session: match (admin, state.session_state) {
            (1 | 2, _) => SessionState::AdminDown,
            (_, 2) => SessionState::Connect,
            (_, 3) => SessionState::Active,
            (_, 4) => SessionState::OpenSent,
            (_, 5) => SessionState::OpenConfirm,
            (_, 6) => SessionState::Established,
            _ => SessionState::Idle,
        },
        is_over_limit: admin == 2,
        asn: state.remote_cap.iter().find_map(|bytes| four_octet_asn(series, bytes)),
        router_id: state.router_id.parse().ok(),
        received: peer.afi_safis.iter().filter_map(|family| family.state).map(|state| state.received).sum(),
        hold_time: Some(timers.negotiated_hold_time).filter(|seconds| *seconds > 0),
        up_since: timers.uptime.and_then(time),
        down_since: timers.downtime.and_then(time),
        flaps: state.flops,
        notifications_received: messages.received.map_or(0, |sum| sum.notification),
        notifications_sent: messages.sent.map_or(0, |sum| sum.notification),
        is_deferring: peer.graceful_restart.is_some_and(|restart| restart.local_restarting),
        reason: state.disconnect_reason,
        message: state.disconnect_message,
    })
}

fn time(stamp: wire::Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(stamp.seconds).ok().filter(|seconds| *seconds > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// RFC 6793: the number of a peer that knows four octets.
fn four_octet_asn(series: Series, capability: &[u8]) -> Option<u32> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct FourOctetAsn {
        #[prost(uint32, tag = "1")]
        asn: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Choice {
        #[prost(message, optional, tag = "7")]
        four_octet_asn: Option<FourOctetAsn>,
    }
    let capability = match series {
        Series::Three => {
            let any = wire::Any::decode(capability).ok()?;
            any.type_url.ends_with(".FourOctetASNCapability").then(|| FourOctetAsn::decode(&*any.value).ok())?
        }
        Series::Four => Choice::decode(capability).ok()?.four_octet_asn,
    };
    capability.map(|capability| capability.asn).filter(|asn| *asn != 0)
}

pub fn path3(path: wire::Path3) -> Option<TablePath> {
    let nlri = path.nlri.filter(|any| any.type_url.ends_with(".IPAddressPrefix"))?;
    let nlri = wire::IpAddressPrefix::decode(&*nlri.value).ok()?;
    let attributes = path.pattrs.iter().filter_map(attribute3);
    table_path(&nlri, &path.neighbor_ip, attributes)
}

pub fn path4(path: wire::Path4) -> Option<TablePath> {
    let nlri = path.nlri.and_then(|nlri| nlri.prefix)?;
    table_path(&nlri, &path.neighbor_ip, path.pattrs.into_iter().filter_map(|attribute| attribute.attr))
}

fn attribute3(any: &wire::Any) -> Option<wire::attribute::Attr> {
    use wire::attribute::Attr;
    let value = &*any.value;
    match any.type_url.rsplit('.').next()? {
        "AsPathAttribute" => wire::AsPathAttribute::decode(value).ok().map(Attr::AsPath),
        "NextHopAttribute" => wire::NextHopAttribute::decode(value).ok().map(Attr::NextHop),
        "MultiExitDiscAttribute" => wire::MultiExitDiscAttribute::decode(value).ok().map(Attr::MultiExitDisc),
        "LocalPrefAttribute" => wire::LocalPrefAttribute::decode(value).ok().map(Attr::LocalPref),
        "CommunitiesAttribute" => wire::CommunitiesAttribute::decode(value).ok().map(Attr::Communities),
        "MpReachNLRIAttribute" => wire::MpReachNlriAttribute::decode(value).ok().map(Attr::MpReach),
        "LargeCommunitiesAttribute" => wire::LargeCommunitiesAttribute::decode(value).ok().map(Attr::LargeCommunities),
        _ => None,
    }
}

fn table_path(
    nlri: &wire::IpAddressPrefix,
    neighbor: &str,
    attributes: impl Iterator<Item = wire::attribute::Attr>,
) -> Option<TablePath> {
    use wire::attribute::Attr;
    let mut path = TablePath {
        prefix: convert::prefix(nlri)?,
        neighbor: neighbor.split('%').next().and_then(|text| text.parse().ok()),
        next_hop: None,
        communities: Vec::new(),
        large_communities: Vec::new(),
        as_path: Vec::new(),
        med: None,
        local_pref: None,
    };
    for attribute in attributes {
        match attribute {
            Attr::Origin(_) => {}
            Attr::AsPath(found) => {
                path.as_path = found.segments.into_iter().flat_map(|segment| segment.numbers).collect();
            }
            Attr::NextHop(found) => path.next_hop = found.next_hop.parse().ok(),
            Attr::MpReach(found) => path.next_hop = found.next_hops.first().and_then(|text| text.parse().ok()),
            Attr::MultiExitDisc(found) => path.med = Some(found.med),
            Attr::LocalPref(found) => path.local_pref = Some(found.local_pref),
            Attr::Communities(found) => path.communities = found.communities,
            Attr::LargeCommunities(found) => {
                path.large_communities = found
                    .communities
                    .iter()
                    .map(|word| (word.global_admin, word.local_data1, word.local_data2))
                    .collect();
            }
        }
    }
    Some(path)
}

/// A path of our own in the engine's table.
pub fn own_path(path: &TablePath) -> Option<Path> {
    let tag = path.large_communities.iter().find_map(|community| Tag::of(*community))?;
    let unspecified = match Family::of(&path.prefix) {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    path.neighbor.is_none().then(|| Path {
        prefix: path.prefix,
        next_hop: path.next_hop.unwrap_or(unspecified),
        tag,
        is_leaving: path.communities.contains(&GRACEFUL_SHUTDOWN),
    })
}
