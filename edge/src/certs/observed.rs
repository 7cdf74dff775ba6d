//! What is seen of certificates that come from ACME CAs: how each stands, and how Edge stands with each CA.
//!
//! Plain values for status, metrics, `edgectl cert` and the API server's conditions; made by the certificate thread only.

use std::collections::BTreeMap;
use std::time::SystemTime;

use edge_acme::budget::Usage;
use edge_acme::failure::Class;
use edge_acme::level::Level;
use edge_acme::plan::Wait;
use edge_config::issuer::IssuerId;
use edge_config::names::CertId;

/// Of everything that is ordered from ACME CAs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcmeObserved {
    pub certificates: BTreeMap<CertId, AcmeState>,
    /// Every issuer that is configured.
    pub issuers: BTreeMap<IssuerId, IssuerState>,
    /// What is spent of the limits of CAs: whatever is not full.
    pub budget: Vec<Usage>,
}

/// How one certificate stands with its CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeState {
    /// Who issued what is held; `None`: nothing is.
    pub issuer: Option<IssuerId>,
    pub step: AcmeStep,
    /// Tries in a row that failed.
    pub failures: u32,
    pub last_error: Option<AcmeError>,
    /// What was found wrong before the CA was asked, one line each.
    pub findings: Vec<String>,
    /// What else was seen then, one line each.
    pub seen: Vec<String>,
    pub level: Level,
    pub alarm: Alarm,
    /// How it stands, in one sentence.
    pub standing: String,
    /// What it waits for, as the plan has it.
    pub wait: Option<Wait>,
    pub window: Option<Window>,
}

/// When the CA wants it renewed (RFC 9773 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub start: SystemTime,
    pub end: SystemTime,
    /// A page that says why.
    pub explanation: Option<String>,
    /// When it is asked again.
    pub ask_again: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcmeStep {
    /// There is one, and nothing is due before this moment.
    Held { renews_at: Option<SystemTime> },
    /// Something is due and cannot be done now.
    Waiting { why: String, until: Option<SystemTime> },
    /// An order is under way.
    Ordering { issuer: IssuerId, doing: String, since: SystemTime },
    /// Another edge orders it.
    Elsewhere { edge: String },
}

/// The last failure, as one sentence with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeError {
    pub at: SystemTime,
    pub issuer: IssuerId,
    pub text: String,
    pub class: Class,
    /// Step, problem and place, in the CA's words where it had some.
    pub said: String,
}

/// How pressing it is that a certificate is not renewed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    #[default]
    None,
    /// A renewal is overdue, or there is nothing yet.
    Notice,
    Warning,
    Critical,
}

impl Alarm {
    pub fn of(level: Level) -> Self {
        match level {
            Level::Fine => Self::None,
            Level::Late => Self::Notice,
            Level::Warning | Level::Missing => Self::Warning,
            Level::Critical | Level::Expired => Self::Critical,
        }
    }
}

/// How Edge stands with a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerState {
    /// The account's URL, once there is an account.
    pub account: Option<String>,
    /// The first contact that the CA has.
    pub contact: Option<Box<str>>,
    /// RFC 7638, of the account's key.
    pub thumbprint: Option<String>,
    /// Secrets that it names are not read yet: whether there is an account will be seen.
    pub awaits_secrets: bool,
    /// Why there is no account, or why the last call came to nothing.
    pub error: Option<String>,
    /// Nothing is asked of the CA before this moment, as it wished.
    pub paused_until: Option<SystemTime>,
    pub tally: Tally,
}

/// Orders that ended at this edge since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub obtained: u64,
    pub failed: BTreeMap<Class, u64>,
}
