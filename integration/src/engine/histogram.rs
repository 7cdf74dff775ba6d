//! Latencies in a table of fixed size: 128 steps for each power of two of nanoseconds, so under 1 % error.

use std::time::Duration;

const STEPS: usize = 128;

#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (p50 {:?}, p99 {:?})", self.total, self.quantile(0.5), self.quantile(0.99))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * 58], total: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(STEPS as u64);
        let power = nanos.ilog2() - STEPS.ilog2();
        let step = (nanos >> power) as usize - STEPS;
        if let Some(count) = self.counts.get_mut(power as usize * STEPS + step) {
            *count += 1;
            self.total += 1;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// The time that this share of the exchanges took at most.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.total as f64 * share) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen > wanted.min(self.total.saturating_sub(1)) {
                return Duration::from_nanos(((STEPS + index % STEPS) as u64) << (index / STEPS));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_percent() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        for micros in 1..=100_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let off = histogram.quantile(share).as_secs_f64() * 1e6 / micros - 1.0;
            assert!(off.abs() < 0.01, "{share}: off by {off}");
        }
    }
}
