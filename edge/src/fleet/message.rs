//! The words of the channel: what an edge asks another, and what comes back. Pure: bytes in, values out, and back.
//!
//! A message is one JSON object `{"id", "kind", "body"}`; an answer bears the id of its question. Members that are not
//! known are passed over, and a kind that is not known is answered with [`Answer::Unknown`], so edges of different
//! versions understand each other as far as they can; what cannot be understood at all is a new [`VERSION`].

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_acme::challenge::{Challenge, ChallengeKind, Identifier};
use edge_config::issuer::IssuerId;
use edge_config::names::{CertId, Hostname, ObjectKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::merge::{Inventory, Key as Name};
use super::standing::{KeyPage, Standing};
use crate::certs::edges::Shared;
use crate::proxy::protection::Entry;
use crate::proxy::protection::table::Key;
use crate::store::StoredCertificate;

/// Of the language. Edges speak with each other while both have one in common.
pub const VERSION: u32 = 1;
/// Names in one page of an inventory.
pub const PAGE: usize = 1000;
/// Texts in messages that have no other bound.
const LONGEST_TEXT: usize = 1024;
/// RFC 8555 leaves it open; Let's Encrypt's have 43 characters.
const LONGEST_TOKEN: usize = 512;
const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Who calls; first thing.
    Hello(Hello),
    /// Are you there, and do I have your vote?
    Ping(Ping),
    Share(Item),
    /// What do you have, beginning after this name?
    Inventory(After),
    Fetch(Named),
    /// What this edge has let pass of limits that all edges share.
    Limits(LimitNews),
    /// How do you stand?
    Standing(Nothing),
    /// What is your configuration, beginning after this key?
    Keys(After),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Hello(Hello),
    Pong(Pong),
    /// It is in force, or why not.
    Done(Done),
    Inventory(Page),
    /// `None`: it is not there any more.
    Item(Fetched),
    Standing(Box<Standing>),
    Keys(KeyPage),
    /// The kind of the question is not known.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub oldest: u32,
    pub newest: u32,
    /// Of the program; for people.
    pub software: String,
}

