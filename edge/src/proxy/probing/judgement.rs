//! From single checks to up or down: `fall` failures in a row take out what was up, `rise` successes in a row bring it back.
//! Without I/O and without a clock.

use edge_config::policy::Check;

/// Begins as up: whatever was not asked yet is taken.
#[derive(Debug, Default)]
pub struct Judgement {
    is_down: bool,
    /// Outcomes in a row that speak against what it is now.
    against: u32,
}

impl Judgement {
    /// Notes a check. `Some`: it is up, or down, from now on.
    pub fn note(&mut self, succeeded: bool, check: &Check) -> Option<bool> {
        if succeeded != self.is_down {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.is_down { check.rise } else { check.fall };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.is_down = !self.is_down;
        Some(!self.is_down)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use edge_config::policy::CheckKind;

    use super::*;

    fn check(rise: u32, fall: u32) -> Check {
        let second = Duration::from_secs(1);
        Check {
            kind: CheckKind::Grpc { service: "".into() },
            interval: second,
            timeout: second,
            rise,
            fall,
            port: None,
        }
    }

    /// `+` and `-` are outcomes; what follows one in the second text is what it made: `U`p, `D`own, or nothing.
    #[test]
    fn rise_and_fall() {
        for (rise, fall, outcomes, changes) in [
            (1, 1, "+-+--++", ".DUD.U."),
            (1, 3, "--+---+", ".....DU"),
            (2, 3, "---+-+++", "..D...U."),
            (3, 1, "-++-+++-", "D.....UD"),
            (1, 3, "++++++++", "........"),
            (1, 1, "----", "D..."),
        ] {
            let (check, mut judgement) = (check(rise, fall), Judgement::default());
            let told = outcomes.chars().map(|outcome| match judgement.note(outcome == '+', &check) {
                None => '.',
                Some(true) => 'U',
                Some(false) => 'D',
            });
            assert_eq!(told.collect::<String>(), changes, "{rise} {fall} {outcomes}");
        }
    }
}
