//! Whether anything may be told to the network at this moment, asked of whoever withdraws us when we cannot.
//!
//! We may be stopped anywhere and go on much later, with everything that was told taken back behind our back. So
//! whoever acts on what it read before asks right before the act, and compares the answer with the one from when it
//! began: a withdrawal between the two makes what was read worthless, whatever the answer is now.

use std::fmt;
use std::sync::Arc;

/// A question that is answered at once, from any thread.
#[derive(Clone)]
pub struct Permit(Arc<dyn Fn() -> Option<u64> + Send + Sync>);

impl Permit {
    /// `ask` answers with a number that changes whenever something was withdrawn behind our back and is known to us;
    /// `None`: nothing may be told, as something may have been withdrawn that is not known yet.
    pub fn new(ask: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Nobody withdraws anything.
    pub fn unconditional() -> Self {
        Self::new(|| Some(0))
    }

    pub fn standing(&self) -> Option<u64> {
        (self.0)()
    }

    /// Whether what was begun at `standing` may still take effect.
    pub fn holds_since(&self, standing: Option<u64>) -> bool {
        standing.is_some() && self.standing() == standing
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?})", self.standing())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_was_begun_before_a_withdrawal_has_no_effect_after_it() {
        let now = Arc::new(AtomicU64::new(1));
        let asked = now.clone();
        // 0 stands for no permit.
        let permit = Permit::new(move || Some(asked.load(Ordering::Relaxed)).filter(|number| *number > 0));
        let begun = permit.standing();
        assert!(permit.holds_since(begun));
        now.store(0, Ordering::Relaxed);
        assert!(!permit.holds_since(begun) && !permit.holds_since(permit.standing()));
        now.store(2, Ordering::Relaxed);
        assert!(!permit.holds_since(begun) && permit.holds_since(permit.standing()));
        assert!(Permit::unconditional().holds_since(Some(0)));
    }
}
