//! The data plane: connections in, requests routed by the current snapshot, bytes out.
//!
//! In: generations (snapshot, endpoints, certificates, limits) from the supervisor, connections from clients. Out:
//! bytes to endpoints and clients, access log entries, counters. It decides nothing that the snapshot decides, waits
//! for nothing in the control plane, and keeps serving the generation it has.
//!
//! A request passes one function per step: [`h1`] or `h2` decode it into the canonical [`message`], [`exchange`]
//! routes, edits and forwards it, [`upstream`] supplies the connection, and the body is pumped from a `Source` to a
//! `Sink` ([`body`]). Standards: RFC 9110, RFC 9112, RFC 9113, RFC 6455 (tunnel only), RFC 6265 (session cookies).
#![allow(async_fn_in_trait)] // one thread per worker: no future needs to be Send

pub mod body;
pub mod buffer;
pub mod clock;
pub mod filters;
pub mod h1;
pub mod io;
pub mod message;
pub mod reason;
pub mod tls;
