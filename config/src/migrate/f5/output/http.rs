//! Virtual servers of HTTP: listeners, certificates, sessions, and the rules of their policies.

use super::{BY_SOURCE, Vip, Writer, named};
use crate::migrate::NoteKind;
use crate::migrate::f5::model::{Kind, Persistence, Virtual};
use crate::migrate::f5::pools::{Backends, is_by_load};
use crate::migrate::f5::rules::{self, Translated};
use crate::migrate::gateway::{self, Rule, V1, slug};
use crate::yaml::Tree;

impl Writer<'_> {
    fn certificates(&mut self, vip: &Vip, server: &Virtual) -> (Vec<String>, bool) {
        let mut names: Vec<String> = Vec::new();
        let mut is_mutual = false;
        for profile in &server.tls {
            let known = self.model.tls.get(profile);
            if let Some(known) = known.filter(|known| known.is_mutual) {
                is_mutual = true;
                let message = "clients must have certificates: write their CA into spec.tls.frontend of the Gateway, then \
                    take the SecurityPolicy away that keeps the routes closed until then";
                known.place.note(self.notes, NoteKind::NoEquivalent, message);
            }
            let certificates = known.map(|known| known.certificates.clone()).filter(|list| !list.is_empty());
            for certificate in certificates.unwrap_or_else(|| vec![profile.clone()]) {
                let name = named(&certificate).name;
                let name = name.strip_suffix("-crt").unwrap_or(&name).to_owned();
                if self.told.insert(name.clone()) {
                    let message = format!(
                        "write certificate {certificate} with its chain into secrets/{name}.crt, and its key into \
                         secrets/{name}.key, mode 0600; nothing of them is copied"
                    );
                    server.place.note(self.notes, NoteKind::ToDo, message);
                }
                self.secrets.insert((vip.namespace.clone(), name.clone()));
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        (names, is_mutual)
    }

    pub(super) fn redirect(&mut self, vip: &mut Vip, server: &Virtual, port: u16) {
        let own = named(&server.name);
        let section = format!("http-{port}");
        Self::listen(vip, gateway::listener(&section, "HTTP", port, None));
        let parent = gateway::parent((&vip.namespace, &vip.name), Some(&section), &own.namespace);
        let rule = Rule { filters: vec![gateway::to_https(302)], ..Rule::default() };
        let name = format!("{}-to-https", self.route_name(vip, server, &own.name));
        self.routes.extend(gateway::routes(
            (V1, "HTTPRoute"),
            (&own.namespace, &name),
            &[parent],
            &[],
            vec![rule.tree()],
        ));
    }

    pub(super) fn http(&mut self, vip: &mut Vip, server: &Virtual) {
        let own = named(&server.name);
        let (to_https, mut is_closed) = self.scripts(server);
        let section = if server.kind == Kind::Https {
            let (certificates, is_mutual) = self.certificates(vip, server);
            is_closed |= is_mutual;
            let section = format!("https-{}", server.port);
            let secrets: Vec<(&str, &str)> =
                certificates.iter().map(|name| (vip.namespace.as_str(), name.as_str())).collect();
            let tls = gateway::terminate(&secrets, &vip.namespace);
            let listener = gateway::listener(&section, "HTTPS", server.port, None).with("tls", tls);
            Self::listen(vip, listener);
            section
        } else {
            let section = format!("http-{}", server.port);
            Self::listen(vip, gateway::listener(&section, "HTTP", server.port, None));
            section
        };
        let parent = gateway::parent((&vip.namespace, &vip.name), Some(&section), &own.namespace);
        let (session, is_by_source) = self.session(server);
        let mut by_hosts: Vec<(Vec<String>, Vec<Tree>)> = Vec::new();
        let mut is_by_load = false;
        let mut add = |hosts: Vec<String>, rule: Tree| match by_hosts.iter_mut().find(|(known, _)| *known == hosts) {
            Some((_, rules)) => rules.push(rule),
            None => by_hosts.push((hosts, vec![rule])),
        };
        if let Some(status) = to_https {
            let rule = Rule { filters: vec![gateway::to_https(status)], ..Rule::default() };
            add(Vec::new(), rule.tree());
        } else {
            for name in &server.policies {
                let model = self.model;
                let Some(policy) = model.policies.get(name) else {
                    server.place.note(
                        self.notes,
                        NoteKind::NoEquivalent,
                        format!("policy {name} is in none of the files"),
                    );
                    continue;
                };
                let (rules, closes) = rules::translate(policy, self.notes);
                is_closed |= closes;
                for Translated { hosts, mut rule, pool, needs_backend } in rules {
                    let pool = pool.or_else(|| server.pool.clone()).filter(|_| needs_backend);
                    if let Some((backends, by_load)) =
                        pool.and_then(|pool| self.backends(server, &own.namespace, &pool))
                    {
                        rule.backends = backends;
                        rule.session.clone_from(&session);
                        is_by_load |= by_load;
                    }
                    add(hosts, rule.tree());
                }
            }
            if let Some(pool) = &server.pool
                && let Some((backends, by_load)) = self.backends(server, &own.namespace, pool)
            {
                is_by_load |= by_load;
                let rule = Rule { backends, session, ..Rule::default() };
                add(Vec::new(), rule.tree());
            }
        }
        if by_hosts.is_empty() {
            let message = "has no pool, policy or redirect that could be told; its port answers 404";
            server.place.note(self.notes, NoteKind::NoEquivalent, message);
            return;
        }
        let base = self.route_name(vip, server, &own.name);
        let mut names = Vec::new();
        for (index, (hosts, rules)) in by_hosts.into_iter().enumerate() {
            let name = match (hosts.first(), index) {
                (None, _) => base.clone(),
                (Some(host), _) => format!("{base}-{}", slug(host)),
            };
            let made = gateway::routes(
                (V1, "HTTPRoute"),
                (&own.namespace, &name),
                std::slice::from_ref(&parent),
                &hosts,
                rules,
            );
            names.extend(
                made.iter().filter_map(|route| route.member("metadata")?.member("name")?.as_str().map(str::to_owned)),
            );
            self.routes.extend(made);
        }
        let balancer = match is_by_source {
            true => Some(gateway::by_hash(gateway::by_source())),
            false => is_by_load.then(gateway::by_load),
        };
        if let Some(balancer) = balancer {
            self.policies.push(gateway::balanced(&own.namespace, &base, "HTTPRoute", &names, balancer));
        }
        self.guard(server, &own.namespace, "HTTPRoute", &names, is_closed);
    }

    fn backends(&mut self, server: &Virtual, namespace: &str, name: &str) -> Option<(Vec<Tree>, bool)> {
        let model = self.model;
        let Some(pool) = model.pools.get(name) else {
            server.place.note(self.notes, NoteKind::Fault, format!("pool {name} is in none of the files"));
            return None;
        };
        self.pools.tell(name, pool, self.notes);
        let Backends { references, services, .. } = self.pools.backends(namespace, name, pool, "TCP");
        self.verify(server, namespace, &services);
        Some((references, is_by_load(pool)))
    }

    /// A session by a cookie, and whether clients stay by their address.
    fn session(&mut self, server: &Virtual) -> (Option<Tree>, bool) {
        match self.persistence(server) {
            Some(Persistence::Cookie { name, seconds }) => {
                let mut session = Tree::map([("type", "Cookie".into())]).with_some("sessionName", name);
                if seconds > 0 {
                    session.put("absoluteTimeout", format!("{}s", seconds.min(99_999)));
                    session.put("cookieConfig", Tree::map([("lifetimeType", "Permanent".into())]));
                }
                (Some(session), false)
            }
            Some(Persistence::SourceAddress(_)) => {
                match server.pool.as_ref().and_then(|name| self.model.pools.get(name)) {
                    Some(pool) => self.tell_by_source(server, pool),
                    None => server.place.note(self.notes, NoteKind::Differs, BY_SOURCE),
                }
                (None, true)
            }
            Some(Persistence::Other(what)) => {
                server.place.note(self.notes, NoteKind::NoEquivalent, format!("persistence {what} has no counterpart"));
                (None, false)
            }
            None => (None, false),
        }
    }
}
