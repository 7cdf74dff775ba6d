//! An order that somebody before us may have made, found again.
//!
//! In: the record of a try that was cut short. Out: its order as the CA shows it now, or the record with its key for
//! another one.

use instant_acme::OrderStatus;

use super::account::Live;
use super::authorize::{Subject, subjects};
use super::links::links;
use super::obtain::{Listed, Run, Shown};
use super::refusal::resumable;
use super::{Journal, OrderRecord};
use crate::challenge::Present;
use crate::client::wire::{Named, Status};
use crate::failure::{Class, OrderError, Step};
use crate::local::read_key;

impl<P: Present, J: Journal> Run<'_, P, J> {
    /// Whether the record is of the same wish and account.
    pub(super) fn fits(&self, record: &OrderRecord, live: &Live) -> bool {
        let same = |a: Vec<Subject>, b: Vec<Subject>| a.len() == b.len() && a.iter().all(|one| b.contains(one));
        let kept = self.wish.keep_key.as_ref().is_none_or(|key| *key == record.key);
        let of_kind = self.wish.keep_key.is_some()
            || read_key(record.key.reveal()).is_ok_and(|key| {
                use edge_config::snapshot::KeyAlgorithm as A;
                match self.wish.key {
                    A::EcdsaP256 => key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256),
                    A::EcdsaP384 => key.is_compatible(&rcgen::PKCS_ECDSA_P384_SHA384),
                    A::Ed25519 => key.is_compatible(&rcgen::PKCS_ED25519),
                    A::Rsa(_) => key.is_compatible(&rcgen::PKCS_RSA_SHA256),
                }
            });
        record.account == live.url
            && record.profile.as_deref() == self.profile()
            && kept
            && of_kind
            && same(
                subjects(&record.dns_names, &record.addresses),
                subjects(&self.wish.dns_names, &self.wish.addresses),
            )
    }

    /// The order of a record, as it is now. Where it is gone, its key is kept for the next one.
    pub(super) async fn locate(
        &self,
        live: &Live,
        mut record: OrderRecord,
        notes: &mut Vec<String>,
    ) -> Result<(OrderRecord, Option<Shown>), OrderError> {
        let known = record.url.is_some();
        let url = match record.url.clone() {
            Some(url) => Some(url),
            None => self.listed(live, &record).await,
        };
        let Some(url) = url else { return Ok((record, None)) };
        let fetched = self.account.call(Step::NewOrder, async || live.engine.order(url.to_string()).await).await;
        match fetched {
            Ok((mut order, last)) => {
                if order.state().status != OrderStatus::Invalid {
                    notes.push(format!("went on with the order {url}"));
                    if !known {
                        record.url = Some(url);
                        self.write(&record).await?;
                    }
                    return Ok((record, Some(Shown { order, last })));
                }
            }
            Err(error) if error.is_kind("accountDoesNotExist") => return Err(error),
            // The order is not there, or not ours.
            Err(error) if matches!(error.class, Class::Config | Class::Ours) => {}
            Err(error) => return Err(resumable(error, true)),
        }
        (record.url, record.finalizing, record.replaces) = (None, false, None);
        self.write(&record).await?;
        Ok((record, None))
    }

    /// The answer to new-order never came: where the CA keeps a list (RFC 8555 §7.1.2.1), the order is in it. Those that
    /// keep none hand a pending order of the same names out again. Trouble with the list counts as none: a second order
    /// costs one of hundreds, and a list that never answers would cost the certificate.
    async fn listed(&self, live: &Live, record: &OrderRecord) -> Option<Box<str>> {
        #[derive(serde::Deserialize)]
        struct Owner {
            orders: Option<Box<str>>,
        }
        #[derive(serde::Deserialize)]
        struct Page {
            orders: Vec<Box<str>>,
        }
        let account = self.account;
        let answer = account.post(Step::Account, live, &live.url, None).await.ok()?;
        let mut next = serde_json::from_slice::<Owner>(&answer.body).ok()?.orders;
        let mut urls = Vec::new();
        for _page in 0..20 {
            let Some(url) = next.take() else { break };
            let answer = account.post(Step::Account, live, &url, None).await.ok()?;
            urls.extend(serde_json::from_slice::<Page>(&answer.body).ok()?.orders);
            next = links(&answer, "next").into_iter().next();
        }
        let wanted = subjects(&record.dns_names, &record.addresses);
        for url in urls.into_iter().rev().take(20) {
            let answer = account.post(Step::NewOrder, live, &url, None).await.ok()?;
            let order: Listed = serde_json::from_slice(&answer.body).ok()?;
            let names: Vec<Subject> = order.identifiers.iter().filter_map(Named::identifier).collect();
            // "ready" is none that Status has a name for.
            let open = matches!(order.status, Status::Pending | Status::Unknown);
            if open && names.len() == wanted.len() && names.iter().all(|name| wanted.contains(name)) {
                return Some(url);
            }
        }
        None
    }
}
