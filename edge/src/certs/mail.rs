//! What the thread does beside its rounds: it takes what orders have to tell, and obeys commands.

use edge_acme::plan::Wait;
use edge_config::names::CertId;
use edge_config::snapshot::{WantedCertificate, WantedIssuer};
use zeroize::Zeroizing;

use super::CertsWanted;
use super::choice::covers;
use super::command::{CertCommand, Material, RevocationReason};
use super::edges::Shared;
use super::issuance::{Issuance, supplier};
use super::ordering::Event;
use super::table::{CertEntry, Origin};
use crate::fleet::merge::is_newer;
use crate::proxy::tls::provider;
use crate::store::StoredCertificate;

impl Issuance {
    /// Takes an event of an order.
    pub(super) fn take(&mut self, event: Event, wanted: &CertsWanted, now: i64) {
        let Some(ordering) = &mut self.ordering else { return };
        match event {
            Event::Written { issuer, written } => ordering.written(issuer, written),
            Event::Opened { issuer, result } => ordering.opened(issuer, result, now),
            Event::Found { id, findings, seen } => ordering.found(id, findings, seen),
            Event::Obtained { id, under_way, account, obtained } => {
                let Some(stored) = ordering.obtained(&id, &under_way, &account, &obtained, now) else { return };
                if let Err(reason) = self.hold(&id, stored) {
                    self.notices.push(format!("certificate {id} from {}: {reason}", under_way.issuer));
                }
            }
            Event::Settled { id } => ordering.settled(&id),
            Event::Yielded { id } => ordering.yielded(&id),
            Event::Failed { id, under_way, error, sentence } => {
                ordering.failed(&id, &under_way, &error, sentence, now);
            }
            Event::Window { id, ari_id, result } => ordering.window(&id, &ari_id, &result, now),
            Event::Revoked { id, result, reply } => {
                if result.is_ok() {
                    if let Some(stored) = self.note_revoked(&id)
                        && let Some(ordering) = &self.ordering
                    {
                        ordering.share(Shared::Certificate { id: id.clone(), stored });
                    }
                    let Some(ordering) = &mut self.ordering else { return };
                    if let Some(wish) = wanted.certificates.iter().find(|one| one.id == id) {
                        ordering.ask(wish, now);
                    }
                }
                let answer = result.map(|()| format!("{id} is revoked; another one is obtained"));
                // Whoever asked may be gone by now.
                let _ = reply.send(answer);
            }
        }
    }

    /// Does what was asked.
    pub(super) fn obey(&mut self, command: CertCommand, wanted: &CertsWanted, now: i64) {
        match command {
            CertCommand::Renew { id, reply } => {
                let _ = reply.send(self.renew(&id, wanted, now));
            }
            CertCommand::Revoke { id, reason, reply } => match self.revocable(&id, wanted) {
                Err(reason) => drop(reply.send(Err(reason))),
                Ok(()) => self.revoke(&id, wanted, reason, reply),
            },
            CertCommand::Import { id, chain_pem, key_pem, reply } => {
                let _ = reply.send(self.import(&id, chain_pem, key_pem, wanted, now));
            }
            CertCommand::Read { id, with_key, reply } => {
                let _ = reply.send(self.read(&id, with_key, wanted));
            }
            CertCommand::Backup { reply } => {
                let store = self.store.clone();
                // It may take seconds of disk and encryption; who asked waits, and nobody else.
                std::thread::spawn(move || drop(reply.send(store.backup())));
            }
            CertCommand::Received { shared: Shared::Certificate { id, stored }, reply } => {
                let _ = reply.send(self.receive(&id, stored));
            }
            CertCommand::Received { shared, reply } => match &mut self.ordering {
                Some(ordering) => ordering.receive(shared, reply),
                None => drop(reply.send(Err("nothing is ordered here".into()))),
            },
            CertCommand::Held { reply } => {
                let issued = self.issued.iter().map(|(id, issued)| (id, &issued.stored));
                let certificates = issued.chain(&self.stored);
                let certificates =
                    certificates.map(|(id, stored)| Shared::Certificate { id: id.clone(), stored: stored.clone() });
                let mut held: Vec<Shared> = certificates.collect();
                held.extend(self.ordering.iter().flat_map(|ordering| ordering.held()));
                let _ = reply.send(held);
            }
        }
    }

    fn renew(&mut self, id: &CertId, wanted: &CertsWanted, now: i64) -> Result<String, String> {
        let wish = wish(id, wanted)?;
        match (&wish.issuer, &mut self.ordering) {
            (WantedIssuer::Acme(_), Some(ordering)) => {
                ordering.ask(wish, now);
                ordering.prepare(wanted);
                self.outlook(id, wanted, now)
            }
            (WantedIssuer::Acme(_), None) => Err("nothing is ordered here".into()),
            _ => match self.plan(wanted, now).waiting.remove(id) {
                // Nobody could give another one.
                Some(wait @ (Wait::IssuerAway { .. } | Wait::Nobody(_))) => Err(format!("{id} is not renewed: {wait}")),
                _ => {
                    // Served until the end of this very round, in which another one is made.
                    self.issued.remove(id);
                    Ok(format!("{id} is made anew"))
                }
            },
        }
    }

