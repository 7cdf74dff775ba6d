//! How pressing it is that a certificate is not renewed, or is not there: for metrics, events and status, long before
//! anything expires.
//!
//! In: the plan. Out: a [`Level`] and one sentence for each wanted certificate.

use std::fmt;

use edge_config::snapshot::WantedCertificate;

use crate::due::Validity;
use crate::plan::{Plan, PlanInput, Timestamp, Wait, validity_of};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    #[default]
    Fine,
    /// The renewal is overdue, and there is plenty of time.
    Late,
    /// Less than a third is left of the time between renewal and end.
    Warning,
    /// It ends within a day or a twentieth of its lifetime.
    Critical,
    /// There is none, or none that holds yet.
    Missing,
    Expired,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "fine",
            Self::Late => "late",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Missing => "missing",
            Self::Expired => "expired",
        })
    }
}

/// How a wanted certificate stands; [`fmt::Display`] is one sentence that ends in the reason, where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub level: Level,
    pub validity: Option<Validity>,
    /// When it is to be renewed.
    pub due: Option<i64>,
    /// What it waits for.
    pub wait: Option<Wait>,
    pub now: i64,
}

/// A renewal that is planned for a moment is not late a moment later.
const GRACE: i64 = 3600;
const DAY: i64 = 86_400;

impl Level {
    /// Of a certificate that was due for renewal at `due`.
    pub fn of(validity: Validity, due: i64, now: i64) -> Self {
        let left = validity.not_after.saturating_sub(now);
        let lead = validity.not_after.saturating_sub(due).max(0);
        // Never before a fifth of the lead is left: with a certificate of six days, the last day is a good part of it.
        let critical = (validity.lifetime() / 20).max(DAY).min(lead / 5);
        if left < 0 {
            Self::Expired
        } else if validity.not_before > now.saturating_add(60) {
            Self::Missing
        } else if now < due {
            Self::Fine
        } else if left < critical {
            Self::Critical
        } else if left < lead / 3 {
            Self::Warning
        } else if now.saturating_sub(due) > (lead / 10).max(GRACE) {
            Self::Late
        } else {
            Self::Fine
        }
    }
}

impl Standing {
    pub(crate) fn of(input: &PlanInput<'_>, wanted: &WantedCertificate, plan: &Plan) -> Self {
        let validity = validity_of(wanted, input.held.get(&wanted.id));
        let due = plan.renewals.get(&wanted.id).copied();
        let level = validity
            .map_or(Level::Missing, |validity| Level::of(validity, due.unwrap_or(validity.not_after), input.now));
        // A renewal of another kind (names were changed) may wait although nothing is overdue.
        let wait = plan.waiting.get(&wanted.id);
        let wait = wait.filter(|wait| level > Level::Fine || !matches!(wait, Wait::Elsewhere(_))).cloned();
        Self { level, validity, due, wait, now: input.now }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.now;
        match self.validity {
            None => f.write_str("there is none yet")?,
            Some(validity) => {
                let due = self.due.unwrap_or(validity.not_after);
                let end = Timestamp(validity.not_after);
                match self.level {
                    Level::Fine if now < due => write!(f, "valid until {end}, to be renewed at {}", Timestamp(due))?,
                    Level::Fine => write!(f, "valid until {end}, renewal is due")?,
                    Level::Missing => write!(f, "it holds from {} on only", Timestamp(validity.not_before))?,
                    Level::Expired => write!(f, "expired at {end}")?,
                    Level::Late | Level::Warning | Level::Critical => {
                        let left = span(validity.not_after.saturating_sub(now));
                        let overdue = span(now.saturating_sub(due));
                        write!(f, "expires in {left}, at {end}; its renewal is overdue by {overdue}")?;
                    }
                }
            }
        }
        match &self.wait {
            Some(wait) => write!(f, ": {wait}"),
            None => Ok(()),
        }
    }
}

/// Seconds in words, rounded down.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..0 => "0 s".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_long_before_the_end() {
        // (lifetime in hours, due after hours) and, by hours since issuance, the level.
        type Row = (i64, i64, &'static [(i64, Level)]);
        let rows: [Row; 4] = [
            // 90 d, renewal at 60 d: late after 3 d, warning with 10 d, critical with 4.5 d left.
            (
                2160,
                1440,
                &[
                    (0, Level::Fine),
                    (1441, Level::Fine),
                    (1440 + 73, Level::Late),
                    (1440 + 481, Level::Warning),
                    (2160 - 107, Level::Critical),
                    (2161, Level::Expired),
                ],
            ),
            // 160 h, renewal at 107 h.
            (
                160,
                107,
                &[
                    (106, Level::Fine),
                    (113, Level::Late),
                    (143, Level::Warning),
                    (150, Level::Critical),
                    (161, Level::Expired),
                ],
            ),
            // 1 y, renewal 30 d before.
            (
                8760,
                8040,
                &[
                    (8039, Level::Fine),
                    (8040 + 73, Level::Late),
                    (8760 - 239, Level::Warning),
                    (8760 - 143, Level::Critical),
                ],
            ),
            // A lead of a day: never critical before it begins.
            (
                2160,
                2136,
                &[
                    (2135, Level::Fine),
                    (2136, Level::Fine),
                    (2139, Level::Late),
                    (2160 - 7, Level::Warning),
                    (2160 - 4, Level::Critical),
                ],
            ),
        ];
        for (lifetime, due, levels) in rows {
            let validity = Validity { not_before: 0, not_after: lifetime * 3600 };
            for (hour, level) in levels {
                assert_eq!(Level::of(validity, due * 3600, hour * 3600), *level, "{lifetime} h, at {hour}");
            }
        }
    }

    #[test]
    fn spans() {
        for (seconds, text) in [(-5, "0 s"), (59, "59 s"), (125, "2 min"), (7200, "2 h"), (3 * DAY, "3 d")] {
            assert_eq!(span(seconds), text);
        }
    }
}
