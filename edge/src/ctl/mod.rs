//! `edgectl`: what operators type.
//!
//! A command line flows in, text and an exit code flow out. Views come from a running edged ([`client`]) or are made
//! here from files ([`offline`]); they are the same values and are shown by the same code. It changes nothing itself.

pub mod args;
pub mod client;
pub mod offline;
mod patches;
pub mod run;
pub mod show;
pub mod style;
pub mod table;
pub mod yaml;
