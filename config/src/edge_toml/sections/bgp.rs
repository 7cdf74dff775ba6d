//! `[bgp]` with its peers, advertisements and names of communities.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Section, Sink, address, interface, narrow, not_empty, path, range, set};
use crate::announce::{Asn, Bfd, Engine, EngineTls, Families, Listen, NextHop, Password, Peer, PeerAddress, PeerAsn};
use crate::community::{self, Community};
use crate::edge_toml::reader::mismatch;
use crate::names::Kind;
use crate::settings::{BgpAdvertisement, BgpSettings, VipSelection, defaults};
use crate::suggest;
use crate::validate::{is_object_name, object_name_rule};
use crate::yaml::Quoted;

const SECOND: Duration = Duration::from_secs(1);
/// RFC 4271 §4.2: the hold time has 16 bits.
const MOST_SECONDS: Duration = Duration::from_secs(65535);
/// RFC 4724 §3: the restart time has 12 bits.
const MOST_RESTART: Duration = Duration::from_secs(4095);

pub(super) fn bgp(mut section: Section<'_>, sink: &mut Sink<'_>) -> BgpSettings {
    let mut settings = BgpSettings::default();
    let has_tls = section.has("engine_tls");
    let tls = section.section(sink, "engine_tls").map(|section| engine_tls(section, sink));
    let start = section.value_start("engine");
    let has_engine = section.has("engine");
    let found = section.parsed(sink, "engine", engine);
    let is_sound = found.is_some() || !has_engine;
    set(&mut settings.engine, found);
    match &mut settings.engine {
        Engine::Tcp { tls: place, .. } => *place = tls.flatten(),
        _ if has_tls && is_sound => {
            let message = format!("{} is for an engine at a TCP address", section.path("engine_tls"));
            sink.error(start..start, message);
        }
        _ => {}
    }
    settings.asn = number(&mut section, sink, "asn");
    settings.router_id = section.parsed(sink, "router_id", |text| match text.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Ok(id),
        _ => Err(format!("{} is no router id, expected one such as \"192.0.2.1\"", Quoted(text))),
    });
    settings.listen = listen(&mut section, sink);
    let shutdown = section.duration_in(sink, "graceful_shutdown", Duration::ZERO, Duration::from_secs(300));
    set(&mut settings.graceful_shutdown, shutdown);
    settings.next_hop = NextHop {
        v4: section.parsed(sink, "next_hop_v4", next_hop::<Ipv4Addr>),
        v6: section.parsed(sink, "next_hop_v6", next_hop::<Ipv6Addr>),
    };
    set(&mut settings.metallb, section.boolean(sink, "metallb"));
    settings.communities = communities(&mut section, sink);
    for section in section.sections(sink, "peer") {
        let start = section.start();
        let Some(peer) = peer(section, settings.listen.is_some(), sink) else { continue };
        for earlier in &settings.peers {
            if earlier.name == peer.name {
                sink.error(start..start, format!("bgp.peer: {:?} is the name of two peers", peer.name));
            } else if earlier.address == peer.address {
                let message =
                    format!("bgp.peer: {} is the address of {:?} and {:?}", peer.address, earlier.name, peer.name);
                sink.error(start..start, message);
            }
        }
        settings.peers.push(peer);
    }
    for section in section.sections(sink, "advertisement") {
        let start = section.start();
        let Some(advertisement) = advertisement(section, &settings.communities, sink) else { continue };
        if settings.advertisements.iter().any(|earlier| earlier.name == advertisement.name) {
            let message = format!("bgp.advertisement: {:?} is the name of two advertisements", advertisement.name);
            sink.error(start..start, message);
        }
        settings.advertisements.push(advertisement);
    }
    section.finish(sink);
    settings
}

fn engine(text: &str) -> Result<Engine, String> {
    if let Some(socket) = text.strip_prefix("unix:") {
        let path = path(socket.strip_prefix("//").unwrap_or(socket))?;
        return Ok(Engine::Unix { path });
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Engine::Tcp { address, tls: None }),
        Err(_) if text.contains('/') => Ok(Engine::Child { program: path(text)? }),
        _ => Err(format!(
            "{} is no engine, expected the path of gobgpd, \"unix:/PATH\" or \"ADDRESS:PORT\"",
            Quoted(text)
        )),
    }
}

