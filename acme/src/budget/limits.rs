//! The limits that CAs publish. Figures of Let's Encrypt as of 2026-07 (letsencrypt.org/docs/rate-limits and
//! …/docs/staging-environment).

use std::time::Duration;

use super::Limit;
use crate::due::seconds;

/// So many, and as many again after the period; in between one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period: Duration,
}

impl Rate {
    pub const fn new(count: u32, period_seconds: u64) -> Self {
        Self { count, period: Duration::from_secs(period_seconds) }
    }

    /// Seconds until one more may be had; rounded up, so that Edge is never the faster clock.
    pub(super) fn interval(self) -> i64 {
        let count = i64::from(self.count.max(1));
        let period = seconds(self.period).min(i64::MAX / 4);
        (period / count + i64::from(period % count != 0)).max(1)
    }
}

/// `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub new_accounts: Option<Rate>,
    pub new_orders: Option<Rate>,
    pub per_domain: Option<Rate>,
    pub exact_set: Option<Rate>,
    pub authorization_failures: Option<Rate>,
    /// How many of the exact set are kept for the operator: a loop that orders the same certificate again and again
    /// (two edges that both think they order, a store that forgets) must not lock the name out for a week.
    pub exact_set_kept: u32,
    /// Renewals that are in no hurry.
    pub pace: Option<Rate>,
}

const HOUR: u64 = 3600;
const WEEK: u64 = 7 * 24 * HOUR;

impl Limits {
    pub const NONE: Self = Self {
        new_accounts: None,
        new_orders: None,
        per_domain: None,
        exact_set: None,
        authorization_failures: None,
        exact_set_kept: 0,
        pace: Some(Rate::new(120, HOUR)),
    };

    pub const LETS_ENCRYPT: Self = Self {
        new_accounts: Some(Rate::new(10, 3 * HOUR)),
        new_orders: Some(Rate::new(300, 3 * HOUR)),
        per_domain: Some(Rate::new(50, WEEK)),
        exact_set: Some(Rate::new(5, WEEK)),
        authorization_failures: Some(Rate::new(5, HOUR)),
        exact_set_kept: 3,
        pace: Some(Rate::new(120, HOUR)),
    };

    pub const LETS_ENCRYPT_STAGING: Self = Self {
        new_accounts: Some(Rate::new(50, 3 * HOUR)),
        new_orders: Some(Rate::new(1_500, 3 * HOUR)),
        per_domain: Some(Rate::new(30_000, WEEK)),
        exact_set: Some(Rate::new(30_000, WEEK)),
        authorization_failures: Some(Rate::new(200, HOUR)),
        exact_set_kept: 0,
        pace: Some(Rate::new(120, HOUR)),
    };

    /// What is known of the CA with this directory.
    pub fn of(directory: &str) -> Self {
        let host = directory.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':', '?', '#']).next().unwrap_or_default();
        match host.to_ascii_lowercase().as_str() {
            "acme-v02.api.letsencrypt.org" => Self::LETS_ENCRYPT,
            "acme-staging-v02.api.letsencrypt.org" => Self::LETS_ENCRYPT_STAGING,
            _ => Self::NONE,
        }
    }

    pub fn rate(&self, limit: Limit) -> Option<Rate> {
        match limit {
            Limit::NewAccounts => self.new_accounts,
            Limit::NewOrders => self.new_orders,
            Limit::PerDomain => self.per_domain,
            Limit::ExactSet => self.exact_set,
            Limit::AuthorizationFailures => self.authorization_failures,
            Limit::Pace => self.pace,
        }
    }

    pub(super) fn kept(&self, limit: Limit) -> u32 {
        match limit {
            Limit::ExactSet => self.exact_set_kept,
            _ => 0,
        }
    }
}
