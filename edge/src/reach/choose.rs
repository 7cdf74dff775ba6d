//! Which way to Pods is taken when the choice is left to Edge: the first of three that works. Pure; outcomes of probes
//! flow in one by one.
//!
//! One outcome never changes anything, so a Pod that goes away or a packet that is lost moves nobody. A way is left after
//! several failures in a row; the way back from node ports, which lose a hop and the Pods' health, needs as many
//! successes. There is no way back from routes to none: whether Pods could be reached without them cannot be seen while
//! they are there.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    #[default]
    Direct,
    PodRoute,
    NodePort,
}

impl Way {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::PodRoute => "pod-route",
            Self::NodePort => "node-port",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one round of probes says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A Pod accepted a connection, or refused it: either way packets go there and back.
    Reached,
    /// No Pod answered; of one of them, why.
    Unreached(String),
    /// There is no Pod to ask.
    Nothing,
}

const FAILURES_DIRECT: u32 = 2;
const FAILURES_BY_ROUTE: u32 = 3;
const SUCCESSES: u32 = 5;

#[derive(Debug, Default)]
pub struct Chooser {
    way: Way,
    why: String,
    failures: u32,
    successes: u32,
}

impl Chooser {
    /// As another process has chosen.
    pub fn resumed(way: Way) -> Self {
        let why = if way == Way::Direct { "" } else { "as the edged before this one has found out" };
        Self { way, why: why.to_owned(), ..Self::default() }
    }

    pub fn way(&self) -> Way {
        self.way
    }

    /// Why this way; empty while nothing speaks for another.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Whether the last outcomes could soon change the way.
    pub fn is_in_doubt(&self) -> bool {
        self.failures > 0 && self.way != Way::NodePort
    }

    /// Whether the way is another one now.
    pub fn take(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Nothing => return false,
            Outcome::Reached => {
                self.failures = 0;
                self.successes += 1;
                if self.way != Way::NodePort || self.successes < SUCCESSES {
                    return false;
                }
                self.change(Way::PodRoute, "Pods are reached by routes again".to_owned());
            }
            Outcome::Unreached(why) => {
                self.successes = 0;
                self.failures += 1;
                match self.way {
                    Way::Direct if self.failures >= FAILURES_DIRECT => {
                        self.change(Way::PodRoute, format!("Pods are not reached as they are: {why}"));
                    }
                    Way::PodRoute if self.failures >= FAILURES_BY_ROUTE => {
                        self.change(Way::NodePort, format!("Pods are not reached by routes: {why}"));
                    }
                    _ => return false,
                }
            }
        }
        true
    }

    fn change(&mut self, way: Way, why: String) {
        *self = Self { way, why, failures: 0, successes: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` reached, `-` not, `.` nothing to ask; after each the way's first letter.
    fn ways(outcomes: &str) -> String {
        let mut chooser = Chooser::default();
        let after = |outcome: char| {
            chooser.take(match outcome {
                '+' => Outcome::Reached,
                '-' => Outcome::Unreached("timed out".to_owned()),
                _ => Outcome::Nothing,
            });
            chooser.way().as_str().chars().next().unwrap()
        };
        outcomes.chars().map(after).collect()
    }

    #[test]
    fn a_way_is_left_after_several_failures_in_a_row() {
        for (outcomes, expected) in [
            ("", ""),
            ("+-+-+.-.+", "ddddddddd"),
            ("--", "dp"),
            ("-.-", "ddp"),
            ("--+++", "dpppp"),
            ("-----", "dpppn"),
            ("---+--+", "dpppppp"),
            ("-----++++-+++++", "dpppnnnnnnnnnnp"),
            ("-----+++++---", "dpppnnnnnpppn"),
        ] {
            assert_eq!(ways(outcomes), expected, "{outcomes}");
        }
    }

    #[test]
    fn it_says_why() {
        let mut chooser = Chooser::default();
        assert_eq!(chooser.why(), "");
        for _ in 0..2 {
            chooser.take(Outcome::Unreached("10.1.0.5:80: timed out".to_owned()));
        }
        assert_eq!(chooser.why(), "Pods are not reached as they are: 10.1.0.5:80: timed out");
    }
}
