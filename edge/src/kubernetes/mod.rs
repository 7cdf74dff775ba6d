//! Kubernetes: reading configuration from its API and saying in it what became of it.

pub mod calls;
pub mod events;
pub mod lease;
pub mod status;
