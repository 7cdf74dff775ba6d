//! From [`Inputs`] to a [`Snapshot`] and a [`Report`]: the only place where anything is decided.
//!
//! Flows in: objects as sources decoded them, and the addresses given out before. Flows out: what the actors serve, a
//! condition or finding for everything that is not served as asked for, the endpoints, and the addresses to remember.
//! It reads no clock, does no I/O, logs nothing and never fails: an invalid object costs itself only.
//!
//! Order of work: classes → Gateways and sets → listeners against each other → addresses, those of Services too → TLS →
//! policies → routes → ports → announcing → reports. Later steps fill in the state that earlier ones made; objects themselves are never changed.
//!
//! Standards: Gateway API v1.6.1 (GEP-1713, GEP-1619, GEP-1911, GEP-2257); Kubernetes Services of type LoadBalancer with
//! MetalLB's pools and annotations;
//! cert-manager's issuers and annotations; Envoy Gateway's traffic policies and
//! NGINX Gateway Fabric's UpstreamSettingsPolicy.

mod announce;
mod answers;
mod attach;
mod authentication;
mod backend_kind;
mod backend_tls;
mod backends;
mod certificates;
mod classes;
mod client_traffic;
mod context;
mod endpoints;
mod external_auth;
mod filters;
mod gateway_status;
mod gateways;
mod grants;
mod listener_headers;
mod listeners;
mod memo;
mod nginx_settings;
mod parameters;
mod policies;
mod ports;
mod protection;
mod rate_limits;
mod route_filter;
mod routes;
mod routes_grpc;
mod routes_http;
mod routes_stream;
mod rule_policies;
mod rules;
mod scopes;
mod security;
mod services;
mod snippets;
mod tls;
mod traffic;
mod upstream_settings;
mod vips;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::inputs::Inputs;
use crate::names::ObjectRef;
use crate::report::{ObjectReport, Report};
use crate::snapshot::{Endpoints, Snapshot};
use backends::{Backends, Known, Upstreams};
use context::Context;
use endpoints::EndpointsMemo;
use memo::{Memo, Stage};
use routes::Outcome;

/// Everything that follows from the inputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    pub snapshot: Arc<Snapshot>,
    pub report: Report,
    /// By `UpstreamId` of the snapshot.
    pub endpoints: Endpoints,
    /// The addresses of every Gateway and Service, to be kept and given back in `Inputs::assigned`.
    pub assigned: BTreeMap<ObjectRef, Vec<IpAddr>>,
}

/// Total and deterministic: equal inputs, in whatever order they were inserted, give equal bytes.
pub fn compile(inputs: &Inputs) -> Compiled {
    let (mut compiled, _) = run(inputs, None);
    compiled.endpoints = endpoints::endpoints(inputs, &compiled.snapshot);
    compiled
}

/// Compiles one version of the inputs after the other. The result is that of [`compile`]; what did not change is shared
/// with the result before.
#[derive(Default)]
pub struct Compiler {
    memo: Option<Memo>,
    endpoints: Option<EndpointsMemo>,
}

impl Compiler {
    pub fn compile(&mut self, inputs: &Arc<Inputs>) -> Compiled {
        let (mut compiled, remains) = run(inputs, self.memo.as_ref());
        // The workers hold the one before: an equal one beside it would only take memory.
        if let Some(memo) = self.memo.as_ref().filter(|memo| *memo.snapshot == *compiled.snapshot) {
            compiled.snapshot = Arc::clone(&memo.snapshot);
        }
        compiled.endpoints = self.endpoints(inputs, &compiled.snapshot);
        let Remains { stage, identities, outcomes } = remains;
        self.memo = Some(Memo::new(Arc::clone(inputs), Arc::clone(&compiled.snapshot), stage, identities, outcomes));
        compiled
    }

