//! `edgectl`: what operators type.
//!
//! A command line flows in, text and an exit code flow out. Views come from a running edged ([`client`]) or are made
//! here from files ([`offline`]); they are the same values and are shown by the same code. It changes nothing itself but
//! for files that it is told to write.

pub mod args;
mod backup;
mod cert;
pub mod client;
mod crds;
mod log;
mod maintenance;
mod migrate;
mod network;
pub mod offline;
mod patches;
mod pool;
pub mod run;
pub mod show;
pub mod style;
mod support;
pub mod table;
mod tap;
pub mod top;
pub mod yaml;
