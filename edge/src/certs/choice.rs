//! A Secret that Edge writes holds a certificate, and so does the store: which of the two counts. Pure.
//!
//! In: what each leaf says of itself, what the Secret says of who wrote it, what is wanted, the time. Out: whether what
//! the Secret holds is adopted, or what Edge has is to be written there. Both the certificate thread and the writer of
//! Secrets decide by this, so that none undoes what the other does.
//!
//! Standards: RFC 9525 §6.3 (names), as cert-manager compares a Secret with its Certificate.

use std::net::IpAddr;

use edge_acme::due::{Validity, renewal_due};
use edge_config::snapshot::WantedCertificate;

use super::table::CertFacts;

/// What to do about a Secret that holds a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Both have the same.
    Same,
    /// The Secret's serves from now on: it is newer, or somebody put it there and it is good.
    Adopt,
    /// Ours, and the Secret should have it; or, where Edge has none, a new one is to be made.
    Ours,
}

/// The leaf in a Secret.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    pub facts: &'a CertFacts,
    /// Whether it is what Edge put there, as its annotation says.
    pub is_as_written: bool,
}

/// `held` is what Edge has for the wish.
pub fn choose(found: Found<'_>, held: Option<&CertFacts>, wish: &WantedCertificate, now: i64) -> Choice {
    let facts = found.facts;
    let is_fit = covers(facts, wish) && (facts.not_before..=facts.not_after).contains(&now);
    let Some(held) = held else {
        // Even one that is due: it is renewed by its own dates, and serves until then.
        return if is_fit { Choice::Adopt } else { Choice::Ours };
    };
    if held.fingerprint == facts.fingerprint {
        return Choice::Same;
    }
    if !is_fit {
        return Choice::Ours;
    }
    // Never downgrade: another edge, or a person, has a newer one.
    let is_newer = facts.not_before > held.not_before && facts.not_after >= held.not_after.min(now);
    let is_due = now >= due(facts, wish);
    if is_newer || (!found.is_as_written && !is_due) { Choice::Adopt } else { Choice::Ours }
}

/// When a certificate is to be renewed, by what it says of itself.
pub fn due(facts: &CertFacts, wish: &WantedCertificate) -> i64 {
    let validity = Validity { not_before: facts.not_before, not_after: facts.not_after };
    renewal_due(validity, wish.renew_before, &wish.id.to_string())
}

/// Whether a certificate bears every name that is wanted.
pub fn covers(facts: &CertFacts, wish: &WantedCertificate) -> bool {
    let has_name = |wanted: &str| facts.dns_names.iter().any(|name| matches(name, wanted));
    let has_address = |wanted: &IpAddr| facts.addresses.contains(wanted);
    wish.dns_names.iter().all(|name| has_name(name)) && wish.addresses.iter().all(has_address)
}

/// `*` stands for exactly one label, the first, and for itself.
fn matches(name: &str, wanted: &str) -> bool {
    if name.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let suffix = name.strip_prefix("*.");
    suffix
        .zip(wanted.split_once('.'))
        .is_some_and(|(suffix, (first, rest))| first != "*" && !first.is_empty() && suffix.eq_ignore_ascii_case(rest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use edge_config::names::{CertId, ObjectKey};
    use edge_config::snapshot::{KeyAlgorithm, WantedIssuer};

    use super::*;
    use crate::certs::table::Fingerprint;

    const DAY: i64 = 86_400;

    fn facts(names: &[&str], print: u8, from: i64, days: i64) -> CertFacts {
        CertFacts {
            dns_names: names.iter().map(|name| (*name).into()).collect(),
            addresses: Vec::new(),
            not_before: from * DAY,
            not_after: (from + days) * DAY,
            issuer: "CA".into(),
            fingerprint: Fingerprint([print; 32]),
        }
    }

    fn wish(names: &[&str]) -> WantedCertificate {
        WantedCertificate {
            id: CertId(ObjectKey::parse("shop/tls")),
            issuer: WantedIssuer::SelfSigned,
            dns_names: names.iter().map(|name| (*name).into()).collect(),
            addresses: Vec::new(),
            common_name: None,
            is_ca: false,
            key: KeyAlgorithm::EcdsaP256,
            rotate_key: true,
            duration: Duration::from_secs(90 * DAY as u64),
            renew_before: Duration::from_secs(30 * DAY as u64),
            profile: None,
            labels: Vec::new(),
            adopt: None,
            write_back: None,
            wanted_by: Vec::new(),
        }
    }

    #[test]
    fn names_that_are_covered() {
        for (has, wants, expected) in [
            ("a.example", "A.example", true),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", false),
            ("*.example", "*.example", true),
            ("*.example", "*.a.example", false),
            ("a.example", "*.example", false),
            ("*.example", "example", false),
        ] {
            assert_eq!(matches(has, wants), expected, "{has} {wants}");
        }
        assert!(!covers(&facts(&["a.example"], 1, 0, 90), &wish(&["a.example", "b.example"])));
    }

    #[test]
    fn who_wins() {
        let good = ["a.example"];
        let (old, new) = (facts(&good, 1, 0, 90), facts(&good, 2, 65, 90));
        let year = facts(&good, 3, -100, 365);
        let other = facts(&["b.example"], 4, 70, 90);
        let ended = facts(&good, 5, -200, 90);
        // What the Secret holds, whether Edge put it there, what Edge has, the day, what follows.
        for (name, found, is_as_written, held, day, expected) in [
            ("nothing here", &old, false, None, 1, Choice::Adopt),
            ("nothing here, theirs has ended", &ended, false, None, 1, Choice::Ours),
            ("nothing here, theirs has other names", &other, false, None, 71, Choice::Ours),
            ("nothing here, theirs is due", &old, true, None, 80, Choice::Adopt),
            ("same", &old, true, Some(&old), 1, Choice::Same),
            ("renewed and not written yet", &old, true, Some(&new), 66, Choice::Ours),
            ("another edge renewed it", &new, true, Some(&old), 66, Choice::Adopt),
            ("somebody's newer one", &new, false, Some(&old), 66, Choice::Adopt),
            ("somebody's older one that is good for long", &year, false, Some(&new), 66, Choice::Adopt),
            ("somebody's older one that is due", &old, false, Some(&new), 66, Choice::Ours),
            ("somebody's with other names", &other, false, Some(&old), 71, Choice::Ours),
            ("somebody's that has ended", &ended, false, Some(&old), 1, Choice::Ours),
        ] {
            let found = Found { facts: found, is_as_written };
            assert_eq!(choose(found, held, &wish(&good), day * DAY), expected, "{name}");
        }
    }
}
