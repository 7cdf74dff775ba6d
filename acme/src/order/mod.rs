//! Accounts and orders at an ACME CA (RFC 8555, 8737, 8738, 9773).
//!
//! In: an issuer, a wish, records of what was begun. Out: certificates that answer the wish, or why not. Every step that
//! must not be done twice is journaled first; a new process goes on where the old one died. When to order, how often
//! and where records lie is decided elsewhere.

mod account;
mod authorize;
mod certificate;
mod finish;
mod links;
mod locate;
mod obtain;
mod pace;
mod record;
mod refusal;
mod upkeep;
mod wish;

pub use account::{Account, account_key, thumbprint};
pub use certificate::certificate_id;
pub use record::{AccountRecord, Journal, OrderRecord, SecretText, Secrets};
pub use upkeep::RevokeBy;
pub use wish::{Obtained, OrderWish, PATIENCE, RenewalWindow, RevocationReason};
