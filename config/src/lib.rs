//! Edge's pure core: text and objects in, values out. Manifests and `edge.toml` become [`inputs::Inputs`]; [`compile`]
//! turns these into a [`snapshot::Snapshot`] that the actors serve and a [`report::Report`] that says why.
//! Nothing here opens a file or a socket, reads a clock, logs, or holds a private key.
//! Standards: Gateway API v1.6.1, YAML 1.2, RFC 6902 and RFC 7396 (patches), GEP-2257 (durations).

pub mod announce;
pub mod certmanager;
pub mod community;
pub mod compile;
pub mod core;
pub mod edge_toml;
pub mod envoy;
pub mod gateway;
pub mod hosts;
pub mod inputs;
pub mod issuer;
pub mod manifest;
pub mod matching;
pub mod metallb;
pub mod migrate;
pub mod names;
pub mod nginx;
mod objects;
pub mod patch;
pub mod policy;
pub mod problem;
pub mod public;
pub mod reach;
pub mod report;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod substitute;
pub mod suggest;
pub mod validate;
pub mod wire;
pub mod yaml;

pub use compile::{Compiled, Compiler, compile};
