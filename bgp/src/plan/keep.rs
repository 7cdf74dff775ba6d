//! Which class a prefix stays in when peers come and go; pure.
//!
//! GoBGP tells every peer of a path whose attributes changed, the tag among them, also where the export policy makes the
//! same of it as before. So a tag must not change for the sake of a peer that is new or gone: nobody else would hear
//! anything but what they know. A new peer hears everything when its session comes up, by the policies of then.
//! What is left: prefixes that were the same to everybody and that a new peer tells apart cannot keep one tag; the
//! smaller part of them is told once more, unchanged. So is, to its other peers, a prefix that one peer shall hear
//! differently: GoBGP compares what it has, not what it sent.
//!
//! In: the target with the tags that its content gives it, what the engine has, and what its tags were last meant to say.
//! Out: the target with tags of the engine wherever every peer that was there before and still is, is told the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{Actions, Class, PeerKey, Rule, Seen, Tag, Target, digest};

/// What each peer is told of paths with a tag; who is not in it is told nothing.
type Meaning = BTreeMap<IpAddr, Actions>;

/// What the tags of paths in the engine mean, as far as we gave it.
#[derive(Debug, Clone, Default)]
pub struct Meanings(BTreeMap<Tag, Meaning>);

/// Prefixes of which the same is told.
struct Group {
    rules: Vec<Rule>,
    prefixes: Vec<IpNet>,
}

impl Meanings {
    /// Gives the target's classes the tags that they have in the engine, and remembers what they mean from now on. Tags
    /// of which nothing is remembered are what the names of the engine's policies say.
    pub fn keep(&mut self, target: &mut Target, seen: &Seen) {
        let stay = staying(target, seen);
        let rules_of: BTreeMap<Tag, Vec<Rule>> =
            std::mem::take(&mut target.classes).into_values().map(|class| (class.tag, class.rules)).collect();
        let mut groups: BTreeMap<Tag, Group> = BTreeMap::new();
        for path in target.paths.values() {
            let rules = || rules_of.get(&path.tag).cloned().unwrap_or_default();
            let group = groups.entry(path.tag).or_insert_with(|| Group { rules: rules(), prefixes: Vec::new() });
            group.prefixes.push(path.prefix);
        }
        // Where two want one tag, the greater has it.
        let mut groups: Vec<(Tag, Group)> = groups.into_iter().collect();
        groups.sort_by_key(|(tag, group)| (std::cmp::Reverse(group.prefixes.len()), *tag));
        let in_use: BTreeSet<Tag> = seen.paths.values().map(|path| path.tag).collect();
        let mut taken = BTreeMap::new();
        for (own, group) in groups {
            let meaning = meaning(&group.rules);
            let is_same = |tag: &Tag| match self.0.get(tag) {
                Some(before) => stay.iter().all(|peer| before.get(peer) == meaning.get(peer)),
                None => seen.policies.contains(&name(*tag, &group.rules)),
            };
            let there = group.prefixes.iter().filter_map(|prefix| seen.paths.get(prefix)).map(|path| path.tag);
            let mut count: BTreeMap<Tag, usize> = BTreeMap::new();
            there.for_each(|tag| *count.entry(tag).or_default() += 1);
            let kept = count.into_iter().filter(|(tag, _)| !taken.contains_key(tag) && is_same(tag));
            let kept = kept.max_by_key(|(_, count)| *count).map(|(tag, _)| tag);
            // Another than any whose meaning would change with it.
            let mut fresh = own;
            let mut salt = 0_u64;
            let tag = kept.unwrap_or_else(|| {
                while taken.contains_key(&fresh) || (in_use.contains(&fresh) && !is_same(&fresh)) {
                    salt += 1;
                    fresh = Tag::new(own.asn, digest(format!("{own} {salt}").as_bytes()));
                }
                fresh
            });
            for prefix in &group.prefixes {
                if let Some(path) = target.paths.get_mut(prefix) {
                    path.tag = tag;
                }
            }
            if !group.rules.is_empty() {
                let name = name(tag, &group.rules);
                target.classes.insert(name.clone(), Class { name, tag, rules: group.rules });
            }
            taken.insert(tag, meaning);
        }
        self.0 = taken;
    }
}

/// Peers that are in the engine and are to stay there: what they were told is not told again by itself.
fn staying(target: &Target, seen: &Seen) -> Vec<IpAddr> {
    let both = seen.peers.iter().filter(|(key, _)| target.peers.contains_key(key));
    let address = |(key, there): (&PeerKey, &super::model::SeenPeer)| match key {
        PeerKey::Address(address) => Some(*address),
        PeerKey::Interface(_) => there.address.split('%').next()?.parse().ok(),
    };
    both.filter_map(address).collect()
}

fn meaning(rules: &[Rule]) -> Meaning {
    rules.iter().flat_map(|rule| rule.neighbors.iter().map(|neighbor| (*neighbor, rule.actions.clone()))).collect()
}

/// A policy never changes, and its name says its content.
pub fn name(tag: Tag, rules: &[Rule]) -> String {
    format!("edge-{:016x}", digest(format!("{tag} {rules:?}").as_bytes()))
}
