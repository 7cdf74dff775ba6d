//! The daemon edged and its tool edgectl: everything of Edge that touches the world.
//!
//! [`source`] reads configuration, the [`supervisor`] compiles and publishes it, [`proxy`] carries traffic, [`certs`] and
//! [`vip`] make the world match, [`handover`] passes everything on to another edged, [`fleet`] shares with other edges, [`store`] remembers,
//! [`telemetry`] exports, [`control`] shows, [`dashboard`] shows it in a browser. Nobody imports this crate.

pub mod certs;
pub mod control;
pub mod ctl;
pub mod dashboard;
pub mod fleet;
pub mod handover;
pub mod history;
pub mod kubernetes;
mod line;
pub mod logging;
pub mod memory;
mod moment;
mod netlink;
pub mod notify;
pub mod privileges;
pub mod proxy;
pub mod pulse;
pub mod reach;
pub mod resolve;
mod secret_file;
pub mod source;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod vip;
