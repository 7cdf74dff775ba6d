//! Which endpoint takes the next request. Pure but for the counters it is given.
//!
//! Two ways lead here: [`pick`] for an upstream that nothing was said about, and [`pick_judged`] for one with a policy.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use edge_config::snapshot::Balance;

use super::circuit::{Circuit, Millis};
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
    first: Option<&'e Rc<Endpoint>>,
    random: &Random,
    avoid: Option<SocketAddr>,
    now: impl Fn() -> Instant,
) -> Option<&'e Rc<Endpoint>> {
    let usable = |endpoint: &Rc<Endpoint>| !endpoint.is_passed_over_at(&now) && Some(endpoint.address) != avoid;
    let first = first?;
    if usable(first) {
        return Some(first);
    }
    // From a random place on, so that the load of a failed endpoint does not all fall on its neighbour.
    let mut others = from(candidates, random.index(candidates.len()));
    let other = others.clone().find(|endpoint| usable(endpoint));
    other.or_else(|| others.find(|endpoint| Some(endpoint.address) != avoid)).or(Some(first))
}

/// The choice of the balance alone, whatever is known of the endpoint.
pub fn choose<'e>(
    candidates: &'e [Rc<Endpoint>],
    balance: &Balance,
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
        // What has no hash is as good at one place as at another.
        Balance::Random | Balance::Hash(_) => candidates.get(random.index(candidates.len())),
        Balance::LeastRequest => {
            let a = random.index(candidates.len());
            // Another one than `a`, uniformly.
            let b = (a + 1 + random.index(candidates.len() - 1)) % candidates.len();
            let (a, b) = (candidates.get(a)?, candidates.get(b)?);
            Some(if b.in_flight() < a.in_flight() { b } else { a })
        }
    }
}

/// Why an upstream with a policy has no endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// There is none, or none that is healthy.
    Healthy,
    /// All that are healthy have as many connections as they may.
    Room,
}

/// The same for an upstream with a policy: unhealthy endpoints are left out until too few would be left, endpoints
/// without room are left out in any case, and new ones are spared. `again` gives the next choice of the balance.
pub fn pick_judged<'e>(
    candidates: &'e [Rc<Endpoint>],
    circuit: &Circuit,
    mut again: impl FnMut(u64) -> Option<&'e Rc<Endpoint>>,
    random: &Random,
    avoid: Option<SocketAddr>,
    (now, exact): (Millis, impl Fn() -> Instant),
) -> Result<&'e Rc<Endpoint>, NoEndpoint> {
    let healthy = |endpoint: &Rc<Endpoint>| endpoint.vitals().is_none_or(|vitals| vitals.is_healthy(now));
    let has_room = |endpoint: &Rc<Endpoint>| endpoint.vitals().is_none_or(|vitals| circuit.has_room(vitals));
    let is_spared = |endpoint: &Rc<Endpoint>| {
        endpoint.vitals().is_some_and(|vitals| circuit.is_spared(vitals, now, random.next_u32()))
    };
    let taken = |endpoint: &Rc<Endpoint>| {
        has_room(endpoint) && Some(endpoint.address) != avoid && !endpoint.is_passed_over_at(&exact)
    };
    let first = again(0).ok_or(NoEndpoint::Healthy)?;
    let mut fallback = None;
    if healthy(first) && taken(first) {
        if circuit.policy.slow_start.is_none() || !is_spared(first) {
            return Ok(first);
        }
        fallback = Some(first);
    }
    let policy = &circuit.policy;
    let is_panic = policy.judges_health() && {
        let count = candidates.iter().filter(|endpoint| healthy(endpoint)).count();
        if count == 0 && policy.panic_below == 0 {
            return Err(NoEndpoint::Healthy);
        }
        count * 100 < candidates.len() * usize::from(policy.panic_below)
    };
    if is_panic && taken(first) {
        return Ok(first);
    }
    let good = |endpoint: &Rc<Endpoint>| (is_panic || healthy(endpoint)) && taken(endpoint);
    // What the balance would do next, as often as it may well hit a good one; then any.
    const TRIES: u64 = 4;
    for attempt in 1..=TRIES {
        if let Some(next) = again(attempt)
            && good(next)
        {
            if policy.slow_start.is_none() || !is_spared(next) {
                return Ok(next);
            }
            fallback.get_or_insert(next);
        }
    }
    if let Some(spared) = fallback {
        return Ok(spared);
    }
    let others = || from(candidates, random.index(candidates.len()));
    let last = |endpoint: &&Rc<Endpoint>| (is_panic || healthy(endpoint)) && has_room(endpoint);
    let found = others().find(|endpoint| good(endpoint));
    let found = found.or_else(|| others().find(|endpoint| last(endpoint) && Some(endpoint.address) != avoid));
    found.or_else(|| others().find(last)).ok_or(NoEndpoint::Room)
}