    /// The endpoints alone, for inputs that differ in nothing else from those that the snapshot was compiled from. A set
    /// that is equal to the one before is the same `Arc`.
    pub fn endpoints(&mut self, inputs: &Arc<Inputs>, snapshot: &Arc<Snapshot>) -> Endpoints {
        let found = match &self.endpoints {
            Some(memo) => memo.endpoints(inputs, snapshot),
            None => endpoints::endpoints(inputs, snapshot),
        };
        self.endpoints = Some(EndpointsMemo::new(inputs, snapshot, &found));
        found
    }
}

/// What the next compile can make use of.
struct Remains {
    stage: Stage,
    identities: Vec<Arc<Known>>,
    outcomes: Vec<(ObjectRef, Arc<Outcome>)>,
}

/// Everything but the endpoints.
fn run(inputs: &Inputs, memo: Option<&Memo>) -> (Compiled, Remains) {
    let context = Context::new(inputs);
    let mut reports: Vec<(ObjectRef, ObjectReport)> = Vec::with_capacity(inputs.gateways.len() + 64);
    let mut snapshot = Snapshot::default();

    let classes = classes::classes(&context, &mut reports);
    let mut gateways = gateways::gateways(&context, &classes);
    listeners::listeners(&context, &mut gateways);
    let mut services = services::services(&context);
    let given = vips::assign(&context, &mut gateways, &mut services, &mut reports);

    let mut upstreams = Upstreams::default();
    let mut certificates = certificates::Certificates::new(&context, &gateways);
    tls::tls(&context, &mut gateways, &mut certificates, &mut upstreams.trust);
    certificates.objects(&context, &gateways, &mut reports);

    client_traffic::client_traffic(&context, &mut gateways, &mut upstreams.trust, &mut reports);
    let traffic = traffic::backend_traffic(&context, &mut gateways, &mut reports);
    snippets::refuse(&context, &gateways, &mut reports);
    authentication::report(&context, &mut reports);
    let mut protections = protection::RouteProtections::default();
    let waits = nginx_settings::settings(&context, &mut gateways, &mut protections, &mut reports);
    rate_limits::rate_limits(&context, &mut gateways, &mut protections, &mut reports);
    protection::of_gateways(&context, &mut gateways);
    let mut route_policies = policies::RoutePolicies { traffic, rules: BTreeMap::new(), waits, protections };

    let tls_policies = backend_tls::TlsPolicies::new(&context);
    let settings = upstream_settings::UpstreamSettings::new(&context);
    let backends = Backends::new(&context, &tls_policies, &settings, memo.is_none());
    security::security(&backends, &mut gateways, &mut route_policies.rules, &mut upstreams, &mut reports);
    let found = routes::routes(&backends, &mut gateways, &route_policies, &mut upstreams, memo);
    snapshot.rules = found.rules;
    let stage = Stage::of(&gateways, &route_policies);
    routes_stream::routes(&backends, &mut gateways, &route_policies, &mut upstreams, &mut reports);
    services::connect(&backends, &mut services, &mut upstreams);
    tls_policies.report(&gateways, &mut reports);
    settings.report(&gateways, &mut reports);

    certificates.add_route_hosts(&gateways);
    certificates.names(&context, &mut gateways);
    certificates.tell(&mut gateways);
    ports::build(&context, &mut gateways, &mut services, &mut snapshot);
    snapshot.announce = announce::plan(&context, &snapshot.vips, &given, &mut reports);
    gateway_status::report(&gateways, &mut reports);
    services::report(&services, &mut reports);
    backend_kind::report(&context, &mut reports);
    let assigned = vips::assigned(&context, &gateways, &services);

    upstreams.services.sort_by(|a, b| a.name.cmp(&b.name));
    snapshot.services = upstreams.services;
    snapshot.upstreams = upstreams.list;
    snapshot.trust = upstreams.trust.list;
    (snapshot.certificates, snapshot.issuers) = certificates.finish(&context);
    let reports = reports.into_iter().map(|(object, report)| (object, Arc::new(report)));
    let report = Report { objects: reports.chain(found.reports).collect(), problems: context.into_problems() };
    let remains = Remains { stage, identities: upstreams.identities, outcomes: found.outcomes };
    (Compiled { snapshot: Arc::new(snapshot), report, endpoints: Endpoints::new(), assigned }, remains)
}
