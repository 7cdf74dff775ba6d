//! Peers of `[[bgp.peer]]` and of MetalLB's BGPPeers, and the numbers of this edge that follow from them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::super::context::{Context, Fault, by_age, condition, fingerprint};
use super::{Reports, is_for_this_edge, objects};
use crate::announce::{Asn, Bfd, Families, Password, Peer, PeerAddress, PeerAsn, PeerOrigin};
use crate::core::BASIC_AUTH_SECRET;
use crate::inputs::{Meta, Object};
use crate::metallb::BgpPeerSpec;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;
use crate::settings::{BgpSettings, defaults};

/// The peers of this edge, in the order of their names, and who they are told that it is.
pub(super) struct Peers {
    /// `None`: nobody says it.
    pub(super) asn: Option<Asn>,
    pub(super) router_id: Ipv4Addr,
    pub(super) list: Vec<Peer>,
}

pub(super) fn peers(
    context: &Context<'_>,
    bgp: &BgpSettings,
    labels: &BTreeMap<String, String>,
    out: &mut Reports,
) -> Peers {
    let mut list = bgp.peers.clone();
    let (mut asn, mut router_id) = (bgp.asn, bgp.router_id);
    let mut objects: Vec<&Arc<Object<BgpPeerSpec>>> = Vec::new();
    if bgp.metallb {
        profiles(context, out);
        objects.extend(context.inputs.bgp_peers.values());
    }
    // The oldest first: a new peer neither takes the place of one nor changes the numbers that sessions began with.
    objects.sort_by(|a, b| by_age(&a.meta, &b.meta));
    for object in objects {
        if !is_for_this_edge(&object.spec.node_selectors, labels) {
            objects::elsewhere(Kind::BGPPeer, &object.meta, out);
            continue;
        }
        let found = of_object(context, object, asn).and_then(|peer| match clash(&list, &peer) {
            Some(why) => Err(Fault::new("Conflicted", why)),
            None => Ok(peer),
        });
        match found {
            Ok(peer) => {
                asn = asn.or(object.spec.own_asn().ok());
                if let Ok(Some(wished)) = object.spec.router_id() {
                    let known = *router_id.get_or_insert(wished);
                    if known != wished {
                        let message = format!("spec.routerID: {wished} is not used, this edge has the id {known}");
                        context.problem(Severity::Warning, Kind::BGPPeer, &object.meta, message);
                    }
                }
                let missing = missing_profile(context, &object.meta, &object.spec);
                if let Some(fault) = &missing {
                    let message = format!("{}; the session has no BFD", fault.message);
                    context.problem(Severity::Error, Kind::BGPPeer, &object.meta, message);
                }
                let conditions = vec![
                    condition("Accepted", "Accepted", None),
                    condition("ResolvedRefs", "ResolvedRefs", missing.as_ref()),
                ];
                objects::report(Kind::BGPPeer, &object.meta, conditions, out);
                list.push(peer);
            }
            Err(fault) => objects::accepted(context, Kind::BGPPeer, &object.meta, Some(&fault), out),
        }
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    if asn.is_none() {
        context.problem_in_settings(
            Severity::Error,
            "bgp.asn is missing and no BGPPeer says it, so nothing is announced by BGP",
        );
    }
    let name = context.inputs.settings.edge.name.as_deref().unwrap_or_default();
    Peers { asn, router_id: router_id.unwrap_or_else(|| made_of(name)), list }
}

/// RFC 6286: any number but 0 that no other router of the AS has.
fn made_of(name: &str) -> Ipv4Addr {
    let hash = fingerprint([name.as_bytes()]);
    let [.., a, b, c] = (hash ^ hash >> 24 ^ hash >> 48).to_be_bytes();
    Ipv4Addr::new(10, a, b, c.max(1))
}

fn clash(list: &[Peer], peer: &Peer) -> Option<String> {
    list.iter().find_map(|other| {
        if other.name == peer.name {
            Some(format!("{} has its name", origin(other)))
        } else if other.address == peer.address {
            Some(format!("{} has its address {}", origin(other), peer.address))
        } else {
            None
        }
    })
}

fn origin(peer: &Peer) -> String {
    match &peer.origin {
        PeerOrigin::Settings => format!("the peer {:?} of edge.toml", peer.name),
        PeerOrigin::Object(object) => object.to_string(),
    }
}

/// `asn` is that of this edge, where it is known; a peer with another `myASN` is shown that one.
fn of_object(context: &Context<'_>, object: &Object<BgpPeerSpec>, asn: Option<Asn>) -> Result<Peer, Fault> {
    let (meta, spec) = (&object.meta, &object.spec);
    let invalid = |message: String| Fault::new("Invalid", message);
    if let Some(vrf) = spec.vrf.as_deref().filter(|vrf| !vrf.is_empty()) {
        return Err(Fault::new("Unsupported", format!("vrf: {vrf:?}: routing tables of a VRF are not supported")));
    }
    let own = spec.own_asn().map_err(invalid)?;
    let local_asn = match spec.shown_asn().map_err(invalid)? {
        Some(shown) => Some(shown),
        None => asn.filter(|asn| *asn != own).map(|_| own),
    };
    let peer_asn = spec.asn().map_err(invalid)?;
    let is_internal = match peer_asn {
        PeerAsn::Number(number) => number == local_asn.unwrap_or(own),
        PeerAsn::Internal => true,
        PeerAsn::External => false,
    };
    if is_internal && spec.ebgp_multi_hop {
        let message = "spec.ebgpMultiHop: the peer is of our own AS, where every session may have several hops";
        context.problem(Severity::Warning, Kind::BGPPeer, meta, message);
    }
    let address = spec.address().map_err(invalid)?;
    let families = if spec.dual_stack_address_family || matches!(address, PeerAddress::Interface(_)) {
        Families { v4: true, v6: true }
    } else {
        Families::of(&address)
    };
    let (hold_time, keepalive) = spec.timers().map_err(invalid)?;
    let profile = spec.bfd_profile().and_then(|name| profile(context, meta, name));
    Ok(Peer {
        name: Arc::clone(&meta.key.name),
        families,
        address,
        port: spec.peer_port,
        asn: peer_asn,
        local_asn,
        source: spec.source().map_err(invalid)?,
        password: password(context, meta, spec)?,
        hold_time,
        keepalive,
        connect_retry: spec.connect_retry().map_err(invalid)?,
        multihop: (spec.ebgp_multi_hop && !is_internal).then_some(defaults::MULTIHOP),
        ttl_security: None,
        graceful_restart: spec.enable_graceful_restart.then_some(defaults::GRACEFUL_RESTART),
        bfd: profile,
        max_prefixes: defaults::MAX_PREFIXES,
        is_passive: false,
        origin: PeerOrigin::Object(ObjectRef::new(Kind::BGPPeer, meta.key.clone())),
    })
}

/// A session without the password that was asked for is none, so a Secret that is not there costs the peer.
fn password(context: &Context<'_>, meta: &Meta, spec: &BgpPeerSpec) -> Result<Option<Password>, Fault> {
    let Some(reference) = spec.password_secret() else {
        return Ok(spec.password.is_some().then(|| Password::Inline(meta.key.clone())));
    };
    let home = &meta.key.namespace;
    let namespace = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    if let Some(namespace) = namespace.filter(|namespace| **namespace != **home) {
        let message = format!("passwordSecret: Secret {namespace}/{} is of another namespace", reference.name);
        return Err(Fault::new("RefNotPermitted", message));
    }
    let key = ObjectKey::new(Arc::clone(home), reference.name.as_str());
    let Some(secret) = context.inputs.secrets.get(&key) else {
        return Err(Fault::new("SecretNotFound", format!("passwordSecret: {}", context.missing(Kind::Secret, &key))));
    };
    if secret.spec.kind != BASIC_AUTH_SECRET {
        let message =
            format!("passwordSecret: Secret {key} is of type {}, expected {BASIC_AUTH_SECRET}", secret.spec.kind);
        return Err(Fault::new("InvalidSecret", message));
    }
    if !secret.spec.keys.iter().any(|name| name == "password") {
        return Err(Fault::new("InvalidSecret", format!("passwordSecret: Secret {key} has no member password")));
    }
    Ok(Some(Password::Secret(key)))
}

fn profile(context: &Context<'_>, meta: &Meta, name: &str) -> Option<Bfd> {
    let key = ObjectKey::new(Arc::clone(&meta.key.namespace), name);
    context.inputs.bfd_profiles.get(&key)?.spec.timers().ok()
}

fn missing_profile(context: &Context<'_>, meta: &Meta, spec: &BgpPeerSpec) -> Option<Fault> {
    let name = spec.bfd_profile()?;
    if profile(context, meta, name).is_some() {
        return None;
    }
    let key = ObjectKey::new(Arc::clone(&meta.key.namespace), name);
    let message = match context.inputs.bfd_profiles.get(&key) {
        Some(_) => format!("bfdProfile: BFDProfile {key} is not valid"),
        None => format!("bfdProfile: {}", context.missing(Kind::BFDProfile, &key)),
    };
    Some(Fault::new("BFDProfileNotFound", message))
}

fn profiles(context: &Context<'_>, out: &mut Reports) {
    for object in context.inputs.bfd_profiles.values() {
        let fault = object.spec.timers().err().map(|message| Fault::new("Invalid", message));
        objects::accepted(context, Kind::BFDProfile, &object.meta, fault.as_ref(), out);
    }
}