fn engine_tls(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<EngineTls> {
    if section.has("certificate") != section.has("key") {
        section.error(sink, "certificate and key belong together");
    }
    let ca = section.required(sink, "ca", path);
    let name = section.required(sink, "name", not_empty);
    let chain = section.parsed(sink, "certificate", path);
    let key = section.parsed(sink, "key", path);
    section.finish(sink);
    Some(EngineTls { ca: ca?, name: name?, client: chain.zip(key) })
}

fn listen(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<Listen> {
    let start = section.value_start("listen_addresses");
    let is_without_port = section.has("listen_addresses") && !section.has("listen_port");
    let port = narrow(section.integer(sink, "listen_port", 1, u16::MAX.into()));
    let addresses = section.list(sink, "listen_addresses", address);
    if is_without_port {
        let message = format!("{} needs {}", section.path("listen_addresses"), section.path("listen_port"));
        sink.error(start..start, message);
    }
    Some(Listen { port: port?, addresses: addresses.unwrap_or_default() })
}

fn next_hop<T: std::str::FromStr + Into<IpAddr> + Copy>(text: &str) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(address) if !address.into().is_unspecified() && !address.into().is_multicast() => Ok(address),
        _ => Err(format!("{} is no address of this family", Quoted(text))),
    }
}

fn asn_of(number: u64) -> Result<Asn, String> {
    u32::try_from(number)
        .ok()
        .and_then(Asn::new)
        .ok_or_else(|| format!("{number} is no AS number, expected 1 to 4294967294 without 23456"))
}

fn number(section: &mut Section<'_>, sink: &mut Sink<'_>, key: &'static str) -> Option<Asn> {
    section.read(sink, key, |value| match value.as_integer() {
        Some(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => asn_of(number),
            Err(_) => Err(format!("{number} is no AS number")),
        },
        None => Err(mismatch(value, "an AS number")),
    })
}

/// A number, or the words for "ours" and "any other".
fn peer_asn(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<PeerAsn> {
    if !section.has("asn") {
        section.error(sink, "asn is missing, expected an AS number, \"internal\" or \"external\"");
        return None;
    }
    section.read(sink, "asn", |value| match (value.as_integer(), value.as_str()) {
        (Some(number), _) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => asn_of(number).map(PeerAsn::Number),
            Err(_) => Err(format!("{number} is no AS number")),
        },
        (_, Some("internal")) => Ok(PeerAsn::Internal),
        (_, Some("external")) => Ok(PeerAsn::External),
        _ => Err(mismatch(value, "an AS number, \"internal\" or \"external\"")),
    })
}

fn communities(section: &mut Section<'_>, sink: &mut Sink<'_>) -> BTreeMap<String, Community> {
    let start = section.value_start("communities");
    let mut known = BTreeMap::new();
    for (name, value) in section.texts(sink, "communities") {
        match Community::parse(&value) {
            _ if Community::parse(&name).is_some() => {
                sink.error(start..start, format!("bgp.communities: {name:?} has a meaning already"));
            }
            Some(community) => drop(known.insert(name, community)),
            None => {
                let message = format!("{} is no community, expected {}", Quoted(&value), community::EXPECTED);
                sink.error(start..start, format!("bgp.communities.{name}: {message}"));
            }
        }
    }
    known
}

fn peer_name(text: &str) -> Result<Arc<str>, String> {
    // One space of names with BGPPeers.
    if is_object_name(Kind::BGPPeer, text) {
        Ok(text.into())
    } else {
        Err(format!("{} is no name, expected {}", Quoted(text), object_name_rule(Kind::BGPPeer)))
    }
}

