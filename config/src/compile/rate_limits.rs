//! NGINX Gateway Fabric's RateLimitPolicy: what it says of Gateways and routes, and its status.
//!
//! Policies for one target add up. Two that both say one of dryRun, logLevel and rejectCode conflict: the older one is in
//! effect, the other not at all. The rules of a route stand in place of its Gateway's, as directives of NGINX do.

use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use super::attach::Parents;
use super::context::{Context, Fault};
use super::gateways::GatewayState;
use super::policies::{Status, ancestor, elsewhere, invalid, oldest_first, route_parents};
use super::protection::{RouteProtections, beside};
use super::traffic::{digest, unacted};
use crate::gateway::{ParentReference, PolicyTargetRef};
use crate::inputs::Object;
use crate::names::{Kind, ObjectKey, ObjectRef};
use crate::nginx::{NginxRateLimitRule, RateLimitLogLevel, RateLimitPolicySpec};
use crate::policy::protection::{Counts, KeyPart, LogLevel, Protection, Rate, RateList, RateName, Rates, Reach};
use crate::report::ObjectReport;

const MOST_RULES: usize = 64;
const LONGEST_KEY: usize = 1024;

/// Judges every policy. Those of Gateways go into their profiles.
pub(super) fn rate_limits(
    context: &Context<'_>,
    gateways: &mut [GatewayState<'_>],
    routes: &mut RouteProtections,
    out: &mut Vec<(ObjectRef, ObjectReport)>,
) {
    if context.inputs.rate_limit_policies.is_empty() {
        return;
    }
    let parents = Parents::new(gateways);
    // Who has the fields that only one may have.
    let mut said: HashMap<(ObjectRef, &'static str), ObjectKey> = HashMap::new();
    let mut of_gateways: Vec<(usize, Protection)> = Vec::new();
    for policy in oldest_first(&context.inputs.rate_limit_policies) {
        let mut status = Status::new(Kind::RateLimitPolicy, &policy.meta);
        status.notes.extend(unacted("spec", &crate::manifest::unacted(Kind::RateLimitPolicy, &policy.spec)));
        let judged = protection(policy);
        let both = policy.spec.target_refs.iter().any(|target| target.kind == Kind::Gateway.as_str())
            && policy.spec.target_refs.iter().any(|target| target.kind != Kind::Gateway.as_str());
        for target in &policy.spec.target_refs {
            let kind = Kind::of(&target.group, &target.kind);
            let kind = kind.filter(|kind| matches!(kind, Kind::Gateway | Kind::HTTPRoute | Kind::GRPCRoute));
            let Some(kind) = kind else {
                let message = format!("targetRefs: {} of group {:?} cannot be a target", target.kind, target.group);
                context.problem(crate::problem::Severity::Error, Kind::RateLimitPolicy, &policy.meta, message);
                continue;
            };
            let object = ObjectRef::new(kind, ObjectKey::new(&*policy.meta.key.namespace, target.name.as_str()));
            if context.inputs.meta(&object).is_none() {
                status.not_found(context, target, kind, elsewhere(context, kind, &object.key.name));
                continue;
            }
            let found: Vec<usize> = match kind {
                Kind::Gateway => gateways.iter().position(|gateway| *gateway.key() == object.key).into_iter().collect(),
                _ => route_parents(context, &parents, &object).into_iter().map(|(_, gateway)| gateway).collect(),
            };
            // Of somebody else's Gateways there is nothing to say.
            let Some(first) = found.first() else { continue };
            let mut fault = judged.as_ref().err().cloned();
            if both {
                let message = "targetRefs: a Gateway beside routes, expected either".to_owned();
                fault.get_or_insert(invalid(message));
            }
            if fault.is_none()
                && let Some((field, rival)) =
                    fields(&policy.spec).find_map(|field| Some((field, said.get(&(object.clone(), field))?)))
            {
                let message = format!("the older policy {rival} has {field} for {object}");
                fault = Some(Fault::new("Conflicted", message));
            }
            if let (None, Ok(protection)) = (&fault, &judged) {
                said.extend(fields(&policy.spec).map(|field| ((object.clone(), field), policy.meta.key.clone())));
                match kind {
                    Kind::Gateway => of_gateways.push((*first, protection.clone())),
                    _ => routes.say(&object, protection),
                }
            }
            let controller = Arc::clone(&gateways[*first].controller);
            status.add(context, of_target(target, &object), &controller, fault.as_ref());
        }
        status.finish(context, out);
    }
    for (gateway, protection) in of_gateways {
        let profile = &mut gateways[gateway].profile;
        profile.protection = Some(beside(profile.protection.as_ref(), &protection));
    }
}

/// The ancestor is the target itself, as NGINX Gateway Fabric has it.
pub(super) fn of_target(target: &PolicyTargetRef, object: &ObjectRef) -> ParentReference {
    match object.kind {
        Kind::Gateway => ancestor(&object.key, None),
        _ => ParentReference {
            group: target.group.clone(),
            kind: target.kind.clone(),
            namespace: Some(object.key.namespace.to_string()),
            name: target.name.clone(),
            section_name: None,
            port: None,
        },
    }
}

/// Fields that only one policy of a target may have.
fn fields(spec: &RateLimitPolicySpec) -> impl Iterator<Item = &'static str> {
    let limit = spec.rate_limit.clone().unwrap_or_default();
    let fields = [
        ("rateLimit.dryRun", limit.dry_run.is_some()),
        ("rateLimit.logLevel", limit.log_level.is_some()),
        ("rateLimit.rejectCode", limit.reject_code.is_some()),
    ];
    fields.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field)
}

