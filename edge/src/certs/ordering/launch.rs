//! From plans and wishes of people to jobs of the runner.
//!
//! In: what is planned, who is to be revoked. Out: jobs, each with all that it needs. What an order spends is written down
//! by its job, before the CA is asked.

use std::sync::Arc;

use edge_acme::order::{self, OrderWish, SecretText};
use edge_acme::plan::{MadeFor, Plan, PlannedOrder, Start, UnderWay};
use edge_config::issuer::IssuerId;
use edge_config::names::CertId;
use edge_config::snapshot::WantedCertificate;
use zeroize::Zeroizing;

use super::runner::{Client, Job, Look, OrderJob};
use super::{Ordering, secrets};
use crate::certs::CertsWanted;
use crate::certs::command::{Answer, RevocationReason};
use crate::store::StoredCertificate;

impl Ordering {
    /// Hands what is planned to the runner. `key` gives the key that is held of a certificate.
    pub fn launch(
        &mut self,
        plan: &Plan,
        wanted: &CertsWanted,
        key: &dyn Fn(&CertId) -> Option<Zeroizing<String>>,
        now: i64,
    ) {
        let mut orders = Vec::new();
        for planned in &plan.orders {
            let Some(wish) = wanted.certificates.get(planned.index) else { continue };
            let (Some(client), Some(known)) = (self.client(wanted, &planned.issuer), self.issuers.get(&planned.issuer))
            else {
                continue;
            };
            self.memory.started(planned, known, now);
            let under_way = planned.under_way(now);
            self.under_way.insert(planned.id.clone(), under_way.clone());
            let wish = Arc::new(wish.clone());
            self.wanted.insert(planned.id.clone(), Arc::clone(&wish));
            orders.push(self.order_job(planned, client, wish, under_way, wanted, key));
        }
        for id in &plan.abandon {
            let Some(order) = self.journal.remove(id) else { continue };
            let client = self.under_way.remove(id).and_then(|known| self.client(wanted, &known.issuer));
            self.send(Job::Abandon { id: id.clone(), client, order: Box::new(order) });
        }
        self.open_accounts(plan, wanted, now);
        for poll in &plan.polls {
            let Some(client) = self.client(wanted, &poll.issuer) else { continue };
            self.polling.insert(poll.id.clone());
            self.send(Job::Poll { id: poll.id.clone(), client, ari_id: poll.ari_id.clone() });
        }
        if !orders.is_empty() {
            let spent = self.spend(plan);
            self.send(Job::Orders { spent, orders });
            // The account that orders a host may be another one now.
            self.answers.set_hosts(self.hosts(wanted));
        }
    }

    fn order_job(
        &self,
        planned: &PlannedOrder,
        client: Client,
        wanted: Arc<WantedCertificate>,
        under_way: UnderWay,
        all: &CertsWanted,
        key: &dyn Fn(&CertId) -> Option<Zeroizing<String>>,
    ) -> OrderJob {
        let mut wish = OrderWish::of(&wanted);
        if planned.keep_key {
            wish.keep_key = key(&planned.id).map(SecretText::new);
        }
        let resume = match &planned.start {
            Start::New { replaces, .. } => {
                wish.replaces.clone_from(replaces);
                None
            }
            Start::Resume { .. } => {
                let record = self.journal.get(&planned.id).cloned();
                wish.replaces = record.as_ref().and_then(|record| record.replaces.clone());
                record
            }
        };
        let look = all.preflight.then(|| Look {
            resolvers: Arc::clone(&all.resolvers),
            entries: all.entries.get(&planned.id).cloned().unwrap_or_default(),
        });
        OrderJob { client, wanted, wish, under_way, resume, look }
    }

    pub(super) fn client(&self, wanted: &CertsWanted, id: &IssuerId) -> Option<Client> {
        let issuer = wanted.issuers.iter().find(|issuer| issuer.id == *id)?;
        let account = self.accounts.get(id).cloned();
        let has_account = account.as_ref().is_some_and(|record| record.url.is_some());
        let secrets = secrets::of_account(issuer, &self.texts, has_account).ok()?;
        Some(Client { issuer: Arc::new(issuer.clone()), secrets, texts: Arc::clone(&self.texts), account })
    }

    pub fn revoke(
        &self,
        wanted: &CertsWanted,
        (id, made_for, stored): (&CertId, &MadeFor, &StoredCertificate),
        reason: RevocationReason,
        reply: Answer,
    ) {
        let issuer = IssuerId(made_for.issuer.as_str().into());
        let Some(client) = self.client(wanted, &issuer) else {
            let _ = reply.send(Err(format!("{issuer}, which issued it, is not configured or cannot be used")));
            return;
        };
        let reason = match reason {
            RevocationReason::Unspecified => order::RevocationReason::Unspecified,
            RevocationReason::KeyCompromise => order::RevocationReason::KeyCompromise,
            RevocationReason::AffiliationChanged => order::RevocationReason::AffiliationChanged,
            RevocationReason::Superseded => order::RevocationReason::Superseded,
            RevocationReason::CessationOfOperation => order::RevocationReason::CessationOfOperation,
        };
        let key = SecretText::new(stored.key_pem.clone());
        let chain_pem = stored.chain_pem.clone();
        self.send(Job::Revoke { id: id.clone(), client, chain_pem, key, reason, reply });
    }
}
