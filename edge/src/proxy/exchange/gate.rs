//! What policies put between a request and its backends: who may pass ([`security`]), then how much ([`protection`]). The
//! order is Envoy's: a request that is not allowed takes nothing of a limit.
//!
//! In: the request as it was matched. Out: [`Passed`], with what the response owes to it, or the answer that stops it.

use std::rc::Rc;

use bytes::Bytes;
use edge_config::policy::{Protection, Responses, RulePolicy, Security};
use edge_config::snapshot::{Listener, Rule};

use crate::proxy::filters::forwarded::Sender;
use crate::proxy::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::protection::{self, Protected};
use crate::proxy::reason::Reason;
use crate::proxy::security;
use crate::proxy::worker::{Arrival, Current, Worker};

/// The policies that hold for a request: the rule's, and its listener's for parts of which the rule says nothing.
#[derive(Clone, Copy)]
pub struct Policies<'g> {
    rule: Option<&'g RulePolicy>,
    listener: Option<&'g RulePolicy>,
}

impl<'g> Policies<'g> {
    pub fn of(rule: &'g Rule, listener: &'g Listener) -> Self {
        Self { rule: rule.policy.as_deref(), listener: listener.policy.as_deref() }
    }

    /// Whether nothing is said at all: so it is of most requests, and they pay for this look only.
    pub fn is_none(self) -> bool {
        self.rule.is_none() && self.listener.is_none()
    }

    pub fn security(self) -> Option<&'g Security> {
        self.part(|policy| policy.security.as_deref())
    }

    pub fn protection(self) -> Option<&'g Protection> {
        self.part(|policy| policy.protection.as_deref())
    }

    pub fn responses(self) -> Option<&'g Responses> {
        self.part(|policy| policy.responses.as_deref())
    }

    /// How much of the body has to be there before anybody is asked; a longer one is refused.
    pub fn gathers(self) -> Option<usize> {
        let most = self.security()?.ext_auth.iter().filter_map(|auth| auth.body).min()?;
        Some(usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn part<T>(self, of: impl Fn(&'g RulePolicy) -> Option<&'g T>) -> Option<&'g T> {
        self.rule.and_then(&of).or_else(|| self.listener.and_then(&of))
    }
}

/// Where a request stands.
pub struct Gate<'a, 'g> {
    pub worker: &'a Rc<Worker>,
    pub current: &'a Rc<Current>,
    pub arrival: &'a Arrival,
    pub sender: Sender,
    pub listener: &'g Listener,
    pub rule: &'g Rule,
    pub policies: Policies<'g>,
    /// The whole body, where a policy asks for it.
    pub body: Option<Bytes>,
}

/// What a request that passed leaves behind until its exchange ends.
#[derive(Default)]
pub struct Passed {
    /// Fields that the response gets, whoever makes it.
    pub fields: Fields,
    pub protected: Option<Box<Protected>>,
}

/// An answer instead of the backend's: its head is filled.
pub struct Stopped {
    pub reason: Reason,
    pub body: Option<Bytes>,
}

/// Asks all of it, in order.
pub async fn pass(
    gate: &Gate<'_, '_>,
    request: &mut RequestHead,
    response: &mut ResponseHead,
) -> Result<Passed, Stopped> {
    let mut passed = Passed::default();
    if let Some(security) = gate.policies.security() {
        security::pass(security, gate, request, response, &mut passed).await?;
    }
    if let Some(protection) = gate.policies.protection() {
        protection::pass(protection, gate, request, response, &mut passed).await?;
    }
    Ok(passed)
}
