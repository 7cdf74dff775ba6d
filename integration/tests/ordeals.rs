//! The ordeals of `make ordeals`, for seconds.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use edge_integration::datacentre;
use edge_integration::lab;
use edge_integration::ordeals::storm::{self, ALL};
use edge_integration::trials::Findings;

#[test]
fn whatever_goes_wrong_costs_what_was_promised() {
    if let Err(why) = datacentre::available() {
        lab::skip("whatever_goes_wrong", &why);
        return;
    }
    let mut findings = Findings::aloud();
    // Each kind once, in another order each day would be another test each day.
    storm::storm(&mut findings, &ALL, Duration::ZERO, 1);
    assert!(findings.hold(), "{:#?}", findings.broken());
}