/// All candidates, those from one place on first.
fn from(candidates: &[Rc<Endpoint>], start: usize) -> impl Iterator<Item = &Rc<Endpoint>> + Clone {
    let (before, after) = candidates.split_at(start.min(candidates.len()));
    after.iter().chain(before)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edge_config::names::{Kind, ObjectKey, ObjectRef};
    use edge_config::policy::{Check, CheckKind, Limits, UpstreamPolicy};
    use edge_config::snapshot::UpstreamKey;

    use crate::proxy::upstream::circuit::{Registry, Vitals};

    use super::*;

    fn endpoints(count: u16) -> Vec<Rc<Endpoint>> {
        (1..=count).map(|port| Rc::new(Endpoint::new(([127, 0, 0, 1], port).into(), None))).collect()
    }

    fn spread(candidates: &[Rc<Endpoint>], balance: &Balance, avoid: Option<SocketAddr>) -> Vec<usize> {
        let (turn, random) = (Cell::new(0), Random::new(7));
        let mut counts = vec![0; candidates.len()];
        for _ in 0..3000 {
            let first = choose(candidates, balance, &turn, &random);
            let picked = pick(candidates, first, &random, avoid, Instant::now).unwrap();
            counts[usize::from(picked.address.port()) - 1] += 1;
        }
        counts
    }

    #[test]
    fn load_is_spread_evenly() {
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest] {
            for count in spread(&endpoints(3), &balance, None) {
                assert!((900..1100).contains(&count), "{balance:?} {count}");
            }
        }
        assert_eq!(spread(&endpoints(3), &Balance::RoundRobin, None), [1000, 1000, 1000]);
        assert!(choose(&[], &Balance::Random, &Cell::new(0), &Random::new(1)).is_none());
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        let candidates = endpoints(2);
        candidates[0].add_in_flight();
        assert_eq!(spread(&candidates, &Balance::LeastRequest, None), [0, 3000]);
    }

    #[test]
    fn failed_and_avoided_endpoints_are_the_last_choice() {
        let candidates = endpoints(3);
        for _ in 0..3 {
            candidates[0].note_failure(&"refused", Instant::now());
        }
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest] {
            let counts = spread(&candidates, &balance, None);
            assert_eq!(counts[0], 0);
            assert!(counts[1] > 1000 && counts[2] > 1000);
            assert_eq!(spread(&candidates, &balance, Some(candidates[1].address)), [0, 0, 3000]);
        }
        assert_eq!(spread(&candidates[..1], &Balance::Random, None), [3000]);
        assert_eq!(spread(&candidates[..1], &Balance::Random, Some(candidates[0].address)), [3000]);
    }

    fn judged(policy: UpstreamPolicy, count: u16) -> (Arc<Circuit>, Vec<Rc<Endpoint>>) {
        let object = ObjectRef::new(Kind::Service, ObjectKey::new("a", "b"));
        let key = UpstreamKey { object, port: 80, variant: "policy".into() };
        let circuit = Registry::default().circuit(&key, &Arc::new(policy));
        let addresses = (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let vitals = circuit.attend(addresses, 1);
        let endpoint = |vitals: Arc<Vitals>| Rc::new(Endpoint::new(vitals.address, Some(vitals)));
        (Arc::clone(&circuit), vitals.into_iter().map(endpoint).collect())
    }

    fn checked(panic_below: u8) -> UpstreamPolicy {
        let second = std::time::Duration::from_secs(1);
        let kind = CheckKind::Grpc { service: "".into() };
        let check = Check { kind, interval: second, timeout: second, rise: 1, fall: 1, port: None };
        UpstreamPolicy { check: Some(check), panic_below, ..UpstreamPolicy::default() }
    }

    fn shares(
        circuit: &Circuit,
        candidates: &[Rc<Endpoint>],
        balance: &Balance,
        now: Millis,
    ) -> Result<Vec<usize>, NoEndpoint> {
        let (turn, random) = (Cell::new(0), Random::new(7));
        let mut counts = vec![0; candidates.len()];
        for _ in 0..3000 {
            let again = |_| choose(candidates, balance, &turn, &random);
            let picked = pick_judged(candidates, circuit, again, &random, None, (now, Instant::now))?;
            counts[usize::from(picked.address.port()) - 1] += 1;
        }
        Ok(counts)
    }

    fn down(endpoint: &Rc<Endpoint>) {
        endpoint.vitals().unwrap().check(Err("down".to_owned()), 1);
    }

    #[test]
    fn unhealthy_endpoints_are_left_out_until_too_few_are_left() {
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest] {
            let (circuit, all) = judged(checked(50), 4);
            down(&all[0]);
            down(&all[1]);
            let found = shares(&circuit, &all, &balance, 2).unwrap();
            assert!(found[..2] == [0, 0] && found[2] > 1200 && found[3] > 1200, "{balance:?} {found:?}");
            // A quarter is less than half: all carry the load again.
            down(&all[2]);
            let found = shares(&circuit, &all, &balance, 2).unwrap();
            assert!(found.iter().all(|count| *count > 500), "{balance:?} {found:?}");
            let (circuit, all) = judged(checked(0), 2);
            down(&all[0]);
            assert_eq!(shares(&circuit, &all, &balance, 2).unwrap(), [0, 3000]);
            down(&all[1]);
            assert_eq!(shares(&circuit, &all, &balance, 2), Err(NoEndpoint::Healthy));
        }
    }

    #[test]
    fn endpoints_without_room_are_left_out() {
        let limits = Limits { endpoint_connections: Some(1), ..Limits::default() };
        let (circuit, all) = judged(UpstreamPolicy { limits, ..UpstreamPolicy::default() }, 2);
        let _one = circuit.connect(all[0].vitals().unwrap()).unwrap();
        assert_eq!(shares(&circuit, &all, &Balance::RoundRobin, 2).unwrap(), [0, 3000]);
        let _other = circuit.connect(all[1].vitals().unwrap()).unwrap();
        assert_eq!(shares(&circuit, &all, &Balance::RoundRobin, 2), Err(NoEndpoint::Room));
    }

    #[test]
    fn a_new_endpoint_gets_its_share_slowly() {
        let window = std::time::Duration::from_secs(10);
        let (circuit, mut all) = judged(UpstreamPolicy { slow_start: Some(window), ..UpstreamPolicy::default() }, 2);
        let known = all.iter().map(|endpoint| endpoint.address).chain([([127, 0, 0, 1], 3).into()]);
        let vitals = circuit.attend(known, 1000);
        all.push(Rc::new(Endpoint::new(vitals[2].address, Some(Arc::clone(&vitals[2])))));
        let mut before = 0;
        for now in [1000, 3500, 6000, 8500, 11_000] {
            let found = shares(&circuit, &all, &Balance::RoundRobin, now).unwrap();
            assert!(found[2] > before, "{now}: {found:?}");
            before = found[2];
        }
        assert_eq!(before, 1000, "its whole share");
    }
}
