//! VIPs: which addresses may be told to the network, and the addresses on this machine's interfaces.
//!
//! In: the whole set of a snapshot's VIPs. Out: what is bound, and per VIP why it is withheld. Nothing here decides which
//! addresses a Gateway has, and nothing here touches an address that Edge did not add.

pub mod address;
mod netlink;
mod wanted;

pub use address::{AddressState, Addresses, AddressesObserved};
pub use wanted::{Withheld, wanted_vips};
