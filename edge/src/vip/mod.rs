//! VIPs: the addresses on this machine's interfaces, which of them may be told to the network, and who tells it.
//!
//! In: the whole set of a snapshot's VIPs and the plan of who is told. Out: what is bound, what really was told, and per VIP
//! why it is withheld. Nothing here decides which addresses a Gateway has, and nothing here touches an address, path or
//! process that is not Edge's.

pub mod address;
pub mod announcer;
pub mod bfd;
pub mod gate;
pub mod guard;
pub mod kernel;
pub mod l2;
mod netlink;
pub mod road;
mod wanted;
mod wire;

pub use address::{AddressState, Addresses, AddressesObserved};
pub use wanted::{Rule, Sight, Withheld, rules, wanted_vips};
