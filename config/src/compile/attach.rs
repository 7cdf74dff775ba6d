//! Which listeners a route is attached to, and why it is not attached to others.

use foldhash::{HashMap, HashMapExt};

use super::context::{Context, Fault};
use super::gateways::GatewayState;
use crate::gateway::ParentReference;
use crate::inputs::Meta;
use crate::names::{HostPattern, Kind, ObjectKey, ObjectRef};
use crate::problem::Severity;

/// Gateways and ListenerSets by name.
pub(super) struct Parents<'a> {
    by_name: HashMap<(Kind, &'a str, &'a str), Parent<'a>>,
}

struct Parent<'a> {
    gateway: usize,
    /// Its own listeners among those of the Gateway: a route attaches to listeners of its direct parent only.
    listeners: std::ops::Range<usize>,
    by_section: HashMap<&'a str, usize>,
    /// A ListenerSet that is not attached to its Gateway.
    refused: bool,
}

/// A listener that takes a route, at these hosts.
#[derive(Clone)]
pub(super) struct Attachment {
    pub gateway: usize,
    pub listener: usize,
    pub hosts: Box<[HostPattern]>,
}

/// What became of one parentRef that names a parent of ours.
pub(super) struct ParentOutcome<'r> {
    pub reference: &'r ParentReference,
    pub gateway: usize,
    pub fault: Option<Fault>,
}

/// A route, whatever its kind.
pub(super) struct Route<'r> {
    pub kind: Kind,
    pub meta: &'r Meta,
    pub parents: &'r [ParentReference],
    /// Never empty: a route without hostnames has [`HostPattern::Any`].
    pub hosts: Vec<HostPattern>,
}

impl<'a> Parents<'a> {
    pub fn new(gateways: &[GatewayState<'a>]) -> Self {
        let mut by_name = HashMap::new();
        for (index, gateway) in gateways.iter().enumerate() {
            let mut add = |kind, key: &'a ObjectKey, set: Option<usize>, refused| {
                let mut listeners = 0..0;
                let mut by_section = HashMap::new();
                for (place, listener) in gateway.listeners.iter().enumerate().filter(|(_, l)| l.set == set) {
                    if listeners.is_empty() {
                        listeners.start = place;
                    }
                    listeners.end = place + 1;
                    by_section.entry(listener.spec.name.as_str()).or_insert(place);
                }
                let parent = Parent { gateway: index, listeners, by_section, refused };
                by_name.insert((kind, &*key.namespace, &*key.name), parent);
            };
            add(Kind::Gateway, &gateway.object.meta.key, None, false);
            for (place, set) in gateway.sets.iter().enumerate() {
                add(Kind::ListenerSet, &set.object.meta.key, Some(place), set.fault.is_some());
            }
        }
        Self { by_name }
    }

    fn find<'s>(&'s self, reference: &'s ParentReference, namespace: &'s str) -> Option<&'s Parent<'s>> {
        let kind = Kind::of(&reference.group, &reference.kind)?;
        self.by_name.get(&(kind, namespace, reference.name.as_str()))
    }

    /// The Gateway behind a reference to a parent of ours.
    pub fn gateway_of(&self, reference: &ParentReference, namespace: &str) -> Option<usize> {
        self.find(reference, namespace).map(|parent| parent.gateway)
    }

    /// Judges every parentRef of a route. A listener that several of them name is attached to once.
    pub fn attach<'r>(
        &self,
        context: &Context<'_>,
        gateways: &[GatewayState<'_>],
        route: &Route<'r>,
    ) -> (Vec<ParentOutcome<'r>>, Vec<Attachment>) {
        let mut outcomes = Vec::with_capacity(route.parents.len());
        let mut attachments: Vec<Attachment> = Vec::new();
        for reference in route.parents {
            let home = &*route.meta.key.namespace;
            let namespace = reference.namespace.as_deref().unwrap_or(home);
            let Some(parent) = self.find(reference, namespace) else {
                unknown(context, route, reference, namespace);
                continue;
            };
            let before = attachments.len();
            let fault = judge(context, gateways, route, (reference, parent), &mut attachments).err();
            if fault.is_some() {
                attachments.truncate(before);
            }
            outcomes.push(ParentOutcome { reference, gateway: parent.gateway, fault });
        }
        (outcomes, attachments)
    }
}

