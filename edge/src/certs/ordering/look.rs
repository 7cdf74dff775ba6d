//! Names are looked at before a CA is: what it would find wrong costs one of few tries per hour and name.
//!
//! In: an order's names, what the network was told. Out: facts for a later diagnosis, findings for status, or the reason
//! not to ask. Who cannot look lets the CA look.

use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use edge_acme::challenge::{ChallengeKind, Identifier};
use edge_acme::dns::preflight::{self, Announced, Ca, Entry, Facts, Severity, Stands, Written as Place};
use edge_acme::dns::resolver::{self, Resolver};
use edge_acme::order::Account;
use edge_config::issuer::{DnsProvider, Solve};
use edge_config::snapshot::WantedCertificate;

use super::runner::{Desk, Event, Look, OrderJob};
use crate::vip::road::Road;

/// For one name.
const LOOK: Duration = Duration::from_secs(15);
/// For all there is to look at before an order. An order that is late is worse than one that is not looked at.
const WHOLE: Duration = Duration::from_secs(30);
/// For a VIP that not every router knows yet.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// Where the system's resolvers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Desk {
    /// Looks at every name. The error is why it is of no use to ask the CA.
    pub(super) async fn look(&self, job: &OrderJob, look: &Look, account: &Account) -> Result<Vec<Facts>, String> {
        let facts = match tokio::time::timeout(WHOLE, self.facts(job, look, account)).await {
            Ok(facts) => facts,
            // Who cannot look lets the CA look.
            Err(_) => return Ok(Vec::new()),
        };
        let findings: Vec<_> = facts.iter().flat_map(preflight::judge).collect();
        let texts = |is_fine: bool| {
            let of = findings.iter().filter(|finding| (finding.severity == Severity::Fine) == is_fine);
            of.map(|finding| finding.text.clone()).collect()
        };
        let (wrong, seen) = (texts(false), texts(true));
        (self.runner.tell)(Event::Found { id: job.wanted.id.clone(), findings: wrong, seen });
        match findings.into_iter().find(|finding| finding.severity == Severity::Stops) {
            Some(finding) => Err(finding.text),
            None => Ok(facts),
        }
    }

    /// What there is to see of each name, as far as it could be looked at in time.
    async fn facts(&self, job: &OrderJob, look: &Look, account: &Account) -> Vec<Facts> {
        let resolver = resolver(&look.resolvers);
        let (about, entries) = futures_util::join!(account.about(), self.entries(look));
        let about = about.ok();
        let issuer = &job.client.issuer;
        let ca = Ca {
            name: issuer.id.0.clone(),
            identities: about.map(|about| about.meta.caa_identities).unwrap_or_default(),
            account: account.record().url,
            stands: if issuer.private { Stands::Inside } else { Stands::OnTheInternet },
        };
        let wishes = identifiers(&job.wanted).into_iter().map(|(identifier, wildcard)| {
            let name = format!("{}{identifier}", if wildcard { "*." } else { "" });
            let has = |key: &str, value: &str| job.wish.labels.iter().any(|(k, v)| **k == *key && **v == *value);
            let solve = issuer.solver(&name, has).map(|solver| &solver.solve);
            let (kind, written) = match solve {
                Some(Solve::Dns01 { provider: DnsProvider::AcmeDns { .. }, .. }) => {
                    (ChallengeKind::Dns01, Place::OnlyWhereAliased)
                }
                Some(Solve::Dns01 { follow_cname: true, .. }) => (ChallengeKind::Dns01, Place::WhereAliased),
                Some(Solve::Dns01 { .. }) => (ChallengeKind::Dns01, Place::There),
                Some(Solve::TlsAlpn01) => (ChallengeKind::TlsAlpn01, Place::There),
                Some(Solve::Http01) | None => (ChallengeKind::Http01, Place::There),
            };
            let (ca, entries) = (ca.clone(), entries.clone());
            preflight::Wish { identifier, wildcard, kind, ca, entries, edges: Vec::new(), written }
        });
        let looks = wishes.map(|wish| tokio::time::timeout(LOOK, preflight::look(&resolver, wish)));
        futures_util::future::join_all(looks).await.into_iter().flatten().collect()
    }

    /// The addresses with what the network knows of them. After a start it takes a moment until it is told.
    async fn entries(&self, look: &Look) -> Vec<Entry> {
        let deadline = tokio::time::Instant::now() + ANNOUNCED;
        loop {
            let roads: Vec<(IpAddr, Road)> = {
                let roads = self.runner.roads.read().unwrap_or_else(PoisonError::into_inner);
                let road = |address: &IpAddr| (*address, roads.get(address).cloned().unwrap_or(Road::UNKNOWN));
                look.entries.iter().map(road).collect()
            };
            let now = SystemTime::now();
            if !roads.iter().any(|(_, road)| road.is_coming(now)) || tokio::time::Instant::now() >= deadline {
                let has_others = self.runner.answers.edges().has_others();
                let entry = |(address, road): (IpAddr, Road)| match road.announced {
                    // Drained here, it may be announced by another edge, which answers as well.
                    Announced::No(_) if has_others => Entry { address, announced: Announced::Unknown },
                    announced => Entry { address, announced },
                };
                return roads.into_iter().map(entry).collect();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

pub(super) fn resolver(configured: &[SocketAddr]) -> Resolver {
    let settings = if configured.is_empty() {
        resolver::Settings::system(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
    } else {
        resolver::Settings::configured(configured.to_vec())
    };
    Resolver::new(settings)
}

fn identifiers(wanted: &WantedCertificate) -> Vec<(Identifier, bool)> {
    let names = wanted.dns_names.iter().map(|name| match name.strip_prefix("*.") {
        Some(rest) => (Identifier::Dns(rest.into()), true),
        None => (Identifier::Dns(name.clone()), false),
    });
    names.chain(wanted.addresses.iter().map(|address| (Identifier::Ip(*address), false))).collect()
}