fn peer(mut section: Section<'_>, is_listening: bool, sink: &mut Sink<'_>) -> Option<Peer> {
    let name = section.required(sink, "name", peer_name);
    let has = (section.has("address"), section.has("interface"));
    let numbered = section.parsed(sink, "address", |text| match address(text)? {
        found if found.is_unspecified() || found.is_multicast() => Err(format!("{found} is no address of a peer")),
        found => Ok(found),
    });
    let unnumbered = section.parsed(sink, "interface", interface);
    let place = match has {
        (true, false) => numbered.map(PeerAddress::Address),
        (false, true) => unnumbered.map(PeerAddress::Interface),
        (true, true) => {
            section.error(sink, "has both address and interface, expected one of them");
            None
        }
        (false, false) => {
            section.error(sink, "has neither address nor interface, expected one of them");
            None
        }
    };
    let port = narrow(section.integer(sink, "port", 1, u16::MAX.into()));
    let asn = peer_asn(&mut section, sink);
    let local_asn = number(&mut section, sink, "local_asn");
    let start = section.value_start("source");
    let source = section.parsed(sink, "source", address);
    if let (Some(source), Some(place)) = (source, &place)
        && !matches!(place, PeerAddress::Address(address) if address.is_ipv4() == source.is_ipv4())
    {
        sink.error(start..start, format!("{}: {source} is of another family than the peer", section.path("source")));
    }
    let password = section.parsed(sink, "password_file", path).map(Password::File);
    let (hold_time, keepalive) = timers(&mut section, sink);
    let connect_retry = section.duration_in(sink, "connect_retry", SECOND, MOST_SECONDS);
    let multihop = narrow(section.integer(sink, "multihop", 2, 255));
    let start = section.value_start("ttl_security");
    let ttl_security = narrow(section.integer(sink, "ttl_security", 1, 255));
    if multihop.is_some() && ttl_security.is_some() {
        // RFC 5082 §3: packets are sent with a TTL of 255 then.
        let message = format!("{} and {} exclude each other", section.path("ttl_security"), section.path("multihop"));
        sink.error(start..start, message);
    }
    let graceful_restart = section.duration_in(sink, "graceful_restart", SECOND, MOST_RESTART);
    let families = families(&mut section, place.as_ref(), sink);
    let bfd = section.optional_section(sink, "bfd").map(|section| bfd(section, sink));
    let max_prefixes = narrow(section.integer(sink, "max_prefixes", 1, u32::MAX.into()));
    let start = section.value_start("passive");
    let is_passive = section.boolean(sink, "passive").unwrap_or(false);
    if is_passive && !is_listening {
        sink.error(start..start, format!("{} needs bgp.listen_port", section.path("passive")));
    }
    section.finish(sink);
    let plain = Peer::plain(&name?, place?, asn?);
    Some(Peer {
        port: port.unwrap_or(plain.port),
        local_asn,
        source,
        password,
        hold_time,
        keepalive,
        connect_retry: connect_retry.unwrap_or(plain.connect_retry),
        multihop,
        ttl_security,
        graceful_restart,
        families: families?,
        bfd,
        max_prefixes: max_prefixes.unwrap_or(plain.max_prefixes),
        is_passive,
        ..plain
    })
}

/// A third of the hold time is the keepalive time that RFC 4271 §10 suggests.
fn timers(section: &mut Section<'_>, sink: &mut Sink<'_>) -> (Duration, Duration) {
    let whole = |section: &mut Section<'_>, sink: &mut Sink<'_>, key, least| {
        let start = section.value_start(key);
        let found = section.duration_in(sink, key, least, MOST_SECONDS);
        if found.is_some_and(|found| found.subsec_nanos() != 0) {
            sink.error(start..start, format!("{} has a part of a second, expected whole ones", section.path(key)));
        }
        found
    };
    let hold = whole(section, sink, "hold_time", 3 * SECOND).unwrap_or(defaults::HOLD_TIME);
    let start = section.value_start("keepalive");
    let keepalive = whole(section, sink, "keepalive", SECOND);
    if keepalive.is_some_and(|keepalive| keepalive > hold) {
        sink.error(start..start, format!("{} is longer than the hold time", section.path("keepalive")));
    }
    (hold, keepalive.unwrap_or_else(|| Duration::from_secs(hold.as_secs() / 3)))
}

