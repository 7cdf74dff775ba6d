//! A line per promise: what was measured, what was wanted, and whether it holds.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Clone)]
struct Line {
    what: String,
    measured: String,
    wanted: String,
    holds: Option<bool>,
}

#[derive(Debug, Clone, Default)]
pub struct Findings {
    lines: Vec<Line>,
    is_quiet: bool,
}

impl Findings {
    /// Says each line on standard error as it is found.
    pub fn aloud() -> Self {
        Self::default()
    }

    fn add(&mut self, line: Line) {
        if !self.is_quiet {
            let verdict = match line.holds {
                Some(true) => "holds",
                Some(false) => "DOES NOT HOLD",
                None => "",
            };
            eprintln!("  {}: {} {} {verdict}", line.what, line.measured, line.wanted);
        }
        self.lines.push(line);
    }

    /// A figure without a goal.
    pub fn note(&mut self, what: impl Into<String>, measured: impl Into<String>) {
        self.add(Line { what: what.into(), measured: measured.into(), wanted: String::new(), holds: None });
    }

    pub fn check(
        &mut self,
        what: impl Into<String>,
        measured: impl Into<String>,
        wanted: impl Into<String>,
        holds: bool,
    ) {
        self.add(Line { what: what.into(), measured: measured.into(), wanted: wanted.into(), holds: Some(holds) });
    }

    /// No failures, whose reasons are told.
    pub fn none(&mut self, what: impl Into<String>, of: u64, failures: &BTreeMap<String, u64>) {
        let failed: u64 = failures.values().sum();
        let reasons: Vec<String> = failures.iter().map(|(reason, times)| format!("{times} x {reason}")).collect();
        let measured = match reasons.as_slice() {
            [] => format!("0 of {of}"),
            reasons => format!("{failed} of {of}: {}", reasons.join(", ")),
        };
        self.check(what, measured, "0", failed == 0 && of > 0);
    }

    pub fn hold(&self) -> bool {
        self.lines.iter().all(|line| line.holds != Some(false))
    }

    /// What does not hold, a line each.
    pub fn broken(&self) -> Vec<String> {
        let broken = self.lines.iter().filter(|line| line.holds == Some(false));
        broken.map(|line| format!("{}: {} instead of {}", line.what, line.measured, line.wanted)).collect()
    }

    /// A Markdown table.
    pub fn table(&self) -> String {
        let mut text = "| what | measured | wanted | |\n| --- | --- | --- | --- |\n".to_owned();
        for line in &self.lines {
            let holds = match line.holds {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "",
            };
            text.push_str(&format!("| {} | {} | {} | {holds} |\n", line.what, line.measured, line.wanted));
        }
        text
    }
}

/// Times in order, for quantiles of a few hundred of them.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        let place = self.0.partition_point(|known| *known <= time);
        self.0.insert(place, time);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share took at most.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(wanted.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub fn most(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |share| millis(self.quantile(share));
        write!(f, "p50 {} p99 {} max {} ({} times)", at(0.5), at(0.99), millis(self.most()), self.count())
    }
}

/// As people read it.
pub fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.5), Duration::ZERO);
        for millis in [30, 10, 20, 40] {
            times.add(Duration::from_millis(millis));
        }
        assert_eq!(times.quantile(0.5), Duration::from_millis(20));
        assert_eq!(times.quantile(0.99), Duration::from_millis(40));
        assert_eq!(times.to_string(), "p50 20 ms p99 40 ms max 40 ms (4 times)");
    }

    #[test]
    fn one_line_that_does_not_hold_is_enough() {
        let mut findings = Findings { is_quiet: true, ..Findings::default() };
        findings.note("memory", "7 MB");
        findings.none("failed", 10, &BTreeMap::new());
        assert!(findings.hold());
        findings.none("failed", 10, &BTreeMap::from([("status 503".to_owned(), 2)]));
        assert_eq!(findings.broken(), ["failed: 2 of 10: 2 x status 503 instead of 0"]);
        assert!(findings.table().contains("| failed | 2 of 10: 2 x status 503 | 0 | **no** |"));
    }
}
