//! Names for the certificates that ACME issues for listeners, once their routes are known.
//!
//! A listener with one hostname gets a certificate for it, with or without routes, as cert-manager has it. A listener
//! with a wildcard or without a hostname gets one for each exact name of its routes, beside the Secret that it names: in
//! this way no DNS-01 is needed, and only names that routes have are ordered. The wildcard itself is ordered if somebody
//! asks for it and a DNS-01 solver is there. What is no public name is the internal CA's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt};

use super::super::context::Context;
use super::super::gateways::GatewayState;
use super::super::listeners::Class;
use super::annotations::Shape;
use super::names::{NOT_ISSUABLE, NOT_PUBLIC, Refusal, Subject, is_covered, judge};
use super::wanted::{Written, derived_id};
use super::{Certificates, Note, Place, is_supplied, may_stand_in};
use crate::certmanager::IssuerRef;
use crate::hosts::HostMap;
use crate::issuer::IssuerId;
use crate::names::{CertId, HostPattern};
use crate::problem::Severity;
use crate::settings::WildcardPolicy;
use crate::snapshot::WantedIssuer;

/// A listener for which ACME issues.
pub(super) struct Pending {
    pub place: Place,
    /// The Secret that it names.
    pub id: CertId,
    pub issuers: Vec<IssuerId>,
    pub named: Vec<IssuerRef>,
    pub shape: Shape,
    pub wildcard: WildcardPolicy,
    pub written: Option<Written>,
}

/// A listener whose issuer cannot issue at the moment: what each of its hosts has is not to be lost by that.
pub(super) struct Bereft {
    pub place: Place,
    /// The Secret that it names.
    pub id: CertId,
    pub why: String,
}

/// What one Secret is to hold, and what goes beside it.
#[derive(Default)]
struct Sorted {
    names: BTreeSet<Box<str>>,
    addresses: BTreeSet<IpAddr>,
    /// Those that can have all of it.
    issuers: Option<Vec<IssuerId>>,
    /// By the listener's position in its group.
    beside: Vec<(usize, Box<str>, Vec<IssuerId>)>,
    refused: Vec<(usize, Box<str>, Refusal)>,
}

/// The listeners of a Gateway that share a port, by their hostnames.
type Ports = HashMap<(usize, u16), HostMap<usize>>;

