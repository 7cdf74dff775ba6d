//! An edged that passes everything on to another one: an upgrade of the program, a return to an older one, or a restart
//! for settings that need one, without a connection refused and without a word to the network.
//!
//! In: the program on disk. Out: an edged that serves in the place of this one, or the reason why this one goes on.
//!
//! ```text
//!  predecessor (runs)                                   successor (is started, --take-over)
//!      │  ◄──────────────── Hello: versions spoken ────────────┤
//!      ├─ Welcome, Sockets, Control, Offered ────────────────► │ reads settings and the store's plain copies, compiles,
//!      │                                                       │ has every worker ready; touches nothing
//!      │  ◄──────────────── Waiting …, Prepared ───────────────┤
//!      │  lets go of gobgpd, elections, BFD                    │
//!      ├─ Told ──────────────────────────────────────────────► │ its guard watches, its workers accept
//!      │  ◄──────────────── Taken ─────────────────────────────┤
//!      │  (before this: a successor that fails changes nothing; after it: it is the edged of this machine)
//!      │  accepts no more; closes the store                    │
//!      ├─ Over ──────────────────────────────────────────────► │ opens the store, orders, answers edgectl
//!      │  ◄──────────────── Serving ───────────────────────────┤
//!      ├─ Draining … until its last connection has ended       │
//! ```
//!
//! The versions of this conversation are told first, in messages that never change, so that neighbours in time either
//! understand each other or say clearly that they do not. It decides nothing about configuration, traffic or VIPs.

mod channel;
pub mod message;
pub mod predecessor;
mod program;
pub mod successor;

pub use program::Program;

/// The argument by which a successor is started. An edged that does not know it ends with an error, as it should.
pub const ARGUMENT: &str = "take-over";
/// Versions of the conversation that this edged speaks.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;
