//! Which backend of a rule takes a request: by weight, and where some are for need only ("fallback"), by how healthy the
//! others are.
//!
//! The rule is Envoy's, with its overprovisioning factor of 1.4: as long as 72 of 100 endpoints of the first backends are
//! healthy, they take everything; below, they take 1.4 times the part of them that is healthy, and those for need the
//! rest. Where neither can, the first ones are taken, and it is for their own policies to say what that comes to.

use edge_config::snapshot::{Backend, Target, UpstreamId};

/// Endpoints of an upstream as this worker knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub healthy: usize,
    pub all: usize,
}

/// For a uniformly distributed draw. Invalid references keep their share ("weights count invalid refs"); `None` when all
/// weights are 0.
pub fn choose(backends: &[Backend], draw: u32, census: impl Fn(UpstreamId) -> Census) -> Option<&Backend> {
    if let [only] = backends {
        return Some(only).filter(|backend| backend.weight > 0);
    }
    if !backends.iter().any(|backend| backend.fallback) {
        return weighted(backends, draw, |_| true);
    }
    let load = |is_fallback: bool| {
        let mut sum = Census::default();
        for backend in backends.iter().filter(|backend| backend.fallback == is_fallback && backend.weight > 0) {
            if let Target::Upstream(upstream) = backend.target {
                let found = census(upstream);
                sum = Census { healthy: sum.healthy + found.healthy, all: sum.all + found.all };
            }
        }
        (sum.healthy * 140).checked_div(sum.all).map_or(0, |percent| percent.min(100))
    };
    let first = load(false);
    let second = if first < 100 { load(true).min(100 - first) } else { 0 };
    // The same draw says both: which group, and where in it.
    let (place, split) = (u64::from(draw) * (first + second) as u64, (first as u64) << 32);
    let is_fallback = place >= split && second > 0;
    let within = if is_fallback { (place - split) / second as u64 } else { place / first.max(1) as u64 };
    let group = weighted(backends, within as u32, |backend| backend.fallback == is_fallback);
    group.or_else(|| weighted(backends, draw, |_| true))
}

fn weighted(backends: &[Backend], draw: u32, is_meant: impl Fn(&Backend) -> bool) -> Option<&Backend> {
    let total: u64 = backends.iter().filter(|backend| is_meant(backend)).map(|backend| u64::from(backend.weight)).sum();
    let mut place = ((u128::from(draw) * u128::from(total)) >> 32) as u64;
    backends.iter().filter(|backend| is_meant(backend)).find(|backend| {
        let weight = u64::from(backend.weight);
        let here = place < weight;
        place = place.saturating_sub(weight);
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(upstream: u32, weight: u32, fallback: bool) -> Backend {
        Backend {
            weight,
            reference: format!("Backend a/{upstream}").into(),
            target: Target::Upstream(UpstreamId(upstream)),
            filters: Default::default(),
            balance: None,
            fallback,
        }
    }

    /// Of a thousand requests, how many each backend takes.
    fn shares(backends: &[Backend], census: &[(usize, usize)]) -> Vec<usize> {
        let mut counts = vec![0; backends.len()];
        for number in 0..1000_u64 {
            let draw = ((number << 32) / 1000) as u32;
            let census = |upstream: UpstreamId| {
                let (healthy, all) = census[upstream.index()];
                Census { healthy, all }
            };
            let Some(chosen) = choose(backends, draw, census) else { continue };
            counts[backends.iter().position(|backend| std::ptr::eq(backend, chosen)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn those_for_need_take_what_the_others_cannot() {
        let two = [backend(0, 1, false), backend(1, 1, true)];
        for (first, second, expected) in [
            ((10, 10), (5, 5), [1000, 0]),
            // 1.4 × 80 % is all of it.
            ((8, 10), (5, 5), [1000, 0]),
            ((7, 10), (5, 5), [980, 20]),
            ((5, 10), (5, 5), [700, 300]),
            ((0, 10), (5, 5), [0, 1000]),
            ((0, 0), (5, 5), [0, 1000]),
            // Neither is whole: both take what they can, in proportion.
            ((5, 10), (1, 10), [834, 166]),
            // Nobody is healthy: the first ones say what that comes to.
            ((0, 10), (0, 5), [1000, 0]),
            ((0, 0), (0, 0), [1000, 0]),
        ] {
            let found = shares(&two, &[first, second]);
            assert!(
                found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 2),
                "{first:?} {second:?}: {found:?}"
            );
        }
    }

    #[test]
    fn weights_count_within_a_group() {
        let all = [backend(0, 3, false), backend(1, 1, false), backend(2, 1, true), backend(3, 0, true)];
        assert_eq!(shares(&all, &[(1, 1), (1, 1), (1, 1), (1, 1)]), [750, 250, 0, 0]);
        assert_eq!(shares(&all, &[(0, 1), (0, 1), (1, 1), (1, 1)]), [0, 0, 1000, 0]);
        // Only such as are for need.
        assert_eq!(shares(&[backend(0, 1, true)], &[(0, 1)]), [1000]);
        assert_eq!(shares(&[backend(0, 1, true), backend(1, 3, true)], &[(1, 1), (1, 1)]), [250, 750]);
        assert_eq!(shares(&[backend(0, 0, false), backend(1, 0, false)], &[(1, 1), (1, 1)]), [0, 0]);
    }
}
