//! What may be asked of the certificate thread beside the wanted set: by people (`edgectl cert`) and by other edges.

use std::fmt;

use edge_config::names::CertId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::edges::Shared;
use super::table::Origin;

/// The answer is one line for the person who asked; one that cannot be delivered is dropped.
pub type Answer = oneshot::Sender<Result<String, String>>;

pub enum CertCommand {
    /// Obtain it anew now, ahead of its time; limits of the CA still hold.
    Renew { id: CertId, reply: Answer },
    /// Tell the CA that it must not be trusted any more (RFC 8555 §7.6), and obtain another with a new key.
    Revoke { id: CertId, reason: RevocationReason, reply: Answer },
    /// Take a certificate that was obtained elsewhere, as if it had been ordered here.
    Import { id: CertId, chain_pem: String, key_pem: Zeroizing<String>, reply: Answer },
    /// What serves under this name now.
    Read { id: CertId, with_key: bool, reply: oneshot::Sender<Result<Material, String>> },
    /// Everything in the store that cannot be made again, as a file for [`crate::store::backup`].
    Backup { reply: oneshot::Sender<Result<Vec<u8>, String>> },
    /// Something came from another edge; answered when it is in force (challenges: at all workers).
    Received { shared: Shared, reply: Answer },
    /// All that an edge which comes up may lack: certificates, accounts, orders under way, challenges with what is left
    /// of their time, the memory of the plan.
    Held { reply: oneshot::Sender<Vec<Shared>> },
}

/// A certificate as it is served.
pub struct Material {
    pub origin: Origin,
    /// Leaf first.
    pub chain_pem: String,
    /// Where it was asked for.
    pub key_pem: Option<Zeroizing<String>>,
}

/// RFC 5280 §5.3.1, those that RFC 8555 lets an account use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationReason {
    #[default]
    Unspecified,
    KeyCompromise,
    AffiliationChanged,
    Superseded,
    CessationOfOperation,
}

impl fmt::Debug for CertCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renew { id, .. } => write!(f, "Renew({id})"),
            Self::Revoke { id, reason, .. } => write!(f, "Revoke({id}, {reason:?})"),
            Self::Import { id, .. } => write!(f, "Import({id}, [redacted])"),
            Self::Read { id, with_key, .. } => write!(f, "Read({id}, with_key: {with_key})"),
            Self::Backup { .. } => f.write_str("Backup"),
            Self::Received { .. } => f.write_str("Received([redacted])"),
            Self::Held { .. } => f.write_str("Held"),
        }
    }
}
