//! The manual of reasons is complete: each has its row with what it means and what to do, and no row is of another time.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;

use edge::proxy::reason::Reason;

const MANUAL: &str = include_str!("../../docs/errors.md");

#[test]
fn each_reason_has_its_cure() {
    let mut told = BTreeSet::new();
    for line in MANUAL.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [reason, status, meaning, cure] = cells[..] else { panic!("{line}") };
        assert!(!status.is_empty() && meaning.ends_with('.') && cure.ends_with('.'), "{line}");
        assert!(told.insert(reason.trim_matches('`')), "{reason} twice");
    }
    let known: BTreeSet<&str> = Reason::CODES.iter().copied().collect();
    let missing: Vec<_> = known.difference(&told).collect();
    let gone: Vec<_> = told.difference(&known).collect();
    assert!(missing.is_empty() && gone.is_empty(), "without a row: {missing:?}; no reason: {gone:?}");
}
