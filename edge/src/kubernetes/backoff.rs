//! How long to wait before the next try: doubled each time, spread by chance so that edges which lost the same server do
//! not return together, and never shorter than what the server asked for.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(20);
/// A server that asks for more than this is asked again after it.
const MOST_ASKED: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// The next wait; `asked` is what Retry-After said.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        self.wait(asked, chance())
    }

    /// `chance` is from 0 to 255: a half of the wait is fixed, the rest is chance.
    fn wait(&mut self, asked: Option<Duration>, chance: u8) -> Duration {
        let full = LEAST.saturating_mul(1 << self.tries.min(16)).min(MOST);
        self.tries = self.tries.saturating_add(1);
        let wait = full / 2 + full / 2 * u32::from(chance) / 255;
        match asked {
            Some(asked) => {
                let asked = asked.min(MOST_ASKED);
                (asked + asked / 4 * u32::from(chance) / 255).max(wait)
            }
            None => wait,
        }
    }
}

/// A number from 0 to 255 by chance; without randomness, the middle.
pub(super) fn chance() -> u8 {
    let mut byte = [128];
    match SystemRandom::new().fill(&mut byte) {
        Ok(()) => byte[0],
        Err(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        for chance in [0, 128, 255] {
            let mut backoff = Backoff::default();
            let mut last = Duration::ZERO;
            for _ in 0..40 {
                let wait = backoff.wait(None, chance);
                assert!(wait >= last && wait <= MOST && wait >= LEAST / 2, "{wait:?}");
                last = wait;
            }
            assert!(last >= MOST / 2);
            backoff.reset();
            assert!(backoff.wait(None, chance) <= LEAST);
        }
    }

    #[test]
    fn what_the_server_asks_for_is_respected() {
        let mut backoff = Backoff::default();
        for chance in [0, 255] {
            let wait = backoff.wait(Some(Duration::from_secs(8)), chance);
            assert!(wait >= Duration::from_secs(8) && wait <= Duration::from_secs(10));
            assert!(backoff.wait(Some(Duration::from_secs(86_400)), chance) <= MOST_ASKED + MOST_ASKED / 4);
        }
    }
}