impl Hello {
    pub fn ours() -> Self {
        Self { oldest: VERSION, newest: VERSION, software: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Why the two cannot speak, if so.
    pub fn refusal(&self) -> Option<String> {
        let (oldest, newest) = (self.oldest, self.newest);
        let common = (oldest..=newest).contains(&VERSION);
        (!common).then(|| format!("speaks versions {oldest} to {newest} of the channel, this edge {VERSION}"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Asks for the vote.
    pub claims: bool,
    /// The caller stops now.
    #[serde(default)]
    pub leaves: bool,
    /// Something could not be given to whom this is sent: it had better ask.
    #[serde(default)]
    pub lacks: bool,
    /// Of the list of edges.
    pub list: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    pub fit: bool,
    pub votes: bool,
    pub list: String,
    /// It orders, as it sees it.
    pub orders: bool,
    /// Of the configuration that is in force there; absent: it is not known, or of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// Of questions that need no more than their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    pub after: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub key: Name,
}

/// Of limits that edges share: 24 bytes for each bucket, its key and an amount (see [`crate::proxy::protection::Entry`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitNews {
    /// Let pass since the last news.
    spent: Bytes,
    /// How full buckets are: for who knows nothing of them.
    #[serde(default)]
    levels: Bytes,
}

impl LimitNews {
    pub fn new(spent: &[Entry], levels: &[Entry]) -> Self {
        let bytes = |entries: &[Entry]| {
            let words = entries.iter().flat_map(|entry| [entry.key.limit, entry.key.client, entry.ticks]);
            Bytes(Zeroizing::new(words.flat_map(u64::to_be_bytes).collect()))
        };
        Self { spent: bytes(spent), levels: bytes(levels) }
    }

    pub fn spent(&self) -> Vec<Entry> {
        entries(&self.spent)
    }

    pub fn levels(&self) -> Vec<Entry> {
        entries(&self.levels)
    }
}

/// Half an entry at the end is none.
fn entries(bytes: &Bytes) -> Vec<Entry> {
    let (words, _) = bytes.0.as_chunks::<8>();
    let (entries, _) = words.as_chunks::<3>();
    let one = |[limit, client, ticks]: &[[u8; 8]; 3]| Entry {
        key: Key { limit: u64::from_be_bytes(*limit), client: u64::from_be_bytes(*client) },
        ticks: u64::from_be_bytes(*ticks),
    };
    entries.iter().map(one).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub entries: Inventory,
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fetched {
    pub item: Option<Item>,
}

/// A [`Shared`] as it travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    Certificate { id: String, note: String, chain: String, key: Text },
    Account { issuer: String, record: Bytes },
    Order { id: String, record: Option<Bytes> },
    Challenge { challenge: Proof, seconds: u64 },
    ChallengeOver { challenge: Proof },
    Memory { record: Bytes },
    TicketKeys { keys: Bytes },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    dns: Option<String>,
    ip: Option<IpAddr>,
    wildcard: bool,
    kind: String,
    token: String,
    key_authorization: String,
}

/// A text that may be secret.
#[derive(Clone, PartialEq)]
pub struct Text(Zeroizing<String>);

/// Bytes that may be secret; base64 in JSON.
#[derive(Clone, Default, PartialEq)]
pub struct Bytes(Zeroizing<Vec<u8>>);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = STANDARD.decode(&*text).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("not a message: {0}")]
    Head(String),
    #[error("message {kind}: {why}")]
    Body { kind: String, why: String },
    /// What it is about cannot be.
    #[error("{what}: {why}")]
    Value { what: &'static str, why: String },
}

#[derive(Deserialize)]
struct Head<'a> {
    id: u64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct With<B> {
    body: B,
}

#[derive(Serialize)]
struct Written<'a, B> {
    id: u64,
    kind: &'a str,
    body: &'a B,
}

/// A question, or the name of its kind where that is not known.
pub type Asked = (u64, Result<Ask, String>);

pub fn decode_ask(bytes: &[u8]) -> Result<Asked, MessageError> {
    let Head { id, kind } = head(bytes)?;
    let ask = match &*kind {
        "hello" => Ask::Hello(body(&kind, bytes)?),
        "ping" => Ask::Ping(body(&kind, bytes)?),
        "share" => Ask::Share(body(&kind, bytes)?),
        "inventory" => Ask::Inventory(body(&kind, bytes)?),
        "fetch" => Ask::Fetch(body(&kind, bytes)?),
        "limits" => Ask::Limits(body(&kind, bytes)?),
        "standing" => Ask::Standing(body(&kind, bytes)?),
        "keys" => Ask::Keys(body(&kind, bytes)?),
        other => return Ok((id, Err(short(other)))),
    };
    Ok((id, Ok(ask)))
}

/// An answer of a kind that is not known counts as [`Answer::Unknown`].
pub fn decode_answer(bytes: &[u8]) -> Result<(u64, Answer), MessageError> {
    let Head { id, kind } = head(bytes)?;
    let answer = match &*kind {
        "hello" => Answer::Hello(body(&kind, bytes)?),
        "pong" => {
            let pong: Pong = body(&kind, bytes)?;
            Answer::Pong(Pong { hash: pong.hash.map(|hash| short(&hash)), ..pong })
        }
        "standing" => Answer::Standing(Box::new(body::<Standing>(&kind, bytes)?.bounded())),
        "keys" => Answer::Keys(body(&kind, bytes)?),
        "done" => {
            let done: Done = body(&kind, bytes)?;
            Answer::Done(Done { error: done.error.map(|error| short(&error)) })
        }
        "inventory" => Answer::Inventory(body(&kind, bytes)?),
        "item" => Answer::Item(body(&kind, bytes)?),
        _ => Answer::Unknown,
    };
    Ok((id, answer))
}

pub fn encode_ask(id: u64, ask: &Ask) -> Zeroizing<Vec<u8>> {
    match ask {
        Ask::Hello(body) => written(id, "hello", body),
        Ask::Ping(body) => written(id, "ping", body),
        Ask::Share(body) => written(id, "share", body),
        Ask::Inventory(body) => written(id, "inventory", body),
        Ask::Fetch(body) => written(id, "fetch", body),
        Ask::Limits(body) => written(id, "limits", body),
        Ask::Standing(body) => written(id, "standing", body),
        Ask::Keys(body) => written(id, "keys", body),
    }
}

pub fn encode_answer(id: u64, answer: &Answer) -> Zeroizing<Vec<u8>> {
    match answer {
        Answer::Hello(body) => written(id, "hello", body),
        Answer::Pong(body) => written(id, "pong", body),
        Answer::Done(body) => written(id, "done", body),
        Answer::Inventory(body) => written(id, "inventory", body),
        Answer::Item(body) => written(id, "item", body),
        Answer::Standing(body) => written(id, "standing", body),
        Answer::Keys(body) => written(id, "keys", body),
        Answer::Unknown => written(id, "unknown", &()),
    }
}

fn head(bytes: &[u8]) -> Result<Head<'_>, MessageError> {
    serde_json::from_slice(bytes).map_err(|error| MessageError::Head(error.to_string()))
}

fn body<B: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<B, MessageError> {
    let with: With<B> = serde_json::from_slice(bytes)
        .map_err(|error| MessageError::Body { kind: short(kind), why: error.to_string() })?;
    Ok(with.body)
}

fn written<B: Serialize>(id: u64, kind: &str, body: &B) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
    serde_json::to_writer(&mut *bytes, &Written { id, kind, body }).expect("texts and numbers are JSON");
    bytes
}

