//! Encryption of records that hold keys: AES-256-GCM under a key that lies elsewhere.
//!
//! In: payloads. Out: sealed payloads, which say by which key, and payloads again. The key comes from a systemd credential
//! or a file; several lines are several keys, of which the first seals and all open, so a key is changed by putting
//! another one before it. A key that is missing or wrong never costs a record: what cannot be opened is left as it is.
//! Keys are wiped when dropped and never printed.
//!
//! ```text
//! edge-sealed 1 9f86d081884c7d65
//! …nonce (12), ciphertext, tag (16)…
//! ```

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::record::{Keyspace, hex};

/// The name of the credential in systemd's directory.
const CREDENTIAL: &str = "edge-store-key";
const MAGIC: &str = "edge-sealed 1 ";
const KEY: usize = 32;
const NONCE: usize = 12;
const MOST_KEYS: usize = 16;
/// Of a file with keys.
const MOST_BYTES: u64 = 4096;

/// How records with keys in them are kept.
#[derive(Default)]
pub enum Sealing {
    /// As they are, readable by root alone.
    #[default]
    Clear,
    /// The first seals, all open; never empty.
    Keys(Vec<SealKey>),
    /// A key is wanted and cannot be used: nothing secret is written.
    Unusable(String),
}

pub struct SealKey {
    key: RandomizedNonceKey,
    /// What a record says of its key: no more than that it is this one.
    id: String,
}

impl Sealing {
    /// The key that the settings name, or else systemd's credential, where there is one.
    pub fn find(file: Option<&Path>, credentials: Option<&Path>) -> Self {
        let credential = || credentials.map(|directory| directory.join(CREDENTIAL)).filter(|path| path.exists());
        let Some(path) = file.map(Path::to_owned).or_else(credential) else { return Self::Clear };
        // systemd sees to its own directory.
        let private = if file.is_some() { is_private(&path) } else { Ok(()) };
        match private.and_then(|()| read(&path)).and_then(|bytes| parse(&bytes)) {
            Ok(keys) => Self::Keys(keys),
            Err(reason) => Self::Unusable(format!("key of the store {}: {reason}", path.display())),
        }
    }

    /// What is to be written for a payload, or why it must not be.
    pub(super) fn seal(
        &self,
        keyspace: Keyspace,
        key: &str,
        payload: &Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            _ if !keyspace.is_secret() => Ok(payload.clone()),
            Self::Clear => Ok(payload.clone()),
            Self::Keys(keys) => {
                let first = keys.first().ok_or("no key of the store")?;
                let mut content = Zeroizing::new(Vec::with_capacity(payload.len() + AES_256_GCM.tag_len()));
                content.extend_from_slice(payload);
                let aad = Aad::from(bound_to(keyspace, key));
                let nonce = first
                    .key
                    .seal_in_place_append_tag(aad, &mut *content)
                    .map_err(|_| "cannot be encrypted".to_owned())?;
                let mut sealed = Zeroizing::new(Vec::with_capacity(content.len() + 64));
                sealed.extend_from_slice(MAGIC.as_bytes());
                sealed.extend_from_slice(first.id.as_bytes());
                sealed.push(b'\n');
                sealed.extend_from_slice(nonce.as_ref());
                sealed.extend_from_slice(&content);
                Ok(sealed)
            }
            Self::Unusable(reason) => Err(reason.clone()),
        }
    }

    /// A payload as it was given.
    pub(super) fn open(&self, keyspace: Keyspace, key: &str, written: &[u8]) -> Opened {
        let Some((id, sealed)) = sealed(written) else {
            // What is to be encrypted and is not yet.
            let stale = keyspace.is_secret() && matches!(self, Self::Keys(_));
            return Opened::Payload { payload: Zeroizing::new(written.to_vec()), stale };
        };
        let keys = match self {
            Self::Keys(keys) => keys.as_slice(),
            Self::Clear | Self::Unusable(_) => &[],
        };
        let found = keys.iter().position(|held| held.id == id);
        let Some(place) = found else { return Opened::Locked { id: id.to_owned() } };
        let nonce = sealed.get(..NONCE).and_then(|nonce| Nonce::try_assume_unique_for_key(nonce).ok());
        let mut content = Zeroizing::new(sealed.get(NONCE..).unwrap_or_default().to_vec());
        let aad = Aad::from(bound_to(keyspace, key));
        let opened = nonce.and_then(|nonce| {
            let length = keys.get(place)?.key.open_in_place(nonce, aad, &mut content).ok()?.len();
            Some(length)
        });
        match opened {
            Some(length) => {
                content.truncate(length);
                Opened::Payload { payload: content, stale: place > 0 }
            }
            None => Opened::Locked { id: id.to_owned() },
        }
    }

    #[cfg(test)]
    pub(super) fn is_on(&self) -> bool {
        matches!(self, Self::Keys(_))
    }
}

