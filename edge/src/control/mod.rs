//! What users see and ask: views, and the API that serves them.
//!
//! A [`world::World`] flows in, published by the supervisor; status, explanations, differences and metrics flow out, as
//! values and through a unix socket ([`api`]). The views are pure functions; nothing here changes anything but by
//! sending a [`world::Command`] to the supervisor, and nothing here runs on a worker thread.

pub mod api;
pub mod certificates;
pub mod diff;
pub mod explain;
pub mod findings;
#[cfg(test)]
pub mod fixture;
pub mod fleet;
pub mod history;
pub mod holds;
pub mod maintenance;
pub mod map;
pub mod metrics;
pub mod objects;
pub mod observed;
pub mod peer;
pub mod pools;
pub mod rates;
pub mod shown;
pub mod span;
pub mod status;
pub mod view;
pub mod why;
pub mod world;
