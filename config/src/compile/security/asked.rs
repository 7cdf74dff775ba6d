//! Servers that the data plane asks on behalf of a policy: by URL, or through backends of the policy's own.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::backends::{Referrer, Use};
use super::super::context::Fault;
use super::super::gateways::Profile;
use super::super::policies::invalid;
use super::super::traffic::Traffic;
use super::make::Maker;
use crate::envoy::{BackendTrafficPolicySpec, Cluster};
use crate::gateway::BackendObjectRef;
use crate::names::{Kind, ObjectRef};
use crate::policy::ServiceName;
use crate::snapshot::{Backend, PolicyService, Target};

const MOST_BACKENDS: usize = 16;
const MOST_WEIGHT: u32 = 1_000_000;
const LONGEST_URL: usize = 2048;

/// The backends of a part, if it has any.
pub(super) fn service(
    maker: &mut Maker<'_, '_, '_>,
    part: &str,
    cluster: Cluster<'_>,
    purpose: Use,
) -> Result<Option<ServiceName>, Fault> {
    let older = cluster.older.iter().map(|reference| (1, false, (*reference).clone()));
    let newer = cluster.refs.iter().map(|reference| {
        let object = BackendObjectRef {
            group: reference.group.clone(),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
            namespace: reference.namespace.clone(),
            port: reference.port,
        };
        (reference.weight.unwrap_or(1), reference.fallback == Some(true), object)
    });
    let references: Vec<(u32, bool, BackendObjectRef)> = older.chain(newer).collect();
    if references.is_empty() {
        return Ok(None);
    }
    if references.len() > MOST_BACKENDS {
        let message = format!("{part}.backendRefs: has {} items, expected at most {MOST_BACKENDS}", references.len());
        return Err(invalid(message));
    }
    let traffic = match cluster.settings {
        None => Traffic::default(),
        Some(settings) => {
            let spec = BackendTrafficPolicySpec {
                load_balancer: settings.load_balancer.clone(),
                proxy_protocol: settings.proxy_protocol.clone(),
                health_check: settings.health_check.clone(),
                circuit_breaker: settings.circuit_breaker,
                timeout: settings.timeout.clone(),
                ..BackendTrafficPolicySpec::default()
            };
            let policy = ObjectRef::new(Kind::SecurityPolicy, maker.policy.key.clone());
            Traffic::of(&spec, &policy, None)
                .map_err(|fault| Fault::new(fault.reason, format!("{part}.backendSettings: {}", fault.message)))?
        }
    };
    let profile = Profile::default();
    let mut backends = Vec::with_capacity(references.len());
    for (weight, for_need, reference) in &references {
        if *weight > MOST_WEIGHT {
            return Err(invalid(format!("{part}.backendRefs: weight {weight}, expected 0 to {MOST_WEIGHT}")));
        }
        let referrer = Referrer {
            kind: Kind::SecurityPolicy,
            namespace: maker.home,
            gateways: maker.gateways,
            profile: &profile,
            traffic: &traffic,
            sections: &[],
        };
        let resolved = maker.backends.resolve(referrer, reference.into(), purpose, maker.upstreams);
        if let Target::Invalid { reason, .. } = &resolved.target {
            let kind = resolved.fault.as_ref().map_or("Invalid", |fault| fault.reason);
            return Err(Fault::new(kind, format!("{part}.backendRefs: {reason}")));
        }
        let filters = Arc::clone(&maker.context().no_filters);
        let (reference, target) = (resolved.reference, resolved.target);
        // A Backend says it of itself, or a reference of what it names.
        let fallback = *for_need || resolved.fallback;
        let balance = resolved.balance.or_else(|| traffic.balance.clone());
        backends.push(Backend { weight: *weight, reference, target, filters, balance, fallback });
    }
    if backends.iter().all(|backend| backend.weight == 0) {
        return Err(invalid(format!("{part}.backendRefs: every weight is 0")));
    }
    let owner = ObjectRef::new(Kind::SecurityPolicy, maker.policy.key.clone());
    Ok(Some(named_service(&mut maker.upstreams.services, format!("{owner} {part}"), backends)))
}

