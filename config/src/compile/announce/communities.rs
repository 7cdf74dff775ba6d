//! Names of communities: MetalLB's Community objects, those of `[bgp.communities]`, and the well-known ones.

use std::collections::BTreeMap;

use super::super::context::{Context, Fault, by_age};
use super::{Reports, objects};
use crate::community::{self, Community};
use crate::names::Kind;
use crate::settings::BgpSettings;
use crate::suggest;

pub(super) struct Aliases<'a>(BTreeMap<&'a str, Community>);

impl<'a> Aliases<'a> {
    /// The settings count before the objects, of which the oldest counts.
    pub(super) fn new(context: &Context<'a>, bgp: &'a BgpSettings, out: &mut Reports) -> Self {
        let mut known: BTreeMap<&str, Community> =
            bgp.communities.iter().map(|(name, community)| (name.as_str(), *community)).collect();
        if bgp.metallb {
            let mut objects: Vec<_> = context.inputs.communities.values().collect();
            objects.sort_by(|a, b| by_age(&a.meta, &b.meta));
            for object in objects {
                let mut fault = None;
                for alias in &object.spec.communities {
                    let Some(community) = Community::parse(&alias.value) else { continue };
                    match known.get(alias.name.as_str()) {
                        Some(other) if *other != community => {
                            let message = format!("{:?} is {other} already", alias.name);
                            fault.get_or_insert(Fault::new("Conflicted", message));
                        }
                        _ => drop(known.insert(&alias.name, community)),
                    }
                }
                objects::accepted(context, Kind::Community, &object.meta, fault.as_ref(), out);
            }
        }
        Self(known)
    }

    pub(super) fn resolve(&self, text: &str) -> Result<Community, String> {
        self.0.get(text).copied().or_else(|| Community::parse(text)).ok_or_else(|| {
            let names = self.0.keys().copied().chain(community::WELL_KNOWN.iter().map(|(name, _)| *name));
            format!("community {text:?} is not known{}", suggest::hint(text, names))
        })
    }
}
