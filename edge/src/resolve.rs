//! Names into addresses, for upstreams that are a DNS name (Service of type ExternalName, Backend with an FQDN).
//!
//! The actor takes the whole set of wanted names and keeps each one fresh in the background; what it found goes to the
//! supervisor as a value. A name that stops resolving keeps its last addresses and says why. Nothing on the request path
//! ever waits for DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The system resolver tells no TTL, so every name is asked again after this long.
const REFRESH: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// One question may take this long; the resolver's own limits are usually shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host name and the port that goes with its addresses.
pub type Name = (Box<str>, u16);

/// What is known of a name: addresses in order, and why they are not fresh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    pub addresses: Vec<SocketAddr>,
    pub error: Option<String>,
}

/// What changed: one name and its new state.
pub type Update = (Name, Arc<Resolved>);

/// Runs on the supervisor's runtime; dropped, it stops asking.
pub struct Resolver {
    updates: mpsc::Sender<Update>,
    asking: BTreeMap<Name, JoinHandle<()>>,
}

impl Resolver {
    pub fn new(updates: mpsc::Sender<Update>) -> Self {
        Self { updates, asking: BTreeMap::new() }
    }

    /// Asks for exactly these names from now on.
    pub fn set(&mut self, wanted: &BTreeSet<Name>) {
        self.asking.retain(|name, task| {
            let keep = wanted.contains(name);
            if !keep {
                task.abort();
            }
            keep
        });
        for name in wanted {
            if !self.asking.contains_key(name) {
                let task = tokio::spawn(keep_fresh(name.clone(), self.updates.clone()));
                self.asking.insert(name.clone(), task);
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for task in self.asking.values() {
            task.abort();
        }
    }
}

async fn keep_fresh(name: Name, updates: mpsc::Sender<Update>) {
    let mut known: Option<Arc<Resolved>> = None;
    let mut retry = FIRST_RETRY;
    loop {
        let last = known.as_ref().map(|resolved| resolved.addresses.clone()).unwrap_or_default();
        let next = Arc::new(match ask(&name).await {
            Ok(addresses) => {
                retry = FIRST_RETRY;
                Resolved { addresses, error: None }
            }
            Err(error) => {
                retry = (retry * 2).min(REFRESH);
                Resolved { addresses: last, error: Some(error) }
            }
        });
        let pause = if next.error.is_some() { retry } else { REFRESH };
        if known.as_ref() != Some(&next) {
            known = Some(Arc::clone(&next));
            if updates.send((name.clone(), next)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn ask((host, port): &Name) -> Result<Vec<SocketAddr>, String> {
    let answer = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((&**host, *port))).await;
    let mut addresses: Vec<SocketAddr> = match answer {
        Err(_) => return Err(format!("{host}: no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => return Err(format!("{host}: {error}")),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() { Err(format!("{host}: has no address")) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_found_and_a_wrong_one_says_why() {
        let (send, mut receive) = mpsc::channel(8);
        let mut resolver = Resolver::new(send);
        let good: Name = ("localhost".into(), 8080);
        let bad: Name = ("no-such-host.invalid".into(), 80);
        resolver.set(&BTreeSet::from([good.clone(), bad.clone()]));
        let mut found = BTreeMap::new();
        while found.len() < 2 {
            let (name, resolved) = receive.recv().await.unwrap();
            found.insert(name, resolved);
        }
        assert!(found[&good].addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 8080));
        assert!(found[&good].error.is_none());
        assert!(found[&bad].addresses.is_empty());
        assert!(found[&bad].error.as_ref().unwrap().starts_with("no-such-host.invalid: "));
    }
}
