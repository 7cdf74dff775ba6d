//! What Pebble did, read from its log: the CA's own word on how often it was asked.

use std::collections::BTreeMap;

/// Everything since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    pub orders: usize,
    /// Orders that ended because a proof failed.
    pub failed_orders: usize,
    /// How often each name was to be proved.
    pub proofs: BTreeMap<String, usize>,
    pub certificates: usize,
    pub accounts: usize,
}

impl Ledger {
    pub fn of(log: &str) -> Self {
        let mut ledger = Self::default();
        for line in log.lines() {
            if line.contains("Added order ") {
                ledger.orders += 1;
            } else if line.contains(" set INVALID by invalid authz ") {
                ledger.failed_orders += 1;
            } else if line.contains("Issued certificate serial ") {
                ledger.certificates += 1;
            } else if line.contains("There are now ") && line.contains(" accounts in memory") {
                ledger.accounts += 1;
            } else if let Some((_, task)) = line.split_once("Pulled a task from the Tasks queue: ") {
                let name = task.split_once("Value:\"").and_then(|(_, rest)| rest.split_once('"'));
                if let Some((name, _)) = name {
                    *ledger.proofs.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
        ledger
    }

    /// Whether each of so many names was ordered once, but for orders that failed.
    pub fn is_once_each(&self, names: usize) -> bool {
        self.certificates == names && self.orders == names + self.failed_orders && self.proofs.len() == names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pebble() {
        let log = "Pebble 2026/11/23 12:00:00 There are now 1 accounts in memory\n\
                   Pebble 2026/11/23 12:00:00 Added order \"x\" to the db\n\
                   Pebble 2026/11/23 12:00:00 Pulled a task from the Tasks queue: &va.vaTask{Identifier:acme.Identifier{Type:\"dns\", Value:\"a.example.com\"}, Challenge:(*core.Challenge)(0x1)}\n\
                   Pebble 2026/11/23 12:00:00 order x set INVALID by invalid authz y\n\
                   Pebble 2026/11/23 12:00:00 Issued certificate serial 12 for order x\n";
        let ledger = Ledger::of(log);
        let proofs = BTreeMap::from([("a.example.com".to_owned(), 1)]);
        assert_eq!(ledger, Ledger { orders: 1, failed_orders: 1, proofs, certificates: 1, accounts: 1 });
        assert!(!ledger.is_once_each(1));
        assert!(Ledger { orders: 2, ..ledger }.is_once_each(1));
    }
}
