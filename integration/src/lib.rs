//! The laboratory: real `edged` processes, small honest origins, clients that count every failure, network namespaces.
//!
//! Flows in: the programs in the target directory (or `EDGE_BIN_DIR`). Flows out: assertions. Nothing here is part of
//! the product, nobody imports it, and traffic stays on loopback or inside namespaces whose names begin with `edge-`.
//! Everything but [`origin`] and [`websocket`] is test code: there a broken expectation is a panic on purpose.

pub mod client;
pub mod cluster;
pub mod edged;
pub mod engine;
pub mod lab;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod origin;
pub mod pki;
pub mod region;
pub mod trials;
pub mod websocket;
