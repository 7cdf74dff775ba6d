//! The laboratory: real `edged` processes, small honest origins, clients that count every failure, network namespaces.
//!
//! Flows in: the programs in the target directory (or `EDGE_BIN_DIR`). Flows out: assertions. Nothing here is part of
//! the product, nobody imports it, and traffic stays on loopback or inside namespaces whose names begin with `edge-`.
//! Everything but [`origin`] and [`websocket`] is test code: there a broken expectation is a panic on purpose.

pub mod acme;
pub mod appliance;
pub mod browser;
pub mod causes;
pub mod client;
pub mod cluster;
pub mod datacentre;
pub mod documented;
pub mod edged;
pub mod engine;
pub mod genestack;
pub mod host;
pub mod images;
pub mod knot;
pub mod lab;
pub mod load;
pub mod machine;
pub mod manifests;
pub mod netns;
pub mod ordeals;
pub mod origin;
pub mod pki;
pub mod rack;
pub mod region;
pub mod router;
pub mod showcase;
pub mod speaker;
pub mod trials;
pub mod updates;
pub mod websocket;
