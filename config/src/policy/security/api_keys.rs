//! API keys: a client is who has its key.

use serde::Serialize;

use crate::issuer::SecretRef;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKeys {
    /// Each client once, with the place of its key, in the order of the Secrets that name them.
    pub clients: Vec<(Box<str>, SecretRef)>,
    /// Where a key is looked for; the first place that has one counts.
    pub places: Vec<Place>,
    /// The field in which backends are told the client; lower case. A client's own is removed.
    pub forward_client: Option<Box<str>>,
    /// The key is taken out of the request.
    pub sanitize: bool,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Place {
    /// Lower case.
    Header(Box<str>),
    /// Of the query; names are case-sensitive.
    Param(Box<str>),
    Cookie(Box<str>),
}
