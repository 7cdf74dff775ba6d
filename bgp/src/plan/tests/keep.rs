//! What peers really hear: an engine tells of a path when the path changes or the session comes up, and not when a policy
//! changes.

use super::*;
use crate::plan::Meanings;

#[derive(Clone, Default)]
struct Wire {
    model: Model,
    known: Meanings,
    /// Neighbors whose sessions are up, and what they have heard.
    up: BTreeSet<IpAddr>,
    heard: ToldModel,
    updates: BTreeMap<IpAddr, usize>,
}

impl Wire {
    fn reach(&mut self, wanted: &Wanted) -> Vec<Call> {
        let calls = self.calls(wanted);
        for call in &calls {
            self.model.apply(call);
            match call {
                Call::Announce(paths) | Call::Withdraw(paths) => paths.iter().for_each(|path| self.update(path.prefix)),
                Call::DeletePeer(PeerKey::Address(address), _) => {
                    self.up.remove(address);
                    self.heard.retain(|(peer, _), _| peer != address);
                }
                Call::Stop => (self.up, self.heard) = Default::default(),
                _ => {}
            }
        }
        let told = self.model.told();
        for key in self.model.seen.peers.keys() {
            let PeerKey::Address(address) = key else { continue };
            if self.up.insert(*address) {
                self.heard.extend(told.iter().filter(|((peer, _), _)| peer == address).map(|(k, v)| (*k, v.clone())));
            }
        }
        let again = self.calls(wanted);
        assert_eq!(again, [], "not done after {calls:#?}");
        calls
    }

    fn calls(&mut self, wanted: &Wanted) -> Vec<Call> {
        let mut target = goal(wanted);
        self.known.keep(&mut target, &self.model.seen);
        plan(&target, &self.model.seen)
    }

    /// The path has changed: everybody whose session is up hears what the policies make of it now.
    fn update(&mut self, prefix: IpNet) {
        let told = self.model.told();
        for peer in &self.up {
            let now = told.get(&(*peer, prefix)).cloned();
            let before = match now.clone() {
                Some(now) => self.heard.insert((*peer, prefix), now),
                None => self.heard.remove(&(*peer, prefix)),
            };
            if now.is_some() || before.is_some() {
                *self.updates.entry(*peer).or_default() += 1;
            }
        }
    }
}

#[test]
fn a_peer_that_comes_or_goes_is_news_to_nobody_else() {
    let mut wire = Wire::default();
    let mut wanted = two_peers();
    wire.reach(&wanted);
    for prefix in &mut wanted.prefixes {
        prefix.offers = vec![offer(&["a", "b", "c"], Attributes::default())];
    }
    wanted.peers.push(peer("c", "10.0.0.4"));
    wire.reach(&wanted);
    assert_eq!((wire.updates.len(), wire.heard.len()), (0, 6));
    // Who begins anew finds the tags in use, and that they mean what is wanted.
    wire.known = Meanings::default();
    assert_eq!(wire.reach(&wanted), []);
    // The same peers, and one of them is to hear less: only what concerns it may be told again.
    wanted.prefixes[0].offers = vec![offer(&["a", "b"], Attributes::default())];
    wire.reach(&wanted);
    assert_eq!((wire.updates.values().sum::<usize>(), wire.heard.len()), (3, 5));
    wire.updates.clear();
    wanted.peers.remove(1);
    wire.reach(&wanted);
    assert_eq!((wire.updates.len(), wire.heard.len()), (0, 3));
}

#[test]
fn a_run_that_knows_nothing_trusts_no_tag_whose_policy_says_something_else() {
    let mut wire = Wire::default();
    let mut wanted = two_peers();
    wanted.prefixes.iter_mut().for_each(|prefix| prefix.offers = vec![offer(&["a"], Attributes::default())]);
    wanted.peers.truncate(1);
    wire.reach(&wanted);
    // With b the tags mean more than they were made of.
    let more = two_peers();
    wire.reach(&more);
    assert_eq!(wire.updates.len(), 0);
    // And now b is to hear nothing any more, though its session stays.
    wire.known = Meanings::default();
    wanted.peers = more.peers;
    wire.reach(&wanted);
    assert_eq!(wire.heard.len(), 2);
    assert!(wire.heard.keys().all(|(peer, _)| *peer == "10.0.0.2".parse::<IpAddr>().unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// What peers have heard is what they are to be told, however it came about, and whether we remember it or not.
    #[test]
    fn every_peer_has_heard_what_is_wanted(
        all in proptest::collection::vec((any_wanted(), any::<bool>()), 1..5),
    ) {
        let mut wire = Wire::default();
        for (wanted, forgets) in all {
            if forgets {
                wire.known = Meanings::default();
            }
            wire.reach(&wanted);
            let mut fresh = Model::default();
            reach(&mut fresh, &wanted);
            prop_assert_eq!(&wire.heard, &fresh.told());
        }
    }

    /// Peers come and go; the others hear nothing, as long as nobody tells apart what was the same to all before.
    #[test]
    fn only_peers_that_change_hear_anything(
        mut wanted in any_wanted(),
        masks in proptest::collection::vec(0_u8..16, 1..6),
    ) {
        let mut wire = Wire::default();
        let all = wanted.peers.clone();
        let offers = wanted.prefixes.first().map(|prefix| prefix.offers.clone());
        wanted.prefixes.iter_mut().for_each(|prefix| prefix.offers = offers.clone().unwrap_or_default());
        for mask in masks {
            wire.reach(&Wanted { peers: pick(all.clone(), mask), ..wanted.clone() });
            prop_assert!(wire.updates.is_empty(), "{:?}", wire.updates);
        }
    }
}
