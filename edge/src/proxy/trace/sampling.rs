//! Which traces are kept. Pure: what a request came with and the settings flow in, yes or no flows out.
//!
//! Standards: OpenTelemetry's ParentBased sampler, and its probability sampling by the random part of the trace id, by
//! which everybody with the same ratio, in whatever process, decides alike about one trace.

use edge_config::settings::{ParentRule, Ratio};

use super::context::Context;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// A trace is kept whose 56 random bits are not below it; 2^56: none is.
    threshold: u64,
    parent: ParentRule,
}

const RANDOM_BITS: u32 = 56;

impl Sampler {
    pub fn new(ratio: Ratio, parent: ParentRule) -> Self {
        let whole = u64::from(Ratio::WHOLE);
        let rejected = whole - u64::from(ratio.millionths());
        let threshold = (u128::from(rejected) << RANDOM_BITS) / u128::from(whole);
        Self { threshold: u64::try_from(threshold).unwrap_or(u64::MAX), parent }
    }

    /// The context that is gone on with, of the one that came.
    pub fn believed(&self, given: Option<Context>) -> Option<Context> {
        given.filter(|_| self.parent != ParentRule::Ignore)
    }

    /// Whether a trace is kept that this context belongs to.
    pub fn follows(&self, parent: &Context) -> bool {
        match self.parent {
            ParentRule::Follow => parent.flags.is_sampled(),
            ParentRule::Ratio | ParentRule::Ignore => self.draws(&parent.trace_id),
        }
    }

    /// Whether a trace is kept that begins here.
    pub fn draws(&self, trace_id: &[u8; 16]) -> bool {
        let [.., a, b, c, d, e, f, g] = *trace_id;
        u64::from_be_bytes([0, a, b, c, d, e, f, g]) >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::Flags;
    use super::*;

    fn id(random: u64) -> [u8; 16] {
        let mut id = [0x11; 16];
        id[9..].copy_from_slice(&random.to_be_bytes()[1..]);
        id
    }

    fn sampler(ratio: f64, parent: ParentRule) -> Sampler {
        Sampler::new(Ratio::new(ratio).unwrap(), parent)
    }

    #[test]
    fn ratios() {
        let most = (1 << RANDOM_BITS) - 1;
        for (ratio, random, expected) in [
            (0.0, most, false),
            (0.0, 0, false),
            (1.0, 0, true),
            (1.0, most, true),
            (0.5, (1 << 55) - 1, false),
            (0.5, 1 << 55, true),
            (0.25, (1 << 56) / 4 * 3, true),
            (0.25, (1 << 56) / 4 * 3 - 1, false),
            (0.000_001, most, true),
        ] {
            assert_eq!(sampler(ratio, ParentRule::Follow).draws(&id(random)), expected, "{ratio} of {random:x}");
        }
    }

    /// Who keeps less keeps nothing that who keeps more does not.
    #[test]
    fn a_smaller_ratio_keeps_a_part_of_a_larger_one() {
        let (less, more) = (sampler(0.1, ParentRule::Ratio), sampler(0.3, ParentRule::Ratio));
        let mut kept = (0, 0);
        for step in 0..10_000u64 {
            let id = id(step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8);
            kept = (kept.0 + u32::from(less.draws(&id)), kept.1 + u32::from(more.draws(&id)));
            assert!(!less.draws(&id) || more.draws(&id));
        }
        assert!((900..1100).contains(&kept.0) && (2800..3200).contains(&kept.1), "{kept:?}");
    }

    #[test]
    fn parents() {
        let with = |is_sampled, random| Context {
            trace_id: id(random),
            span_id: [1; 8],
            flags: Flags::default().with_sampled(is_sampled),
        };
        for (rule, parent, expected) in [
            (ParentRule::Follow, with(true, 0), true),
            (ParentRule::Follow, with(false, u64::MAX >> 8), false),
            (ParentRule::Ratio, with(true, 0), false),
            (ParentRule::Ratio, with(false, u64::MAX >> 8), true),
        ] {
            let sampler = sampler(0.5, rule);
            assert_eq!(sampler.believed(Some(parent)), Some(parent));
            assert_eq!(sampler.follows(&parent), expected, "{rule:?} {parent:?}");
        }
        assert_eq!(sampler(0.5, ParentRule::Ignore).believed(Some(with(true, 0))), None);
    }
}
