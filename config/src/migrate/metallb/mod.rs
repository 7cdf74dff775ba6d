//! MetalLB: its objects (v1beta1, v1beta2), the ConfigMap of versions before 0.13, and the Services it serves. They are
//! gathered into one [`Model`], whatever their form, and that is written as `edge.toml` and manifests.

mod announce;
mod l2;
mod legacy;
mod pools;
mod services;

use std::collections::BTreeMap;

use super::read::{Found, objects};
use super::{NoteKind, Notes, Output, Source};
use crate::gateway::LabelSelector;
use crate::metallb::{
    BfdProfileSpec, BgpAdvertisementSpec, BgpPeerSpec, CommunitySpec, IpAddressPoolSpec, L2AdvertisementSpec,
};
use crate::problem::Origin;
use crate::yaml::Tree;

/// Everything that MetalLB was told.
#[derive(Default)]
struct Model {
    pools: Vec<Pool>,
    peers: Vec<Entry<BgpPeerSpec>>,
    bgp: Vec<Entry<BgpAdvertisementSpec>>,
    l2: Vec<Entry<L2AdvertisementSpec>>,
    /// By name.
    communities: BTreeMap<String, String>,
    profiles: BTreeMap<String, Entry<BfdProfileSpec>>,
}

/// An object, or what stands for one.
struct Entry<T> {
    name: String,
    subject: String,
    origin: Origin,
    /// Where its members are, by their path.
    places: BTreeMap<&'static str, Origin>,
    /// The object without what a server wrote; `None` where no object says it.
    object: Option<Tree>,
    spec: T,
}

impl<T> Entry<T> {
    fn at(&self, path: &str) -> &Origin {
        self.places.get(path).unwrap_or(&self.origin)
    }
}

impl Model {
    /// A name that no other advertisement has.
    fn advertisement_name(&self, entry: &Entry<BgpAdvertisementSpec>) -> String {
        let same = || self.bgp.iter().filter(|other| other.name == entry.name);
        match same().position(|other| std::ptr::eq(other, entry)) {
            Some(place) if place > 0 => format!("{}-{}", entry.name, place + 1),
            _ => entry.name.clone(),
        }
    }
}

struct Pool {
    entry: Entry<IpAddressPoolSpec>,
    labels: BTreeMap<String, String>,
}

/// Members of which a note may say something.
const PLACES: [&str; 14] = [
    "spec.nodeSelectors",
    "spec.serviceSelectors",
    "spec.preferredNodeSelectors",
    "spec.ipAddressPoolSelectors",
    "spec.ipAddressPools",
    "spec.interfaces",
    "spec.password",
    "spec.passwordSecret",
    "spec.vrf",
    "spec.myASN",
    "spec.routerID",
    "spec.bfdProfile",
    "spec.addresses",
    "spec.communities",
];

fn entry<T: for<'d> serde::Deserialize<'d>>(object: &Found<'_>, notes: &mut Notes) -> Option<Entry<T>> {
    let places = PLACES.iter().filter(|path| object.at(path).is_some());
    Some(Entry {
        name: object.name.clone(),
        subject: object.subject(),
        origin: object.origin(),
        places: places.map(|path| (*path, object.origin_of_key(path))).collect(),
        object: Some(object.bare()),
        spec: object.spec(notes)?,
    })
}

fn labels(object: &Found<'_>) -> BTreeMap<String, String> {
    let Some(crate::yaml::Value::Mapping(entries)) = object.at("metadata.labels").map(|node| &node.value) else {
        return BTreeMap::new();
    };
    entries
        .iter()
        .filter_map(|entry| Some((entry.key.clone().into_owned(), entry.value.as_str()?.to_owned())))
        .collect()
}

