//! What users see of certificates: plain rows, the same for `edgectl`, the API and scripts. Fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::control::view::{Health, State};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateList {
    pub edge: String,
    /// The edge that orders from ACME CAs; absent where there is no fleet, or nobody is known to.
    pub orders: Option<String>,
    /// The most urgent first.
    pub certificates: Vec<CertificateRow>,
}

/// How one certificate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    /// The reason is cause and remedy in one sentence.
    #[serde(flatten)]
    pub health: Health,
    /// `namespace/name` of the Secret.
    pub certificate: String,
    /// Those that are wanted; where nobody says, those that it bears.
    pub names: Vec<String>,
    pub served: Served,
    /// `fine`, `late`, `warning`, `critical`, `missing`, `expired`: how pressing a renewal is.
    pub level: String,
    /// Who may issue it, in this order.
    pub issuers: Vec<String>,
    /// Which of them issued what is held.
    pub issued_by: Option<String>,
    /// RFC 3339, UTC, as all times here.
    pub not_before: Option<String>,
    pub not_after: Option<String>,
    /// Negative when it has ended.
    pub seconds_left: Option<i64>,
    pub renews_at: Option<String>,
    pub window: Option<Window>,
    /// `held`, `waiting`, `ordering: …`, `elsewhere: …`
    pub step: String,
    /// Tries in a row that failed.
    pub failures: u32,
    pub last_failure: Option<Failure>,
    pub next_try: Option<String>,
    /// The edge that orders; absent where there is no fleet, or nobody is known to.
    pub orders: Option<String>,
    /// Listeners that serve it, as `ns/gateway/listener`.
    pub used_by: Vec<String>,
}

impl CertificateRow {
    /// What orders rows: what is worst, then what ends soonest.
    pub fn urgency(&self) -> (State, i64, &str) {
        (self.health.state, self.seconds_left.unwrap_or(i64::MIN), &self.certificate)
    }
}

/// What clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Served {
    /// What is wanted.
    Real,
    /// The one before: its renewal, or a change, has failed.
    LastGood,
    /// One of the internal CA, in place of an issuer that cannot, or is not asked for such names.
    StandIn,
    /// One of the internal CA for a week, until there is a certificate.
    Placeholder,
    Nothing,
}

impl Served {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::LastGood => "last good",
            Self::StandIn => "stand-in",
            Self::Placeholder => "placeholder",
            Self::Nothing => "nothing",
        }
    }
}

/// When the CA wants it renewed (RFC 9773).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub start: String,
    pub end: String,
    /// A page of the CA that says why.
    pub explanation: Option<String>,
    pub asked_again: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub at: String,
    pub issuer: String,
    /// `config`, `validation`, `limited`, `transient`, `ours`
    pub class: String,
    /// Cause and remedy.
    pub sentence: String,
    /// Step, problem and place in the CA's words; empty where only the sentence is remembered.
    pub said: String,
}

/// One certificate with all there is to see of it but its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    #[serde(flatten)]
    pub row: CertificateRow,
    /// Where it lies.
    pub kept_in: String,
    /// Listeners and Certificates.
    pub wanted_by: Vec<String>,
    /// The kind of key that is wanted.
    pub key: Option<String>,
    pub profile: Option<String>,
    /// What is served, the leaf first.
    pub chain: Vec<Link>,
    /// Why there is no chain.
    pub chain_fault: Option<String>,
    /// What was found wrong before the CA was asked last.
    pub findings: Vec<String>,
    /// What else was seen then.
    pub seen: Vec<String>,
    pub accounts: Vec<Account>,
    /// What an order for it would take from, as if it were the first.
    pub budget: Vec<BudgetRow>,
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal.
    pub serial: String,
    pub not_before: String,
    pub not_after: String,
    /// Of its DER, lower-case hexadecimal.
    pub sha256: String,
}

/// How Edge stands with a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub issuer: String,
    /// URL.
    pub directory: String,
    /// URL; absent until there is one.
    pub account: Option<String>,
    /// RFC 7638, of the account's key.
    pub thumbprint: Option<String>,
    /// Why there is no account, or why the last call came to nothing.
    pub error: Option<String>,
    pub paused_until: Option<String>,
}

impl Account {
    /// One line.
    pub fn text(&self) -> String {
        let account = self.account.as_deref().unwrap_or("no account yet");
        let mut text = format!("{} at {}: {account}", self.issuer, self.directory);
        if let Some(error) = &self.error {
            text.push_str(&format!("; {error}"));
        }
        if let Some(until) = &self.paused_until {
            text.push_str(&format!("; not asked before {until}"));
        }
        text
    }
}

/// `edgectl cert budget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub accounts: Vec<Account>,
    /// Of CAs with published limits, and what Edge keeps to by itself.
    pub limits: Vec<BudgetRow>,
}

/// How much of a limit of a CA is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRow {
    /// Host of its directory.
    pub ca: String,
    /// `new orders`, `certificates per registered domain`, …
    pub limit: String,
    /// Whose: an issuer, a registered domain, a set of names, a name.
    pub of: String,
    pub used: u32,
    pub most: u32,
    pub left: u32,
    /// So many in this time: `7d`.
    pub per: String,
    /// When one more can be had; absent: now.
    pub next: Option<String>,
    /// When all can be had again; absent: now.
    pub full_at: Option<String>,
    /// The CA itself refuses until then.
    pub refused_until: Option<String>,
    /// Certificates that are wanted, not there yet, and will take from it.
    pub waiting: usize,
}

impl BudgetRow {
    /// One line.
    pub fn text(&self) -> String {
        let of = if self.of.is_empty() { String::new() } else { format!(" of {}", self.of) };
        let mut text = format!("{}{of}: {} of {} left, per {}", self.limit, self.left, self.most, self.per);
        if let Some(refused) = &self.refused_until {
            text.push_str(&format!("; the CA refuses until {refused}"));
        } else if let Some(next) = &self.next {
            text.push_str(&format!("; one more at {next}"));
        }
        text
    }
}

/// Why a certificate is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateWhy {
    /// Cause and remedy; one line without full stop.
    pub sentence: String,
    pub cause: Cause,
    #[serde(flatten)]
    pub row: CertificateRow,
    pub evidence: Vec<Evidence>,
}

/// Where the sentence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing is wrong.
    Fine,
    /// An order is under way.
    Ordering,
    /// An order failed, and is tried again; [`Failure`] says at what.
    OrderFailed,
    /// The CA is down or wants no calls.
    CaDown,
    /// A limit of the CA would be exceeded.
    Budget,
    /// The issuer is missing, half written, or lacks its secrets.
    Issuer,
    /// Another edge orders it.
    Elsewhere,
    /// No edge is known to order.
    NobodyOrders,
    /// cert-manager issues it.
    Deferred,
    /// No public CA issues for such a name.
    NotPublic,
    /// No CA or solver can issue for such a name.
    NotIssuable,
    /// A Secret that somebody else writes is missing, broken or ending.
    Secret,
    Clock,
    /// A local CA cannot sign.
    LocalCa,
    /// edged has not looked at it yet.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub about: String,
    pub text: String,
}
