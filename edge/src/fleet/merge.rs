//! What one edge has and another lacks. Pure: lists come in, names of what is to be asked for come out.
//!
//! Certificates: the one that begins later is the newer. The rest is asked for where it is missing; where two edges have
//! different versions of it, the word of the edge that orders counts. Ticket keys and what is remembered of CAs are
//! always asked for: whoever receives them merges them.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use edge_acme::local;
use edge_acme::plan::MadeFor;
use serde::{Deserialize, Serialize};

use crate::certs::edges::Shared;
use crate::store::StoredCertificate;

/// Whether a certificate that was offered replaces one that is held: never one that begins earlier.
pub fn is_newer(held: &StoredCertificate, offered: &StoredCertificate) -> bool {
    // The same one, of which more is known: that its CA does not vouch for it any more.
    if offered.chain_pem == held.chain_pem {
        return is_revoked(offered) && !is_revoked(held);
    }
    match (begins(offered), begins(held)) {
        (Some(offered), Some(held)) => offered > held,
        (offered, held) => offered.is_some() && held.is_none(),
    }
}

fn is_revoked(stored: &StoredCertificate) -> bool {
    serde_json::from_str::<MadeFor>(&stored.note).is_ok_and(|made| made.revoked)
}

fn begins(stored: &StoredCertificate) -> Option<i64> {
    local::inspect(&stored.chain_pem).ok().map(|(validity, _)| validity.not_before)
}

/// What something is called among edges: `certificate shop/web`, `tickets`.
pub type Key = String;

/// A version of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of two the larger is the newer: when a certificate begins; 0 for what has no order.
    pub order: i64,
    /// Equal for equal content.
    pub digest: String,
}

/// What an edge has.
pub type Inventory = BTreeMap<Key, Version>;

const CERTIFICATE: &str = "certificate ";
const MEMORY: &str = "memory";
const TICKETS: &str = "tickets";

/// `None` for what is not there to be had: something that is over.
pub fn key(shared: &Shared) -> Option<Key> {
    Some(match shared {
        Shared::Certificate { id, .. } => format!("{CERTIFICATE}{id}"),
        Shared::Account { issuer, .. } => format!("account {issuer}"),
        Shared::Order { id, record: Some(_) } => format!("order {id}"),
        Shared::Challenge { challenge, .. } => format!("challenge {} {}", challenge.kind, challenge.token),
        Shared::Memory(_) => MEMORY.to_owned(),
        Shared::TicketKeys(_) => TICKETS.to_owned(),
        Shared::Order { record: None, .. } | Shared::ChallengeOver(_) => return None,
    })
}

pub fn version(shared: &Shared) -> Version {
    let (order, content) = match shared {
        Shared::Certificate { stored, .. } => (begins(stored).unwrap_or(0), stored.chain_pem.as_bytes()),
        Shared::Account { record, .. } | Shared::Order { record: Some(record), .. } => (0, record.as_slice()),
        Shared::Challenge { challenge, .. } | Shared::ChallengeOver(challenge) => {
            (0, challenge.key_authorization.as_bytes())
        }
        Shared::Memory(bytes) => (0, bytes.as_slice()),
        Shared::TicketKeys(bytes) => (0, bytes.as_slice()),
        Shared::Order { record: None, .. } => (0, &[][..]),
    };
    let sum = digest::digest(&digest::SHA256, content);
    Version { order, digest: STANDARD_NO_PAD.encode(&sum.as_ref()[..16]) }
}

/// What to ask another edge for. `theirs_counts`: it orders.
pub fn lacking(mine: &Inventory, theirs: &Inventory, theirs_counts: bool) -> Vec<Key> {
    let lacks = |(key, their): &(&Key, &Version)| match mine.get(*key) {
        None => true,
        Some(my) if my.digest == their.digest => false,
        Some(my) if key.starts_with(CERTIFICATE) => their.order > my.order,
        Some(_) if matches!(key.as_str(), MEMORY | TICKETS) => true,
        Some(_) => theirs_counts,
    };
    theirs.iter().filter(lacks).map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inventory(all: &[(&str, i64, &str)]) -> Inventory {
        let version = |order, digest: &str| Version { order, digest: digest.into() };
        all.iter().map(|(key, order, digest)| ((*key).to_owned(), version(*order, digest))).collect()
    }

    #[test]
    fn what_is_asked_for() {
        let mine = inventory(&[
            ("certificate a/old", 1, "x"),
            ("certificate a/new", 9, "x"),
            ("certificate a/same", 5, "x"),
            ("account le", 0, "x"),
            ("tickets", 0, "x"),
            ("order a/mine", 0, "x"),
        ]);
        let theirs = inventory(&[
            ("certificate a/old", 2, "y"),
            ("certificate a/new", 8, "y"),
            ("certificate a/same", 5, "x"),
            ("certificate a/missing", 1, "y"),
            ("account le", 0, "y"),
            ("tickets", 0, "y"),
            ("order a/theirs", 0, "y"),
        ]);
        let expected = ["certificate a/missing", "certificate a/old", "order a/theirs", "tickets"];
        assert_eq!(lacking(&mine, &theirs, false), expected);
        assert!(lacking(&mine, &theirs, true).contains(&"account le".to_owned()));
    }

    #[test]
    fn that_a_certificate_is_revoked_is_news() {
        let note = |revoked: bool| {
            let made = r#"{"issuer":"le","signer":"","dns_names":[],"common_name":null,"is_ca":false,"key":"x""#;
            let note = if revoked { format!("{made},\"revoked\":true}}") } else { format!("{made}}}") };
            StoredCertificate { note, chain_pem: "the same".into(), key_pem: String::new().into() }
        };
        for (held, offered, expected) in
            [(false, true, true), (true, false, false), (true, true, false), (false, false, false)]
        {
            assert_eq!(is_newer(&note(held), &note(offered)), expected, "{held} {offered}");
        }
    }

    fn any_inventory() -> impl Strategy<Value = Inventory> {
        let key = prop_oneof![
            (0u8..5).prop_map(|n| format!("certificate a/{n}")),
            (0u8..3).prop_map(|n| format!("order a/{n}")),
            Just("account le".to_owned())
        ];
        proptest::collection::btree_map(key, (0i64..4, 0u8..4), 0..8).prop_map(|all| {
            // A version's digest says all, as content does.
            all.into_iter().map(|(key, (order, n))| (key, Version { order, digest: format!("{order}-{n}") })).collect()
        })
    }

    /// What an edge has after it got what it asked for.
    fn after(mine: &Inventory, theirs: &Inventory, counts: bool) -> Inventory {
        let mut after = mine.clone();
        after.extend(lacking(mine, theirs, counts).into_iter().map(|key| (key.clone(), theirs[&key].clone())));
        after
    }

    proptest! {
        #[test]
        fn asking_once_is_enough_and_never_goes_back(mine in any_inventory(), theirs in any_inventory(), counts in any::<bool>()) {
            let got = after(&mine, &theirs, counts);
            prop_assert!(lacking(&got, &theirs, counts).is_empty());
            for (key, version) in &mine {
                prop_assert!(!key.starts_with(CERTIFICATE) || got[key].order >= version.order);
            }
            for (key, version) in &theirs {
                prop_assert!(!key.starts_with(CERTIFICATE) || got[key].order >= version.order);
            }
        }
    }
}
