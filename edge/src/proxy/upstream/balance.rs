//! Which endpoint takes the next request. Pure but for the counters it is given.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use edge_config::snapshot::Balance;

use super::endpoint::Endpoint;

/// Random numbers for spreading load (xorshift64*). Not for secrets.
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed.max(1)))
    }

    /// Seeded by the operating system, through the standard library's hash keys.
    pub fn from_system() -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        Self::new(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    pub fn next(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn next_u32(&self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Uniform below `bound`; 0 for 0.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn index(&self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// Chooses among candidates. One that is passed over for its failures, or is to be avoided, is taken only when all are.
pub fn pick<'e>(
    candidates: &'e [Rc<Endpoint>],
    balance: Balance,
    turn: &Cell<usize>,
    random: &Random,
    avoid: Option<SocketAddr>,
    now: impl Fn() -> Instant,
) -> Option<&'e Rc<Endpoint>> {
    let usable = |endpoint: &Rc<Endpoint>| !endpoint.is_passed_over_at(&now) && Some(endpoint.address) != avoid;
    let first = choose(candidates, balance, turn, random)?;
    if usable(first) {
        return Some(first);
    }
    // From a random place on, so that the load of a failed endpoint does not all fall on its neighbour.
    let start = random.index(candidates.len());
    let (before, after) = candidates.split_at(start.min(candidates.len()));
    let mut others = after.iter().chain(before);
    let other = others.clone().find(|endpoint| usable(endpoint));
    other.or_else(|| others.find(|endpoint| Some(endpoint.address) != avoid)).or(Some(first))
}

fn choose<'e>(
    candidates: &'e [Rc<Endpoint>],
    balance: Balance,
    turn: &Cell<usize>,
    random: &Random,
) -> Option<&'e Rc<Endpoint>> {
    if candidates.len() < 2 {
        return candidates.first();
    }
    match balance {
        Balance::RoundRobin => {
            let at = turn.get() % candidates.len();
            turn.set(at + 1);
            candidates.get(at)
        }
        Balance::Random => candidates.get(random.index(candidates.len())),
        Balance::LeastRequest => {
            let a = random.index(candidates.len());
            // Another one than `a`, uniformly.
            let b = (a + 1 + random.index(candidates.len() - 1)) % candidates.len();
            let (a, b) = (candidates.get(a)?, candidates.get(b)?);
            Some(if b.in_flight() < a.in_flight() { b } else { a })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u16) -> Vec<Rc<Endpoint>> {
        (1..=count).map(|port| Rc::new(Endpoint::new(([127, 0, 0, 1], port).into()))).collect()
    }

    fn spread(candidates: &[Rc<Endpoint>], balance: Balance, avoid: Option<SocketAddr>) -> Vec<usize> {
        let (turn, random) = (Cell::new(0), Random::new(7));
        let mut counts = vec![0; candidates.len()];
        for _ in 0..3000 {
            let picked = pick(candidates, balance, &turn, &random, avoid, Instant::now).unwrap();
            counts[usize::from(picked.address.port()) - 1] += 1;
        }
        counts
    }

    #[test]
    fn load_is_spread_evenly() {
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest] {
            for count in spread(&endpoints(3), balance, None) {
                assert!((900..1100).contains(&count), "{balance:?} {count}");
            }
        }
        assert_eq!(spread(&endpoints(3), Balance::RoundRobin, None), [1000, 1000, 1000]);
        assert!(pick(&[], Balance::Random, &Cell::new(0), &Random::new(1), None, Instant::now).is_none());
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        let candidates = endpoints(2);
        candidates[0].add_in_flight();
        assert_eq!(spread(&candidates, Balance::LeastRequest, None), [0, 3000]);
    }

    #[test]
    fn failed_and_avoided_endpoints_are_the_last_choice() {
        let candidates = endpoints(3);
        for _ in 0..3 {
            candidates[0].note_failure(&"refused", Instant::now());
        }
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest] {
            let counts = spread(&candidates, balance, None);
            assert_eq!(counts[0], 0);
            assert!(counts[1] > 1000 && counts[2] > 1000);
            assert_eq!(spread(&candidates, balance, Some(candidates[1].address)), [0, 0, 3000]);
        }
        assert_eq!(spread(&candidates[..1], Balance::Random, None), [3000]);
        assert_eq!(spread(&candidates[..1], Balance::Random, Some(candidates[0].address)), [3000]);
    }
}