/// A parent that is not ours is none of our business; one that is not there at all is most likely a mistake.
fn unknown(context: &Context<'_>, route: &Route<'_>, reference: &ParentReference, namespace: &str) {
    let Some(kind @ (Kind::Gateway | Kind::ListenerSet)) = Kind::of(&reference.group, &reference.kind) else { return };
    let object = ObjectRef::new(kind, ObjectKey::new(namespace, reference.name.as_str()));
    if context.inputs.meta(&object).is_none() {
        let message = format!("parentRefs: {}", context.missing(kind, &object.key));
        context.problem(Severity::Warning, route.kind, route.meta, message);
    }
}

fn judge(
    context: &Context<'_>,
    gateways: &[GatewayState<'_>],
    route: &Route<'_>,
    (reference, parent): (&ParentReference, &Parent<'_>),
    attachments: &mut Vec<Attachment>,
) -> Result<(), Fault> {
    let no_parent = |message: String| Err(Fault::new("NoMatchingParent", message));
    if parent.refused {
        return no_parent(format!("ListenerSet {} is not attached to its Gateway", reference.name));
    }
    let gateway = &gateways[parent.gateway];
    let section = reference.section_name.as_deref().filter(|name| !name.is_empty());
    let candidates = match section {
        None => parent.listeners.clone(),
        Some(name) => match parent.by_section.get(name) {
            Some(place) => *place..place + 1,
            None => return no_parent(format!("{} {} has no listener {name}", reference.kind, reference.name)),
        },
    };
    let home = &*route.meta.key.namespace;
    let mut matching = false;
    let mut allowed = false;
    let mut attached = false;
    let mut refusal = "";
    for place in candidates {
        let listener = &gateway.listeners[place];
        if reference.port.is_some_and(|port| port != listener.spec.port) {
            continue;
        }
        matching = true;
        if !listener.kinds.contains(&route.kind) {
            refusal = "does not take this kind of route";
            continue;
        }
        let namespaces = &listener.spec.allowed_routes.namespaces;
        let parent_home = &*listener.parent.namespace;
        if !context.allows(&namespaces.from, namespaces.selector.as_ref(), parent_home, home) {
            refusal = "does not take routes of this namespace";
            continue;
        }
        allowed = true;
        let mut hosts: Vec<HostPattern> = Vec::with_capacity(route.hosts.len());
        for host in &route.hosts {
            if let Some(both) = listener.hostname.intersection(host)
                && !hosts.contains(&both)
            {
                hosts.push(both);
            }
        }
        if hosts.is_empty() {
            continue;
        }
        attached = true;
        if !attachments.iter().any(|known| known.gateway == parent.gateway && known.listener == place) {
            attachments.push(Attachment { gateway: parent.gateway, listener: place, hosts: hosts.into() });
        }
    }
    if attached {
        return Ok(());
    }
    let name = &reference.name;
    if !matching {
        let port = reference.port.map(|port| format!(" on port {port}")).unwrap_or_default();
        no_parent(format!("{} {name} has no such listener{port}", reference.kind))
    } else if !allowed {
        let which = section.map_or_else(|| "every listener".to_owned(), |section| format!("listener {section}"));
        Err(Fault::new("NotAllowedByListeners", format!("{which} of {} {name} {refusal}", reference.kind)))
    } else {
        let message = format!("no hostname of the route falls under a listener of {} {name}", reference.kind);
        Err(Fault::new("NoMatchingListenerHostname", message))
    }
}
