//! Authorization: rules as they are written, into tests that cost little.

use std::sync::Arc;

use super::super::context::Fault;
use super::super::filters::is_token;
use super::super::policies::invalid;
use crate::envoy::{self, AuthorizationAction, JwtClaimValueType, OperationPathType, Principal, SecurityPolicySpec};
use crate::matching::Pattern;
use crate::policy::{AccessRule, Authorization, ClaimPath, ClaimTest, Networks, PathTest, PathTestKind};
use crate::settings::AddressRange;

pub(super) fn authorization(spec: &envoy::Authorization, policy: &SecurityPolicySpec) -> Result<Authorization, Fault> {
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (index, written) in spec.rules.iter().enumerate() {
        let place = format!("authorization.rules[{index}]");
        rules.push(rule(&place, index, written, policy)?);
    }
    let allow = spec.default_action.as_ref().is_some_and(|action| *action == AuthorizationAction::Allow);
    if let Some(AuthorizationAction::Other(other)) = &spec.default_action {
        return Err(invalid(format!("authorization.defaultAction: {other:?} is neither Allow nor Deny")));
    }
    Ok(Authorization { rules, allow })
}

fn rule(
    place: &str,
    index: usize,
    written: &envoy::AuthorizationRule,
    policy: &SecurityPolicySpec,
) -> Result<AccessRule, Fault> {
    let allow = match &written.action {
        AuthorizationAction::Allow => true,
        AuthorizationAction::Deny => false,
        AuthorizationAction::Other(other) => {
            return Err(invalid(format!("{place}.action: {other:?} is neither Allow nor Deny")));
        }
    };
    if written.cel.is_some() {
        return Err(invalid(format!("{place}.cel is not acted on by this version")));
    }
    let everybody = Principal::default();
    let principal = match (&written.principal, &written.operation) {
        (Some(principal), _) => principal,
        // Documented in Envoy Gateway's task about methods: what is allowed or denied to everybody.
        (None, Some(_)) => &everybody,
        (None, None) => return Err(invalid(format!("{place}: neither principal nor operation"))),
    };
    if !principal.client_ip_geo_locations.is_empty() {
        return Err(invalid(format!("{place}.principal.clientIPGeoLocations is not acted on by this version")));
    }
    let unsaid = principal.client_cidrs.is_empty() && principal.jwt.is_none() && principal.headers.is_empty();
    if unsaid && written.principal.is_some() {
        return Err(invalid(format!("{place}.principal says nothing, and would be everybody")));
    }
    let mut rule = AccessRule {
        name: written.name.as_deref().map_or_else(|| format!("rule {index}").into(), Into::into),
        allow,
        methods: Vec::new(),
        path: None,
        clients: None,
        headers: Vec::with_capacity(principal.headers.len()),
        token: None,
    };
    if let Some(operation) = &written.operation {
        if operation.methods.is_empty() && operation.path.is_none() {
            return Err(invalid(format!("{place}.operation says nothing")));
        }
        if let Some(method) = operation.methods.iter().find(|method| !is_token(method)) {
            return Err(invalid(format!("{place}.operation.methods: {method:?} is no method")));
        }
        rule.methods = operation.methods.iter().map(|method| method.as_str().into()).collect();
        rule.path = operation.path.as_ref().map(|path| path_test(place, path)).transpose()?;
    }
    if !principal.client_cidrs.is_empty() {
        rule.clients = Some(Arc::new(networks(&format!("{place}.principal.clientCIDRs"), &principal.client_cidrs)?));
    }
    for header in &principal.headers {
        if !is_token(&header.name) {
            return Err(invalid(format!("{place}.principal.headers: {:?} is no header name", header.name)));
        }
        if header.values.is_empty() {
            return Err(invalid(format!("{place}.principal.headers: {} has no values", header.name)));
        }
        let values = header.values.iter().map(|value| value.as_str().into()).collect();
        rule.headers.push((header.name.to_ascii_lowercase().into(), values));
    }
    rule.token = principal.jwt.as_ref().map(|jwt| claim_test(place, jwt, policy)).transpose()?;
    Ok(rule)
}