fn families(section: &mut Section<'_>, place: Option<&PeerAddress>, sink: &mut Sink<'_>) -> Option<Families> {
    let start = section.value_start("families");
    let list = section.list(sink, "families", |text| match text {
        "ipv4" => Ok(true),
        "ipv6" => Ok(false),
        _ => Err(format!("unknown value {}, expected ipv4, ipv6", Quoted(text))),
    });
    match list {
        Some(list) if list.is_empty() => {
            sink.error(start..start, format!("{} is empty, expected ipv4, ipv6", section.path("families")));
            None
        }
        Some(list) => Some(Families { v4: list.contains(&true), v6: list.contains(&false) }),
        None => Some(Families::of(place?)),
    }
}

fn bfd(mut section: Section<'_>, sink: &mut Sink<'_>) -> Bfd {
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(60));
    let transmit = section.duration_in(sink, "transmit", least, most);
    let receive = section.duration_in(sink, "receive", least, most);
    let multiplier = narrow(section.integer(sink, "multiplier", 2, 255));
    let is_passive = section.boolean(sink, "passive");
    let minimum_ttl = narrow(section.integer(sink, "minimum_ttl", 1, 255));
    section.finish(sink);
    Bfd {
        transmit: transmit.unwrap_or(defaults::BFD_INTERVAL),
        receive: receive.unwrap_or(defaults::BFD_INTERVAL),
        multiplier: multiplier.unwrap_or(defaults::BFD_MULTIPLIER),
        is_passive: is_passive.unwrap_or(false),
        minimum_ttl: minimum_ttl.unwrap_or(defaults::BFD_MINIMUM_TTL),
    }
}

fn advertisement(
    mut section: Section<'_>,
    aliases: &BTreeMap<String, Community>,
    sink: &mut Sink<'_>,
) -> Option<BgpAdvertisement> {
    let name = section.required(sink, "name", not_empty);
    let vips = selection(&mut section, sink);
    let peers = section.list(sink, "peers", |text| peer_name(text).map(|name| name.to_string()));
    let communities = section.list(sink, "communities", |text| {
        aliases.get(text).copied().or_else(|| Community::parse(text)).ok_or_else(|| {
            let known = aliases.keys().map(String::as_str).chain(community::WELL_KNOWN.iter().map(|(name, _)| *name));
            let hint = suggest::hint(text, known);
            format!("{} is no community, expected {}{hint}", Quoted(text), community::EXPECTED)
        })
    });
    let local_pref = narrow(section.integer(sink, "local_pref", 0, u32::MAX.into()));
    let med = narrow(section.integer(sink, "med", 0, u32::MAX.into()));
    let prepend = narrow(section.integer(sink, "prepend", 0, 10));
    let aggregation_length = narrow(section.integer(sink, "aggregation_length", 1, 32));
    let aggregation_length_v6 = narrow(section.integer(sink, "aggregation_length_v6", 1, 128));
    section.finish(sink);
    Some(BgpAdvertisement {
        name: name?,
        vips,
        peers: peers.unwrap_or_default(),
        communities: communities.unwrap_or_default(),
        local_pref,
        med,
        prepend: prepend.unwrap_or(0),
        aggregation_length: aggregation_length.unwrap_or(32),
        aggregation_length_v6: aggregation_length_v6.unwrap_or(128),
    })
}

/// `pools` and `vips`.
pub(super) fn selection(section: &mut Section<'_>, sink: &mut Sink<'_>) -> VipSelection {
    for key in ["pools", "vips"] {
        let start = section.value_start(key);
        if section.is_empty_list(key) {
            sink.error(start..start, format!("{} is empty, expected at least one", section.path(key)));
        }
    }
    VipSelection {
        pools: section.list(sink, "pools", not_empty).unwrap_or_default(),
        vips: section.list(sink, "vips", range).unwrap_or_default(),
    }
}
