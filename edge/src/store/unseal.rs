//! From whole records to payloads, at open: what is sealed is opened, what should be sealed is written anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Memory;
use super::disk::Disk;
use super::opening::Newest;
use super::record::{self, Keyspace};
use super::seal::{Opened, Sealing};

/// A key and its payload.
type Read = (String, Arc<Zeroizing<Vec<u8>>>);

/// What the records say. Those that should be sealed and are not, or by an older key, are written anew.
pub(super) fn unseal(
    disk: &mut Disk,
    newest: BTreeMap<(Keyspace, String), Newest>,
    notices: &mut Vec<String>,
) -> Memory {
    let mut memory = Memory::default();
    let mut stale: BTreeMap<Keyspace, Vec<Read>> = BTreeMap::new();
    let mut locked: BTreeMap<String, usize> = BTreeMap::new();
    for (name, held) in newest {
        let Ok(record) = record::decode(&held.bytes) else { continue };
        match disk.sealing.open(name.0, &name.1, record.payload) {
            Opened::Payload { payload, stale: is_stale } => {
                let payload = Arc::new(payload);
                if is_stale {
                    stale.entry(name.0).or_default().push((name.1.clone(), Arc::clone(&payload)));
                }
                memory.records.insert(name, payload);
            }
            Opened::Locked { id } => {
                *locked.entry(id).or_default() += 1;
                disk.locked.insert(name);
            }
        }
    }
    for (id, count) in &locked {
        notices.push(format!(
            "{count} records are sealed by the key {id}, which is not here: they are kept as they are and not used until \
             that key is given again ([state] key_file, or the credential edge-store-key)"
        ));
    }
    // Who sealed once did not mean to stop when a key got lost.
    if !locked.is_empty() && matches!(disk.sealing, Sealing::Clear) {
        disk.sealing = Sealing::Unusable("the key of the store is missing".into());
    }
    seal_anew(disk, &stale, notices);
    memory
}

fn seal_anew(disk: &mut Disk, stale: &BTreeMap<Keyspace, Vec<Read>>, notices: &mut Vec<String>) {
    for (keyspace, records) in stale {
        let sealed: Result<Vec<_>, String> =
            records.iter().map(|(key, payload)| Ok((key.as_str(), disk.encode(*keyspace, key, payload)?))).collect();
        let written = sealed.and_then(|sealed| {
            let bytes: Vec<(&str, &[u8])> = sealed.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
            disk.put(*keyspace, &bytes)
        });
        notices.push(match written {
            Ok(()) => format!("{} of {} sealed by the key in force", records.len(), keyspace.name()),
            Err(reason) => format!("{}: not sealed: {reason}", keyspace.name()),
        });
    }
}