/// One line, bounded: it is logged and shown.
pub fn short(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(LONGEST_TEXT).collect()
}

impl From<&Shared> for Item {
    fn from(shared: &Shared) -> Self {
        let bytes = |bytes: &[u8]| Bytes(Zeroizing::new(bytes.to_vec()));
        match shared {
            Shared::Certificate { id, stored } => Self::Certificate {
                id: id.to_string(),
                note: stored.note.clone(),
                chain: stored.chain_pem.clone(),
                key: Text(stored.key_pem.clone()),
            },
            Shared::Account { issuer, record } => Self::Account { issuer: issuer.to_string(), record: bytes(record) },
            Shared::Order { id, record } => {
                Self::Order { id: id.to_string(), record: record.as_ref().map(|record| bytes(record)) }
            }
            Shared::Challenge { challenge, lifetime } => {
                Self::Challenge { challenge: challenge.into(), seconds: lifetime.as_secs().max(1) }
            }
            Shared::ChallengeOver(challenge) => Self::ChallengeOver { challenge: challenge.into() },
            Shared::Memory(record) => Self::Memory { record: bytes(record) },
            Shared::TicketKeys(keys) => Self::TicketKeys { keys: bytes(keys) },
        }
    }
}

impl TryFrom<Item> for Shared {
    type Error = MessageError;

    fn try_from(item: Item) -> Result<Self, MessageError> {
        Ok(match item {
            Item::Certificate { id, note, chain, key } => Self::Certificate {
                id: certificate(&id)?,
                stored: StoredCertificate { note, chain_pem: chain, key_pem: key.0 },
            },
            Item::Account { issuer, record } => {
                if issuer.is_empty() || issuer.len() > LONGEST_TEXT || issuer.contains(char::is_control) {
                    return Err(MessageError::Value { what: "issuer", why: "no name".into() });
                }
                Self::Account { issuer: IssuerId(issuer.into()), record: record.0 }
            }
            Item::Order { id, record } => Self::Order { id: certificate(&id)?, record: record.map(|record| record.0) },
            Item::Challenge { challenge, seconds } => Self::Challenge {
                challenge: challenge.try_into()?,
                lifetime: Duration::from_secs(seconds).min(LONGEST_LIFETIME),
            },
            Item::ChallengeOver { challenge } => Self::ChallengeOver(challenge.try_into()?),
            Item::Memory { record } => Self::Memory(record.0.to_vec()),
            Item::TicketKeys { keys } => Self::TicketKeys(keys.0),
        })
    }
}

/// `namespace/name`, as the store keeps it.
fn certificate(text: &str) -> Result<CertId, MessageError> {
    let is_sound = !text.is_empty() && text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_sound {
        true => Ok(CertId(ObjectKey::parse(text))),
        false => Err(MessageError::Value { what: "certificate", why: format!("{:?} is no name", short(text)) }),
    }
}

impl From<&Challenge> for Proof {
    fn from(challenge: &Challenge) -> Self {
        let (dns, ip) = match &challenge.identifier {
            Identifier::Dns(name) => (Some(name.to_string()), None),
            Identifier::Ip(address) => (None, Some(*address)),
        };
        Self {
            dns,
            ip,
            wildcard: challenge.wildcard,
            kind: challenge.kind.to_string(),
            token: challenge.token.to_string(),
            key_authorization: challenge.key_authorization.to_string(),
        }
    }
}

impl TryFrom<Proof> for Challenge {
    type Error = MessageError;

    fn try_from(proof: Proof) -> Result<Self, MessageError> {
        let wrong = |what, why: &str| MessageError::Value { what, why: why.to_owned() };
        let identifier = match (proof.dns, proof.ip) {
            (Some(name), None) if Hostname::parse(&name).is_ok() => Identifier::Dns(name.into()),
            (None, Some(address)) => Identifier::Ip(address),
            _ => return Err(wrong("identifier", "neither a host name nor an address")),
        };
        let kinds = [ChallengeKind::Http01, ChallengeKind::TlsAlpn01, ChallengeKind::Dns01];
        let kind = kinds.into_iter().find(|kind| kind.to_string() == proof.kind);
        // RFC 8555 §8.1: both halves are base64url without padding.
        let is_part = |text: &str| {
            (1..=LONGEST_TOKEN).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let thumbprint = proof.key_authorization.strip_prefix(&proof.token).and_then(|rest| rest.strip_prefix('.'));
        if !is_part(&proof.token) || !thumbprint.is_some_and(is_part) {
            return Err(wrong("token", "not base64url, or not the one of its key authorization"));
        }
        Ok(Self {
            identifier,
            wildcard: proof.wildcard,
            kind: kind.ok_or_else(|| wrong("challenge", "unknown kind"))?,
            token: proof.token.into(),
            key_authorization: proof.key_authorization.into(),
        })
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
