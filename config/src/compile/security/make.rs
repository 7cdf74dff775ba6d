//! From the spec of a SecurityPolicy to what the data plane does, part by part. What cannot be carried out closes all.

use std::sync::Arc;

use super::super::backends::{Backends, Upstreams};
use super::super::context::{Context, Fault};
use super::super::policies::invalid;
use super::{access, browsers, credentials, ext_auth, oidc, tokens};
use crate::core::{BASIC_AUTH_SECRET, SecretContents};
use crate::envoy::SecurityPolicySpec;
use crate::gateway;
use crate::inputs::Meta;
use crate::issuer::SecretRef;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::policy::Security;
use crate::report::Condition;

/// What a policy came to.
pub(super) struct Made {
    /// Closed where there is a fault.
    pub security: Arc<Security>,
    pub fault: Option<Fault>,
    /// Beside Accepted.
    pub notes: Vec<Condition>,
}

impl Made {
    /// Nobody passes any more.
    pub fn close(&mut self, fault: Fault) {
        self.security = Arc::new(Security::closed(Arc::clone(&self.security.from), fault.message.as_str().into()));
        self.fault = Some(fault);
    }
}

/// What the parts of a policy are made with.
pub(in crate::compile) struct Maker<'m, 'c, 'a> {
    pub backends: &'m Backends<'c, 'a>,
    /// Where servers that are asked (extAuth, oidc, remoteJWKS) go.
    pub upstreams: &'m mut Upstreams,
    /// All that there are.
    pub gateways: &'m [usize],
    pub policy: &'m Meta,
    /// The namespace of the part that is being made: references without one are of it, and grants are to it.
    pub home: &'m str,
    /// Where the policy is merged: what it says itself, and the policy that says the rest.
    pub parent: Option<(&'m SecurityPolicySpec, &'m Meta)>,
    /// What is done as the policy says, and is most likely not meant.
    pub warnings: Vec<String>,
}

impl<'m, 'c, 'a> Maker<'m, 'c, 'a> {
    pub fn context(&self) -> &'c Context<'a> {
        self.backends.context
    }

    pub fn make(&mut self, spec: &SecurityPolicySpec) -> Made {
        let mut from = ObjectRef::new(Kind::SecurityPolicy, self.policy.key.clone()).to_string();
        if let Some((_, below)) = self.parent {
            from.push_str(&format!(" over {}", below.key));
        }
        let mut security = Security { from: from.into(), ..Security::default() };
        let mut faults: Vec<Fault> = spec.unreadable.iter().map(|why| invalid(why.clone())).collect();
        let mut notes = Vec::new();
        macro_rules! part {
            ($field:ident, $make:expr) => {
                if let Some(part) = &spec.$field {
                    // A part that is the wider policy's lives in its namespace.
                    self.home = match self.parent {
                        Some((own, below)) if own.$field.is_none() => &below.key.namespace,
                        _ => &self.policy.key.namespace,
                    };
                    match $make(&mut *self, part, spec) {
                        Ok(made) => Some(made),
                        Err(fault) => {
                            faults.push(fault);
                            None
                        }
                    }
                } else {
                    None
                }
            };
        }
        security.cors = part!(cors, |_: &mut Self, cors, _| browsers::cors(cors));
        security.csrf = part!(csrf, |_: &mut Self, csrf, _| browsers::csrf(csrf));
        security.api_keys =
            part!(api_key_auth, |maker: &mut Self, keys, _| credentials::api_keys(maker, keys).map(Arc::new));
        security.basic = part!(basic_auth, |maker: &mut Self, basic, _| credentials::basic(maker, basic));
        security.oidc = part!(oidc, oidc::oidc);
        security.jwt = part!(jwt, |maker: &mut Self, jwt, _| tokens::jwt(maker, jwt));
        security.authorization = part!(authorization, |_: &mut Self, rules, spec| access::authorization(rules, spec));
        let of_others = faults.len();
        security.ext_auth = part!(ext_auth, ext_auth::ext_auth).into_iter().collect();
        // "If set to true, the External Authorization will also be bypassed if its configuration is invalid."
        let is_open = spec.ext_auth.as_ref().is_some_and(|auth| auth.fail_open == Some(true));
        if is_open && of_others == 0 {
            for fault in faults.drain(of_others..) {
                let message = format!("{}; failOpen lets all requests pass", fault.message);
                notes.push(Condition { kind: "Warning", status: true, reason: fault.reason, message });
            }
        }
        let fault = match &faults[..] {
            [] => None,
            [one] => Some(one.clone()),
            [first, ..] => {
                let all: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
                Some(Fault::new(first.reason, all.join("; ")))
            }
        };
        let warning = |message| Condition { kind: "Warning", status: true, reason: "InsecureBackend", message };
        notes.extend(self.warnings.drain(..).map(warning));
        let mut made = Made { security: Arc::new(security), fault: None, notes };
        if let Some(fault) = fault {
            made.close(fault);
        }
        made
    }

