//! Who of a group acts for all of it: what this edge knows of the Leases, and who may order certificates by that. Pure.
//!
//! While nobody reaches the API server no Lease changes hands, and certificates must be renewed all the same: the edge that
//! held the Lease last goes on ordering. Where others are, it may be cut off alone while one of them takes over; so it
//! waits, and what an error would cost is one order too many for each certificate that is due.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::status::fleet::Peer;
use crate::certs::edges::Orders;

/// Others order long before, if they reach the API server.
const PATIENCE: Duration = Duration::from_secs(600);

/// What this edge knows of the group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// This edge may write until then, unless it renews.
    pub writer_until: Option<Instant>,
    /// The edge that writes, if there is one.
    pub writer: Option<String>,
    /// Other edges that are alive.
    pub peers: Vec<Peer>,
    /// Why Leases cannot be kept, in one line.
    pub trouble: Option<String>,
    pub tenure: Tenure,
    /// Since when the API server is away.
    pub cut_off_since: Option<Instant>,
}

/// What was known of the Lease when the API server was heard last. Kept over a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// This edge held it.
    pub is_ours: bool,
    /// Others were alive that could.
    pub has_others: bool,
}

impl Tenure {
    pub fn encode(self) -> Vec<u8> {
        // Two booleans are always JSON.
        serde_json::to_vec(&self).unwrap_or_default()
    }

    /// One that cannot be read is none.
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}

impl View {
    pub fn may_write(&self, now: Instant) -> bool {
        self.writer_until.is_some_and(|until| now < until)
    }

    /// Whether it orders without a Lease, for nobody can have one.
    fn goes_on(&self, now: Instant) -> bool {
        let patience = if self.tenure.has_others { PATIENCE } else { Duration::ZERO };
        self.tenure.is_ours && self.cut_off_since.is_some_and(|since| now >= since + patience)
    }

    fn orders(&self, now: Instant) -> Orders {
        if self.may_write(now) || self.goes_on(now) {
            return Orders::Here;
        }
        match (&self.writer, &self.trouble) {
            // The instance is the name and a number.
            (Some(writer), _) => {
                Orders::Elsewhere(writer.rsplit_once('_').map_or(&**writer, |(name, _)| name).to_owned())
            }
            (None, Some(why)) => Orders::Unknown(why.clone()),
            (None, None) => Orders::Unknown("no edge holds the Lease yet".to_owned()),
        }
    }
}

/// Who writes for the group, for those that must ask before they act: orders of certificates, above all.
#[derive(Clone)]
pub struct Leadership(pub(super) watch::Receiver<View>);

impl Leadership {
    /// Who orders from CAs now. What is said holds at this moment; who is to act for long asks again.
    pub fn orders(&self) -> Orders {
        self.0.borrow().orders(Instant::now())
    }

    /// What is to be kept over a restart.
    pub fn tenure(&self) -> Tenure {
        self.0.borrow().tenure
    }

    /// Waits until the answer may be another one; `false`: there will be none any more.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_orders() {
        let now = Instant::now();
        let view = |writer: Option<&str>, is_here: bool, trouble: Option<&str>| View {
            writer_until: is_here.then(|| now + Duration::from_secs(10)),
            writer: writer.map(str::to_owned),
            trouble: trouble.map(str::to_owned),
            ..View::default()
        };
        let away = "the API server is away";
        let cut_off = |is_ours, has_others, seconds| View {
            tenure: Tenure { is_ours, has_others },
            cut_off_since: now.checked_sub(Duration::from_secs(seconds)),
            ..view(None, false, Some(away))
        };
        for (view, expected) in [
            (view(Some("a_01234567"), true, None), Orders::Here),
            (view(Some("b_01234567"), false, None), Orders::Elsewhere("b".into())),
            (view(None, false, Some(away)), Orders::Unknown(away.into())),
            (view(None, false, None), Orders::Unknown("no edge holds the Lease yet".into())),
            (cut_off(true, false, 0), Orders::Here),
            (cut_off(true, true, 599), Orders::Unknown(away.into())),
            (cut_off(true, true, 600), Orders::Here),
            (cut_off(false, false, 600), Orders::Unknown(away.into())),
            (View { cut_off_since: None, ..cut_off(true, false, 0) }, Orders::Unknown(away.into())),
        ] {
            assert_eq!(view.orders(now), expected, "{view:?}");
        }
    }

    #[test]
    fn a_tenure_comes_back() {
        for tenure in [Tenure { is_ours: true, has_others: false }, Tenure { is_ours: false, has_others: true }] {
            assert_eq!(Tenure::decode(&tenure.encode()), tenure);
        }
        assert_eq!(Tenure::decode(b"{"), Tenure::default());
    }
}
