//! What asking authorities came to, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use super::Known;
use crate::proxy::metrics::{MetricType, Text};

#[derive(Debug, Default)]
pub struct Tally {
    pub fetched: AtomicU64,
    pub not_fetched: AtomicU64,
    pub discovered: AtomicU64,
    pub not_discovered: AtomicU64,
    pub logins: Outcomes,
    pub refreshes: Outcomes,
    /// Sessions that were prolonged by what somebody else had asked for.
    pub shared: AtomicU64,
}

#[derive(Debug, Default)]
pub struct Outcomes {
    pub granted: AtomicU64,
    pub denied: AtomicU64,
    pub invalid: AtomicU64,
    pub away: AtomicU64,
}

impl Tally {
    /// Appends the families to a page, where there is anything to tell.
    pub fn write(&self, known: &Known, text: &mut Text) {
        let now = SystemTime::now();
        let keys = known.key_sets();
        if !keys.is_empty() {
            text.family("edge_jwks_keys", MetricType::Gauge, "Keys of a remote key set that are in force.");
            for (of, state) in &keys {
                text.sample(&[("uri", &of.uri)], state.set.as_ref().map_or(0, |set| set.len()));
            }
            text.family(
                "edge_jwks_up",
                MetricType::Gauge,
                "1 while a remote key set could be fetched when it was due.",
            );
            for (of, state) in &keys {
                text.sample(&[("uri", &of.uri)], u8::from(state.set.is_some() && state.trouble.is_none()));
            }
            text.family("edge_jwks_age_seconds", MetricType::Gauge, "Since a remote key set was fetched.");
            for (of, state) in &keys {
                let age = state.fetched.and_then(|at| now.duration_since(at).ok());
                if let Some(age) = age {
                    text.sample(&[("uri", &of.uri)], age.as_secs());
                }
            }
        }
        let providers = known.providers();
        if !providers.is_empty() {
            text.family("edge_oidc_provider_up", MetricType::Gauge, "1 while an OpenID provider can be discovered.");
            for (of, state) in &providers {
                text.sample(&[("issuer", &of.issuer)], u8::from(state.trouble.is_none()));
            }
        }
        let counted = |text: &mut Text, name: &str, help: &str, good: &AtomicU64, bad: &AtomicU64| {
            let (good, bad) = (good.load(Relaxed), bad.load(Relaxed));
            if good + bad > 0 {
                text.family(name, MetricType::Counter, help);
                text.sample(&[("outcome", &"success")], good);
                text.sample(&[("outcome", &"failure")], bad);
            }
        };
        counted(text, "edge_jwks_fetches", "Fetches of remote key sets.", &self.fetched, &self.not_fetched);
        let help = "Fetches of discovery documents.";
        counted(text, "edge_oidc_discoveries", help, &self.discovered, &self.not_discovered);
        for (name, help, outcomes) in [
            ("edge_oidc_logins", "Codes that were exchanged for tokens, by outcome.", &self.logins),
            ("edge_oidc_refreshes", "Refresh tokens that were exchanged for tokens, by outcome.", &self.refreshes),
        ] {
            let all = [
                ("granted", &outcomes.granted),
                ("denied", &outcomes.denied),
                ("invalid", &outcomes.invalid),
                ("away", &outcomes.away),
            ];
            if all.iter().any(|(_, count)| count.load(Relaxed) > 0) {
                text.family(name, MetricType::Counter, help);
                for (outcome, count) in all {
                    text.sample(&[("outcome", &outcome)], count.load(Relaxed));
                }
            }
        }
        let shared = self.shared.load(Relaxed);
        if shared > 0 {
            text.family("edge_oidc_refreshes_shared", MetricType::Counter, "Requests that shared a refresh.");
            text.sample(&[], shared);
        }
    }
}
