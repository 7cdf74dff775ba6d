//! Which Secrets the policies of a snapshot name: whoever has their texts gives them to the data plane beside it.

use std::collections::BTreeSet;

use foldhash::{HashSet, HashSetExt};

use crate::issuer::SecretRef;
use crate::snapshot::Snapshot;

/// The members of Secrets that any policy of a snapshot needs.
pub fn secrets(snapshot: &Snapshot) -> BTreeSet<SecretRef> {
    let of_rules = snapshot.rules.iter().filter_map(|rule| rule.policy.as_deref());
    let of_listeners = snapshot.listeners.iter().filter_map(|listener| listener.policy.as_deref());
    let mut found = BTreeSet::new();
    // Thousands of rules may share what a policy says.
    let mut seen = HashSet::new();
    for policy in of_rules.chain(of_listeners) {
        if let Some(security) =
            policy.security.as_ref().filter(|security| seen.insert(std::sync::Arc::as_ptr(security)))
        {
            security.secrets(&mut found);
        }
    }
    for filters in snapshot.rules.iter().flat_map(|rule| rule.filters()) {
        let credential = filters.extension.as_ref().and_then(|extension| extension.credential.as_ref());
        found.extend(credential.map(|credential| credential.secret.clone()));
    }
    found
}
