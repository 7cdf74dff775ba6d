//! Certificates from ACME CAs, by the real edged: every way to prove a name, what is served meanwhile, every wish, and what
//! crashes, full disks, rude CAs, wrong clocks and second CAs cost.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[path = "certificates/bench.rs"]
mod bench;
#[path = "certificates/clock.rs"]
mod clock;
#[path = "certificates/crashes.rs"]
mod crashes;
#[path = "certificates/issuing.rs"]
mod issuing;
#[path = "certificates/second_ca.rs"]
mod second_ca;
#[path = "certificates/trouble.rs"]
mod trouble;
#[path = "certificates/wishes.rs"]
mod wishes;
