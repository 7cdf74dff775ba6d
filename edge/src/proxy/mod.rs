//! The data plane.
pub mod filters;
pub mod message;
pub mod reason;
