//! The daemon and its tool.

pub mod control;
pub mod ctl;
pub mod proxy;
