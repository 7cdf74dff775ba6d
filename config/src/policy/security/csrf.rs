//! Requests that change something must come from the site itself, or from one that is named (OWASP: verifying origin).

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Csrf {
    /// Beside the destination's own host and port.
    pub origins: Vec<CsrfOrigin>,
    /// Of requests, `numerator / denominator` are judged and let through all the same.
    pub shadow: Option<(u32, u32)>,
}

/// Host and optional port, lower case; the scheme does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CsrfOrigin {
    Any,
    Exact(Box<str>),
    /// What stands before and after a `*`.
    Wildcard {
        before: Box<str>,
        after: Box<str>,
    },
}

impl CsrfOrigin {
    /// `authority` is lower case.
    pub fn matches(&self, authority: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *authority,
            Self::Wildcard { before, after } => authority
                .strip_prefix(&**before)
                .and_then(|rest| rest.strip_suffix(&**after))
                .is_some_and(|middle| !middle.is_empty()),
        }
    }
}
