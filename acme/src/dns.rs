//! DNS as a CA sees it: what a name leads to before an order, why an order failed, and TXT records for DNS-01.
//!
//! In: names, the configured name servers, the secrets of DNS providers, what an order was told. Out: findings, one
//! sentence per failure, records that all name servers of a zone show. Nothing here talks to a CA or decides when to
//! order; no secret is in any text. Nothing is cached: each answer is as fresh as the server that gave it.
//! Standards: RFC 1035, RFC 6891 (EDNS), RFC 7766 (TCP), RFC 2136 and RFC 8945 (updates), RFC 8659 and RFC 8657 (CAA),
//! RFC 8555 §8.4.

pub mod caa;
pub mod diagnosis;
pub mod preflight;
pub mod present;
pub mod propagation;
pub mod provider;
pub mod resolver;
mod wire;
