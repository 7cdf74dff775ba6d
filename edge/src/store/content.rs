//! The payloads of records. Certificates are PEM with one line of our own before it, so `openssl x509 -in FILE` reads a
//! plain copy as it is; the rest is JSON. Secrets print as `[redacted]` and are wiped when dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A certificate with its key, and what its owner wants to remember about it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    /// One line that the store does not look into.
    pub note: String,
    /// Leaf first.
    pub chain_pem: String,
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for StoredCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCertificate")
            .field("note", &self.note)
            .field("chain_pem", &self.chain_pem)
            .field("key_pem", &"[redacted]")
            .finish()
    }
}

/// What stands between the chain and the key.
const KEY_FOLLOWS: &str = "# private key\n";

impl StoredCertificate {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let note = self.note.replace(['\n', '\r'], " ");
        // Grown in one piece: a reallocation would leave parts of the key behind in freed memory.
        let length = note.len() + self.chain_pem.len() + KEY_FOLLOWS.len() + self.key_pem.len() + 3;
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        for part in [&note, "\n", &self.chain_pem, newline_after(&self.chain_pem), KEY_FOLLOWS, &self.key_pem] {
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(payload).map_err(|_| "is not UTF-8")?;
        let (note, rest) = text.split_once('\n').ok_or("has no first line")?;
        let (chain, key) = rest.split_once(KEY_FOLLOWS).ok_or("has no private key")?;
        Ok(Self { note: note.into(), chain_pem: chain.into(), key_pem: Zeroizing::new(key.into()) })
    }
}

fn newline_after(text: &str) -> &'static str {
    if text.ends_with('\n') { "" } else { "\n" }
}

/// 32 random bytes that sign session cookies.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret(Zeroizing<[u8; 32]>);

impl SessionSecret {
    pub(super) fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        // aws-lc reseeds from the kernel; its fill fails only where no randomness exists at all, and then no TLS
        // handshake works either.
        SystemRandom::new().fill(bytes.as_mut()).expect("the kernel supplies randomness");
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.to_vec())
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        payload.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret([redacted])")
    }
}

/// Who has which addresses, as it is written. The first version had no number and Gateways only: their keys, without
/// `Gateway` before them, were the members of the whole.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Assignments {
    version: u32,
    assigned: BTreeMap<String, Vec<IpAddr>>,
}

const ASSIGNMENTS_VERSION: u32 = 2;

pub(super) fn encode_assignments(assignments: &BTreeMap<ObjectRef, Vec<IpAddr>>) -> Zeroizing<Vec<u8>> {
    let assigned = assignments.iter().map(|(object, ips)| (object.to_string(), ips.clone())).collect();
    let whole = Assignments { version: ASSIGNMENTS_VERSION, assigned };
    Zeroizing::new(serde_json::to_vec_pretty(&whole).expect("text keys and addresses are JSON"))
}

pub(super) fn decode_assignments(payload: &[u8]) -> Option<BTreeMap<ObjectRef, Vec<IpAddr>>> {
    if let Ok(whole) = serde_json::from_slice::<Assignments>(payload) {
        // What a later version means by the same words is not known.
        (whole.version == ASSIGNMENTS_VERSION).then_some(())?;
        let known = whole.assigned.into_iter();
        return Some(known.filter_map(|(object, ips)| Some((ObjectRef::parse(&object)?, ips))).collect());
    }
    let first: BTreeMap<String, Vec<IpAddr>> = serde_json::from_slice(payload).ok()?;
    let gateway = |key: &str| ObjectRef::new(Kind::Gateway, ObjectKey::parse(key));
    Some(first.into_iter().map(|(key, ips)| (gateway(&key), ips)).collect())
}

pub(super) fn encode_addresses(addresses: &[(IpAddr, String)]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec_pretty(addresses).expect("addresses and names are JSON"))
}

pub(super) fn decode_addresses(payload: &[u8]) -> Option<Vec<(IpAddr, String)>> {
    serde_json::from_slice(payload).ok()
}

/// Seconds since 1970 at which somebody asked this edge to leave; `null`: nobody does.
pub(super) fn encode_drain(since: Option<SystemTime>) -> Zeroizing<Vec<u8>> {
    let seconds = since.map(|since| since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    Zeroizing::new(serde_json::to_vec(&seconds).expect("a number is JSON"))
}

pub(super) fn decode_drain(payload: &[u8]) -> Option<SystemTime> {
    let seconds: Option<u64> = serde_json::from_slice(payload).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds?))
}