pub(super) fn migrate(sources: &[Source], notes: &mut Notes) -> Output {
    let found = objects(sources, notes);
    let mut model = Model::default();
    let mut services = Vec::new();
    let mut is_metallb = false;
    for object in &found {
        is_metallb |= object.group() == "metallb.io";
        match (object.group(), object.kind.as_str()) {
            ("metallb.io", "IPAddressPool") => {
                if let Some(entry) = entry(object, notes) {
                    model.pools.push(Pool { entry, labels: labels(object) });
                }
            }
            ("metallb.io", "AddressPool") => legacy::address_pool(object, &mut model, notes),
            ("metallb.io", "BGPPeer") => model.peers.extend(legacy::peer(object, notes)),
            ("metallb.io", "BGPAdvertisement") => model.bgp.extend(entry(object, notes)),
            ("metallb.io", "L2Advertisement") => model.l2.extend(l2_advertisement(object, notes)),
            ("metallb.io", "Community") => {
                if let Some(entry) = entry::<CommunitySpec>(object, notes) {
                    let aliases = entry.spec.communities.into_iter();
                    model.communities.extend(aliases.map(|alias| (alias.name, alias.value)));
                }
            }
            ("metallb.io", "BFDProfile") => {
                if let Some(entry) = entry(object, notes) {
                    model.profiles.insert(object.name.clone(), entry);
                }
            }
            // What MetalLB itself writes.
            ("metallb.io", "ServiceL2Status" | "ServiceBGPStatus" | "ConfigurationState") => {}
            ("metallb.io", _) => {
                let message = format!("kind {} of {} is not known", object.kind, object.api_version);
                notes.add(NoteKind::NoEquivalent, Some(&object.origin()), &object.subject(), message);
            }
            ("", "ConfigMap") => is_metallb |= legacy::config_map(object, &mut model, notes),
            ("", "Service") => services.extend(services::load_balancer(object)),
            _ => {}
        }
    }
    if !is_metallb && services.is_empty() {
        let origin = sources.first().map(|source| Origin { file: source.file.clone(), line: 0, column: 0 });
        let message = "holds no object of MetalLB and no Service of type LoadBalancer";
        notes.add(NoteKind::Fault, origin.as_ref(), "", message);
    }
    let mut output = Output::default();
    announce::labels(&model, &mut output.toml, notes);
    services::settings(&services, &mut output.toml);
    pools::write(&model, &mut output.toml, notes);
    let kept = announce::write(&model, &mut output.toml, notes);
    output.manifests.push(("announce", kept));
    output.manifests.push(("services", services::objects(services, notes)));
    output
}

/// An L2Advertisement; without a spec it is for all pools on all interfaces.
fn l2_advertisement(object: &Found<'_>, notes: &mut Notes) -> Option<Entry<L2AdvertisementSpec>> {
    if object.at("spec").is_none() {
        // All pools on all interfaces: MetalLB's own shortest example.
        return Some(Entry {
            name: object.name.clone(),
            subject: object.subject(),
            origin: object.origin(),
            places: BTreeMap::new(),
            object: Some(object.bare()),
            spec: L2AdvertisementSpec::default(),
        });
    }
    entry(object, notes)
}

/// Names of the pools that an advertisement is about; empty: all.
fn selected(
    model: &Model,
    names: &[String],
    selectors: &[LabelSelector],
    at: (&Origin, &str),
    notes: &mut Notes,
) -> Vec<String> {
    let mut pools = names.to_vec();
    for pool in &model.pools {
        let is_selected = selectors.iter().any(|selector| selector.matches(&pool.labels));
        if is_selected && !pools.contains(&pool.entry.name) {
            pools.push(pool.entry.name.clone());
        }
    }
    let (origin, subject) = at;
    for name in names.iter().filter(|name| !model.pools.iter().any(|pool| pool.entry.name == **name)) {
        let message = format!("pool {name:?} is in none of the files; give them all in one run");
        notes.add(NoteKind::Fault, Some(origin), subject, message);
    }
    pools.retain(|name| model.pools.iter().any(|pool| pool.entry.name == *name));
    if pools.is_empty() && !selectors.is_empty() && names.is_empty() {
        let message = "ipAddressPoolSelectors select none of the pools in the files";
        notes.add(NoteKind::Fault, Some(origin), subject, message);
    }
    pools
}
