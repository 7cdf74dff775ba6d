//! The writer, and the check of what it left behind.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use edge::store::{Store, StoredCertificate};
use edge_config::names::{CertId, Kind, ObjectKey, ObjectRef};

const DIRECTORY: &str = "EDGE_STORE_CHILD";
const FIRST: &str = "EDGE_STORE_FIRST";
const COUNT: &str = "EDGE_STORE_COUNT";
/// Different names in use; more writes than names means overwriting.
const NAMES: u64 = 7;

/// A command that writes `count` records, versions `first` and up, and prints `ack VERSION` after each.
pub fn command(directory: &Path, first: u64, count: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child::writes_when_asked", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .env(COUNT, count.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[test]
fn writes_when_asked() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let store = Store::open(Path::new(&directory)).store;
    for version in number(FIRST)..number(FIRST) + number(COUNT) {
        write(&store, version).unwrap();
        let mut out = std::io::stdout().lock();
        // One write call: an acknowledgement is whole or not there.
        out.write_all(format!("\nack {version}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

/// Version in the output of a child, if a line is an acknowledgement.
pub fn acknowledged(line: &str) -> Option<u64> {
    line.strip_prefix("ack ")?.trim_end().parse().ok()
}

pub fn write(store: &Store, version: u64) -> Result<(), edge::store::StoreError> {
    let key = ObjectKey::new("test", format!("name-{}", version % NAMES));
    if version % 5 == 4 {
        let octets = version.to_be_bytes();
        let address = std::net::Ipv6Addr::from(((u128::from(u64::from_be_bytes(octets))) << 64) | 1);
        return store.put_assignments(&BTreeMap::from([(ObjectRef::new(Kind::Gateway, key), vec![address.into()])]));
    }
    store.put_certificate(&CertId(key), &certificate(version))
}

/// Its content follows from its version; sizes from one page to many.
pub fn certificate(version: u64) -> StoredCertificate {
    let line = format!("{version:016x}").repeat(4);
    let lines = 1 + (version * 37) % 400;
    StoredCertificate {
        note: version.to_string(),
        chain_pem: format!("{line}\n").repeat(usize::try_from(lines).unwrap()),
        key_pem: zeroize::Zeroizing::new(format!("key of {version}\n")),
    }
}

/// Proves that a store has every version that was acknowledged, or a later one that was at least begun.
pub fn check(store: &Store, acknowledged: u64, begun: u64) -> Result<(), String> {
    let (certificates, notices) = store.certificates();
    if !notices.is_empty() {
        return Err(format!("unreadable: {notices:?}"));
    }
    // The last acknowledged version of every name, by replaying what was acknowledged.
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    let mut assigned = None;
    for version in 0..=acknowledged {
        if version % 5 == 4 {
            assigned = Some(version);
        } else {
            expected.insert(format!("name-{}", version % NAMES), version);
        }
    }
    for (name, version) in &expected {
        let found = certificates.get(&CertId(ObjectKey::new("test", name.as_str())));
        let found = found.ok_or_else(|| format!("{name} of version {version} is lost"))?;
        let held: u64 = found.note.parse().map_err(|_| format!("{name} is garbled"))?;
        if held < *version || held > begun || *found != certificate(held) {
            return Err(format!("{name} has version {held}, expected {version} to {begun}, or is garbled"));
        }
    }
    if let Some(version) = assigned {
        let addresses = store.assignments().into_values().next().unwrap_or_default();
        let held = match addresses[..] {
            [std::net::IpAddr::V6(address)] => (u128::from(address) >> 64) as u64,
            _ => return Err(format!("assignment of version {version} is lost")),
        };
        if held < version || held > begun {
            return Err(format!("assignment has version {held}, expected {version} to {begun}"));
        }
    }
    Ok(())
}
