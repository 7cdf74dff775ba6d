//! Advertisements of `[[bgp.advertisement]]` and of MetalLB's BGPAdvertisements in one form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::context::{Context, Fault, condition};
use super::communities::Aliases;
use super::peers::Peers;
use super::{Reports, Subject, are_there, is_for_this_edge, objects};
use crate::announce::{Attributes, PeerOrigin};
use crate::community::Community;
use crate::inputs::{Meta, Object};
use crate::metallb::BgpAdvertisementSpec;
use crate::names::{Kind, ObjectRef};
use crate::problem::Severity;
use crate::settings::{BgpAdvertisement, BgpSettings, VipSelection};

pub(super) struct Advertisement<'a> {
    /// For messages.
    pub(super) name: String,
    selection: Selection<'a>,
    /// Places in the list of peers, in order.
    pub(super) peers: Vec<usize>,
    pub(super) attributes: Attributes,
    lengths: (u8, u8),
    pub(super) is_for_this_edge: bool,
    /// Of an object.
    meta: Option<&'a Meta>,
}

enum Selection<'a> {
    All,
    Settings(&'a VipSelection),
    Object(&'a BgpAdvertisementSpec),
}

impl Advertisement<'_> {
    pub(super) fn selects(&self, subject: &Subject<'_, '_>) -> bool {
        match &self.selection {
            Selection::All => true,
            Selection::Settings(selection) => {
                selection.is_all() || selection.names(subject.address, subject.pool.map(|pool| pool.name))
            }
            Selection::Object(spec) => {
                subject.is_of_pools(&spec.ip_address_pools, &spec.ip_address_pool_selectors)
                    && subject.is_of_services(&spec.service_selectors)
            }
        }
    }

    /// The prefix that is told of a VIP. Addresses of others are not told with it: it must be of the VIP's pool, whole.
    pub(super) fn prefix(&self, subject: &Subject<'_, '_>) -> Result<IpNet, String> {
        let (length, most) = match subject.address {
            IpAddr::V4(_) => (self.lengths.0, 32),
            IpAddr::V6(_) => (self.lengths.1, 128),
        };
        let prefix = IpNet::new(subject.address, length).map_err(|fault| fault.to_string())?.trunc();
        if length == most || subject.pool.is_some_and(|pool| pool.covers(prefix.network(), prefix.broadcast())) {
            return Ok(prefix);
        }
        Err(match subject.pool {
            Some(pool) => format!("{prefix} is not wholly in one range of pool {}", pool.name),
            None => format!("{prefix} is in no pool"),
        })
    }

    /// It is in effect, but not for all that it selects.
    pub(super) fn warn(&self, context: &Context<'_>, why: &str) {
        match self.meta {
            Some(meta) => context.problem(Severity::Warning, Kind::BGPAdvertisement, meta, why),
            None => context.problem_in_settings(Severity::Warning, format!("bgp.{}: {why}", self.name)),
        }
    }
}

/// All advertisements, those of the settings first, then objects in the order of their names.
pub(super) fn advertisements<'a>(
    context: &Context<'a>,
    bgp: &'a BgpSettings,
    labels: &BTreeMap<String, String>,
    peers: &Peers,
    out: &mut Reports,
) -> Vec<Advertisement<'a>> {
    let aliases = Aliases::new(context, bgp, out);
    let mut list: Vec<Advertisement<'a>> =
        bgp.advertisements.iter().map(|advertisement| of_settings(context, advertisement, peers)).collect();
    if bgp.metallb {
        for object in context.inputs.bgp_advertisements.values() {
            list.extend(of_object(context, object, (&aliases, labels), peers, out));
        }
    }
    let are_objects = bgp.metallb && are_there(context, Kind::BGPAdvertisement);
    // Peers of MetalLB's are told what advertisements say, as MetalLB has it; who writes peers into edge.toml and nothing
    // else means all.
    let own = peers.list.iter().enumerate().filter(|(_, peer)| peer.origin == PeerOrigin::Settings);
    if bgp.advertisements.is_empty() && !are_objects && own.clone().next().is_some() {
        list.push(Advertisement {
            name: "edge.toml".to_owned(),
            selection: Selection::All,
            peers: own.map(|(place, _)| place).collect(),
            attributes: Attributes::default(),
            lengths: (32, 128),
            is_for_this_edge: true,
            meta: None,
        });
    }
    list
}

