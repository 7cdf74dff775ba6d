//! Certificate authorities that speak ACME, run for real: Pebble of Debian, the newest Pebble, Caddy, and a small one of
//! our own for what none of them does.
//!
//! Flows in: ports at which names are validated, faults. Flows out: a directory URL and the certificates to trust. All
//! of them listen on loopback, here or inside a namespace, and end when dropped. Where a program is missing, `start`
//! says which one, and the scenario skips loudly.

pub mod ask;
pub mod names;
pub mod party;
pub mod pebble;
pub mod small;

pub use names::Names;
pub use party::{Memory, Responder};
pub use pebble::{Edition, Pebble, Profile, Settings};
pub use small::Small;
