//! HTTP/1.1 and 1.0 (RFC 9110, RFC 9112), hand-written on both sides of an exchange.

pub mod chunked;
pub mod encode;
pub(super) mod fields;
pub mod parse;
pub mod reader;
pub mod serve;
pub mod target;
pub mod upstream;
pub mod writer;
