//! Certificates that Edge must have itself: those of listeners that no Secret supplies, or whose Secret Edge renews, of
//! cert-manager's Certificates, and of edge.toml. Says who is to issue each; where nobody can, the internal CA stands in.
//!
//! In: the objects, and what routes bring to listeners. Out: wanted certificates, ACME issuers, conditions. It happens in
//! two steps: listeners ask before there are routes ([`listeners`]); names of routes are known afterwards ([`hosts`]).

mod acme;
mod annotations;
mod hosts;
mod issuers;
mod listeners;
mod names;
mod objects;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeMap;

use super::context::{Context, Fault};
use super::gateways::GatewayState;
use crate::issuer::AcmeIssuer;
use crate::names::{CertId, HostPattern};
use crate::report::{CERTIFICATE_READY, Condition};
use crate::snapshot::{WantedCertificate, WantedIssuer};
use issuers::Issuers;
use wanted::Wanted;

pub(super) use annotations::Asker;
pub(super) use listeners::{Asked, Supply};

/// A listener: its Gateway, and its place there.
pub(super) type Place = (usize, usize);

pub(super) struct Certificates<'a> {
    issuers: Issuers<'a>,
    wanted: BTreeMap<CertId, Wanted>,
    pending: Vec<hosts::Pending>,
    /// Listeners whose issuer cannot issue at the moment.
    bereft: Vec<hosts::Bereft>,
    notes: Vec<(Place, Note)>,
}

/// Something to say about the certificates of a listener.
struct Note {
    is_good: bool,
    reason: &'static str,
    message: String,
}

impl Note {
    fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_good: true, reason, message: message.into() }
    }

    fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_good: false, reason, message: message.into() }
    }
}

impl<'a> Certificates<'a> {
    pub fn new(context: &Context<'a>, gateways: &[GatewayState<'_>]) -> Self {
        Self {
            issuers: Issuers::new(context, gateways),
            wanted: BTreeMap::new(),
            pending: Vec::new(),
            bereft: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn want(&mut self, id: &CertId, issuer: WantedIssuer) -> &mut Wanted {
        let wanted = self.wanted.entry(id.clone()).or_insert_with(|| Wanted::new(id, issuer.clone()));
        // Of several that ask for one Secret, an issuer that acts goes before the internal CA, and that before nobody.
        let rank = |issuer: &WantedIssuer| match issuer {
            WantedIssuer::Nobody { .. } => 0,
            WantedIssuer::Internal { .. } => 1,
            WantedIssuer::SelfSigned | WantedIssuer::Ca(_) | WantedIssuer::Acme(_) => 2,
        };
        if rank(&wanted.certificate.issuer) < 2 && rank(&issuer) >= rank(&wanted.certificate.issuer) {
            wanted.certificate.issuer = issuer;
        }
        wanted
    }

    /// Whether the listener that asked last has certificates under names that are not known yet.
    pub fn is_pending(&self, place: Place) -> bool {
        self.pending.last().is_some_and(|pending| pending.place == place)
            || self.bereft.last().is_some_and(|bereft| bereft.place == place)
    }

    /// Hosts that only routes name, for listeners that take every host and get one certificate for all of them.
    pub fn add_route_hosts(&mut self, gateways: &[GatewayState<'_>]) {
        for listener in gateways.iter().flat_map(|gateway| &gateway.listeners) {
            let Some(tls) = listener.terminate.as_ref().filter(|_| listener.hostname == HostPattern::Any) else {
                continue;
            };
            for id in &tls.certificates {
                let Some(wanted) = self.wanted.get_mut(id) else { continue };
                // Whoever orders by ACME says which names.
                if matches!(wanted.certificate.issuer, WantedIssuer::Acme(_)) {
                    continue;
                }
                let hosts = listener.route_hosts.iter().filter(|host| **host != HostPattern::Any);
                wanted.names.extend(hosts.map(|host| Box::<str>::from(host.to_string())));
            }
        }
    }

    /// What is to be said of listeners; the first that is not good is what counts.
    pub fn tell(&mut self, gateways: &mut [GatewayState<'_>]) {
        let mut notes: BTreeMap<Place, Vec<Note>> = BTreeMap::new();
        for (place, note) in self.notes.drain(..) {
            notes.entry(place).or_default().push(note);
        }
        for ((gateway, listener), notes) in notes {
            let listener = gateways.get_mut(gateway).and_then(|gateway| gateway.listeners.get_mut(listener));
            let Some(listener) = listener else { continue };
            let worst = notes.iter().find(|note| !note.is_good).or(notes.first());
            listener.certificate_ready = worst.map(|first| {
                // Of faults those of the first kind; where there is none, everything.
                let same = notes.iter().filter(|note| first.is_good || note.reason == first.reason && !note.is_good);
                let mut messages: Vec<&str> = same.map(|note| note.message.as_str()).collect();
                messages.dedup();
                Condition {
                    kind: CERTIFICATE_READY,
                    status: first.is_good,
                    reason: first.reason,
                    message: messages.join("; "),
                }
            });
        }
    }

    /// The wanted certificates and the ACME issuers, both in the order of their names.
    pub fn finish(self, context: &Context<'_>) -> (Vec<WantedCertificate>, Vec<AcmeIssuer>) {
        let wanted = self.wanted.into_values().filter_map(|wanted| wanted.finish(context)).collect();
        (wanted, self.issuers.into_acme())
    }
}

/// Whether the internal CA may stand in.
fn may_stand_in(context: &Context<'_>) -> bool {
    context.inputs.settings.certificates.placeholder
}

fn is_supplied(context: &Context<'_>, id: &CertId) -> bool {
    context.inputs.secrets.get(&id.0).is_some_and(|secret| secret.spec.certificate().is_ok())
}

fn not_ready(why: &str) -> Fault {
    Fault::new("IssuerNotReady", why)
}