fn protection(policy: &Object<RateLimitPolicySpec>) -> Result<Protection, Fault> {
    let limit = policy.spec.rate_limit.clone().unwrap_or_default();
    let rules = limit.local.unwrap_or_default().rules;
    if rules.len() > MOST_RULES {
        let message = format!("rateLimit.local.rules has {} entries, expected at most {MOST_RULES}", rules.len());
        return Err(invalid(message));
    }
    let object = ObjectRef::new(Kind::RateLimitPolicy, policy.meta.key.clone());
    let mut list = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let name =
            RateName { policy: object.clone(), list: RateList::Local, index: u32::try_from(index).unwrap_or(u32::MAX) };
        list.push(rate(rule, name).map_err(|error| invalid(format!("rateLimit.local.rules[{index}].{error}")))?);
    }
    let log = match limit.log_level {
        None => None,
        Some(RateLimitLogLevel::Info) => Some(LogLevel::Info),
        Some(RateLimitLogLevel::Notice) => Some(LogLevel::Notice),
        Some(RateLimitLogLevel::Warn) => Some(LogLevel::Warn),
        Some(RateLimitLogLevel::Error) => Some(LogLevel::Error),
        Some(RateLimitLogLevel::Other(other)) => {
            return Err(invalid(format!("rateLimit.logLevel {other:?} is not known")));
        }
    };
    if let Some(code) = limit.reject_code.filter(|code| !(400..=599).contains(code)) {
        return Err(invalid(format!("rateLimit.rejectCode {code}, expected 400 to 599")));
    }
    let rates = Rates { list, dry_run: limit.dry_run, status: limit.reject_code, log };
    Ok(Protection { zones: Some(Arc::new(rates)), ..Protection::default() })
}