/// CIDRs as Envoy Gateway reads them: bits behind the prefix do not count.
pub(in crate::compile) fn networks(place: &str, texts: &[String]) -> Result<Networks, Fault> {
    let mut ranges = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let range = if text.contains('/') { AddressRange::parse(text).ok() } else { None };
        ranges.push(range.ok_or_else(|| {
            invalid(format!("{place}[{index}]: {text:?} is no network, expected one such as \"192.0.2.0/24\""))
        })?);
    }
    Ok(Networks::new(ranges))
}

fn path_test(place: &str, path: &envoy::OperationPath) -> Result<PathTest, Fault> {
    let kind = match path.kind.as_ref().unwrap_or(&OperationPathType::PathPrefix) {
        OperationPathType::Exact => PathTestKind::Exact(path.value.as_str().into()),
        OperationPathType::PathPrefix => PathTestKind::Prefix(path.value.trim_end_matches('/').into()),
        OperationPathType::RegularExpression => match Pattern::parse(&path.value) {
            Ok(pattern) => PathTestKind::Regex(pattern),
            Err(error) => return Err(invalid(format!("{place}.operation.path: {:?} {error}", path.value))),
        },
        OperationPathType::Other(other) => {
            return Err(invalid(format!("{place}.operation.path.type: {other:?} is not known")));
        }
    };
    if !path.value.starts_with('/') && !matches!(kind, PathTestKind::Regex(_)) {
        return Err(invalid(format!("{place}.operation.path: {:?} is no path", path.value)));
    }
    Ok(PathTest { kind, invert: path.invert == Some(true) })
}

fn claim_test(place: &str, jwt: &envoy::JwtPrincipal, policy: &SecurityPolicySpec) -> Result<ClaimTest, Fault> {
    let place = format!("{place}.principal.jwt");
    let mut providers = policy.jwt.iter().flat_map(|jwt| &jwt.providers);
    if !providers.any(|provider| provider.name == jwt.provider) {
        return Err(invalid(format!("{place}.provider: the policy has no JWT provider {:?}", jwt.provider)));
    }
    if jwt.claims.is_empty() && jwt.scopes.is_empty() {
        return Err(invalid(format!("{place}: has neither claims nor scopes")));
    }
    let mut claims = Vec::with_capacity(jwt.claims.len());
    for claim in &jwt.claims {
        if claim.name.is_empty() || claim.values.is_empty() {
            return Err(invalid(format!("{place}.claims: {:?} needs a name and values", claim.name)));
        }
        let is_list = match &claim.value_type {
            None | Some(JwtClaimValueType::String) => false,
            Some(JwtClaimValueType::StringArray) => true,
            Some(JwtClaimValueType::Other(other)) => {
                return Err(invalid(format!("{place}.claims: valueType {other:?} is not known")));
            }
        };
        let values = claim.values.iter().map(|value| value.as_str().into()).collect();
        claims.push((ClaimPath(claim.name.as_str().into()), is_list, values));
    }
    let scopes = jwt.scopes.iter().map(|scope| scope.as_str().into()).collect();
    Ok(ClaimTest { provider: jwt.provider.as_str().into(), claims, scopes })
}

#[cfg(test)]
mod tests {
    use super::authorization;
    use crate::envoy::SecurityPolicySpec;

    #[test]
    fn a_rule_is_about_somebody_or_about_something_that_everybody_may_do() {
        for (rule, sound) in [
            (r#"{"action": "Allow", "operation": {"methods": ["GET"]}}"#, true),
            (
                r#"{"action": "Allow", "operation": {"methods": ["GET"]}, "principal": {"clientCIDRs": ["10.0.0.0/8"]}}"#,
                true,
            ),
            (r#"{"action": "Allow", "operation": {}}"#, false),
            (r#"{"action": "Allow"}"#, false),
            (r#"{"action": "Allow", "principal": {}}"#, false),
            (r#"{"action": "Allow", "operation": {"methods": ["GET"]}, "principal": {}}"#, false),
        ] {
            let written = serde_json::from_str(&format!(r#"{{"rules": [{rule}]}}"#)).unwrap();
            let made = authorization(&written, &SecurityPolicySpec::default());
            assert_eq!(made.is_ok(), sound, "{rule}");
        }
    }
}
