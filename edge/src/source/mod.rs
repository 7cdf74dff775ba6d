//! Sources of configuration: all input that is not traffic. Files flow in, [`Loaded`] flows out: everything
//! `edge_config::compile` may look at, the private keys beside it, and what is wrong. A source never gives up what it
//! read before: what cannot be read or decoded now keeps its last good version for as long as its file exists.
//! What must not happen here: deciding what the objects mean together.

mod documents;
mod files;
mod listing;
mod secret;
#[cfg(test)]
mod tests;
mod watch;

pub use documents::{Served, Settled, settle};
pub use files::{Cache, Loaded, host_name, load, load_directory};
pub use secret::{KeyMaterial, Keys, PasswordText, Texts};
pub use watch::Watcher;
