//! The loop: packets are read before timers fire, then everything is judged anew, sent, wished and published.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_bgp::Permit;
use edge_bgp::l2::{Mac, announcement, probe, question};
use edge_bgp::vrrp::{Arrival, Family};
use edge_config::announce::L2Group;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::election::{Election, Outgoing};
use super::group::Group;
use super::kernel::{self, Macvlan, Seen, Wish, macvlan_name};
use super::observed::{ConflictSeen, ElectionSeen, GroupSeen, L2Observed, LeaderSeen, VipHeld, VipSeen};
use super::port::{Incoming, Port};
use super::{GroupWanted, L2Handed, L2Options, Stop};

/// Counters are published and failed sockets tried again this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The least time between two turns that nothing but a timer asks for.
const TICK: Duration = Duration::from_millis(1);
/// What the last wish may take at the end.
const END: Duration = Duration::from_secs(2);

pub(super) async fn run(
    options: L2Options,
    mut wishes: watch::Receiver<Vec<GroupWanted>>,
    publish: watch::Sender<Arc<L2Observed>>,
    mut stop: oneshot::Receiver<Stop>,
) {
    let (tell_kernel, kernel_wishes) = watch::channel(Wish::default());
    let (publish_seen, mut seen) = watch::channel(Arc::new(Seen::default()));
    let kernel = tokio::spawn(kernel::run(options.list, options.handed.is_some(), kernel_wishes, publish_seen));
    let mut actor = Actor {
        permit: options.permit,
        handed: options.handed.unwrap_or_default(),
        groups: Vec::new(),
        leaving: Vec::new(),
        ports: BTreeMap::new(),
        port_problems: BTreeMap::new(),
        seen: Arc::default(),
        wish: Wish::default(),
        tell_kernel,
        began: Instant::now(),
        began_wall: SystemTime::now(),
        stopping: false,
        is_blind: false,
        published: Duration::ZERO,
    };
    // The first look comes before the first judgement: until then no interface is known.
    let _ = timeout(END, seen.changed()).await;
    loop {
        let deadline = actor.deadline();
        let ports = &actor.ports;
        let readable = std::future::poll_fn(|context| {
            let mut ready = Poll::Pending;
            for port in ports.values() {
                if port.poll_readable(context).is_ready() {
                    ready = Poll::Ready(());
                }
            }
            ready
        });
        let mut is_wished = false;
        tokio::select! {
            biased;
            () = readable => {}
            // The handle is gone, or wants us to go.
            stopped = &mut stop, if !actor.stopping => match stopped {
                Ok(Stop::Release(reply)) => return actor.release(reply, kernel).await,
                Ok(Stop::Farewell) | Err(_) => actor.stopping = true,
            },
            wished = wishes.changed(), if !actor.stopping => {
                is_wished = wished.is_ok();
                actor.stopping |= wished.is_err();
            }
            changed = seen.changed(), if !actor.is_blind => actor.is_blind = changed.is_err(),
            () = sleep_until(deadline) => {}
        }
        actor.seen = seen.borrow_and_update().clone();
        // Before the wish is read: one from before a withdrawal behind our back is none after it.
        let standing = actor.permit.standing();
        if is_wished || (!actor.stopping && wishes.has_changed().unwrap_or(false)) {
            let wanted = wishes.borrow_and_update().clone();
            actor.configure(wanted);
        }
        actor.turn(&publish, standing);
        if actor.stopping && actor.is_quiet() {
            break;
        }
    }
    actor.wish.number += 1;
    actor.wish.own.clear();
    actor.wish.present.clear();
    actor.wish.macvlans.clear();
    actor.wish.is_last = true;
    actor.tell_kernel.send_replace(actor.wish.clone());
    // The next start removes what this could not.
    let _ = timeout(END, pin!(kernel)).await;
}

struct Actor {
    permit: Permit,
    /// What another process had, until it is wished here.
    handed: Vec<L2Handed>,
    groups: Vec<Group>,
    /// No longer wished; they say farewell.
    leaving: Vec<Group>,
    ports: BTreeMap<String, Port>,
    port_problems: BTreeMap<String, String>,
    seen: Arc<Seen>,
    wish: Wish,
    tell_kernel: watch::Sender<Wish>,
    began: Instant,
    began_wall: SystemTime,
    stopping: bool,
    /// The task that talks to the kernel has ended, which is a fault of ours.
    is_blind: bool,
    published: Duration,
}

