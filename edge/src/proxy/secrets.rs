//! The texts of Secrets that policies name, beside the snapshot that names them: taken whole with a generation, so that a
//! new password is no recompile and no text is in a snapshot. Nothing in here is printed.

use std::fmt;
use std::sync::Arc;

use edge_config::issuer::SecretRef;

use crate::certs::SecretTexts;
use crate::source::PasswordText;

/// What can be made of the texts is made once.
#[derive(Default)]
pub struct Secrets {
    texts: SecretTexts,
}

impl Secrets {
    pub fn new(texts: SecretTexts) -> Self {
        Self { texts }
    }

    /// The text, or why there is none: then nobody passes whom it was to let in.
    pub fn text(&self, reference: &SecretRef) -> Result<&Arc<PasswordText>, &str> {
        self.known(reference).unwrap_or(Err("is not read yet"))
    }

    /// The same; `None`: it was named a moment ago, and is being read.
    pub fn known(&self, reference: &SecretRef) -> Option<Result<&Arc<PasswordText>, &str>> {
        self.texts.get(reference).map(|text| text.as_ref().map_err(String::as_str))
    }

    pub fn texts(&self) -> &SecretTexts {
        &self.texts
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts.keys()).finish()
    }
}
