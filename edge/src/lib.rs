//! The daemon edged and its tool edgectl.

pub mod certs;
pub mod control;
pub mod ctl;
pub mod proxy;
pub mod store;
pub mod vip;