impl Actor {
    /// Ends without a word and without a change.
    async fn release(mut self, reply: oneshot::Sender<Vec<L2Handed>>, kernel: JoinHandle<()>) {
        self.wish.number += 1;
        self.wish.is_last = true;
        self.tell_kernel.send_replace(self.wish.clone());
        let _ = timeout(END, pin!(kernel)).await;
        let handed = self.groups.iter().flat_map(|group| {
            let L2Group { interface, router, virtual_mac, .. } = &group.wanted.group;
            group.elections.iter().filter(|election| election.is_active()).map(|election| L2Handed {
                interface: interface.clone(),
                router: *router,
                virtual_mac: *virtual_mac,
                is_v6: election.family == Family::V6,
            })
        });
        // Who asked may be gone; then other edges take over when their patience ends.
        let _ = reply.send(handed.collect());
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall(&self, moment: Duration) -> SystemTime {
        self.began_wall + moment
    }

    fn deadline(&self) -> Instant {
        let groups = self.groups.iter().chain(&self.leaving);
        let now = self.now();
        let next = groups.flat_map(|group| &group.elections).filter_map(|election| election.next(now)).min();
        let watches = self.groups.iter().filter_map(|group| group.watch.next()).min();
        let next = next.into_iter().chain(watches).min();
        let housekeeping = self.published + HOUSEKEEPING;
        // Whatever is late, the thread never spins.
        self.began + next.map_or(housekeeping, |next| next.min(housekeeping)).max(now + TICK)
    }

    fn configure(&mut self, wanted: Vec<GroupWanted>) {
        let now = self.now();
        let mut before: Vec<Group> = self.groups.drain(..).chain(self.leaving.drain(..)).collect();
        for wanted in wanted {
            if self.groups.iter().any(|group| group.is_of(&wanted)) {
                // Two groups of one virtual router would fight each other; the plan has none.
                continue;
            }
            let place = before.iter().position(|group| group.is_of(&wanted));
            let mut group = place.map_or_else(|| Group::new(now, wanted.clone()), |place| before.swap_remove(place));
            let (mine, others) = std::mem::take(&mut self.handed).into_iter().partition(|handed| {
                let group = &wanted.group;
                (&handed.interface, handed.router, handed.virtual_mac)
                    == (&group.interface, group.router, group.virtual_mac)
            });
            self.handed = others;
            let mine: Vec<L2Handed> = mine;
            let led = mine.iter().map(|handed| if handed.is_v6 { Family::V6 } else { Family::V4 }).collect();
            group.configure(now, wanted, &led);
            self.groups.push(group);
        }
        self.leaving = before;
    }

    /// Everything that is to be done at this moment.
    fn turn(&mut self, publish: &watch::Sender<Arc<L2Observed>>, standing: Option<u64>) {
        self.open_ports();
        let now = self.now();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
        let permitted = self.permit.holds_since(standing);
        // After a sleep, packets that waited are heard before any patience ends.
        self.hear(now, clock);
        self.ask_neighbours(now);
        let mut sends: Vec<(L2Group, Vec<Outgoing>)> = Vec::new();
        let all_vips: BTreeSet<IpAddr> =
            self.groups.iter().chain(&self.leaving).flat_map(|group| group.wanted.group.vips.iter().copied()).collect();
        let count = self.groups.len();
        for index in 0..count + self.leaving.len() {
            let refusal = if self.stopping {
                Some("edged is stopping")
            } else if index >= count {
                Some("the group is no longer configured")
            } else if self.is_blind {
                Some("the task that sets addresses has failed")
            } else if !permitted {
                Some("this edge stood still and was withdrawn")
            } else {
                None
            };
            let group = match index.checked_sub(count) {
                None => &self.groups[index],
                Some(index) => &self.leaving[index],
            };
            let locals: Vec<_> = group
                .elections
                .iter()
                .map(|election| match refusal {
                    Some(reason) => Err(reason.to_owned()),
                    None => self.local(group, election.family, &all_vips),
                })
                .collect();
            let places: Vec<_> = group.elections.iter().map(|election| self.place(group, election.family)).collect();
            let mut out = Vec::new();
            let seen = self.seen.clone();
            let loss = group.loss().map_or(0, |(weight, _)| weight);
            let group = match index.checked_sub(count) {
                None => &mut self.groups[index],
                Some(index) => &mut self.leaving[index],
            };
            for ((election, local), place) in group.elections.iter_mut().zip(locals).zip(places) {
                election.stand(now, &group.wanted.group, loss, local);
                election.act(now, clock, &mut out);
                election.leave(now, clock, seen.applied, &mut out);
                let is_active = election.is_active();
                for vip in election.all.clone() {
                    let is_wished = is_active && election.told.contains(&vip);
                    let place = place.clone().filter(|_| is_wished);
                    let result = place.and_then(|place| seen.places.get(&(vip, place)));
                    election.placed(now, vip, result);
                }
                election.announce(now, &mut out);
            }
            group.forget_over();
            sends.push((group.wanted.group.clone(), out));
        }
        for (group, out) in sends {
            self.send(&group, out);
        }
        self.leaving.retain(|group| group.elections.iter().any(|e| e.is_active() || e.farewell.is_some()));
        self.tell_kernel(now);
        self.publish(now, publish);
    }

    /// The interface that has the addresses of an election.
    fn place(&self, group: &Group, family: Family) -> Option<String> {
        let settings = &group.wanted.group;
        if !settings.virtual_mac {
            return Some(settings.interface.clone());
        }
        let parent = self.seen.links.get(&settings.interface)?.link.index;
        Some(macvlan_name(family, settings.router, parent))
    }

    /// Sockets of every interface that is used; those of interfaces that went or came again are made anew.
    fn open_ports(&mut self) {
        let groups = self.groups.iter().chain(&self.leaving).map(|group| &group.wanted.group);
        let used: BTreeSet<&String> = groups.flat_map(|group| group.also.iter().chain([&group.interface])).collect();
        let seen = self.seen.clone();
        let index = |name: &String| seen.links.get(name).map(|seen| seen.link.index);
        self.ports.retain(|name, port| used.contains(name) && index(name) == Some(port.index()));
        self.port_problems.retain(|name, _| used.contains(name) && index(name).is_some());
        for name in used {
            let Some(index) = index(name).filter(|_| !self.ports.contains_key(name)) else { continue };
            match Port::open(name, index) {
                Ok(port) => {
                    self.ports.insert(name.clone(), port);
                    self.port_problems.remove(name);
                }
                Err(error) => {
                    let hint = match error.kind() {
                        std::io::ErrorKind::PermissionDenied => " (needs CAP_NET_RAW)",
                        _ => "",
                    };
                    let said = error.to_string().to_lowercase();
                    let said = said.split(" (os error").next().unwrap_or_default();
                    let text = format!("no sockets on {name}: {said}{hint}");
                    self.port_problems.insert(name.clone(), text);
                }
            }
        }
    }

    /// Where an election would speak from, or why it cannot take part.
    fn local(&self, group: &Group, family: Family, vips: &BTreeSet<IpAddr>) -> Result<IpAddr, String> {
        if let Some(reason) = &group.unusable {
            return Err(reason.clone());
        }
        let name = &group.wanted.group.interface;
        self.link(name)?;
        if let Some((0, reason)) = group.loss() {
            return Err(reason);
        }
        if let Some(problem) = self.port_problems.get(name) {
            return Err(problem.clone());
        }
        let link = self.seen.links.get(name).ok_or_else(|| format!("interface {name} does not exist"))?;
        group.source(family, link, vips)
    }

    /// Asks for the neighbours of groups, whoever leads: who is to take over should know that it can.
    fn ask_neighbours(&mut self, now: Duration) {
        let vips: BTreeSet<IpAddr> =
            self.groups.iter().chain(&self.leaving).flat_map(|group| group.wanted.group.vips.iter().copied()).collect();
        for index in 0..self.groups.len() {
            let name = self.groups[index].wanted.group.interface.clone();
            let is_usable = self.link(&name).is_ok();
            let link = self.seen.links.get(&name).filter(|_| is_usable);
            let group = &mut self.groups[index];
            let (Some(port), Some(link)) = (self.ports.get(&name), link) else {
                group.watch.pause(now);
                continue;
            };
            let Some(mac) = link.link.mac else { continue };
            for address in group.watch.ask(now) {
                let source = group.asker(address, link, &vips);
                // Where there is no address of ours to ask from, from none; that is answered, too.
                let asked = source.and_then(|source| question(address, source, mac));
                // One that cannot be sent is one without an answer.
                let _ = port.send_frame(Family::of(address), &asked.unwrap_or_else(|| probe(address, mac)));
            }
        }
    }

    fn link(&self, name: &str) -> Result<(), String> {
        let Some(seen) = self.seen.links.get(name) else { return Err(format!("interface {name} does not exist")) };
        match &seen.link {
            link if !link.is_enabled => Err(format!("interface {name} is down")),
            link if !link.has_carrier => Err(format!("interface {name} has no carrier")),
            link if link.mac.is_none() => Err(format!("interface {name} is no Ethernet")),
            _ => Ok(()),
        }
    }

    fn hear(&mut self, now: Duration, clock: u64) {
        let own: BTreeSet<Mac> = self.seen.links.values().filter_map(|seen| seen.link.mac).collect();
        let mut incoming = Vec::new();
        for (name, port) in &self.ports {
            port.take(&mut incoming);
            for incoming in incoming.drain(..) {
                match incoming {
                    Incoming::Vrrp(arrival, bytes) => {
                        hear_packet(&mut self.groups, now, clock, name, &arrival, &bytes);
                    }
                    Incoming::Claim(claim) if !own.contains(&claim.mac) => {
                        for group in &mut self.groups {
                            let settings = &group.wanted.group;
                            if settings.interface == *name {
                                group.watch.heard(claim.address);
                            }
                            if settings.interface == *name || settings.also.contains(name) {
                                for election in &mut group.elections {
                                    election.claimed(now, claim.address, claim.mac);
                                }
                            }
                        }
                    }
                    Incoming::Claim(_) => {}
                }
            }
        }
    }

    fn send(&mut self, group: &L2Group, out: Vec<Outgoing>) {
        let interface = group.interface.as_str();
        // Other interfaces would answer with MACs of their own.
        let also = if group.virtual_mac { &[][..] } else { &group.also[..] };
        for outgoing in out {
            match outgoing {
                Outgoing::Packet { source, destination, bytes } => {
                    let Some(port) = self.ports.get_mut(interface) else { continue };
                    let result = port.send(source, destination, &bytes);
                    let family = Family::of(source);
                    let senders = self.groups.iter_mut().filter(|sender| {
                        let settings = &sender.wanted.group;
                        settings.interface == interface && settings.router == group.router
                    });
                    for election in senders.flat_map(|group| &mut group.elections).filter(|e| e.family == family) {
                        election.send_problem = result
                            .as_ref()
                            .err()
                            .map(|error| format!("cannot send from {source} to {destination}: {error}"));
                    }
                }
                Outgoing::Announce { address, with_probe } => {
                    for name in also.iter().map(String::as_str).chain([interface]) {
                        let mac = self.seen.links.get(name).and_then(|seen| seen.link.mac);
                        let (Some(port), Some(mac)) = (self.ports.get(name), mac) else { continue };
                        let is_v6 = address.is_ipv6();
                        let mac = if group.virtual_mac { Mac::of_router(group.router, is_v6) } else { mac };
                        let question = with_probe.then(|| probe(address, mac));
                        for frame in question.into_iter().chain(announcement(address, mac)) {
                            // One that is lost here is repeated by the burst and the refresh.
                            let _ = port.send_frame(Family::of(address), &frame);
                        }
                    }
                }
            }
        }
    }

    /// What the interfaces shall have now follows from the roles.
    fn tell_kernel(&mut self, now: Duration) {
        let mut next = Wish::default();
        for group in self.groups.iter().chain(&self.leaving) {
            for election in &group.elections {
                // A virtual MAC has no place before its parent is known.
                let Some(place) = self.place(group, election.family) else { continue };
                next.own.extend(election.all.iter().map(|vip| (*vip, place.clone())));
                if election.is_active() {
                    next.present.extend(election.able(now).map(|vip| (vip, place.clone())));
                }
                let settings = &group.wanted.group;
                if settings.virtual_mac {
                    let mac = Mac::of_router(settings.router, election.family == Family::V6);
                    let macvlan = Macvlan { parent: settings.interface.clone(), mac, is_on: election.is_active() };
                    next.macvlans.insert(place, macvlan);
                }
            }
        }
        next.number = self.wish.number;
        if next != self.wish {
            next.number += 1;
            self.wish = next;
            self.tell_kernel.send_replace(self.wish.clone());
        }
        let number = self.wish.number;
        for election in self.groups.iter_mut().chain(&mut self.leaving).flat_map(|group| &mut group.elections) {
            if let Some(farewell) = &mut election.farewell {
                farewell.after.get_or_insert(number);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let mut elections = self.groups.iter().chain(&self.leaving).flat_map(|group| &group.elections);
        elections.all(|election| !election.is_active() && election.farewell.is_none())
    }

    fn publish(&mut self, now: Duration, publish: &watch::Sender<Arc<L2Observed>>) {
        let is_periodic = now >= self.published + HOUSEKEEPING;
        if is_periodic {
            self.published = now;
        }
        let next = self.observed(now);
        publish.send_if_modified(|last| {
            let changed = **last != next && (is_periodic || without_counters(last) != without_counters(&next));
            if changed {
                *last = Arc::new(next);
            }
            changed
        });
    }

    fn observed(&self, now: Duration) -> L2Observed {
        let groups = self.groups.iter().map(|group| {
            let settings = &group.wanted.group;
            GroupSeen {
                name: settings.name.clone(),
                interface: settings.interface.clone(),
                router: settings.router,
                link: self.link(&settings.interface),
                elections: group.elections.iter().map(|election| self.election_seen(now, group, election)).collect(),
            }
        });
        L2Observed { groups: groups.collect(), notices: self.seen.notices.clone() }
    }

    fn election_seen(&self, now: Duration, group: &Group, election: &Election) -> ElectionSeen {
        let router = &election.router;
        let transition = router.transition();
        let standing = router.standing().as_ref().ok();
        let leader = match standing {
            Some(standing) if election.is_active() => {
                Some(LeaderSeen { address: standing.local, priority: standing.priority })
            }
            // One that fell silent leads no more, though the role changes a moment later.
            _ => router
                .leader()
                .filter(|leader| leader.heard + router.patience() >= now)
                .map(|leader| LeaderSeen { address: leader.address, priority: leader.priority }),
        };
        let mut problems: Vec<String> = election.send_problem.iter().cloned().collect();
        problems.extend(router.mismatch().map(ToString::to_string));
        problems.extend(group.loss().filter(|(weight, _)| *weight > 0).map(|(_, reason)| reason));
        let held = |address: IpAddr| -> VipHeld {
            let vip = election.vips.get(&address);
            if let Some(failure) = vip.and_then(|vip| vip.failure.as_ref()) {
                return VipHeld::Failed(failure.reason.clone());
            }
            match vip.is_some_and(|vip| vip.schedule.is_some()) {
                true => VipHeld::Held,
                false if !group.wanted.told.contains(&address) => VipHeld::Withheld,
                false if election.is_active() => VipHeld::Taking,
                false => VipHeld::NotHeld,
            }
        };
        let vips = election.all.iter().map(|address| VipSeen {
            address: *address,
            state: held(*address),
            conflicts: self.conflicts(now, election, *address),
            announced: election.vips.get(address).map_or(0, |vip| vip.announced),
        });
        ElectionSeen {
            family: election.family,
            role: router.role(),
            since: self.wall(transition.at),
            reason: transition.reason.to_string(),
            priority: standing.map(|standing| standing.priority),
            leader,
            vips: vips.collect(),
            problems,
            counters: router.counters().clone(),
        }
    }

    fn conflicts(&self, now: Duration, election: &Election, address: IpAddr) -> Vec<ConflictSeen> {
        let Some(vip) = election.vips.get(&address) else { return Vec::new() };
        let seen = vip.conflicts.confirmed(now).map(|conflict| ConflictSeen {
            mac: conflict.mac,
            first: self.wall(conflict.first),
            last: self.wall(conflict.last),
            claims: conflict.claims,
        });
        seen.collect()
    }
}

fn hear_packet(groups: &mut [Group], now: Duration, clock: u64, port: &str, arrival: &Arrival, bytes: &[u8]) {
    let family = Family::of(arrival.source);
    let router = bytes.get(1).copied();
    for group in groups.iter_mut().filter(|group| group.wanted.group.interface == port) {
        // Another VRID is another virtual router's business (RFC 9568 §7.1).
        if router != Some(group.wanted.group.router) {
            continue;
        }
        for election in group.elections.iter_mut().filter(|election| election.family == family) {
            election.receive(now, clock, arrival, bytes);
        }
    }
}

/// A state without what changes with every packet.
fn without_counters(observed: &L2Observed) -> L2Observed {
    let mut bare = observed.clone();
    for election in bare.groups.iter_mut().flat_map(|group| &mut group.elections) {
        election.counters = Default::default();
        for vip in &mut election.vips {
            vip.announced = 0;
            for conflict in &mut vip.conflicts {
                (conflict.last, conflict.claims) = (conflict.first, 0);
            }
        }
    }
    bare
}