/// What came of opening.
pub(super) enum Opened {
    Payload {
        payload: Zeroizing<Vec<u8>>,
        /// Should be written anew, by the key in force.
        stale: bool,
    },
    /// The key of this name is not here, or the record is not what it sealed.
    Locked { id: String },
}

/// Whether a payload is one that only a key opens.
pub(super) fn is_sealed(written: &[u8]) -> bool {
    sealed(written).is_some()
}

/// Whether bytes are a sealed payload: the name of its key, and the rest.
fn sealed(written: &[u8]) -> Option<(&str, &[u8])> {
    let rest = written.strip_prefix(MAGIC.as_bytes())?;
    let (id, sealed) = rest.split_at_checked(16)?;
    let id = std::str::from_utf8(id).ok().filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((id, sealed.strip_prefix(b"\n")?))
}

/// A sealed payload under another name than its own does not open.
fn bound_to(keyspace: Keyspace, key: &str) -> Vec<u8> {
    [keyspace.name().as_bytes(), b"\n", key.as_bytes()].concat()
}

fn is_private(path: &Path) -> Result<(), String> {
    let mode = path.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("is readable by others (mode {mode:04o}), expected 0600 or 0400"))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES as usize + 1));
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES { Err(format!("longer than {MOST_BYTES} bytes")) } else { Ok(bytes) }
}

/// 32 bytes as they are, or a key in each line, in base64 or hexadecimal.
fn parse(bytes: &[u8]) -> Result<Vec<SealKey>, String> {
    if bytes.len() == KEY {
        return Ok(vec![SealKey::new(bytes)?]);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| format!("has {} bytes, expected {KEY}", bytes.len()))?;
    let mut keys = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = key_of(line).filter(|key| key.len() == KEY);
        let key = key.ok_or_else(|| format!("line {} is not {KEY} bytes in base64 or hexadecimal", number + 1))?;
        if keys.len() == MOST_KEYS {
            return Err(format!("has more than {MOST_KEYS} keys"));
        }
        keys.push(SealKey::new(&key)?);
    }
    if keys.is_empty() { Err("has no key".into()) } else { Ok(keys) }
}

fn key_of(line: &str) -> Option<Zeroizing<Vec<u8>>> {
    if line.len() == KEY * 2 && line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let pair = |at: usize| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
        return (0..KEY * 2).step_by(2).map(pair).collect::<Option<Vec<u8>>>().map(Zeroizing::new);
    }
    STANDARD.decode(line).ok().map(Zeroizing::new)
}

impl SealKey {
    fn new(key: &[u8]) -> Result<Self, String> {
        if key.iter().all(|byte| *byte == key[0]) {
            return Err("is 32 times the same byte: no key".into());
        }
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"edge store key\n");
        context.update(key);
        let id = hex(&context.finish().as_ref()[..8]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| "cannot be used".to_owned())?;
        Ok(Self { key, id })
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("Clear"),
            Self::Keys(keys) => f.debug_list().entries(keys.iter().map(|key| &key.id)).finish(),
            Self::Unusable(reason) => write!(f, "Unusable({reason})"),
        }
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
