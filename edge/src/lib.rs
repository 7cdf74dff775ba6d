
pub mod certs;
//! The daemon edged and its tool edgectl.

pub mod store;
pub mod proxy;
