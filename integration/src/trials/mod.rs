//! What Edge promises of Kubernetes, tried on a real control plane: how soon a route is served, what an API server that
//! is away or lies costs (nothing), and how little is written.
//!
//! Flows in: a [`Field`], a rig with thousands of routes and a load that must not fail. Flows out: [`Findings`], a line
//! per promise. The same trials run for seconds in `tests/kubernetes.rs` and for an hour in `make kubernetes-demo`.
//! Everything runs inside the namespace of the client, which reaches the API server and the VIPs.

#![allow(clippy::panic, clippy::unwrap_used)]

pub mod churn;
pub mod faults;
pub mod field;
pub mod findings;
pub mod flip;
pub mod objects;
pub mod outage;
pub mod pair;
pub mod probe;
pub mod quarantine;
pub mod steady;

pub use field::Field;
pub use findings::Findings;
