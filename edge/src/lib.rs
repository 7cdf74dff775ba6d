
pub mod certs;
//! The daemon edged and its tool edgectl.

pub mod certs;
//! The daemon and its tool.

pub mod control;
pub mod ctl;
pub mod proxy;
pub mod store;
