//! What of the issued certificates is to be in Secrets.
//!
//! In: what is held, what is wanted, the plan. Out: [`Offers`], in which what did not change is the very same as before,
//! so that nobody compares keys.

use std::sync::Arc;

use edge_acme::plan::Plan;
use edge_config::names::CertId;
use edge_config::snapshot::{WantedCertificate, WantedIssuer};

use super::CertsWanted;
use super::issuance::{Issuance, Issued};
use super::offer::{Offer, Offers};

pub(super) fn offers(issuance: &Issuance, wanted: &CertsWanted, plan: &Plan) -> Arc<Offers> {
    let before = &issuance.offers;
    let mut offers = Offers::default();
    for (reference, key) in issuance.ordering.iter().flat_map(|ordering| ordering.account_keys(wanted)) {
        let known = before.accounts.get(&reference).filter(|known| ***known == key).cloned();
        offers.accounts.insert(reference, known.unwrap_or_else(|| Arc::new(key)));
    }
    for wish in wanted.certificates.iter().filter(|wish| wish.write_back.is_some()) {
        let Some(issued) = issuance.issued.get(&wish.id) else { continue };
        let due = plan.renewals.get(&wish.id).copied();
        let ca_pem = ca(issuance, wanted, wish, issued);
        let known = before.certificates.get(&wish.id);
        let is_same = |known: &&Arc<Offer>| {
            known.facts == issued.entry.facts
                && known.chain_pem == issued.stored.chain_pem
                && known.ca_pem == ca_pem
                && known.due == due
        };
        let offer = known.filter(is_same).cloned().unwrap_or_else(|| {
            Arc::new(Offer {
                chain_pem: issued.stored.chain_pem.clone(),
                key_pem: issued.stored.key_pem.clone(),
                ca_pem,
                facts: issued.entry.facts.clone(),
                chain_length: issued.entry.certified.cert.len(),
                due,
            })
        });
        offers.certificates.insert(wish.id.clone(), offer);
    }
    if offers.is_same(before) { Arc::clone(before) } else { Arc::new(offers) }
}

/// cert-manager's `ca.crt`: the certificate at the end of the chain of the CA that signed.
fn ca(issuance: &Issuance, wanted: &CertsWanted, wish: &WantedCertificate, issued: &Issued) -> Option<String> {
    match &wish.issuer {
        WantedIssuer::Internal { .. } => Some(issuance.internal.as_ref().ok()?.stored.chain_pem.clone()),
        WantedIssuer::SelfSigned => Some(issued.stored.chain_pem.clone()),
        WantedIssuer::Ca(id) => last(&chain(issuance, wanted, id)?),
        WantedIssuer::Acme(_) | WantedIssuer::Nobody { .. } => None,
    }
}

fn chain(issuance: &Issuance, wanted: &CertsWanted, id: &CertId) -> Option<String> {
    match wanted.supplied.get(id) {
        Some(Ok(material)) => String::from_utf8(material.certificate_pem.clone()).ok(),
        _ => issuance.issued.get(id).map(|issued| issued.stored.chain_pem.clone()),
    }
}

/// The last PEM block.
fn last(chain: &str) -> Option<String> {
    let start = chain.rfind("-----BEGIN CERTIFICATE-----")?;
    Some(chain[start..].to_owned())
}
