//! Who may pass. One step for each kind of proof, in Envoy's order: what a preflight asks was answered before; then where the
//! request comes from (CSRF), a server of the user's that is asked, API key, password, login, token, and at last whether who
//! it is may do what it wants.
//!
//! In: the request as it was matched, and what the policy says. Out: the request, as the backend is to see it (fields
//! that tell who it is are ours alone: a client's own are removed first), or the answer that stops it.

pub mod api_keys;
pub mod basic;
pub mod csrf;
pub mod ext_auth;
mod fields;
pub mod jwt;
pub mod oidc;
pub mod password;
pub mod prepared;
pub mod remote;

use edge_config::policy::{Authorization, Request, Security, Token};

use crate::proxy::exchange::answer::Answer;
use crate::proxy::exchange::gate::{Gate, Passed, Stopped};
use crate::proxy::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::reason::Reason;

/// Asks every step that the policy has.
pub async fn pass(
    security: &Security,
    gate: &Gate<'_, '_>,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    passed: &mut Passed,
) -> Result<(), Stopped> {
    macro_rules! ask {
        ($answer:expr) => {
            match $answer {
                Ok(found) => found,
                Err(refusal) => return Err(stop(refusal, gate, request, response)),
            }
        };
    }
    if security.closed.is_some() {
        ask!(Err(Refusal::new(500, Reason::SecurityPolicy)));
    }
    let secrets = &gate.current.generation.secrets;
    let prepared = &gate.worker.prepared;
    if let Some(csrf) = &security.csrf {
        let draw = |most| gate.worker.random.below(most);
        if let Some(is_valid) = ask!(csrf::pass(csrf, request, draw)) {
            gate.worker.metrics.csrf(is_valid);
        }
    }
    for auth in &security.ext_auth {
        ext_auth::pass(auth, gate, request, response, passed).await?;
    }
    if let Some(keys) = &security.api_keys {
        let clients = prepared.clients(keys, secrets);
        let clients = ask!(clients.map_err(|_| Refusal::new(500, Reason::SecretMissing)));
        ask!(api_keys::pass(keys, &clients, request));
    }
    if let Some(basic) = &security.basic {
        ask!(basic::pass(basic, secrets, prepared, request).await);
    }
    if let Some(login) = &security.oidc {
        oidc::pass(login, gate, request, response, passed).await?;
    }
    let mut tokens: Vec<Token> = Vec::new();
    if let Some(jwt) = &security.jwt {
        ask!(jwt::pass(jwt, gate.worker, secrets, request, &mut tokens).await);
    }
    if let Some(authorization) = &security.authorization {
        ask!(authorize(authorization, gate, request, &tokens));
    }
    Ok(())
}

fn authorize(
    authorization: &Authorization,
    gate: &Gate<'_, '_>,
    request: &RequestHead,
    tokens: &[Token],
) -> Result<(), Refusal> {
    let header = |name: &str, each: &mut dyn FnMut(&[u8])| {
        request.fields.iter().filter(|(field, _)| *field == name.as_bytes()).for_each(|(_, value)| each(value));
    };
    let asked =
        Request { client: gate.sender.client, method: request.method(), path: request.path(), header: &header, tokens };
    let (is_allowed, _) = authorization.decide(&asked);
    if is_allowed { Ok(()) } else { Err(Refusal::new(403, Reason::Forbidden)) }
}

/// Tells backends who it is. The client's own field of this name was removed; a text that could be no field is not told.
fn forward(fields: &mut Fields, name: &str, value: &str) {
    if value.bytes().all(|byte| byte == b'\t' || byte >= 0x20 && byte != 0x7f) {
        fields.set(name.as_bytes(), value.trim_matches([' ', '\t']).as_bytes());
    }
}

/// Why a request goes no further.
pub struct Refusal {
    pub status: u16,
    pub reason: Reason,
    /// For `WWW-Authenticate`.
    pub challenge: Option<String>,
}

impl Refusal {
    pub fn new(status: u16, reason: Reason) -> Self {
        Self { status, reason, challenge: None }
    }

    /// 401, and how to do better (RFC 9110 §11.6.1).
    pub fn challenge(reason: Reason, challenge: String) -> Self {
        Self { status: 401, reason, challenge: Some(challenge) }
    }
}

/// Fills the answer, in gRPC terms for gRPC.
pub fn stop(refusal: Refusal, gate: &Gate<'_, '_>, request: &RequestHead, response: &mut ResponseHead) -> Stopped {
    let Refusal { status, reason, challenge } = refusal;
    let body = Answer::new(status, reason).fill(gate.rule.grpc || request.is_grpc(), response);
    if let Some(challenge) = challenge {
        response.fields.add(b"www-authenticate", challenge.as_bytes());
    }
    Stopped { reason, body }
}
