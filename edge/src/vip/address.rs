//! Keeps the wanted addresses on an interface, and takes away only what Edge added.
//!
//! In: the whole wanted set. Out: the state of each address, again whenever the kernel reports a change and every 30 s.
//! An address is ours when the store's list says so and, where the kernel keeps marks, ours is on it; so a crash leaves
//! nothing behind for ever, and an address of the administrator is never removed. Without CAP_NET_ADMIN everything that
//! is local already works, and the rest has a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use edge_config::settings::{BindVips, VipSettings};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::netlink::{self, Listed, Netlink, NetlinkError};
use crate::store::Store;

/// What became of every wanted address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressesObserved {
    pub addresses: BTreeMap<IpAddr, AddressState>,
    /// Ours that could not be removed, and why.
    pub notices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressState {
    /// Added by Edge to this interface, and removed at the end.
    Ours {
        interface: String,
    },
    /// Local without our doing; the interface where it is known.
    Present {
        interface: Option<String>,
    },
    Failed(String),
}

impl AddressState {
    pub fn is_bound(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl AddressesObserved {
    pub fn is_bound(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some_and(AddressState::is_bound)
    }
}

/// A handle to the task that owns the addresses.
pub struct Addresses {
    requests: mpsc::Sender<Request>,
    observed: watch::Receiver<Arc<AddressesObserved>>,
}

enum Request {
    Set {
        settings: VipSettings,
        wanted: BTreeSet<IpAddr>,
        done: oneshot::Sender<Arc<AddressesObserved>>,
    },
    TakeOver {
        done: oneshot::Sender<()>,
    },
    /// Everything stays where it is.
    Release {
        done: oneshot::Sender<()>,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// The kernel is asked anew this often, for changes that it did not report.
const RESYNC: Duration = Duration::from_secs(30);
/// What a change waits for the disk.
const SAVE: Duration = Duration::from_secs(2);
/// Changes come in bursts, our own among them.
const SETTLE: Duration = Duration::from_millis(50);

impl Addresses {
    /// Starts the task on the current tokio runtime. `Store` keeps the list of addresses that are ours.
    pub fn start(store: Store) -> Self {
        Self::begin(store, false)
    }

    /// The same, but another process of this machine still owns them: until [`take_over`](Self::take_over) they are only
    /// looked at.
    pub fn start_beside(store: Store) -> Self {
        Self::begin(store, true)
    }

    fn begin(store: Store, looks_only: bool) -> Self {
        let (requests, inbox) = mpsc::channel(16);
        let (publish, observed) = watch::channel(Arc::default());
        let owner = Owner {
            ours: store.bound_addresses().into_iter().collect(),
            store,
            settings: VipSettings { bind: BindVips::Never, interface: String::new(), ..VipSettings::default() },
            looks_only,
            wanted: None,
            netlink: None,
            publish,
            save_notice: None,
        };
        tokio::spawn(owner.run(inbox));
        Self { requests, observed }
    }

    /// Makes the machine have exactly these addresses (and whatever others have put there), as far as it can. Returns
    /// when that is done, so sockets can be bound next.
    pub async fn set(&self, settings: &VipSettings, wanted: BTreeSet<IpAddr>) -> Arc<AddressesObserved> {
        let (done, answer) = oneshot::channel();
        let request = Request::Set { settings: settings.clone(), wanted: wanted.clone(), done };
        if self.requests.send(request).await.is_ok()
            && let Ok(observed) = answer.await
        {
            return observed;
        }
        // The task is gone only while the runtime goes down.
        let failed = |address| (address, AddressState::Failed("edged is stopping".into()));
        Arc::new(AddressesObserved { addresses: wanted.into_iter().map(failed).collect(), notices: Vec::new() })
    }

    /// What is seen now, and later changes of it.
    pub fn observed(&self) -> watch::Receiver<Arc<AddressesObserved>> {
        self.observed.clone()
    }

    /// The other process has let go: what is wanted is added now, what is not is removed.
    pub async fn take_over(&self) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(Request::TakeOver { done }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Ends the task; another process goes on.
    pub async fn release(self) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(Request::Release { done }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Removes what is ours and ends the task.
    pub async fn stop(self) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(Request::Stop { done }).await.is_ok() {
            // An error means that the task ended before: the same thing.
            let _ = answer.await;
        }
    }
}

struct Owner {
    store: Store,
    /// They are another process's.
    looks_only: bool,
    settings: VipSettings,
    /// `None` before the first request: nothing is removed before somebody said what is wanted.
    wanted: Option<BTreeSet<IpAddr>>,
    /// Address and interface of what we added.
    ours: BTreeSet<(IpAddr, String)>,
    netlink: Option<Netlink>,
    publish: watch::Sender<Arc<AddressesObserved>>,
    save_notice: Option<String>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        // Subscribed before the first look, so no change is missed.
        let (mut changes, listener) = match netlink::changes() {
            Some((changes, listener)) => (Some(changes), Some(listener)),
            None => (None, None),
        };
        let mut resync = Instant::now() + RESYNC;
        loop {
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(Request::Set { settings, wanted, done }) => {
                        self.settings = settings;
                        self.wanted = Some(wanted);
                        let observed = self.apply().await;
                        // The asker may have given up; the addresses are set all the same.
                        let _ = done.send(observed);
                    }
                    Some(Request::TakeOver { done }) => {
                        self.looks_only = false;
                        // What the other process has added since.
                        self.ours.extend(self.store.bound_addresses());
                        self.apply().await;
                        let _ = done.send(());
                    }
                    Some(Request::Release { done }) => {
                        let _ = done.send(());
                        break;
                    }
                    Some(Request::Stop { done }) => {
                        self.wanted = Some(BTreeSet::new());
                        self.apply().await;
                        let _ = done.send(());
                        break;
                    }
                    None => break,
                },
                changed = async { match &mut changes {
                    Some(changes) => changes.recv().await,
                    None => std::future::pending().await,
                } } => {
                    if changed.is_none() {
                        changes = None;
                    }
                    resync = resync.min(Instant::now() + SETTLE);
                }
                () = sleep_until(resync) => {
                    // What is reported from here on may have come after the look. A change of our own is reported, too,
                    // and costs a second look, which finds nothing to do.
                    resync = Instant::now() + RESYNC;
                    if let Some(changes) = &mut changes {
                        while changes.try_recv().is_ok() {}
                    }
                    self.apply().await;
                }
            }
        }
        if let Some(listener) = listener {
            listener.abort();
        }
    }

    async fn apply(&mut self) -> Arc<AddressesObserved> {
        let Some(wanted) = self.wanted.clone() else { return self.publish.borrow().clone() };
        let mut observed = AddressesObserved::default();
        match self.look().await {
            Ok(listed) if self.looks_only => {
                for address in &wanted {
                    let awaited =
                        || AddressState::Failed(format!("{address} is added when the edged before has ended"));
                    observed.addresses.insert(*address, self.found(*address, &listed).unwrap_or_else(awaited));
                }
            }
            Ok(listed) => {
                let before = self.ours.clone();
                self.forget_lost(&listed, &wanted);
                let mut missing = Vec::new();
                for address in &wanted {
                    match self.found(*address, &listed) {
                        Some(state) => drop(observed.addresses.insert(*address, state)),
                        None => missing.push(*address),
                    }
                }
                // Written before the first is added: after a crash in between, the list names addresses that are not
                // there, which harms nobody; the other order would leave some behind for ever.
                self.ours.extend(missing.iter().map(|address| (*address, self.settings.interface.clone())));
                let mut saved = before;
                self.save_if_changed(&mut saved).await;
                for address in missing {
                    let state = self.add(address).await;
                    observed.addresses.insert(address, state);
                }
                observed.notices = self.remove_unwanted(&wanted, &listed).await;
                self.save_if_changed(&mut saved).await;
            }
            Err(error) => {
                self.netlink = None;
                for address in wanted {
                    let state = without_netlink(address, &error);
                    observed.addresses.insert(address, state);
                }
            }
        }
        observed.notices.extend(self.save_notice.clone());
        let observed = Arc::new(observed);
        self.publish.send_if_modified(|last| {
            let changed = **last != *observed;
            if changed {
                *last = observed.clone();
            }
            changed
        });
        observed
    }

    async fn look(&mut self) -> Result<Vec<Listed>, NetlinkError> {
        if self.netlink.is_none() {
            self.netlink = Some(Netlink::open()?);
        }
        match &self.netlink {
            Some(netlink) => netlink.list().await,
            None => Err(NetlinkError::Other("netlink is closed".into())),
        }
    }

    /// An entry of the list that is on the interface without our mark was added by somebody else since.
    fn forget_lost(&mut self, listed: &[Listed], wanted: &BTreeSet<IpAddr>) {
        // 127.0.0.1 bears the kernel's mark wherever marks are kept.
        let marks = listed.iter().any(|found| found.protocol.is_some());
        self.ours.retain(|(address, interface)| {
            let there = listed.iter().find(|found| found.address == *address && found.interface == *interface);
            match there {
                Some(found) => !marks || found.is_marked(),
                // Wanted ones are added again in a moment.
                None => wanted.contains(address),
            }
        });
    }

    /// The state of an address for which nothing is to be done; `None` is one to add.
    fn found(&self, address: IpAddr, listed: &[Listed]) -> Option<AddressState> {
        if let Some(found) = listed.iter().find(|found| found.address == address) {
            if found.duplicate {
                let reason = format!("{address} on {}: another machine has it", found.interface);
                return Some(AddressState::Failed(reason));
            }
            let interface = found.interface.clone();
            return Some(match self.ours.contains(&(address, interface.clone())) {
                true => AddressState::Ours { interface },
                false => AddressState::Present { interface: Some(interface) },
            });
        }
        if let Some(found) = listed.iter().find(|found| found.covers(address)) {
            return Some(AddressState::Present { interface: Some(found.interface.clone()) });
        }
        match self.settings.bind {
            BindVips::Auto => None,
            BindVips::Never if is_local(address) => Some(AddressState::Present { interface: None }),
            BindVips::Never => Some(AddressState::Failed(format!(
                "{address} is on no interface, and edge.toml says [vips] bind = \"never\""
            ))),
        }
    }

    /// Adds an address that the list calls ours already.
    async fn add(&mut self, address: IpAddr) -> AddressState {
        let interface = self.settings.interface.clone();
        let result = match &self.netlink {
            Some(netlink) => netlink.add(address, &interface).await,
            None => Err(NetlinkError::Other("netlink is closed".into())),
        };
        let error = match result {
            Ok(()) => return AddressState::Ours { interface },
            Err(error) => error,
        };
        self.ours.remove(&(address, interface.clone()));
        match error {
            NetlinkError::Exists => AddressState::Present { interface: Some(interface) },
            // Local by other means, such as a local route or net.ipv4.ip_nonlocal_bind.
            _ if is_local(address) => AddressState::Present { interface: None },
            error => {
                AddressState::Failed(format!("cannot add {address}/{} to {interface}: {error}", host_prefix(address)))
            }
        }
    }

    async fn remove_unwanted(&mut self, wanted: &BTreeSet<IpAddr>, listed: &[Listed]) -> Vec<String> {
        let mut notices = Vec::new();
        let surplus: Vec<_> = self.ours.iter().filter(|(address, _)| !wanted.contains(address)).cloned().collect();
        for (address, interface) in surplus {
            let there = listed.iter().any(|found| found.address == address && found.interface == interface);
            let result = match &self.netlink {
                Some(netlink) if there => netlink.remove(address, &interface).await,
                _ => Ok(()),
            };
            match result {
                Ok(()) | Err(NetlinkError::Absent | NetlinkError::NoInterface(_)) => {
                    self.ours.remove(&(address, interface));
                }
                Err(error) => {
                    notices.push(format!("cannot remove {address}/{} from {interface}: {error}", host_prefix(address)))
                }
            }
        }
        notices
    }

    /// A list that cannot be written costs only the clean-up after a crash; so a disk that hangs is not waited for.
    async fn save_if_changed(&mut self, saved: &mut BTreeSet<(IpAddr, String)>) {
        if *saved == self.ours {
            return;
        }
        saved.clone_from(&self.ours);
        let list: Vec<_> = self.ours.iter().cloned().collect();
        let store = self.store.clone();
        let write = tokio::task::spawn_blocking(move || store.put_bound_addresses(&list));
        self.save_notice = match timeout(SAVE, write).await {
            Ok(Ok(result)) => result.err().map(|error| error.to_string()),
            Ok(Err(error)) => Some(format!("list of bound addresses: {error}")),
            Err(_) => Some("list of bound addresses: the disk does not answer".into()),
        };
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether a socket could be bound to it now.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

fn without_netlink(address: IpAddr, error: &NetlinkError) -> AddressState {
    if is_local(address) {
        AddressState::Present { interface: None }
    } else {
        AddressState::Failed(format!("{address} is on no interface, and none can be asked: {error}"))
    }
}

#[cfg(test)]
mod tests;
