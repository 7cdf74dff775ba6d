//! The daemon edged and its tool edgectl: everything of Edge that touches the world.
//!
//! [`source`] reads configuration, the [`supervisor`] compiles and publishes it, [`proxy`] carries traffic, [`certs`] and
//! [`vip`] make the world match, [`fleet`] shares with other edges, [`store`] remembers,
//! [`telemetry`] exports, [`control`] shows. Nobody imports this crate.

pub mod certs;
pub mod control;
pub mod ctl;
pub mod fleet;
pub mod kubernetes;
pub mod logging;
pub mod memory;
mod moment;
mod netlink;
pub mod notify;
pub mod proxy;
pub mod pulse;
pub mod reach;
pub mod resolve;
pub mod source;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod vip;
