//! Conditions of Gateways, ListenerSets and their listeners, as far as the configuration decides them.

use super::context::{Fault, condition};
use super::gateways::{GatewayState, SetState};
use super::listeners::ListenerState;
use crate::names::{Kind, ObjectRef};
use crate::report::{Condition, ListenerReport, ObjectReport};

/// The reason of a ResolvedRefs that is true for a version before the newest.
const LAST_GOOD: &str = "LastGoodVersionServed";

pub(super) fn report(gateways: &[GatewayState<'_>], out: &mut Vec<(ObjectRef, ObjectReport)>) {
    for gateway in gateways {
        let programmed = programmed(gateway);
        let mut attached = 0;
        for (index, set) in gateway.sets.iter().enumerate() {
            let (report, accepted) = set_report(gateway, set, index, programmed.as_ref());
            attached += u32::from(accepted);
            out.push((ObjectRef::new(Kind::ListenerSet, set.object.meta.key.clone()), report));
        }
        let own = gateway.listeners.iter().filter(|listener| listener.set.is_none());
        let report = ObjectReport {
            generation: gateway.object.meta.generation,
            conditions: conditions(gateway, programmed.as_ref()),
            addresses: gateway.addresses.iter().map(|(address, _)| *address).collect(),
            listeners: own.map(|listener| listener_report(gateway, listener)).collect(),
            attached_listener_sets: Some(attached),
            ..ObjectReport::default()
        };
        out.push((ObjectRef::new(Kind::Gateway, gateway.key().clone()), report));
    }
}

fn conditions(gateway: &GatewayState<'_>, programmed: Option<&Fault>) -> Vec<Condition> {
    let own: Vec<_> = gateway.listeners.iter().filter(|listener| listener.set.is_none()).collect();
    let accepted = match &gateway.fault {
        Some(fault) => condition("Accepted", "Accepted", Some(fault)),
        None => accepted(&own, gateway.listeners.iter().any(ListenerState::is_valid)),
    };
    let unresolved = gateway.refs_fault.clone().or_else(|| {
        let names = names(own.iter().filter(|listener| listener.refs_fault.is_some()));
        (!names.is_empty())
            .then(|| Fault::new("ListenersNotResolved", format!("unresolved references in listener {names}")))
    });
    let mut conditions = vec![
        accepted,
        condition("Programmed", "Programmed", programmed),
        condition("ResolvedRefs", "ResolvedRefs", unresolved.as_ref()),
    ];
    if gateway.insecure_validation {
        conditions.push(Condition {
            kind: "InsecureFrontendValidationMode",
            status: true,
            reason: "ConfigurationChanged",
            message: "client certificates are asked for, but clients without a valid one are let in".to_owned(),
        });
    }
    conditions
}

/// "MUST set a ListenersNotValid condition on the Gateway Status when the Gateway contains Conflicted Listeners whether
/// or not they accept the Gateway"; it is the reason of Accepted, which is true while any listener is valid.
fn accepted(listeners: &[&ListenerState<'_>], any_valid: bool) -> Condition {
    let bad = names(listeners.iter().filter(|listener| !listener.is_valid()));
    if bad.is_empty() {
        return condition("Accepted", "Accepted", None);
    }
    let good = names(listeners.iter().filter(|listener| listener.is_valid()));
    let good = if good.is_empty() { "none".to_owned() } else { good };
    Condition {
        kind: "Accepted",
        status: any_valid,
        reason: "ListenersNotValid",
        message: format!("not valid: listener {bad}; accepted: {good}"),
    }
}

fn names<'l, 'a: 'l>(listeners: impl Iterator<Item = &'l &'l ListenerState<'a>>) -> String {
    listeners.map(|listener| listener.spec.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn programmed(gateway: &GatewayState<'_>) -> Option<Fault> {
    if let Some(fault) = &gateway.fault {
        return Some(Fault::new("Invalid", fault.message.clone()));
    }
    if let Some(fault) = &gateway.address_fault {
        return Some(fault.clone());
    }
    if gateway.listeners.iter().any(|listener| listener.id.is_some()) {
        return None;
    }
    Some(Fault::new("Invalid", "no listener can be served"))
}

fn listener_report(gateway: &GatewayState<'_>, listener: &ListenerState<'_>) -> ListenerReport {
    let accepted = listener.conflict.as_ref().or(listener.fault.as_ref());
    let invalid = |fault: &Fault| Fault::new("Invalid", fault.message.clone());
    let programmed = match (&listener.conflict, &listener.fault) {
        (Some(conflict), _) => Some(conflict.clone()),
        (None, Some(fault)) => Some(invalid(fault)),
        (None, None) => listener.programmed_fault.clone().or_else(|| {
            if listener.id.is_some() {
                return None;
            }
            let fault = gateway.fault.as_ref().or(gateway.address_fault.as_ref());
            Some(match fault {
                Some(fault) => Fault::new("Pending", fault.message.clone()),
                None => Fault::new("Invalid", "it cannot be served"),
            })
        }),
    };
    let mut conditions = vec![
        condition("Accepted", "Accepted", accepted),
        condition("Programmed", "Programmed", programmed.as_ref()),
        resolved(listener),
    ];
    conditions.extend(listener.certificate_ready.clone());
    if let Some(conflict) = &listener.conflict {
        conditions.push(Condition {
            kind: "Conflicted",
            status: true,
            reason: conflict.reason,
            message: conflict.message.clone(),
        });
    }
    if let Some(other) = &listener.overlap {
        conditions.push(Condition {
            kind: "OverlappingTLSConfig",
            status: true,
            reason: "OverlappingHostnames",
            message: format!("the hostname overlaps that of listener {other}; a connection is bound to one of them"),
        });
    }
    ListenerReport {
        name: listener.spec.name.as_str().into(),
        port: listener.spec.port,
        protocol: listener.spec.protocol.as_str().into(),
        hostname: listener.spec.hostname.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        supported_kinds: listener.kinds.clone(),
        attached_routes: listener.attached,
        conditions,
    }
}

fn resolved(listener: &ListenerState<'_>) -> Condition {
    match (&listener.refs_fault, &listener.outdated) {
        // What is referred to was good, and that is what serves.
        (None, Some(message)) => {
            Condition { kind: "ResolvedRefs", status: true, reason: LAST_GOOD, message: message.clone() }
        }
        (fault, _) => condition("ResolvedRefs", "ResolvedRefs", fault.as_ref()),
    }
}

/// The report of a set, and whether it counts as attached.
fn set_report(
    gateway: &GatewayState<'_>,
    set: &SetState<'_>,
    index: usize,
    parent_programmed: Option<&Fault>,
) -> (ObjectReport, bool) {
    let listeners: Vec<_> = gateway.listeners.iter().filter(|listener| listener.set == Some(index)).collect();
    // ListenerSetReasonListenersNotValid: "cannot be configured on the Gateway"; so it is where there is no certificate,
    // not even a placeholder.
    let is_hopeless = |listener: &ListenerState<'_>| listener.programmed_fault.is_some() && listener.id.is_none();
    let any_valid = listeners.iter().any(|listener| listener.is_valid() && !is_hopeless(listener));
    let accepted = match &set.fault {
        Some(fault) => condition("Accepted", "Accepted", Some(fault)),
        None => match accepted(&listeners, any_valid) {
            good if good.status && !any_valid => {
                let names = names(listeners.iter());
                condition(
                    "Accepted",
                    "Accepted",
                    Some(&Fault::new("ListenersNotValid", format!("no certificate for listener {names}"))),
                )
            }
            judged => judged,
        },
    };
    let programmed = match &set.fault {
        Some(fault) => Some(fault.clone()),
        None if !any_valid => Some(Fault::new("ListenersNotValid", accepted.message.clone())),
        None => parent_programmed
            .filter(|_| listeners.iter().all(|listener| listener.id.is_none()))
            .map(|fault| Fault::new("ParentNotProgrammed", fault.message.clone())),
    };
    let counts = accepted.status;
    let report = ObjectReport {
        generation: set.object.meta.generation,
        conditions: vec![accepted, condition("Programmed", "Programmed", programmed.as_ref())],
        listeners: listeners.iter().map(|listener| listener_report(gateway, listener)).collect(),
        ..ObjectReport::default()
    };
    (report, counts)
}
