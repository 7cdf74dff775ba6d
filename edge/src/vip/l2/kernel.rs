//! The task that talks to the kernel for the actor: addresses come and go as wished, and interfaces are watched.
//!
//! In: [`Wish`], the latest counts. Out: [`Seen`], after each change. Only addresses of the list are ever removed, and of
//! those only ones that are host addresses and bear our mark where the kernel keeps marks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edge_bgp::l2::Mac;
use edge_bgp::vrrp::Family;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::vip::netlink::{self, Link, Listed, Netlink, NetlinkError};

/// An address on an interface.
pub(super) type Place = (IpAddr, String);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Grows with every wish.
    pub(super) number: u64,
    /// What may be ours at some time: the list.
    pub(super) own: BTreeSet<Place>,
    /// What shall be there now; a part of `own`.
    pub(super) present: BTreeSet<Place>,
    /// By name. Those that are not wished are removed.
    pub(super) macvlans: BTreeMap<String, Macvlan>,
    /// After this wish the task ends.
    pub(super) is_last: bool,
}

/// An interface with the MAC of a virtual router (RFC 9568 §7.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Macvlan {
    pub(super) parent: String,
    pub(super) mac: Mac,
    /// Switched on while this edge is active: two machines must not speak with one MAC.
    pub(super) is_on: bool,
}

/// The name says all that is needed to know it again: family, virtual router, index of the parent.
pub(super) fn macvlan_name(family: Family, router: u8, parent: u32) -> String {
    format!("edge{}-{router}-{parent}", if family == Family::V4 { 4 } else { 6 })
}

/// Whether a link is one of ours, by name and MAC.
fn is_our_macvlan(link: &Link) -> bool {
    let parse = |is_v6: bool| {
        let rest = link.name.strip_prefix(if is_v6 { "edge6-" } else { "edge4-" })?;
        let (router, parent) = rest.split_once('-')?;
        let _: u32 = parent.parse().ok()?;
        Some(link.mac == Some(Mac::of_router(router.parse().ok()?, is_v6)))
    };
    parse(false) == Some(true) || parse(true) == Some(true)
}

#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The last wish that was acted on.
    pub(super) applied: u64,
    pub(super) links: BTreeMap<String, LinkSeen>,
    /// Of every wished address: whether it is there by us.
    pub(super) places: BTreeMap<Place, Result<(), String>>,
    pub(super) notices: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct LinkSeen {
    pub(super) link: Link,
    /// In the kernel's order; with those that are ours.
    pub(super) addresses: Vec<Listed>,
}

/// The kernel is asked anew this often, for changes that it did not report.
const RESYNC: Duration = Duration::from_secs(10);
/// What the list waits for the disk.
const SAVE: Duration = Duration::from_secs(1);

/// With `is_resumed` nothing is removed before the first wish.
pub(super) async fn run(
    list: PathBuf,
    is_resumed: bool,
    mut wishes: watch::Receiver<Wish>,
    publish: watch::Sender<Arc<Seen>>,
) {
    // Subscribed before the first look, so no change is missed.
    let (mut changes, listener) = match netlink::changes() {
        Some((changes, listener)) => (Some(changes), Some(listener)),
        None => (None, None),
    };
    let mut task =
        Task { list, netlink: None, saved: None, seen: Seen::default(), before: BTreeSet::new(), save_notice: None };
    task.before = read_list(&task.list);
    let mut resync = Instant::now();
    loop {
        let changed = tokio::select! {
            biased;
            wish = wishes.changed() => {
                if wish.is_err() {
                    break;
                }
                false
            }
            change = async { match &mut changes {
                Some(changes) => changes.recv().await,
                None => std::future::pending().await,
            } } => {
                if change.is_none() {
                    changes = None;
                }
                true
            }
            () = sleep_until(resync) => true,
        };
        let wish = wishes.borrow_and_update().clone();
        if changed {
            resync = Instant::now() + RESYNC;
        }
        if is_resumed && wish.number == 0 {
            task.look_first().await;
        } else {
            task.apply(&wish, changed).await;
        }
        publish.send_replace(Arc::new(task.seen.clone()));
        if wish.is_last {
            break;
        }
    }
    if let Some(listener) = listener {
        listener.abort();
    }
}

struct Task {
    list: PathBuf,
    netlink: Option<Netlink>,
    /// What the list on disk says, once it was written.
    saved: Option<BTreeSet<Place>>,
    seen: Seen,
    /// From an earlier run, or no longer in the list: to be removed.
    before: BTreeSet<Place>,
    save_notice: Option<String>,
}

