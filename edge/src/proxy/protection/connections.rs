//! Limits of connections that a ClientTrafficPolicy sets: of the HTTP listeners of a Gateway together, or of one listener of
//! another kind. Counted by all workers of this edge.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use edge_config::policy::ConnectionLimit;
use edge_config::snapshot::{Listener, PortId, PortServe, Snapshot};
use foldhash::HashMap;

use super::of_object;
use crate::proxy::reason::Reason;
use crate::proxy::upstream::hashing::Hash;
use crate::proxy::worker::Worker;

/// By HTTP port, the strictest limit of its listeners; nearly always empty.
pub type PortLimits = HashMap<PortId, ConnectionLimit>;

pub fn of_ports(snapshot: &Snapshot) -> PortLimits {
    let mut limits = PortLimits::default();
    if snapshot.listeners.iter().all(|listener| listener.client.connection_limit.is_none()) {
        return limits;
    }
    for (index, port) in snapshot.ports.iter().enumerate() {
        let PortServe::Http { hosts } = &port.serve else { continue };
        let all = hosts.iter().filter_map(|(_, id)| snapshot.listeners.get(id.index())?.client.connection_limit);
        if let (Some(limit), Ok(id)) = (all.min_by_key(|limit| limit.most), u32::try_from(index)) {
            limits.insert(PortId(id), limit);
        }
    }
    limits
}

/// A connection that is counted until this is dropped.
pub struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A place for a connection, or how long it is kept before it is closed.
pub fn enter(worker: &Worker, limit: ConnectionLimit, key: u64) -> Result<Counted, Duration> {
    let count = worker.ledger().running(&worker.near, key);
    if u64::from(count.fetch_add(1, Relaxed)) >= limit.most {
        count.fetch_sub(1, Relaxed);
        worker.metrics.count(Reason::ConnectionLimited);
        return Err(limit.close_delay);
    }
    Ok(Counted(count))
}

/// The place that all HTTP listeners of a Gateway share.
pub fn of_owner(owner: &edge_config::names::ObjectRef) -> u64 {
    of_object(owner).rotate_left(17)
}

pub fn of_listener(listener: &Listener) -> u64 {
    let mut hash = Hash::default();
    hash.add(&of_object(&listener.parent).to_be_bytes());
    hash.add(listener.name.as_bytes());
    hash.finish().rotate_left(17)
}

/// Keeps a connection that is over the limit for a while, without a word.
pub async fn hold(worker: &Rc<Worker>, delay: Duration) {
    if !delay.is_zero() {
        let timer = worker.clock.timer();
        let _ = worker.unless_draining(timer.within(delay, std::future::pending::<()>())).await;
    }
}
