//! RequestMirror: which copies of a request are sent. Each mirror is drawn on its own, so two of them at 20 % each are
//! independent; a reference that is not valid is passed over, since "the response is ignored" anyway.

use edge_config::snapshot::{Mirror, Target, UpstreamId};

/// The targets of the copies of one request. `draw` gives uniformly distributed numbers.
pub fn firing<'m>(mirrors: &'m [Mirror], mut draw: impl FnMut() -> u32 + 'm) -> impl Iterator<Item = UpstreamId> + 'm {
    mirrors.iter().filter_map(move |mirror| match mirror.target {
        Target::Upstream(upstream) if fires(mirror, &mut draw) => Some(upstream),
        _ => None,
    })
}

fn fires(mirror: &Mirror, draw: &mut impl FnMut() -> u32) -> bool {
    // All and nothing need no draw. A denominator of 0 is refused by the API; here it means nothing.
    if mirror.numerator == 0 || mirror.denominator == 0 {
        return false;
    }
    mirror.numerator >= mirror.denominator
        || (u64::from(draw()) * u64::from(mirror.denominator)) >> 32 < u64::from(mirror.numerator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(target: u32, numerator: u32, denominator: u32) -> Mirror {
        Mirror { reference: "x".into(), target: Target::Upstream(UpstreamId(target)), numerator, denominator }
    }

    #[test]
    fn extremes_and_bounds() {
        for (numerator, denominator, draw, expected) in [
            (100, 100, u32::MAX, true),
            (0, 100, 0, false),
            (5, 0, 0, false),
            (200, 100, u32::MAX, true),
            (1, 2, u32::MAX / 2, true),
            (1, 2, u32::MAX / 2 + 1, false),
            (1, u32::MAX, 0, true),
            (1, u32::MAX, 2, false),
        ] {
            let mirrors = [mirror(0, numerator, denominator)];
            assert_eq!(firing(&mirrors, || draw).count() == 1, expected, "{numerator}/{denominator} at {draw}");
        }
    }

    #[test]
    fn each_is_drawn_on_its_own() {
        let mirrors = [mirror(0, 1, 4), mirror(1, 1, 2), mirror(2, 1, 1)];
        let mut state = 1u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        let mut seen = [0u32; 3];
        for _ in 0..40_000 {
            for upstream in firing(&mirrors, &mut draw) {
                seen[upstream.index()] += 1;
            }
        }
        assert!((9_400..10_600).contains(&seen[0]), "{seen:?}");
        assert!((19_300..20_700).contains(&seen[1]), "{seen:?}");
        assert_eq!(seen[2], 40_000);
    }

    #[test]
    fn an_invalid_target_gets_nothing() {
        let invalid = Mirror { target: Target::Invalid { status: 500, reason: "x".into() }, ..mirror(0, 1, 1) };
        assert_eq!(firing(&[invalid], || 0).count(), 0);
    }
}