impl Task {
    async fn apply(&mut self, wish: &Wish, look: bool) {
        self.seen.notices.clear();
        if let Some(saved) = &self.saved {
            self.before.extend(saved.difference(&wish.own).cloned());
        }
        self.before.retain(|place| !wish.present.contains(place));
        if let Err(error) = self.try_apply(wish, look).await {
            self.netlink = None;
            self.seen.notices.push(format!("interfaces cannot be asked: {error}"));
            for place in &wish.present {
                self.seen.places.insert(place.clone(), Err(error.to_string()));
            }
        }
        self.seen.places.retain(|place, _| wish.present.contains(place));
        self.seen.notices.extend(self.save_notice.clone());
        self.seen.applied = wish.number;
    }

    async fn try_apply(&mut self, wish: &Wish, look: bool) -> Result<(), NetlinkError> {
        // A release is on the way to every neighbour's heart: it waits for no look and no disk.
        let known = self.netlink.is_some();
        if known && !look {
            self.remove_surplus(wish).await;
        }
        if self.netlink.is_none() {
            self.netlink = Some(Netlink::open()?);
        }
        if look || !known {
            self.look().await?;
            self.remove_surplus(wish).await;
        }
        self.tend_macvlans(wish).await?;
        self.save(wish).await;
        for place in &wish.present {
            let there = self.listed(place);
            let result = match there {
                Some(found) if found.duplicate => Err("another machine has it".into()),
                Some(_) if self.is_ours(place) => Ok(()),
                Some(_) => Err(format!("it is on {} already, not added by Edge", place.1)),
                None => self.add(place).await,
            };
            self.seen.places.insert(place.clone(), result);
        }
        Ok(())
    }

