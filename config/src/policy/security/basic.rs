//! Basic authentication (RFC 7617).

use serde::Serialize;

use crate::issuer::SecretRef;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Basic {
    /// In the format of htpasswd.
    pub users: SecretRef,
    pub realm: Box<str>,
    /// The field in which backends are told the user; lower case. A client's own is removed.
    pub forward_user: Option<Box<str>>,
}
