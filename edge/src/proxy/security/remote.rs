//! Keys of issuers that are fetched from them, as [`authorities`](crate::proxy::authorities) keep them.

use std::rc::Rc;
use std::time::Duration;

use edge_config::policy::RemoteKeys;

use super::jwt::Keys;
use crate::proxy::worker::Worker;

/// A fetch has a bound of its own; a request waits no longer than this for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keys that are at hand: the last good ones.
pub fn keys(worker: &Rc<Worker>, from: &RemoteKeys) -> Keys {
    worker.authorities().keys(from).set.map_or(Keys::Away, Keys::At)
}

/// Looks whether the issuer has new ones, unless that was just done; whether there may be any.
pub async fn refetch(worker: &Rc<Worker>, from: &RemoteKeys) -> bool {
    let timer = worker.clock.timer();
    timer.within(PATIENCE, worker.authorities().refetch(from)).await.is_ok()
}
