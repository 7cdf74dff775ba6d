//! Pools as Services: the members of a ratio are one Service, so that weights stand for ratios; names are Backends.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{At, Pool, PoolMember};
use super::output::{Name, named};
use crate::migrate::gateway::{self, Endpoint};
use crate::migrate::{NoteKind, Notes};
use crate::yaml::Tree;

/// What routes of one namespace refer to.
#[derive(Debug, Clone, Default)]
pub(super) struct Backends {
    pub references: Vec<Tree>,
    /// Names of the Services among them.
    pub services: Vec<String>,
    /// The endpoints, where all are addresses of equal weight: what a Service of type LoadBalancer can have.
    pub alike: Option<Vec<Endpoint>>,
}

#[derive(Default)]
pub(super) struct Pools {
    /// By namespace, pool and protocol.
    known: BTreeMap<(String, String, &'static str), Backends>,
    told: BTreeSet<String>,
    pub objects: Vec<Tree>,
}

/// Members that get traffic, and those that wait for their failure.
fn active(pool: &Pool) -> (Vec<&PoolMember>, Vec<&PoolMember>) {
    let highest = pool.members.iter().map(|member| member.priority).max().unwrap_or(0);
    // Without a minimum, priorities mean nothing.
    pool.members.iter().partition(|member| pool.minimum_active == 0 || member.priority == highest)
}

pub(super) fn is_by_ratio(pool: &Pool) -> bool {
    pool.method.starts_with("ratio") || pool.method.starts_with("weighted")
}

pub(super) fn is_by_load(pool: &Pool) -> bool {
    ["least", "weighted-least", "fastest", "observed", "predictive"].iter().any(|word| pool.method.starts_with(word))
}

impl Pools {
    /// Says once for each pool what becomes of its properties.
    pub fn tell(&mut self, name: &str, pool: &Pool, notes: &mut Notes) {
        if !self.told.insert(name.to_owned()) {
            return;
        }
        let standby = active(pool).1;
        if !standby.is_empty() {
            let message = format!(
                "priority groups: members of lower priority ({}) have weight 0 and do not take over by themselves",
                standby.len()
            );
            pool.place.note(notes, NoteKind::NoEquivalent, message);
        }
        if !pool.monitors.is_empty() {
            let message = format!(
                "monitor {}: not written; say it in healthCheck.active of a BackendTrafficPolicy (docs/policies.md has both \
                 by name). Until then only an endpoint that refuses connections is left out for a while",
                pool.monitors.join(", ")
            );
            pool.place.note(notes, NoteKind::ToDo, message);
        }
        if is_by_load(pool) && !pool.method.starts_with("least-connections") {
            let message = format!("{}: the less loaded of two random endpoints is chosen", pool.method);
            pool.place.note(notes, NoteKind::Differs, message);
        }
    }

    pub fn backends(&mut self, namespace: &str, name: &str, pool: &Pool, protocol: &'static str) -> Backends {
        let key = (namespace.to_owned(), name.to_owned(), protocol);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let Name { name: base, .. } = named(name);
        let base = if protocol == "UDP" { format!("{base}-udp") } else { base };
        let (members, standby) = active(pool);
        let mut groups: BTreeMap<u32, Vec<&PoolMember>> = BTreeMap::new();
        for member in &members {
            groups.entry(if is_by_ratio(pool) { member.ratio } else { 1 }).or_default().push(member);
        }
        let mut found = Backends::default();
        let is_one = groups.len() <= 1 && standby.is_empty();
        let mut alike = Vec::new();
        // A pool without members is a Service without endpoints.
        if groups.is_empty() {
            groups.insert(1, Vec::new());
        }
        for (ratio, members) in &groups {
            let name = if groups.len() == 1 { base.clone() } else { format!("{base}-ratio-{ratio}") };
            // Who is disabled has no share.
            let count = u32::try_from(members.iter().filter(|member| member.is_enabled).count()).unwrap_or(u32::MAX);
            let weight = if groups.len() == 1 { 1 } else { ratio.saturating_mul(count).min(1_000_000) };
            alike.extend(self.group((namespace, &name), members, protocol, weight, &mut found));
        }
        if !standby.is_empty() {
            self.group((namespace, &format!("{base}-standby")), &standby, protocol, 0, &mut found);
        }
        let has_names = members.iter().any(|member| matches!(member.at, At::Name(_)));
        found.alike = (is_one && !has_names).then_some(alike);
        self.known.insert(key, found.clone());
        found
    }

    fn group(
        &mut self,
        (namespace, name): (&str, &str),
        members: &[&PoolMember],
        protocol: &str,
        weight: u32,
        found: &mut Backends,
    ) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let mut names: Vec<(&str, u16)> = Vec::new();
        for member in members {
            match &member.at {
                At::Address(address) => {
                    endpoints.push(Endpoint { address: *address, port: member.port, is_ready: member.is_enabled });
                }
                At::Name(host) if member.is_enabled => names.push((host, member.port)),
                At::Name(_) => {}
            }
        }
        let total = endpoints.len() + names.len();
        let share = |count: usize| {
            if total == count {
                weight
            } else {
                weight.max(1).saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).min(1_000_000)
            }
        };
        if !endpoints.is_empty() || names.is_empty() {
            let port = endpoints.first().map_or(80, |endpoint| endpoint.port);
            self.objects.extend(gateway::service((namespace, name), (port, protocol), &endpoints));
            found.references.push(gateway::backend(name, port, share(endpoints.len())));
            found.services.push(name.to_owned());
        }
        for (index, (host, port)) in names.iter().enumerate() {
            let name = format!("{name}-name-{}", index + 1);
            let endpoint = Tree::map([("hostname", (*host).into()), ("port", (*port).into())]);
            let spec = Tree::map([("endpoints", vec![Tree::map([("fqdn", endpoint)])].into())]);
            self.objects.push(gateway::object(gateway::POLICIES, "Backend", namespace, &name, spec));
            let reference = Tree::map([
                ("group", "gateway.envoyproxy.io".into()),
                ("kind", "Backend".into()),
                ("name", name.into()),
            ]);
            let weight = share(1);
            found.references.push(if weight == 1 { reference } else { reference.with("weight", weight) });
        }
        endpoints
    }
}
