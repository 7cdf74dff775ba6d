//! Edge's pure core: text and objects in, values out. Manifests and `edge.toml` become [`inputs::Inputs`].
//! Nothing here opens a file or a socket, reads a clock, logs, or holds a private key.
//! Standards: Gateway API v1.6.1, YAML 1.2, RFC 6902 and RFC 7396 (patches), GEP-2257 (durations).

pub mod certmanager;
pub mod core;
pub mod envoy;
pub mod gateway;
pub mod inputs;
pub mod manifest;
pub mod metallb;
pub mod names;
pub mod patch;
pub mod problem;
pub mod settings;
pub mod suggest;
pub mod validate;
pub mod wire;
pub mod yaml;