fn rate(rule: &NginxRateLimitRule, name: RateName) -> Result<Rate, String> {
    let (requests, per) = rule
        .rate
        .parse()
        .filter(|(requests, _)| *requests > 0)
        .ok_or_else(|| format!("rate {:?}, expected one such as \"10r/s\" or \"600r/m\"", rule.rate.0))?;
    if let Some(size) = rule.zone_size.as_ref().filter(|size| size.parse().is_none()) {
        return Err(format!("zoneSize {:?}, expected one such as \"10m\"", size.0));
    }
    let no_delay = rule.no_delay.unwrap_or(false);
    if no_delay && rule.delay.is_some() {
        return Err("delay: noDelay excludes it".to_owned());
    }
    Ok(Rate {
        digest: digest(&name),
        requests,
        per: Duration::max(per, Duration::from_secs(1)),
        burst: rule.burst.unwrap_or(0),
        delay_after: (!no_delay).then(|| rule.delay.unwrap_or(0)),
        when: None,
        otherwise: false,
        by: key(&rule.key)?,
        by_any: true,
        // One zone of shared memory for all targets of the policy, in each Gateway's NGINX.
        counts: Counts::Gateway,
        reach: Reach::Edge,
        dry_run: false,
        cost: 1,
        response_cost: 0,
        headers: Some(false),
        name,
    })
}

/// Text and NGINX variables, such as `$binary_remote_addr:$request_uri`.
fn key(text: &str) -> Result<Vec<KeyPart>, String> {
    let is_fit = |c: char| c.is_ascii_graphic() && !matches!(c, ';' | '{' | '}' | '#');
    if text.is_empty() || text.len() > LONGEST_KEY || !text.chars().all(is_fit) {
        return Err(format!("key {text:?}, expected text and NGINX variables"));
    }
    let mut parts = Vec::new();
    let mut pieces = text.split('$');
    let literal = |parts: &mut Vec<KeyPart>, text: &str| {
        if !text.is_empty() {
            parts.push(KeyPart::Text(text.into()));
        }
    };
    literal(&mut parts, pieces.next().unwrap_or_default());
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len());
        let (name, rest) = piece.split_at(end);
        parts.push(variable(name)?);
        literal(&mut parts, rest);
    }
    Ok(parts)
}

fn variable(name: &str) -> Result<KeyPart, String> {
    Ok(match name {
        "remote_addr" | "binary_remote_addr" | "realip_remote_addr" => KeyPart::Client,
        "host" | "http_host" | "server_name" => KeyPart::Host,
        "request_method" => KeyPart::Method,
        "request_uri" => KeyPart::Uri,
        "uri" | "document_uri" => KeyPart::Path,
        _ => match (name.strip_prefix("http_"), name.strip_prefix("cookie_"), name.strip_prefix("arg_")) {
            (Some(header), ..) if !header.is_empty() => {
                KeyPart::Header(header.to_ascii_lowercase().replace('_', "-").into())
            }
            (_, Some(cookie), _) if !cookie.is_empty() => KeyPart::Cookie(cookie.into()),
            (_, _, Some(argument)) if !argument.is_empty() => KeyPart::Query(argument.into()),
            _ => return Err(format!("key: ${name} is not acted on by this version")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_and_variables() {
        let text = |text: &str| KeyPart::Text(text.into());
        for (written, expected) in [
            ("$binary_remote_addr", Some(vec![KeyPart::Client])),
            ("$binary_remote_addr:$request_uri", Some(vec![KeyPart::Client, text(":"), KeyPart::Uri])),
            ("my_fixed_key", Some(vec![text("my_fixed_key")])),
            ("$http_x_api_key", Some(vec![KeyPart::Header("x-api-key".into())])),
            (
                "a$cookie_id$arg_q-",
                Some(vec![text("a"), KeyPart::Cookie("id".into()), KeyPart::Query("q".into()), text("-")]),
            ),
            ("$host$uri$request_method", Some(vec![KeyPart::Host, KeyPart::Path, KeyPart::Method])),
            ("", None),
            ("$", None),
            ("$http_", None),
            ("$jwt_claim_sub", None),
            ("a b", None),
            ("a;b", None),
            ("${host}", None),
        ] {
            assert_eq!(key(written).ok(), expected, "{written}");
        }
    }
}
