//! Where accounts and orders under way are kept: in the store of this edge, and at all others.
//!
//! In: records, before each step that must not be done twice. Out: "durable", or why not, which stops the order. An order
//! is not carried on where another edge orders by now: that is asked at each record.

use std::sync::Arc;

use edge_acme::order::{AccountRecord, Journal, OrderRecord};
use edge_acme::plan::UnderWay;
use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::certs::edges::{Edges, Orders, Shared};
use crate::store::{Store, StoreError};

const VERSION: u32 = 1;

/// An order as it is stored.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    version: u32,
    pub under_way: UnderWay,
    pub order: OrderRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAccount {
    version: u32,
    account: AccountRecord,
}

impl Entry {
    pub fn new(under_way: UnderWay, order: OrderRecord) -> Self {
        Self { version: VERSION, under_way, order }
    }

    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let found: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        version(found.version)?;
        Ok(found)
    }
}

pub fn encode_account(account: &AccountRecord) -> Result<Zeroizing<Vec<u8>>, String> {
    encode(&StoredAccount { version: VERSION, account: account.clone() })
}

pub fn decode_account(bytes: &[u8]) -> Result<AccountRecord, String> {
    let found: StoredAccount = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    version(found.version)?;
    Ok(found.account)
}

fn version(found: u32) -> Result<(), String> {
    if found == VERSION { Ok(()) } else { Err(format!("version {found}, expected {VERSION}")) }
}

fn encode<T: Serialize>(record: &T) -> Result<Zeroizing<Vec<u8>>, String> {
    // Large enough that it is not moved while it grows: that would leave keys behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(32 << 10));
    serde_json::to_writer(&mut *bytes, record).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The journal of one order, or of an account alone.
pub struct Records {
    pub store: Store,
    pub edges: Arc<dyn Edges>,
    pub issuer: IssuerId,
    /// The order that is carried out.
    pub order: Option<(CertId, UnderWay)>,
    /// Tells the certificate thread.
    pub told: Box<dyn Fn(Written) + Send + Sync>,
}

/// What was written.
pub enum Written {
    Account(Box<AccountRecord>),
    Order(CertId, Box<OrderRecord>),
}

impl Journal for Records {
    async fn account(&self, record: &AccountRecord) -> Result<(), String> {
        here(&*self.edges)?;
        let bytes = encode_account(record)?;
        let (store, issuer, copy) = (self.store.clone(), self.issuer.clone(), bytes.clone());
        durably(move || store.put_account(&issuer, copy)).await?;
        (self.told)(Written::Account(Box::new(record.clone())));
        // An edge that does not hear of it makes an account of its own if it has to order some day.
        let _ = self.edges.share(Shared::Account { issuer: self.issuer.clone(), record: bytes }).await;
        Ok(())
    }

    async fn order(&self, record: &OrderRecord) -> Result<(), String> {
        here(&*self.edges)?;
        let Some((id, under_way)) = &self.order else { return Ok(()) };
        let bytes = Entry::new(under_way.clone(), record.clone()).encode()?;
        let (store, name, copy) = (self.store.clone(), id.clone(), bytes.clone());
        durably(move || store.put_order(&name, copy)).await?;
        (self.told)(Written::Order(id.clone(), Box::new(record.clone())));
        // An edge that does not hear of it makes another order if it takes over: a loss, and no danger.
        let _ = self.edges.share(Shared::Order { id: id.clone(), record: Some(bytes) }).await;
        // Sharing takes time, in which somebody else may have been chosen.
        here(&*self.edges)
    }
}

/// Whether this edge is the one that orders.
pub fn here(edges: &dyn Edges) -> Result<(), String> {
    match edges.orders() {
        Orders::Here => Ok(()),
        Orders::Elsewhere(edge) => Err(format!("edge {edge} orders by now")),
        Orders::Unknown(why) => Err(format!("it is not known who orders: {why}")),
    }
}

/// Does something that waits for the disk, elsewhere.
pub async fn durably(work: impl FnOnce() -> Result<(), StoreError> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(format!("store: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use edge_acme::order::SecretText;
    use edge_acme::plan::MadeFor;

    use super::*;

    #[test]
    fn records_come_back_and_others_are_refused() {
        let attempt: MadeFor = serde_json::from_str(
            r#"{"issuer":"x","signer":"","dns_names":["a.example"],"common_name":null,"is_ca":false,"key":"ecdsa-p256"}"#,
        )
        .unwrap();
        let under_way = UnderWay { issuer: IssuerId("x".into()), attempt, replaces: false, since: 7, running: false };
        let order = OrderRecord {
            account: "https://ca/acct/1".into(),
            dns_names: vec!["a.example".into()],
            addresses: Vec::new(),
            profile: None,
            replaces: None,
            key: SecretText::new("KEY".to_owned()),
            csr: "AAAA".into(),
            url: None,
            finalizing: false,
            made: 7,
            failed: Vec::new(),
        };
        let bytes = Entry::new(under_way.clone(), order.clone()).encode().unwrap();
        let back = Entry::decode(&bytes).unwrap();
        assert_eq!((&back.under_way, &back.order), (&under_way, &order));
        let other = String::from_utf8(bytes.to_vec()).unwrap().replace("\"version\":1", "\"version\":2");
        assert_eq!(Entry::decode(other.as_bytes()).err().unwrap(), "version 2, expected 1");
        assert!(Entry::decode(b"{}").is_err() && decode_account(&bytes).is_err());
    }
}