impl<'a> Certificates<'a> {
    /// Wants the certificates that ACME issues for listeners, and gives them to these.
    pub fn names(&mut self, context: &Context<'a>, gateways: &mut [GatewayState<'_>]) {
        let mut groups: BTreeMap<CertId, Vec<Pending>> = BTreeMap::new();
        for pending in self.pending.drain(..) {
            groups.entry(pending.id.clone()).or_default().push(pending);
        }
        let bereft = std::mem::take(&mut self.bereft);
        let places = groups.values().flatten().map(|pending| pending.place);
        let ports = ports(gateways, places.chain(bereft.iter().map(|bereft| bereft.place)));
        let mut served = Served::new();
        let mut sorted = Vec::with_capacity(groups.len());
        for (id, group) in groups {
            let found = self.sort(context, gateways, &ports, &group);
            if let Some(issuers) = &found.issuers {
                self.named(gateways, &id, (&group, &found), issuers);
                for (pending, name) in
                    group.iter().flat_map(|pending| found.names.iter().map(move |name| (pending, name)))
                {
                    served.entry((pending.place.0, name.clone())).or_insert_with(|| id.clone());
                }
            }
            sorted.push((id, group, found));
        }
        for (id, group, found) in sorted {
            self.beside(gateways, &id, (&group, &found), &mut served);
            self.refused(context, gateways, &id, (&group, &found));
            if found.issuers.is_none() && may_stand_in(context) && !is_supplied(context, &id) {
                self.stand_in_for(gateways, &id, (&group, &found));
            }
        }
        // A name that the Gateway has in a Secret of its own is in no other.
        for bereft in &bereft {
            let (gateway, place) = bereft.place;
            if let HostPattern::Exact(host) = &gateways[gateway].listeners[place].hostname {
                served.entry((gateway, host.as_str().into())).or_insert_with(|| bereft.id.clone());
            }
        }
        for bereft in bereft {
            self.keep(gateways, &ports, &served, &bereft);
        }
    }

    /// The certificates that hosts of a listener may have from before its issuer could not issue any more.
    fn keep(&mut self, gateways: &mut [GatewayState<'_>], ports: &Ports, served: &Served, bereft: &Bereft) {
        let (gateway, place) = bereft.place;
        let listener = &gateways[gateway].listeners[place];
        if matches!(listener.hostname, HostPattern::Exact(_)) {
            return;
        }
        let own = ports.get(&(gateway, listener.spec.port));
        let by = listener.describe();
        let hosts: BTreeSet<Box<str>> = listener
            .route_hosts
            .iter()
            .filter_map(|host| match host {
                HostPattern::Exact(exact) => Some(exact.as_str()),
                HostPattern::Wildcard(_) | HostPattern::Any => None,
            })
            .filter(|host| own.and_then(|own| own.best(host)).is_none_or(|best| *best == place))
            .map(Into::into)
            .collect();
        for host in hosts {
            let beside = known(served, gateway, &host).unwrap_or_else(|| {
                let beside = derived_id(&bereft.id, &host);
                let wanted = self.want(&beside, WantedIssuer::Nobody { why: bereft.why.clone() });
                wanted.names.insert(host);
                beside
            });
            if let Some(wanted) = self.wanted.get_mut(&beside) {
                wanted.by.insert(by.clone());
            }
            add(gateways, bereft.place, beside);
        }
    }

    fn sort(
        &mut self,
        context: &Context<'a>,
        gateways: &[GatewayState<'_>],
        ports: &Ports,
        group: &[Pending],
    ) -> Sorted {
        let mut sorted = Sorted::default();
        for (index, pending) in group.iter().enumerate() {
            let (gateway, place) = pending.place;
            let listener = &gateways[gateway].listeners[place];
            let labels = &pending.shape.labels;
            let judged = |subject: Subject<'_>| judge(subject, self.issuers.acme(&pending.issuers), labels);
            let problem = |message: String| {
                if let Some(meta) = context.inputs.meta(&listener.parent_ref()) {
                    context.problem(Severity::Error, listener.kind(), meta, message);
                }
            };
            let Shape { names, addresses, common_name, .. } = &pending.shape;
            // A common name is one of the names.
            let common =
                common_name.iter().filter(|name| matches!(HostPattern::parse(Some(name)), Ok(HostPattern::Exact(_))));
            for name in names.iter().chain(common) {
                match judged(Subject::Name(name)).and_then(|able| sorted.agree(able)) {
                    Ok(()) => drop(sorted.names.insert(name.clone())),
                    Err(refusal) => problem(format!("{} is left out of the certificate: {}", name, refusal.message)),
                }
            }
            for address in addresses {
                match judged(Subject::Address(*address)).and_then(|able| sorted.agree(able)) {
                    Ok(()) => drop(sorted.addresses.insert(*address)),
                    Err(refusal) => problem(format!("{address} is left out of the certificate: {}", refusal.message)),
                }
            }
            match &listener.hostname {
                HostPattern::Exact(name) => {
                    let name: Box<str> = name.as_str().into();
                    match judged(Subject::Name(&name)).and_then(|able| sorted.agree(able)) {
                        Ok(()) => drop(sorted.names.insert(name)),
                        Err(refusal) => sorted.refused.push((index, name, refusal)),
                    }
                    continue;
                }
                HostPattern::Wildcard(_) => {
                    let name: Box<str> = listener.hostname.to_string().into();
                    // A Secret that holds it already has been asked for by somebody.
                    let is_held = context.inputs.secrets.get(&pending.id.0).is_some_and(|secret| {
                        let facts = secret.spec.certificate();
                        facts.is_ok_and(|facts| facts.dns_names.iter().any(|held| *held == *name))
                    });
                    let is_asked = pending.wildcard == WildcardPolicy::Dns01;
                    match judged(Subject::Name(&name)) {
                        // Agreeing takes the solver of this name as that of all.
                        Ok(able) if is_asked || is_held => {
                            let agreed = sorted.agree(able).is_ok();
                            sorted.names.extend(agreed.then_some(name));
                        }
                        Err(refusal) if is_asked && refusal.reason == NOT_ISSUABLE => {
                            problem(format!("{}; each host gets a certificate of its own", refusal.message));
                        }
                        // Hosts below a public suffix may well be public; below what is in no public DNS there is none.
                        Err(refusal)
                            if refusal.reason == NOT_PUBLIC
                                && judged(Subject::Name(&name.replacen('*', "a", 1))).is_err() =>
                        {
                            sorted.refused.push((index, name, refusal));
                            continue;
                        }
                        _ => {}
                    }
                }
                HostPattern::Any => {}
            }
            let own = ports.get(&(gateway, listener.spec.port));
            let hosts: BTreeSet<&HostPattern> = listener.route_hosts.iter().collect();
            for host in hosts {
                let name: Box<str> = host.to_string().into();
                match host {
                    HostPattern::Exact(exact) => {
                        // Another listener of the port is more particular: connections for the name go there.
                        if own.and_then(|own| own.best(exact.as_str())).is_some_and(|best| *best != place) {
                            continue;
                        }
                    }
                    HostPattern::Wildcard(_)
                        if pending.wildcard == WildcardPolicy::Dns01 && *host != listener.hostname => {}
                    _ => continue,
                }
                match judged(Subject::Name(&name)) {
                    Ok(able) => sorted.beside.push((index, name, able)),
                    Err(refusal) => sorted.refused.push((index, name, refusal)),
                }
            }
        }
        let Sorted { names, addresses, beside, issuers, .. } = &mut sorted;
        beside.retain(|(_, name, _)| !is_covered(name, names.iter().map(|name| &**name)));
        if names.is_empty() && addresses.is_empty() {
            *issuers = None;
        }
        sorted
    }

    /// The Secret that the listeners name.
    fn named(
        &mut self,
        gateways: &[GatewayState<'_>],
        id: &CertId,
        (group, sorted): (&[Pending], &Sorted),
        issuers: &[IssuerId],
    ) {
        let Some(first) = group.first() else { return };
        for pending in group {
            let message = asked_names(&issuers[0], sorted.names.iter().map(|name| &**name));
            self.notes.push((pending.place, Note::good("Issued", message)));
        }
        let wanted = self.want(id, WantedIssuer::Acme(issuers.to_vec()));
        wanted.shape(&first.shape);
        wanted.names.extend(sorted.names.iter().cloned());
        wanted.addresses.extend(&sorted.addresses);
        wanted.named.clone_from(&first.named);
        wanted.written.clone_from(&first.written);
        wanted.by.extend(group.iter().map(|pending| describe(pending, gateways)));
    }

    /// A certificate for each host, but for those of which the Gateway has one already.
    fn beside(
        &mut self,
        gateways: &mut [GatewayState<'_>],
        id: &CertId,
        (group, sorted): (&[Pending], &Sorted),
        served: &mut Served,
    ) {
        let mut hosts: BTreeMap<usize, (IssuerId, Vec<&str>)> = BTreeMap::new();
        for (index, name, able) in &sorted.beside {
            let pending = &group[*index];
            hosts.entry(*index).or_insert_with(|| (able[0].clone(), Vec::new())).1.push(name);
            let gateway = pending.place.0;
            let beside = known(served, gateway, name).unwrap_or_else(|| {
                let beside = derived_id(id, name);
                let wanted = self.want(&beside, WantedIssuer::Acme(able.clone()));
                wanted.shape(&pending.shape);
                wanted.names.insert(name.clone());
                wanted.named.clone_from(&pending.named);
                wanted.written.clone_from(&pending.written);
                wanted.derived_from = Some(id.clone());
                served.insert((gateway, name.clone()), beside.clone());
                beside
            });
            let by = describe(pending, gateways);
            if let Some(wanted) = self.wanted.get_mut(&beside) {
                wanted.by.insert(by);
            }
            add(gateways, pending.place, beside);
        }
        for (index, (issuer, names)) in hosts {
            let message = asked_names(&issuer, names.into_iter());
            self.notes.push((group[index].place, Note::good("Issued", message)));
        }
        for (index, pending) in group.iter().enumerate() {
            let has_beside = sorted.beside.iter().any(|(at, ..)| *at == index);
            let has_refused = sorted.refused.iter().any(|(at, ..)| *at == index);
            if sorted.issuers.is_none() && !has_beside && !has_refused {
                let message = "no route names a host yet that could have a certificate of its own";
                self.notes.push((pending.place, Note::good("NoHosts", message)));
            }
        }
    }

    /// Names that nobody is asked for: where the Secret is somebody else's, they get one of the internal CA beside it.
    fn refused(
        &mut self,
        context: &Context<'a>,
        gateways: &mut [GatewayState<'_>],
        id: &CertId,
        (group, sorted): (&[Pending], &Sorted),
    ) {
        let (supplied, placeholder) = (is_supplied(context, id), may_stand_in(context));
        for (index, name, refusal) in &sorted.refused {
            let pending = &group[*index];
            if sorted.issuers.is_some() && placeholder && !supplied {
                let beside = derived_id(id, name);
                let by = describe(pending, gateways);
                let wanted = self.want(&beside, WantedIssuer::Internal { instead_of: Some(refusal.message.clone()) });
                wanted.names.insert(name.clone());
                wanted.by.insert(by);
                add(gateways, pending.place, beside);
            }
            let instead = match (supplied, placeholder) {
                (true, _) => "; the Secret is served as it is",
                (false, true) => "; the internal CA issues it",
                (false, false) => "",
            };
            let message = format!("{}{instead}", refusal.message);
            // Names that are nobody's but ours are the internal CA's by design.
            let is_ours = refusal.reason == NOT_PUBLIC && placeholder && !supplied;
            let note = if is_ours { Note::good(NOT_PUBLIC, message) } else { Note::bad(refusal.reason, message) };
            self.notes.push((pending.place, note));
        }
    }

    /// The internal CA, in the Secret that the listeners name, until their hosts have certificates, or for good.
    fn stand_in_for(&mut self, gateways: &[GatewayState<'_>], id: &CertId, (group, sorted): (&[Pending], &Sorted)) {
        let why = sorted.refused.first().map(|(_, _, refusal)| refusal.message.clone());
        let why = why.unwrap_or_else(|| "a certificate for all: each host has its own".to_owned());
        let wanted = self.want(id, WantedIssuer::Internal { instead_of: Some(why) });
        for pending in group {
            let listener = &gateways[pending.place.0].listeners[pending.place.1];
            let own = listener.hostname.to_string();
            let is_within = |host: &HostPattern| is_covered(&host.to_string(), std::iter::once(own.as_str()));
            let hosts = listener.route_hosts.iter().filter(|host| !is_within(host)).chain([&listener.hostname]);
            let hosts = hosts.filter(|host| **host != HostPattern::Any);
            wanted.names.extend(hosts.map(|host| Box::<str>::from(host.to_string())));
            wanted.by.insert(describe(pending, gateways));
        }
    }
}

/// By Gateway and name: the certificates that ACME issues for its listeners.
type Served = HashMap<(usize, Box<str>), CertId>;

/// The certificate that a Gateway has for a name already, by itself or by a wildcard.
fn known(served: &Served, gateway: usize, name: &str) -> Option<CertId> {
    let wildcard = name.split_once('.').map(|(_, above)| format!("*.{above}").into());
    std::iter::once(name.into()).chain(wildcard).find_map(|name| served.get(&(gateway, name)).cloned())
}

fn describe(pending: &Pending, gateways: &[GatewayState<'_>]) -> String {
    gateways[pending.place.0].listeners[pending.place.1].describe()
}

impl Sorted {
    /// Whether somebody can issue a name together with those before it; if so, it is those.
    fn agree(&mut self, able: Vec<IssuerId>) -> Result<(), Refusal> {
        let both: Vec<IssuerId> = match &self.issuers {
            None => able,
            Some(known) => known.iter().filter(|id| able.contains(id)).cloned().collect(),
        };
        if both.is_empty() {
            let message = "no issuer has a solver for it and for the other names of the Secret".to_owned();
            return Err(Refusal { reason: NOT_ISSUABLE, message });
        }
        self.issuers = Some(both);
        Ok(())
    }
}

/// `ClusterIssuer x issues a.example.com, b.example.com`
fn asked_names<'n>(issuer: &IssuerId, names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{issuer} issues {}{more}", names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", "))
}

fn add(gateways: &mut [GatewayState<'_>], (gateway, listener): Place, id: CertId) {
    if let Some(terminate) = &mut gateways[gateway].listeners[listener].terminate
        && !terminate.certificates.contains(&id)
    {
        terminate.certificates.push(id);
    }
}

fn ports(gateways: &[GatewayState<'_>], places: impl Iterator<Item = Place>) -> Ports {
    let concerned: BTreeSet<usize> = places.map(|(gateway, _)| gateway).collect();
    let mut ports = Ports::new();
    for index in concerned {
        for (place, listener) in gateways[index].listeners.iter().enumerate() {
            if listener.class == Some(Class::Tls) && listener.is_valid() {
                let port = ports.entry((index, listener.spec.port)).or_default();
                port.insert(listener.hostname.clone(), place);
            }
        }
    }
    ports
}