/// The service of this name with these backends. A policy that is merged over several, and a route at Gateways that speak
/// otherwise, has one for each that is different.
pub(in crate::compile) fn named_service(
    services: &mut Vec<PolicyService>,
    wanted: String,
    backends: Vec<Backend>,
) -> ServiceName {
    let mut name = wanted.clone();
    for number in 2.. {
        match services.iter().find(|known| *known.name == *name) {
            Some(known) if known.backends == backends => return Arc::clone(&known.name),
            Some(_) => name = format!("{wanted} {number}"),
            None => break,
        }
    }
    let name: ServiceName = name.into();
    services.push(PolicyService { name: Arc::clone(&name), backends });
    name
}

/// Notes that what is named by https is asked in the open, since nothing says that these backends speak TLS.
pub(super) fn note_clear(maker: &mut Maker<'_, '_, '_>, place: &str, url: &str, via: Option<&ServiceName>) {
    let Some(name) = via.filter(|_| url.starts_with("https:")) else { return };
    let upstreams = &*maker.upstreams;
    let service = upstreams.services.iter().find(|known| known.name == *name);
    let in_clear = service.into_iter().flat_map(|service| &service.backends).find(|backend| match &backend.target {
        Target::Upstream(id) => upstreams.list.get(id.index()).is_some_and(|upstream| upstream.tls.is_none()),
        Target::Invalid { .. } => false,
    });
    if let Some(backend) = in_clear {
        maker.warnings.push(format!(
            "{place} is https, but {} is asked in clear: it has no BackendTLSPolicy, and no tls of its own",
            backend.reference
        ));
    }
}

/// A URL that the data plane may ask: in the open only what does not leave the machine, or goes to backends.
pub(super) fn asked_url(place: &str, url: &str, has_backends: bool) -> Result<Box<str>, Fault> {
    let (scheme, host) = parts(place, url)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if scheme == "http" && !has_backends && !is_loopback {
        return Err(invalid(format!(
            "{place}: {url:?} is not https, which only loopback and backendRefs may do without"
        )));
    }
    Ok(url.into())
}

/// A URL that browsers are sent to.
pub(super) fn shown_url(place: &str, url: &str) -> Result<Box<str>, Fault> {
    parts(place, url).map(|_| url.into())
}

/// The path of a URL, without a query.
pub(super) fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    path.split(['?', '#']).next().unwrap_or(path)
}

fn parts<'u>(place: &str, url: &'u str) -> Result<(&'u str, &'u str), Fault> {
    let bad = |why: &str| invalid(format!("{place}: {:?} {why}", url.chars().take(200).collect::<String>()));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("is no URL"))?;
    if !matches!(scheme, "https" | "http") {
        return Err(bad("is no URL of https"));
    }
    if url.len() > LONGEST_URL
        || !url.bytes().all(|byte| byte.is_ascii_graphic())
        || url.contains(['#', '"', '<', '\\'])
    {
        return Err(bad("is no URL"));
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(bad("has a user in it"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']').ok_or_else(|| bad("names no host"))?;
            (&authority[..end + 2], rest[end + 1..].strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_host =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    if !is_host || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(bad("names no host"));
    }
    Ok((scheme, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, backends, good) in [
            ("https://login.microsoftonline.com/t/v2.0", false, true),
            ("https://id.test:8443", false, true),
            ("http://id.test/", false, false),
            ("http://id.test/", true, true),
            ("http://127.0.0.1:5556/dex", false, true),
            ("http://[::1]:5556/dex", false, true),
            ("http://localhost/dex", false, true),
            ("ftp://id.test/", true, false),
            ("id.test", true, false),
            ("https://", true, false),
            ("https://id.test:port/", true, false),
            ("https://user@id.test/", true, false),
            ("https://id.test/#x", true, false),
            ("https://id.test/\r\nx", true, false),
        ] {
            assert_eq!(asked_url("issuer", url, backends).is_ok(), good, "{url}");
        }
        for (url, path) in [
            ("https://a.test/app/oauth2/callback", "/app/oauth2/callback"),
            ("https://a.test/cb?x=y", "/cb"),
            ("https://a.test", "/"),
        ] {
            assert_eq!(path_of(url), path);
        }
    }
}