    /// What will become of a wish in the round that follows: it is ordered now, or what it waits for.
    fn outlook(&self, id: &CertId, wanted: &CertsWanted, now: i64) -> Result<String, String> {
        let plan = self.plan(wanted, now);
        if let Some(order) = plan.orders.iter().find(|order| order.id == *id) {
            return Ok(format!("{id} is ordered from {} now", order.issuer));
        }
        match plan.waiting.get(id) {
            Some(wait @ (Wait::UnderWay { .. } | Wait::Account(_) | Wait::Busy(_))) => Ok(format!("{id}: {wait}")),
            Some(Wait::Elsewhere(edge)) => {
                Err(format!("{id} is not ordered by this edge: {edge} orders; the wish is passed on, or ask there"))
            }
            Some(wait) => Err(format!("{id} is asked for and ordered as soon as it can be, which is not now: {wait}")),
            None => Err(format!("{id} is asked for, and no order is planned: see edgectl cert why {id}")),
        }
    }

    /// What serves now.
    fn read(&self, id: &CertId, with_key: bool, wanted: &CertsWanted) -> Result<Material, String> {
        let wish = wanted.certificates.iter().find(|one| one.id == *id);
        if let Some(issued) = self.issued.get(id).filter(|_| wish.is_some()) {
            let key_pem = with_key.then(|| issued.stored.key_pem.clone());
            return Ok(Material { origin: Origin::Issued, chain_pem: issued.stored.chain_pem.clone(), key_pem });
        }
        let text = |bytes: &[u8]| {
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| format!("Secret {id} is no PEM text"))
        };
        if let Some(Ok(material)) = wanted.supplied.get(wish.map_or(id, supplier)) {
            let key_pem = if with_key { Some(Zeroizing::new(text(&material.key_pem)?)) } else { None };
            return Ok(Material { origin: Origin::Supplied, chain_pem: text(&material.certificate_pem)?, key_pem });
        }
        if self.placeholders.contains_key(id) {
            return Err(format!("{id} has a placeholder only, which is worth nothing elsewhere"));
        }
        Err(format!("there is no certificate {id} yet"))
    }

    fn revocable(&self, id: &CertId, wanted: &CertsWanted) -> Result<(), String> {
        let issued = self.issued.get(id).ok_or_else(|| format!("there is no certificate {id} of Edge"))?;
        let made_for = &issued.held.made_for;
        // One that was taken in may well be of the CA that is wanted: its key speaks for it there.
        let is_ordered = || wish(id, wanted).is_ok_and(|wish| matches!(wish.issuer, WantedIssuer::Acme(_)));
        if made_for.acme.is_none() && !(made_for.adopted && is_ordered()) {
            return Err(format!("{id} is not from an ACME CA: nobody keeps a list of it"));
        }
        Ok(())
    }

    fn revoke(&self, id: &CertId, wanted: &CertsWanted, reason: RevocationReason, reply: super::command::Answer) {
        match (&self.ordering, self.issued.get(id)) {
            (Some(ordering), Some(issued)) => {
                ordering.revoke(wanted, (id, &issued.held.made_for, &issued.stored), reason, reply);
            }
            _ => drop(reply.send(Err("nothing is ordered here".into()))),
        }
    }

    fn import(
        &mut self,
        id: &CertId,
        chain_pem: String,
        key_pem: Zeroizing<String>,
        wanted: &CertsWanted,
        now: i64,
    ) -> Result<String, String> {
        let wish = wish(id, wanted)?;
        let entry = CertEntry::from_pem(chain_pem.as_bytes(), key_pem.as_bytes(), Origin::Issued, provider())
            .map_err(|error| error.to_string())?;
        if !covers(&entry.facts, wish) {
            return Err(format!("it does not bear all names of {id}: {}", wish.dns_names.join(", ")));
        }
        if !entry.is_valid_at(now) {
            return Err("it is not valid now".into());
        }
        self.adopt(wish, chain_pem, key_pem)?;
        if let Some(stored) = self.issued.get(id).map(|issued| issued.stored.clone())
            && let Some(ordering) = &self.ordering
        {
            ordering.share(Shared::Certificate { id: id.clone(), stored });
        }
        Ok(format!("{id} is served from now on, and renewed when its time comes"))
    }

    /// Takes a certificate that another edge obtained.
    fn receive(&mut self, id: &CertId, stored: StoredCertificate) -> Result<String, String> {
        let held = self.issued.get(id).map(|issued| &issued.stored).or_else(|| self.stored.get(id));
        if held.is_some_and(|held| !is_newer(held, &stored)) {
            return Ok("the one held is as new".into());
        }
        self.hold(id, stored.clone())?;
        if let Some(ordering) = &mut self.ordering {
            ordering.arrived(id);
        }
        self.store.put_certificate(id, &stored).map_err(|error| error.to_string())?;
        Ok("stored".into())
    }
}

fn wish<'a>(id: &CertId, wanted: &'a CertsWanted) -> Result<&'a WantedCertificate, String> {
    let found = wanted.certificates.iter().find(|one| one.id == *id);
    found.ok_or_else(|| format!("nobody wants a certificate {id} of Edge"))
}
