//! The ACME side against real CAs: every feature, every fault, and a cut at every step.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[path = "acme/desk.rs"]
mod desk;
#[path = "acme/features.rs"]
mod features;
#[path = "acme/misbehaviour.rs"]
mod misbehaviour;
#[path = "acme/resume.rs"]
mod resume;
