//! Changes in the kernel's network, for whoever compares it with what is wanted: multicast groups of rtnetlink flow in, a
//! signal flows out. It says that something changed and never what: whoever listens looks for itself.

use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A channel of capacity 1 that is filled whenever one of these groups told of a change, and the task that fills it;
/// `None` without that right. Needs a tokio runtime.
pub fn changes(groups: &[MulticastGroup]) -> Option<(mpsc::Receiver<()>, JoinHandle<()>)> {
    let (connection, _, mut messages) = new_multicast_connection(groups).ok()?;
    let (sender, receiver) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        let forward = async {
            while messages.next().await.is_some() {
                // Full means that a change is already noted.
                if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                    break;
                }
            }
        };
        tokio::select! {
            () = connection => {}
            () = forward => {}
        }
    });
    Some((receiver, task))
}
