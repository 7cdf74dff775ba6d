//! What planning remembers, on the disk and at other edges.
//!
//! In: the memory as it changes. Out: records. What orders spend is written before they are made, each batch by itself;
//! the whole is written now and then, and takes the place of those: a thousand orders cost a thousand small records.

use std::time::{Duration, Instant};

use edge_acme::memory::Memory;
use edge_acme::plan::{Plan, PlannedOrder, Start};
use edge_config::names::CertId;
use zeroize::Zeroizing;

use super::Ordering;
use super::runner::Job;
use crate::certs::CertsWanted;

/// Of the whole, while orders are under way here or elsewhere.
const BETWEEN_WRITES: Duration = Duration::from_secs(5);

/// What planning remembers of a batch of orders, alone.
pub struct Spent {
    pub number: u64,
    pub memory: Zeroizing<Vec<u8>>,
}

impl Ordering {
    /// What is spent on new orders; `None`: those of the plan are gone on with, and cost nothing.
    pub(super) fn spend(&mut self, plan: &Plan) -> Option<Spent> {
        let is_new = |order: &&PlannedOrder| matches!(order.start, Start::New { .. });
        let new: Vec<&CertId> = plan.orders.iter().filter(is_new).map(|order| &order.id).collect();
        if new.is_empty() {
            return None;
        }
        let memory = Zeroizing::new(self.memory.of_orders(&new).encode().ok()?);
        Some(Spent { number: self.next_batch(), memory })
    }

    /// What another edge spent, or remembers.
    pub(super) fn heard(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        let memory = Memory::decode(&bytes).map_err(|error| error.to_string())?;
        self.memory.merge(&memory);
        self.is_told = true;
        let number = self.next_batch();
        self.store.put_acme_memory_since(number, Zeroizing::new(bytes)).map_err(|error| error.to_string())
    }

    fn next_batch(&mut self) -> u64 {
        self.batch += 1;
        self.batch
    }

    /// Takes up what the last run remembered.
    pub(super) fn recall(&mut self, notices: &mut Vec<String>) {
        let whole = self.store.acme_memory().into_iter();
        let since = self.store.acme_memory_since();
        self.batch = since.last().map_or(0, |(number, _)| *number);
        for bytes in whole.chain(since.into_iter().map(|(_, bytes)| bytes)) {
            match Memory::decode(&bytes) {
                Ok(memory) => self.memory.merge(&memory),
                Err(error) => notices.push(error.to_string()),
            }
        }
    }

    /// Writes down what planning remembers, if it is another than before. What is spent was written before it was spent;
    /// while hundreds of orders come in, what became of them is written now and then.
    pub fn remember(&mut self, wanted: &CertsWanted, now: i64) {
        let is_busy = self.is_told || self.under_way.values().any(|order| order.running);
        if is_busy && self.remembered_at.is_some_and(|at| at.elapsed() < BETWEEN_WRITES) {
            return;
        }
        self.memory.prune(&wanted.certificates, &self.issuers, now);
        let Ok(memory) = self.memory.encode().map(Zeroizing::new) else { return };
        if *memory == *self.remembered {
            return;
        }
        // Whoever only listens has nothing to say, but for what was asked of it.
        let share = self.elsewhere.is_none() || self.is_asked;
        (self.remembered, self.remembered_at) = (memory.clone(), Some(Instant::now()));
        (self.is_told, self.is_asked) = (false, false);
        self.send(Job::Remember { memory, up_to: self.batch, share });
    }
}
