//! What the writer counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use edge_config::names::Kind;

use crate::proxy::metrics::{MetricType, Text};

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Written,
    Conflict,
    Gone,
    Refused,
    Unavailable,
    /// Written, after somebody undid the same before.
    Undone,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Undone => "undone",
        }
    }
}

#[derive(Default)]
pub struct Counters {
    writes: Mutex<BTreeMap<(Kind, Outcome), u64>>,
    is_writer: AtomicBool,
    backlog: AtomicUsize,
}

impl Counters {
    pub fn count(&self, kind: Kind, outcome: Outcome) {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, outcome)).or_default() += 1;
    }

    pub fn note(&self, is_writer: bool, backlog: usize) {
        self.is_writer.store(is_writer, Ordering::Relaxed);
        self.backlog.store(backlog, Ordering::Relaxed);
    }

    pub fn is_writer(&self) -> bool {
        self.is_writer.load(Ordering::Relaxed)
    }

    /// Appends the families to a page.
    pub fn write(&self, text: &mut Text) {
        text.family(
            "edge_kubernetes_status_writes",
            MetricType::Counter,
            "Writes to the Kubernetes API, of Secrets and of the status of all other kinds, by kind and how they ended.",
        );
        for ((kind, outcome), count) in &*self.writes.lock().unwrap_or_else(PoisonError::into_inner) {
            text.sample(&[("kind", kind), ("result", &outcome.as_str())], *count);
        }
        text.family(
            "edge_kubernetes_status_writer",
            MetricType::Gauge,
            "1 while this edge is the one that writes status.",
        );
        text.sample(&[], u8::from(self.is_writer()));
        text.family(
            "edge_kubernetes_status_backlog",
            MetricType::Gauge,
            "Objects whose status is still to be looked at.",
        );
        text.sample(&[], self.backlog.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::metrics::Format;

    #[test]
    fn a_page() {
        let counters = Counters::default();
        counters.count(Kind::Gateway, Outcome::Written);
        counters.count(Kind::Gateway, Outcome::Written);
        counters.count(Kind::HTTPRoute, Outcome::Conflict);
        counters.note(true, 3);
        let mut text = Text::new(Format::Prometheus);
        counters.write(&mut text);
        let page = text.finish();
        for line in [
            "edge_kubernetes_status_writes_total{kind=\"Gateway\",result=\"written\"} 2",
            "edge_kubernetes_status_writes_total{kind=\"HTTPRoute\",result=\"conflict\"} 1",
            "edge_kubernetes_status_writer 1",
            "edge_kubernetes_status_backlog 3",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }
}
