//! What the client gets from the rule that won.

use edge_config::snapshot::{Action, Backend, Listener, Rule, StreamRoute, Target};

use super::walk::Context;
use super::{Answer, BackendStep, Kind, RuleStep, access, clients, describe, limits, responses};
use crate::control::view::State;
use crate::proxy::exchange::gate::Policies;
use crate::proxy::filters::{cors, redirect, rewrite};
use crate::proxy::message::{RequestHead, ResponseHead};

/// `prefix` is how much of the path the match covered. The filters of the data plane itself are asked.
pub fn rule(
    context: &Context<'_>,
    listener: &Listener,
    rule: &Rule,
    prefix: usize,
    head: &mut RequestHead,
) -> (RuleStep, Answer) {
    let mut step = RuleStep {
        route: rule.route.to_string(),
        rule: rule.index,
        rule_name: rule.name.as_ref().map(ToString::to_string),
        applies: describe::rule(rule),
        backends: Vec::new(),
    };
    let security = access::of(rule, listener);
    step.applies.extend(security.map(access::lines).unwrap_or_default());
    let policies = Policies::of(rule, listener);
    if let Some(protection) = policies.protection() {
        step.applies.extend(limits::lines(protection, head, None));
    }
    step.applies.extend(policies.responses().map(responses::policy).unwrap_or_default());
    let mut response = ResponseHead::default();
    let allowing = rule.filters.cors.as_ref().or_else(|| security?.cors.as_ref());
    if allowing.is_some_and(|policy| cors::answer_preflight(policy, head, &mut response)) {
        let origin = context.question.field("origin").unwrap_or_default();
        let allowed = response.fields.first(b"access-control-allow-origin").is_some();
        let text = format!("preflight: origin {origin} is {}allowed", if allowed { "" } else { "not " });
        return (step, Answer::new(Kind::Preflight, response.status, text));
    }
    if let Some(why) = security.and_then(|security| security.closed.as_ref()) {
        let status = if rule.grpc { 200 } else { 500 };
        return (step, Answer::new(Kind::Error, status, why.to_string()));
    }
    let answer = match &rule.action {
        Action::Redirect(to) => match redirect::location(to, head, listener.port, prefix) {
            Ok(location) => Answer::new(Kind::Redirect, to.status, format!("{} to {location}", to.status)),
            Err(error) => Answer::new(Kind::Error, 500, error.to_string()),
        },
        Action::Refuse { status, reason } => Answer::new(Kind::Error, *status, reason.to_string()),
        Action::Respond(answer) => {
            let text = format!("answered by the configuration: {}", responses::fixed(answer));
            Answer::new(Kind::Direct, answer.status.unwrap_or(200), text)
        }
        Action::Forward(backends) => {
            step.backends = steps(context, backends);
            if let Some(edit) = &rule.filters.rewrite {
                if let Err(error) = rewrite::apply(edit, head, prefix) {
                    return (step, Answer::new(Kind::Error, 500, error.to_string()));
                }
                step.applies.push(format!(
                    "the backend sees {} {} at {}",
                    head.method(),
                    head.path(),
                    head.authority()
                ));
            }
            forwarded(&step.backends, backends, rule.grpc)
        }
    };
    (step, answer)
}

pub fn stream(context: &Context<'_>, stream: &StreamRoute) -> (RuleStep, Answer) {
    let backends = steps(context, &stream.backends);
    let mut answer = forwarded(&backends, &stream.backends, false);
    if answer.kind == Kind::Error {
        answer = Answer::new(Kind::Nothing, None, format!("{}: the connection is closed", answer.text));
    }
    let applies = stream.admission.iter().flat_map(|admission| access::authorization(admission)).collect();
    let step = RuleStep { route: stream.route.to_string(), rule: 0, rule_name: None, applies, backends };
    (step, answer)
}

fn steps(context: &Context<'_>, backends: &[Backend]) -> Vec<BackendStep> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let share = |weight: u32| if total == 0 { 0.0 } else { f64::from(weight) * 100.0 / total as f64 };
    backends
        .iter()
        .map(|backend| {
            let mut applies = describe::filters(&backend.filters);
            applies.extend(backend.balance.as_ref().and_then(describe::balance));
            if backend.fallback {
                applies.push("for need: it takes what the others cannot, as far as these are not healthy".to_owned());
            }
            let snapshot = context.lookup.scene.snapshot;
            if let Target::Upstream(id) = &backend.target
                && let Some(upstream) = snapshot.upstreams.get(id.index())
            {
                applies.extend(clients::of_upstream(snapshot, upstream));
                applies.extend(upstream.policy.as_ref().map(|policy| describe::policy(policy)).unwrap_or_default());
            }
            let (upstream, refused) = match &backend.target {
                Target::Upstream(id) => (context.backends.get(id.index()).cloned(), None),
                Target::Invalid { status, reason } => (None, Some(format!("{status}: {reason}"))),
            };
            BackendStep {
                reference: backend.reference.to_string(),
                weight: backend.weight,
                share: (share(backend.weight) * 10.0).round() / 10.0,
                upstream,
                refused,
                applies,
            }
        })
        .collect()
}

/// HTTPRouteRule.backendRefs: 500 for invalid references, 503 where a valid one has no endpoint; GRPCRoute tells the
/// same in `grpc-status` 14.
fn forwarded(steps: &[BackendStep], backends: &[Backend], grpc: bool) -> Answer {
    let error = |status: u16, text: String| {
        if grpc {
            Answer::new(Kind::Error, 200, format!("grpc-status 14 (unavailable): {text}"))
        } else {
            Answer::new(Kind::Error, status, text)
        }
    };
    let weighted: Vec<(&BackendStep, &Backend)> =
        steps.iter().zip(backends).filter(|(_, backend)| backend.weight > 0).collect();
    let Some((first, _)) = weighted.first() else {
        return error(500, "no backend of the rule has a weight above 0".to_owned());
    };
    let usable = |step: &BackendStep| step.upstream.as_ref().is_some_and(|row| row.health.state != State::Down);
    let good: Vec<&BackendStep> = weighted.iter().map(|(step, _)| *step).filter(|step| usable(step)).collect();
    if good.is_empty() {
        let text = match (&first.upstream, &first.refused) {
            (Some(row), _) => format!("backend {}: {}", first.reference, row.health.reason),
            (None, Some(refused)) => format!(
                "backend {}: {}",
                first.reference,
                refused.split_once(": ").map_or(&**refused, |(_, text)| text)
            ),
            (None, None) => format!("backend {} is not known", first.reference),
        };
        let status = weighted.iter().find_map(|(_, backend)| match &backend.target {
            Target::Invalid { status, .. } => Some(*status),
            Target::Upstream(_) => None,
        });
        return error(if first.upstream.is_some() { 503 } else { status.unwrap_or(500) }, text);
    }
    let names: Vec<String> = if weighted.len() == 1 {
        good.iter().map(|step| step.reference.clone()).collect()
    } else {
        good.iter().map(|step| format!("{} ({} %)", step.reference, step.share)).collect()
    };
    let rest: f64 = weighted.iter().map(|(step, _)| *step).filter(|step| !usable(step)).map(|step| step.share).sum();
    let rest = if rest > 0.0 { format!("; {rest} % of the requests fail") } else { String::new() };
    Answer::new(Kind::Backend, None, format!("answered by {}{rest}", names.join(" or ")))
}
