//! Which edges have had another configuration for too long. No I/O: hashes and the time in, what to tell out.
//!
//! A change reaches the edges one after the other, so a difference counts only when it has lasted; it is the pair of
//! hashes that must stay apart, whatever they are meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::standing::Difference;

/// The other edges by name.
#[derive(Debug, Default)]
pub struct Drift {
    apart: BTreeMap<Arc<str>, Apart>,
}

#[derive(Debug, Clone)]
struct Apart {
    since: Instant,
    wall: SystemTime,
    /// The hashes that `difference` is about: here, there.
    hashes: (String, String),
    difference: Option<Difference>,
}

/// One edge that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drifted {
    pub edge: String,
    pub since: SystemTime,
    pub difference: Difference,
}

impl Drift {
    /// Notes the two hashes; returns whether it must be found out what differs.
    pub fn note(&mut self, edge: &Arc<str>, here: &str, there: &str, now: (Instant, SystemTime)) -> bool {
        if here == there {
            self.apart.remove(edge);
            return false;
        }
        let hashes = (here.to_owned(), there.to_owned());
        let apart = self.apart.entry(Arc::clone(edge)).or_insert_with(|| Apart {
            since: now.0,
            wall: now.1,
            hashes: hashes.clone(),
            difference: None,
        });
        if apart.hashes != hashes {
            (apart.hashes, apart.difference) = (hashes, None);
        }
        apart.difference.is_none()
    }

    /// Nobody knows what an edge has that does not answer, or cannot say.
    pub fn forget(&mut self, edge: &str) {
        self.apart.remove(edge);
    }

    /// What differs, as long as it is about the same two.
    pub fn found(&mut self, edge: &str, hashes: (&str, &str), difference: Difference) {
        if let Some(apart) = self.apart.get_mut(edge)
            && (&*apart.hashes.0, &*apart.hashes.1) == hashes
        {
            // Of nothing that counts, though the hashes differ: another version makes them in another way.
            apart.difference = Some(difference);
        }
    }

    /// Those that have been apart for so long.
    pub fn told(&self, after: Duration, now: Instant) -> Vec<Drifted> {
        let late = self.apart.iter().filter(|(_, apart)| now.saturating_duration_since(apart.since) >= after);
        let one = |(edge, apart): (&Arc<str>, &Apart)| {
            let difference = apart.difference.clone().filter(|difference| difference.total > 0)?;
            Some(Drifted { edge: edge.to_string(), since: apart.wall, difference })
        };
        late.filter_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_on_its_way_is_none() {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let at = |seconds| (start + Duration::from_secs(seconds), wall + Duration::from_secs(seconds));
        let after = Duration::from_secs(60);
        let (b, difference) = (Arc::from("b"), Difference { total: 1, named: vec!["x".to_owned()] });
        let mut drift = Drift::default();
        assert!(!drift.note(&b, "1", "1", at(0)));
        // A rolling change: this edge first, the other a little later.
        assert!(drift.note(&b, "2", "1", at(10)));
        drift.found("b", ("2", "1"), difference.clone());
        assert!(drift.told(after, at(30).0).is_empty());
        assert!(!drift.note(&b, "2", "2", at(40)));
        assert!(drift.told(after, at(200).0).is_empty());
        // One that stays apart, though both go on changing.
        assert!(drift.note(&b, "3", "2", at(200)));
        assert!(drift.note(&b, "4", "2", at(230)));
        drift.found("b", ("3", "2"), difference.clone());
        assert!(drift.note(&b, "4", "2", at(235)), "that was about others");
        drift.found("b", ("4", "2"), difference.clone());
        assert!(drift.told(after, at(259).0).is_empty());
        let told = drift.told(after, at(260).0);
        assert_eq!(told, [Drifted { edge: "b".to_owned(), since: at(200).1, difference }]);
        drift.forget("b");
        assert!(drift.told(after, at(900).0).is_empty());
    }
}
