//! What policies say of a rule or a listener beside where requests go: who may pass, how much may pass, what the answers
//! look like. Every policy shape becomes these values; a rule's go before its listener's, part by part.

use std::sync::Arc;

use serde::Serialize;

use super::{Protection, Responses, Security};

/// The parts that are said. An absent part of a rule is as its listener has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RulePolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<Arc<Security>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<Arc<Protection>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<Arc<Responses>>,
}

impl RulePolicy {
    /// `None` where nothing is said, so that it costs nothing.
    pub fn or_none(self) -> Option<Arc<Self>> {
        (self.security.is_some() || self.protection.is_some() || self.responses.is_some()).then(|| Arc::new(self))
    }
}
