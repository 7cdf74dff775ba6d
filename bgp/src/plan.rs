//! What to ask of the engine so that it holds what is wanted; pure.
//!
//! In flow the target (what the engine should hold, made of [`crate::Wanted`] by [`target::target`]) and what was read
//! out of the engine. Out flows a list of calls, in the order in which they are safe: global, import policy, export
//! policy of new classes, paths, peers, and at the end what nothing uses any more. The same list serves an empty engine,
//! one that was filled by a run before, and a change of one VIP; applied once, there is nothing left to call.
//!
//! How peers are told apart: every prefix carries a tag, a large community that says its class, and each class has an
//! export policy of its own that swaps the tag for what each group of peers is told. Classes never change: a change is
//! another class with another name, so a path goes over from one to the other and nobody's session or other prefix is
//! touched; where only peers came or went, the other class has the same tag ([`keep`]), and no path is touched at all. What has no class is rejected on export, and only paths of our own making are let in.

pub mod keep;
pub mod model;
pub mod target;

use std::collections::{BTreeMap, BTreeSet};

pub use keep::Meanings;
pub use model::{
    Actions, Assignment, Call, Class, Direction, Family, Global, OURS, Path, PeerConfig, PeerKey, Rule, Seen, SeenPeer,
    Tag, Target,
};
pub use target::target;

/// The policy that lets in what we put in ourselves. A bare "reject everything" would reject our own paths too, and
/// without it a router that sends our own VIP back to us silently takes it over where LOCAL_PREF is set.
pub const IMPORT: &str = "edge-import";

/// Why the engine must be left alone, in one line.
pub fn refusal(target: &Target, seen: &Seen) -> Option<String> {
    let global = seen.global.as_ref()?;
    if seen.foreign_peers > 0 && !target.global.is_served_by(global) {
        return Some(format!(
            "the engine runs as AS {} with router id {} and port {} for {} peers that are not Edge's; expected AS {}, router id {}, port {}",
            global.asn,
            global.router_id,
            global.port,
            seen.foreign_peers,
            target.global.asn,
            target.global.router_id,
            target.global.port,
        ));
    }
    None
}

/// The calls that lead from what is seen to the target.
pub fn plan(target: &Target, seen: &Seen) -> Vec<Call> {
    let mut calls = Vec::new();
    let empty = Seen::default();
    let seen = match &seen.global {
        Some(global) if target.global.is_served_by(global) => seen,
        other => {
            if other.is_some() {
                calls.push(Call::Stop);
            }
            calls.push(Call::Start(target.global.clone()));
            &empty
        }
    };

    let import = Assignment { policies: vec![IMPORT.to_owned()], accepts: false };
    if !seen.policies.contains(IMPORT) {
        calls.push(Call::AddImport);
    }
    if seen.import != import {
        calls.push(Call::Assign(Direction::Import, import));
    }

    let needed = new_classes(target, seen, &mut calls);
    change_paths(target, seen, &mut calls);
    change_peers(target, seen, &mut calls);
    drop_classes(target, seen, needed, &mut calls);
    calls
}

/// Adds the classes that are missing. Returns the assignment that is in force then: the old and the new ones.
fn new_classes(target: &Target, seen: &Seen, calls: &mut Vec<Call>) -> Assignment {
    for class in target.classes.values().filter(|class| !seen.policies.contains(&class.name)) {
        // Sets without their policy are from a run that was cut off; they are taken for what their names say.
        for set in class.sets().into_iter().filter(|set| !seen.sets.contains(&set.key())) {
            calls.push(Call::AddSet(set));
        }
        calls.push(Call::AddPolicy(class.clone()));
    }
    let ours = seen.export.policies.iter().filter(|name| seen.policies.contains(*name)).cloned();
    let union: BTreeSet<String> = ours.chain(target.classes.keys().cloned()).collect();
    let assignment = Assignment { policies: union.into_iter().collect(), accepts: false };
    if seen.export != assignment {
        calls.push(Call::Assign(Direction::Export, assignment.clone()));
    }
    assignment
}

fn change_paths(target: &Target, seen: &Seen, calls: &mut Vec<Call>) {
    let add: Vec<Path> =
        target.paths.values().filter(|path| seen.paths.get(&path.prefix) != Some(path)).cloned().collect();
    let withdraw: Vec<Path> =
        seen.paths.values().filter(|path| !target.paths.contains_key(&path.prefix)).cloned().collect();
    if !withdraw.is_empty() {
        calls.push(Call::Withdraw(withdraw));
    }
    if !add.is_empty() {
        calls.push(Call::Announce(add));
    }
}

fn change_peers(target: &Target, seen: &Seen, calls: &mut Vec<Call>) {
    let mut gone: BTreeMap<&PeerKey, &SeenPeer> = seen.peers.iter().collect();
    let mut add = Vec::new();
    for (key, peer) in &target.peers {
        match gone.remove(key) {
            Some(there) if peer.is_served_by(there) => {}
            Some(there) => {
                calls.push(Call::DeletePeer(key.clone(), there.address.clone()));
                add.push(Call::AddPeer(Box::new(peer.clone())));
            }
            None if peer.is_held_back => {}
            None => add.push(Call::AddPeer(Box::new(peer.clone()))),
        }
    }
    calls.extend(gone.into_iter().map(|(key, there)| Call::DeletePeer(key.clone(), there.address.clone())));
    calls.append(&mut add);
}

/// Takes out what nothing uses any more, now that no path carries its tag.
fn drop_classes(target: &Target, seen: &Seen, in_force: Assignment, calls: &mut Vec<Call>) {
    let last = Assignment { policies: target.classes.keys().cloned().collect(), accepts: false };
    if in_force != last {
        calls.push(Call::Assign(Direction::Export, last));
    }
    let wanted = |name: &String| name == IMPORT || target.classes.contains_key(name);
    calls.extend(seen.policies.iter().filter(|name| !wanted(name)).map(|name| Call::DeletePolicy(name.clone())));
    let keep: BTreeSet<_> =
        target.classes.values().flat_map(|class| class.sets().into_iter().map(|set| set.key())).collect();
    calls.extend(seen.sets.difference(&keep).map(|(kind, name)| Call::DeleteSet(*kind, name.clone())));
}

#[cfg(test)]
mod tests;
