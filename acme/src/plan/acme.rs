//! What planning knows of ACME CAs and of orders, and what it wants of them.

use std::collections::{BTreeMap, BTreeSet};

use edge_config::issuer::{AcmeIssuer, IssuerId};
use edge_config::names::CertId;
use serde::{Deserialize, Serialize};

use super::{MadeFor, Reason};
use crate::budget::{Charge, Limits};
use crate::memory::Memory;

/// Orders at one CA at a time.
pub const CONCURRENT: usize = 16;

/// The ACME side of what a plan depends on. The default knows no CA.
#[derive(Clone, Copy)]
pub struct AcmeInput<'a> {
    /// Every issuer that is configured.
    pub issuers: &'a BTreeMap<IssuerId, IssuerState>,
    /// Orders of the journal: those that run here, and those that are to be gone on with.
    pub under_way: &'a BTreeMap<CertId, UnderWay>,
    /// Certificates whose renewal window is being asked for.
    pub polling: &'a BTreeSet<CertId>,
    pub memory: &'a Memory,
    /// The edge that orders instead of this one, or why nobody is known to; `None`: this one orders.
    pub elsewhere: Option<&'a str>,
}

impl Default for AcmeInput<'_> {
    fn default() -> Self {
        static ISSUERS: BTreeMap<IssuerId, IssuerState> = BTreeMap::new();
        static UNDER_WAY: BTreeMap<CertId, UnderWay> = BTreeMap::new();
        static POLLING: BTreeSet<CertId> = BTreeSet::new();
        static MEMORY: Memory = Memory::new();
        Self { issuers: &ISSUERS, under_way: &UNDER_WAY, polling: &POLLING, memory: &MEMORY, elsewhere: None }
    }
}

/// How Edge stands with a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerState {
    /// URL.
    pub directory: Box<str>,
    /// Of the issuer; that of the wish goes before it.
    pub profile: Option<Box<str>>,
    /// URL of the account; `None`: it is made with the first order.
    pub account: Option<Box<str>>,
    /// Whether the CA tells renewal windows (RFC 9773): its directory says so.
    pub tells_windows: bool,
    pub limits: Limits,
    /// Orders at a time.
    pub concurrent: usize,
    /// Why it cannot be used until something here changes.
    pub unusable: Option<String>,
    /// Stands for all settings of the issuer: other settings are worth another try.
    pub settings: u64,
}

impl IssuerState {
    /// As configured, with the limits that are published for its directory; nothing is known of an account.
    pub fn of(issuer: &AcmeIssuer) -> Self {
        let mut settings = 0xcbf2_9ce4_8422_2325_u64;
        let text = serde_json::to_vec(issuer).unwrap_or_default();
        for byte in text.iter().chain(issuer.trust.iter().flat_map(|trust| trust.iter())) {
            settings = (settings ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self {
            directory: issuer.directory.clone(),
            profile: issuer.profile.clone(),
            account: None,
            tells_windows: false,
            limits: Limits::of(&issuer.directory),
            concurrent: CONCURRENT,
            unusable: None,
            settings,
        }
    }
}

/// An order that was begun and is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    pub issuer: IssuerId,
    /// What it is for; another wish begins another order.
    pub attempt: MadeFor,
    /// Whether it names the certificate that it replaces.
    pub replaces: bool,
    /// Unix seconds.
    pub since: i64,
    /// Whether it runs here and now; after a restart, and at another edge, it does not.
    #[serde(skip)]
    pub running: bool,
}

/// An order to be made, or to be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOrder {
    pub id: CertId,
    /// Position in the list of wanted certificates.
    pub index: usize,
    pub issuer: IssuerId,
    pub reason: Reason,
    pub start: Start,
    /// Whether the key that is held is used again. An order that is gone on with has its key already.
    pub keep_key: bool,
    /// What it is made for.
    pub attempt: MadeFor,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    New {
        /// What is spent by it.
        charge: Charge,
        /// RFC 9773 §5: the identifier of the certificate that it replaces.
        replaces: Option<Box<str>>,
    },
    /// Its journal record says how far it is. Nothing more is spent.
    Resume { replaces: bool },
}

impl PlannedOrder {
    /// What it is while it runs.
    pub fn under_way(&self, now: i64) -> UnderWay {
        let replaces = match &self.start {
            Start::New { replaces, .. } => replaces.is_some(),
            Start::Resume { replaces } => *replaces,
        };
        UnderWay { issuer: self.issuer.clone(), attempt: self.attempt.clone(), replaces, since: now, running: true }
    }
}

/// A renewal window to be asked for; the answer goes to [`Memory::window`] or [`Memory::window_failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    pub id: CertId,
    pub issuer: IssuerId,
    /// RFC 9773 §4.1.
    pub ari_id: Box<str>,
}
