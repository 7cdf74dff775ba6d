//! What certificates need of the other edges of a fleet: who orders, and that all serve the same.
//!
//! One edge orders, every edge answers challenges and serves what was issued. In: who may order now. Out: what the
//! others must have before the CA asks them ([`Shared`]). Alone ([`Alone`]), an edge orders and has nobody to tell.
//! Kubernetes (Lease, Secrets) and a static list of edges (mTLS between them) are two ways to be several.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use edge_acme::challenge::Challenge;
use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use zeroize::Zeroizing;

use crate::store::StoredCertificate;

/// Who orders from CAs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orders {
    Here,
    /// The name of the edge.
    Elsewhere(String),
    /// Why nobody is known to.
    Unknown(String),
}

/// Something that all edges must have.
#[derive(Clone)]
pub enum Shared {
    Certificate {
        id: CertId,
        stored: StoredCertificate,
    },
    /// The account of an issuer: key and URL, as the store keeps it.
    Account {
        issuer: IssuerId,
        record: Zeroizing<Vec<u8>>,
    },
    /// An order under way, with its key, so that another edge can end it; `None`: it is over.
    Order {
        id: CertId,
        record: Option<Zeroizing<Vec<u8>>>,
    },
    /// To be answered by all until it is taken back, or for so long.
    Challenge {
        challenge: Challenge,
        lifetime: Duration,
    },
    ChallengeOver(Challenge),
    /// What the plan remembers of CAs (limits used, failures); whoever receives it merges it with its own.
    Memory(Vec<u8>),
    /// Keys of TLS session tickets, newest first, with their times (opaque to the carrier).
    TicketKeys(Zeroizing<Vec<u8>>),
}

/// What became of a [`Shared`] at one other edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub edge: String,
    pub result: Result<(), String>,
}

pub type Deliveries<'a> = Pin<Box<dyn Future<Output = Vec<Delivery>> + Send + 'a>>;

/// The others. Implementations hand what they receive to the certificate thread by its mailbox.
pub trait Edges: Send + Sync {
    fn orders(&self) -> Orders;

    /// Gives it to every live edge and waits for each one's word, with a deadline of its own.
    fn share(&self, shared: Shared) -> Deliveries<'_>;

    /// Edges of the fleet that are not live, by name, and why: nothing is shared with them, and nothing waits for them.
    fn absent(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Whether another edge is live, which answers and may be announced where this one is not.
    fn has_others(&self) -> bool {
        false
    }
}

/// An edge without others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Edges for Alone {
    fn orders(&self) -> Orders {
        Orders::Here
    }

    fn share(&self, _: Shared) -> Deliveries<'_> {
        Box::pin(std::future::ready(Vec::new()))
    }
}
