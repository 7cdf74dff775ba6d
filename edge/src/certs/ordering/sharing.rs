//! What edges tell each other of orders.
//!
//! In: word of another edge. Out: the same in the store and in the plan of this one; all that is held, for an edge that
//! comes up.

use super::Ordering;
use super::journal::{self, decode_account, encode_account};
use super::runner::Job;
use crate::certs::command::Answer;
use crate::certs::edges::Shared;

impl Ordering {
    /// Takes what another edge says; certificates are not this module's.
    pub fn receive(&mut self, shared: Shared, reply: Answer) {
        let answer = match shared {
            Shared::Challenge { challenge, lifetime } => return self.send(Job::Tell { challenge, lifetime, reply }),
            Shared::ChallengeOver(challenge) => return self.send(Job::Forget { challenge, reply }),
            Shared::Account { issuer, record } => decode_account(&record).and_then(|account| {
                self.note_account(issuer.clone(), account);
                self.store.put_account(&issuer, record).map_err(|error| error.to_string())
            }),
            Shared::Order { id, record: Some(record) } => journal::Entry::decode(&record).and_then(|entry| {
                self.note_order(id.clone(), entry.under_way, entry.order);
                self.store.put_order(&id, record).map_err(|error| error.to_string())
            }),
            Shared::Order { id, record: None } => {
                // Its own order is its own to end.
                if self.under_way.get(&id).is_none_or(|known| !known.running) {
                    self.settled(&id);
                    self.store.remove_order(&id).map_err(|error| error.to_string())
                } else {
                    Ok(())
                }
            }
            Shared::Memory(bytes) => self.heard(bytes),
            Shared::Certificate { .. } | Shared::TicketKeys(_) => Err("is not for orders".into()),
        };
        let _ = reply.send(answer.map(|()| "stored".into()));
    }

    /// All but certificates, for an edge that comes up.
    pub fn held(&self) -> Vec<Shared> {
        let accounts = self.accounts.iter().filter_map(|(issuer, record)| {
            Some(Shared::Account { issuer: issuer.clone(), record: encode_account(record).ok()? })
        });
        let orders = self.journal.iter().filter_map(|(id, order)| {
            let under_way = self.under_way.get(id)?.clone();
            let record = journal::Entry::new(under_way, order.clone()).encode().ok()?;
            Some(Shared::Order { id: id.clone(), record: Some(record) })
        });
        let memory = self.memory.encode().ok().map(Shared::Memory);
        accounts.chain(orders).chain(self.answers.held()).chain(memory).collect()
    }

    pub fn share(&self, shared: Shared) {
        self.send(Job::Share(shared));
    }
}