    /// A member of a Secret that must be there.
    pub fn secret(&self, field: &str, reference: &gateway::SecretRef, key: &str) -> Result<SecretRef, Fault> {
        let secret = self.secret_object(field, reference)?;
        let found = self.context().inputs.secrets.get(&secret);
        if found.is_some_and(|found| !found.spec.keys.iter().any(|known| known == key)) {
            return Err(invalid(format!("{field}: Secret {secret} has no key {key:?}")));
        }
        if let Some(fault) = found.and_then(|found| found.spec.faults.get(key)) {
            return Err(invalid(format!("{field}: Secret {secret} key {key:?} {fault}")));
        }
        Ok(SecretRef { secret, key: key.into() })
    }

    /// A Secret that must be there, and may be referred to.
    pub fn secret_object(&self, field: &str, reference: &gateway::SecretRef) -> Result<ObjectKey, Fault> {
        if Kind::of(&reference.group, &reference.kind) != Some(Kind::Secret) {
            let message = format!("{field}: {} of group {:?} is no Secret", reference.kind, reference.group);
            return Err(Fault::new("Invalid", message));
        }
        let context = self.context();
        let namespace = reference.namespace.as_deref().unwrap_or(self.home);
        let key = ObjectKey::new(namespace, reference.name.as_str());
        if !context.grants.permit(Kind::SecurityPolicy, self.home, Kind::Secret, namespace, &reference.name) {
            let message = format!("{field}: Secret {key} not permitted (no ReferenceGrant in {namespace})");
            return Err(Fault::new("RefNotPermitted", message));
        }
        let Some(found) = context.inputs.secrets.get(&key) else {
            return Err(invalid(format!("{field}: {}", context.missing(Kind::Secret, &key))));
        };
        // What is in those is read for other purposes only.
        let kind = &found.spec.kind;
        if kind == BASIC_AUTH_SECRET || matches!(found.spec.contents, SecretContents::Tls { .. }) {
            return Err(invalid(format!("{field}: Secret {key} is of type {kind}, expected Opaque")));
        }
        Ok(key)
    }
}

/// The steps of a policy that need requests.
pub(super) fn http_steps(spec: &SecurityPolicySpec) -> Vec<&'static str> {
    let steps = [
        ("cors", spec.cors.is_some()),
        ("csrf", spec.csrf.is_some()),
        ("extAuth", spec.ext_auth.is_some()),
        ("apiKeyAuth", spec.api_key_auth.is_some()),
        ("basicAuth", spec.basic_auth.is_some()),
        ("oidc", spec.oidc.is_some()),
        ("jwt", spec.jwt.is_some()),
    ];
    steps.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
}

/// Whether a policy can be one of connections without HTTP.
pub(super) fn only_authorization(spec: &SecurityPolicySpec) -> Result<(), Fault> {
    let others = http_steps(spec);
    if !others.is_empty() {
        return Err(invalid(format!("{}: connections without HTTP have authorization only", others.join(", "))));
    }
    let rules = spec.authorization.iter().flat_map(|authorization| &authorization.rules);
    for (index, rule) in rules.enumerate() {
        let principal = rule.principal.as_ref();
        let asks = principal.is_some_and(|p| p.jwt.is_some() || !p.headers.is_empty()) || rule.operation.is_some();
        if asks {
            let message = "connections without HTTP are judged by clientCIDRs only";
            return Err(invalid(format!("authorization.rules[{index}]: {message}")));
        }
    }
    Ok(())
}
