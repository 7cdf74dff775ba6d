//! The daemon edged and its tool edgectl.

pub mod certs;
pub mod proxy;
pub mod store;