/// The places of named peers, and the names that no peer of any edge has.
fn places<'n>(context: &Context<'_>, names: &'n [String], peers: &Peers) -> (Vec<usize>, Vec<&'n str>) {
    if names.is_empty() {
        return ((0..peers.list.len()).collect(), Vec::new());
    }
    let is_named = |name: &str| names.iter().any(|named| named == name);
    let found = peers.list.iter().enumerate().filter(|(_, peer)| is_named(&peer.name)).map(|(place, _)| place);
    let is_known = |name: &str| {
        let unusable = context.inputs.unusable.keys().filter(|object| object.kind == Kind::BGPPeer);
        peers.list.iter().any(|peer| &*peer.name == name)
            || context.inputs.bgp_peers.keys().chain(unusable.map(|object| &object.key)).any(|key| &*key.name == name)
    };
    let unknown = names.iter().map(String::as_str).filter(|name| !is_known(name));
    (found.collect(), unknown.collect())
}

fn of_settings<'a>(context: &Context<'_>, settings: &'a BgpAdvertisement, peers: &Peers) -> Advertisement<'a> {
    let (places, unknown) = places(context, &settings.peers, peers);
    for name in unknown {
        let message = format!("bgp.advertisement {:?}: no peer is called {name:?}", settings.name);
        context.problem_in_settings(Severity::Warning, message);
    }
    Advertisement {
        name: format!("advertisement {:?}", settings.name),
        selection: Selection::Settings(&settings.vips),
        peers: places,
        attributes: Attributes {
            local_pref: settings.local_pref,
            med: settings.med,
            prepend: settings.prepend,
            ..with_communities(settings.communities.iter().copied())
        },
        lengths: (settings.aggregation_length, settings.aggregation_length_v6),
        is_for_this_edge: true,
        meta: None,
    }
}

fn of_object<'a>(
    context: &Context<'a>,
    object: &'a Object<BgpAdvertisementSpec>,
    (aliases, labels): (&Aliases<'_>, &BTreeMap<String, String>),
    peers: &Peers,
    out: &mut Reports,
) -> Option<Advertisement<'a>> {
    let (meta, spec) = (&object.meta, &object.spec);
    let kind = Kind::BGPAdvertisement;
    let communities = spec.communities.iter().map(|text| aliases.resolve(text)).collect::<Result<Vec<_>, _>>();
    let communities = match communities {
        Ok(communities) => communities,
        Err(message) => {
            // Without it, routers could do with the route what it was to keep them from.
            objects::accepted(context, kind, meta, Some(&Fault::new("CommunityNotFound", message)), out);
            return None;
        }
    };
    let (places, unknown) = places(context, &spec.peers, peers);
    for name in unknown {
        context.problem(Severity::Warning, kind, meta, format!("spec.peers: no peer is called {name:?}"));
    }
    let is_here = is_for_this_edge(&spec.node_selectors, labels);
    if is_here {
        objects::report(kind, meta, vec![condition("Accepted", "Accepted", None)], out);
    } else {
        objects::elsewhere(kind, meta, out);
    }
    Some(Advertisement {
        name: ObjectRef::new(kind, meta.key.clone()).to_string(),
        selection: Selection::Object(spec),
        peers: places,
        attributes: Attributes {
            local_pref: spec.local_pref.filter(|value| *value > 0),
            ..with_communities(communities)
        },
        lengths: (spec.aggregation_length.clamp(1, 32), spec.aggregation_length_v6.clamp(1, 128)),
        is_for_this_edge: is_here,
        meta: Some(meta),
    })
}

fn with_communities(list: impl IntoIterator<Item = Community>) -> Attributes {
    let mut attributes = Attributes::default();
    for community in list {
        match community {
            Community::Standard(number) => attributes.communities.push(number),
            Community::Large(a, b, c) => attributes.large_communities.push((a, b, c)),
        }
    }
    attributes
}
