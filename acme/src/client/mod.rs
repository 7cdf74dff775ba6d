//! Requests to foreign HTTPS servers, and the exchange with an ACME CA on top of them.
//!
//! In: URLs and bodies. Out: answers that were bounded in size and time. What is decided from them is not decided here.

mod clock;
mod directory;
pub(crate) mod exchange;
mod https;
pub(crate) mod jws;
mod trust;
mod wait;
pub(crate) mod wire;

pub use clock::CaClock;
pub use directory::{Directory, Meta};
pub use https::{Answer, ClientError, Https, Settings};
pub use jws::KeyError;
pub use trust::Trust;
pub use wait::{now, retry_after_in_text};