    /// Sees what is there, and touches nothing.
    async fn look_first(&mut self) {
        self.seen.notices.clear();
        let looked = match Netlink::open() {
            Ok(netlink) => {
                self.netlink = Some(netlink);
                self.look().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            self.netlink = None;
            self.seen.notices.push(format!("interfaces cannot be asked: {error}"));
        }
    }

    async fn look(&mut self) -> Result<(), NetlinkError> {
        let Some(netlink) = &self.netlink else { return Ok(()) };
        let links = netlink.links().await?;
        let mut addresses: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
        for listed in netlink.list().await? {
            addresses.entry(listed.interface.clone()).or_default().push(listed);
        }
        let seen = |link: Link| {
            let addresses = addresses.remove(&link.name).unwrap_or_default();
            (link.name.clone(), LinkSeen { link, addresses })
        };
        self.seen.links = links.into_iter().map(seen).collect();
        Ok(())
    }

    /// Makes them, switches them, removes what is left over. Addresses that go have gone before, those that come follow.
    async fn tend_macvlans(&mut self, wish: &Wish) -> Result<(), NetlinkError> {
        let mut stale = false;
        for (name, macvlan) in &wish.macvlans {
            let Some(netlink) = &self.netlink else { return Ok(()) };
            let Some(parent) = self.seen.links.get(&macvlan.parent).map(|seen| seen.link.index) else { continue };
            match self.seen.links.get_mut(name) {
                Some(seen) if seen.link.is_enabled != macvlan.is_on => {
                    match netlink.switch(seen.link.index, macvlan.is_on).await {
                        Ok(()) => seen.link.is_enabled = macvlan.is_on,
                        Err(error) => self.seen.notices.push(format!("cannot switch interface {name}: {error}")),
                    }
                }
                Some(_) => {}
                None => match netlink.add_macvlan(name, parent, macvlan.mac).await {
                    Ok(()) | Err(NetlinkError::Exists) => stale = true,
                    Err(error) => self.seen.notices.push(format!("cannot make interface {name}: {error}")),
                },
            }
        }
        let surplus = self.seen.links.values().map(|seen| &seen.link);
        let surplus = surplus.filter(|link| is_our_macvlan(link) && !wish.macvlans.contains_key(&link.name));
        for index in surplus.map(|link| link.index).collect::<Vec<_>>() {
            let Some(netlink) = &self.netlink else { return Ok(()) };
            match netlink.remove_link(index).await {
                Ok(()) | Err(NetlinkError::Absent) => stale = true,
                Err(error) => self.seen.notices.push(format!("cannot remove interface {index}: {error}")),
            }
        }
        if stale {
            self.look().await?;
            self.begin_macvlans(wish).await;
        }
        Ok(())
    }

    /// Those that are new and still off.
    async fn begin_macvlans(&mut self, wish: &Wish) {
        for (name, macvlan) in &wish.macvlans {
            let (Some(netlink), Some(seen)) = (&self.netlink, self.seen.links.get_mut(name)) else { continue };
            if seen.link.is_enabled {
                continue;
            }
            // Requests arrive here and answers leave by the parent. What cannot be set is reported with the fix where
            // the kernel's settings are checked.
            for (setting, value) in [("rp_filter", "0"), ("arp_ignore", "1"), ("arp_announce", "2")] {
                let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/{setting}"), value);
            }
            // A kernel without IPv6 refuses, and has no need of it.
            let _ = netlink.silence(seen.link.index).await;
            if macvlan.is_on {
                match netlink.switch(seen.link.index, true).await {
                    Ok(()) => seen.link.is_enabled = true,
                    Err(error) => self.seen.notices.push(format!("cannot switch interface {name}: {error}")),
                }
            }
        }
    }

    fn listed(&self, place: &Place) -> Option<&Listed> {
        self.seen.links.get(&place.1)?.addresses.iter().find(|listed| listed.address == place.0)
    }

    /// 127.0.0.1 bears the kernel's mark wherever marks are kept; without marks the list alone must do.
    fn is_ours(&self, place: &Place) -> bool {
        let marks = self.seen.links.values().flat_map(|link| &link.addresses).any(|listed| listed.protocol.is_some());
        self.listed(place).is_some_and(|listed| {
            let is_host = listed.prefix == if listed.address.is_ipv4() { 32 } else { 128 };
            is_host && (!marks || listed.is_marked())
        })
    }

    async fn remove_surplus(&mut self, wish: &Wish) {
        let listed = wish.own.iter().chain(&self.before).filter(|place| !wish.present.contains(*place));
        let surplus: Vec<Place> = listed.filter(|place| self.is_ours(place)).cloned().collect();
        for place in surplus {
            let (Some(netlink), Some(link)) = (&self.netlink, self.seen.links.get_mut(&place.1)) else { continue };
            match netlink.remove_moving(place.0, link.link.index).await {
                Ok(()) | Err(NetlinkError::Absent | NetlinkError::NoInterface(_)) => {
                    link.addresses.retain(|listed| listed.address != place.0);
                }
                Err(error) => {
                    self.seen.notices.push(format!("cannot remove {} from {}: {error}", place.0, place.1));
                }
            }
        }
        let gone: Vec<Place> = self.before.iter().filter(|place| !self.is_ours(place)).cloned().collect();
        for place in gone {
            self.before.remove(&place);
        }
    }

    async fn add(&mut self, place: &Place) -> Result<(), String> {
        let (Some(netlink), Some(link)) = (&self.netlink, self.seen.links.get_mut(&place.1)) else {
            return Err(format!("interface {} does not exist", place.1));
        };
        match netlink.add_moving(place.0, link.link.index).await {
            Ok(()) => {
                // As the next look will find it.
                link.addresses.push(netlink::ours(place.0, &place.1));
                Ok(())
            }
            // The kernel reports it in a moment; whose it is will be seen then.
            Err(NetlinkError::Exists) => Err(format!("it is on {} already", place.1)),
            Err(error) => Err(format!("cannot add {} to {}: {error}", place.0, place.1)),
        }
    }

    /// Written before the first is added: after a crash in between it names addresses that are not there, which harms
    /// nobody. A disk that hangs costs only the cleaning up after a crash, so it is not waited for.
    async fn save(&mut self, wish: &Wish) {
        let wanted: BTreeSet<Place> = wish.own.union(&self.before).cloned().collect();
        if self.saved.as_ref() == Some(&wanted) {
            return;
        }
        let (path, list) = (self.list.clone(), wanted.clone());
        let write = tokio::task::spawn_blocking(move || write_list(&path, &list));
        self.save_notice = match timeout(SAVE, write).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(format!("{}: {error}", self.list.display())),
            Ok(Err(error)) => Some(format!("{}: {error}", self.list.display())),
            Err(_) => Some(format!("{}: the disk does not answer", self.list.display())),
        };
        self.saved = Some(wanted);
    }
}

/// Lines that make no sense are left out: they name nothing that could be removed.
fn read_list(path: &Path) -> BTreeSet<Place> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let place = |line: &str| {
        let (address, interface) = line.split_once(' ')?;
        Some((address.parse().ok()?, interface.to_owned()))
    };
    text.lines().filter_map(place).collect()
}

fn write_list(path: &Path, list: &BTreeSet<Place>) -> io::Result<()> {
    let text: String = list.iter().map(|(address, interface)| format!("{address} {interface}\n")).collect();
    let next = path.with_extension("new");
    std::fs::write(&next, text)?;
    std::fs::rename(&next, path)
}
