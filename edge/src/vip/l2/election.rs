//! One election with what belongs to it: signatures, the addresses it has, their announcements and conflicts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use edge_bgp::l2::{Conflicts, Mac, REFRESH, Schedule};
use edge_bgp::vrrp::{
    Action, Advertisement, Arrival, Discard, Family, Key, Role, Router, Settings, Signer, Standing, Verifier, decode,
    encode,
};
use edge_config::announce::L2Group;

pub(super) struct Election {
    pub(super) family: Family,
    pub(super) router: Router,
    /// VIPs of the family, in order.
    pub(super) all: Vec<IpAddr>,
    /// Those of them that may be served here.
    pub(super) told: BTreeSet<IpAddr>,
    pub(super) vips: BTreeMap<IpAddr, Vip>,
    /// Waits until the addresses are gone.
    pub(super) farewell: Option<Farewell>,
    pub(super) send_problem: Option<String>,
    peers: Vec<IpAddr>,
    key: Option<Key>,
    signer: Option<Signer>,
    verifier: Option<Verifier>,
    /// From where the last advertisement went.
    source: Option<IpAddr>,
    /// Decided and not carried out yet.
    pending: Vec<Action>,
}

#[derive(Default)]
pub(super) struct Vip {
    /// While the address is on the interface.
    pub(super) schedule: Option<Schedule>,
    pub(super) conflicts: Conflicts,
    pub(super) announced: u64,
    pub(super) failure: Option<Failure>,
    probed: Option<Duration>,
}

/// An address that could not be put on the interface.
pub(super) struct Failure {
    pub(super) reason: String,
    /// No attempt before.
    until: Duration,
    attempts: u32,
}

pub(super) struct Farewell {
    pub(super) packet: Advertisement,
    source: IpAddr,
    /// The wish without the addresses, once it was made.
    pub(super) after: Option<u64>,
    /// Sent even if the addresses are still there: it is better that two answer than that nobody does.
    pub(super) latest: Duration,
}

/// Something for the wire.
pub(super) enum Outgoing {
    Packet {
        source: IpAddr,
        destination: IpAddr,
        bytes: Vec<u8>,
    },
    /// Frames about an address, with the MAC of whatever interface they leave by.
    Announce {
        address: IpAddr,
        with_probe: bool,
    },
}

/// What a farewell waits for the kernel.
const REMOVAL: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_secs(600);

impl Election {
    pub(super) fn new(now: Duration, family: Family, group: &L2Group, resumes: bool) -> Self {
        let settings = settings(family, group);
        Self {
            family,
            router: if resumes { Router::resume(now, settings) } else { Router::new(now, settings) },
            all: Vec::new(),
            told: BTreeSet::new(),
            vips: BTreeMap::new(),
            farewell: None,
            send_problem: None,
            peers: Vec::new(),
            key: None,
            signer: None,
            verifier: None,
            source: None,
            pending: Vec::new(),
        }
    }

    /// Takes over what is configured. The standing is told apart, by [`Election::stand`].
    pub(super) fn configure(&mut self, group: &L2Group, told: &BTreeSet<IpAddr>, key: Option<Key>) {
        let family = self.family;
        self.all = group.vips.iter().copied().filter(|vip| Family::of(*vip) == family).collect();
        self.told = self.all.iter().copied().filter(|vip| told.contains(vip)).collect();
        self.peers = group.unicast.iter().copied().filter(|peer| Family::of(*peer) == family).collect();
        self.vips.retain(|vip, _| self.all.contains(vip));
        for vip in &self.all {
            self.vips.entry(*vip).or_default();
        }
        if self.key != key {
            self.signer = key.clone().map(Signer::new);
            self.verifier = key.clone().map(Verifier::new);
            self.key = key;
        }
    }

    /// VIPs that this edge would have if it were active now.
    pub(super) fn able(&self, now: Duration) -> impl Iterator<Item = IpAddr> + '_ {
        let fails = move |vip: &IpAddr| {
            self.vips.get(vip).and_then(|vip| vip.failure.as_ref()).is_some_and(|failure| now < failure.until)
        };
        self.told.iter().copied().filter(move |vip| !fails(vip))
    }

    /// The part of the election that this edge takes: `local` is where it would speak from, or why it cannot; its
    /// priority is less by `loss`.
    pub(super) fn stand(&mut self, now: Duration, group: &L2Group, loss: u8, local: Result<IpAddr, String>) {
        let able = self.able(now).count();
        let standing = match local {
            Err(reason) => Err(reason),
            Ok(_) if able == 0 && !self.told.is_empty() => {
                let failure = self.vips.values().find_map(|vip| vip.failure.as_ref());
                Err(failure.map_or_else(String::new, |failure| failure.reason.clone()))
            }
            Ok(_) if able == 0 => Err("none of its VIPs may be served here".into()),
            Ok(local) => {
                self.source = Some(local);
                let priority = priority(group.priority, able, self.all.len()).saturating_sub(loss).max(1);
                Ok(Standing { local, priority })
            }
        };
        self.router.set(now, settings(self.family, group), standing, &mut self.pending);
        self.router.tick(now, &mut self.pending);
    }

    /// A packet of this VRID and family.
    pub(super) fn receive(&mut self, now: Duration, clock: u64, arrival: &Arrival, bytes: &[u8]) {
        match self.check(clock, arrival, bytes) {
            Ok(packet) => self.router.received(now, arrival.source, &packet, &mut self.pending),
            Err(why) => self.router.discarded(why),
        }
    }

    fn check(&mut self, clock: u64, arrival: &Arrival, bytes: &[u8]) -> Result<Advertisement, Discard> {
        // §5.1.1.3: 255 proves that the sender is on this link. Unicast peers may be further away.
        if self.peers.is_empty() {
            if arrival.hops != 255 {
                return Err(Discard::Hops);
            }
        } else if arrival.destination == self.family.group() || !self.peers.contains(&arrival.source) {
            return Err(Discard::Stranger);
        }
        let (packet, trailer) = decode(bytes, arrival)?;
        if let Some(verifier) = &mut self.verifier {
            verifier.check(bytes, trailer, arrival, clock)?;
        }
        Ok(packet)
    }

    /// Carries out what concerns the wire; the addresses follow from the role.
    pub(super) fn act(&mut self, now: Duration, clock: u64, out: &mut Vec<Outgoing>) {
        for action in std::mem::take(&mut self.pending) {
            match action {
                Action::Send(packet) => {
                    if let Some(source) = self.source {
                        self.send(clock, source, &packet, out);
                    }
                }
                Action::Take => self.farewell = None,
                Action::Release(packet) => {
                    for vip in self.vips.values_mut() {
                        *vip = Vip { announced: vip.announced, failure: vip.failure.take(), ..Vip::default() };
                    }
                    self.farewell = packet.zip(self.source).map(|(packet, source)| Farewell {
                        packet,
                        source,
                        after: None,
                        latest: now + REMOVAL,
                    });
                }
                Action::Reannounce => {
                    for vip in self.vips.values_mut() {
                        if let Some(schedule) = &mut vip.schedule {
                            schedule.again(now);
                        }
                    }
                }
            }
        }
    }

    /// Sends the farewell once the addresses are gone.
    pub(super) fn leave(&mut self, now: Duration, clock: u64, applied: u64, out: &mut Vec<Outgoing>) {
        let is_gone =
            |farewell: &mut Farewell| now >= farewell.latest || farewell.after.is_some_and(|after| applied >= after);
        if let Some(farewell) = self.farewell.take_if(is_gone) {
            self.send(clock, farewell.source, &farewell.packet, out);
        }
    }

    /// Takes note of whether an address is on the interface.
    pub(super) fn placed(&mut self, now: Duration, address: IpAddr, result: Option<&Result<(), String>>) {
        let Some(vip) = self.vips.get_mut(&address) else { return };
        match result {
            Some(Ok(())) => {
                vip.failure = None;
                if vip.schedule.is_none() {
                    vip.schedule = Some(Schedule::start(now));
                }
            }
            Some(Err(_)) if vip.failure.as_ref().is_some_and(|failure| now < failure.until) => {}
            Some(Err(reason)) => {
                (vip.schedule, vip.conflicts) = (None, Conflicts::default());
                let attempts = vip.failure.as_ref().map_or(0, |failure| failure.attempts);
                let pause = RETRY.saturating_mul(1 << attempts.min(10)).min(RETRY_MOST);
                vip.failure = Some(Failure { reason: reason.clone(), until: now + pause, attempts: attempts + 1 });
            }
            None => (vip.schedule, vip.conflicts) = (None, Conflicts::default()),
        }
    }

    /// Announces what is due, asks for others now and then, and contradicts them.
    pub(super) fn announce(&mut self, now: Duration, out: &mut Vec<Outgoing>) {
        for (address, vip) in &mut self.vips {
            let Some(schedule) = &mut vip.schedule else { continue };
            let contradicts = vip.conflicts.defend(now);
            if !schedule.is_due(now) && !contradicts {
                continue;
            }
            vip.announced += 1;
            let with_probe = vip.probed.is_none_or(|last| now >= last + REFRESH);
            if with_probe {
                vip.probed = Some(now);
            }
            out.push(Outgoing::Announce { address: *address, with_probe });
        }
    }

    /// Somebody claims an address; true if it is ours at the moment.
    pub(super) fn claimed(&mut self, now: Duration, address: IpAddr, mac: Mac) -> bool {
        match self.vips.get_mut(&address) {
            Some(vip) if vip.schedule.is_some() => {
                vip.conflicts.claimed(now, mac);
                true
            }
            _ => false,
        }
    }

    /// When there is something to do, whatever it is.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let vips = self.vips.values().flat_map(|vip| {
            let schedule = vip.schedule.as_ref().map(Schedule::next);
            // A failed address is tried again.
            let retry = vip.failure.as_ref().map(|failure| failure.until).filter(|until| *until > now);
            [schedule, vip.conflicts.next(), retry]
        });
        let farewell = self.farewell.as_ref().map(|farewell| farewell.latest);
        vips.chain([self.router.deadline(), farewell]).flatten().min()
    }

    pub(super) fn is_active(&self) -> bool {
        self.router.role() == Role::Active
    }

    fn send(&mut self, clock: u64, source: IpAddr, packet: &Advertisement, out: &mut Vec<Outgoing>) {
        let group = [self.family.group()];
        let destinations = if self.peers.is_empty() { &group[..] } else { &self.peers };
        for destination in destinations {
            let mut bytes = encode(packet, source, *destination);
            if let Some(signer) = &mut self.signer {
                signer.sign(&mut bytes, source, *destination, clock);
            }
            out.push(Outgoing::Packet { source, destination: *destination, bytes });
        }
    }
}

fn settings(family: Family, group: &L2Group) -> Settings {
    Settings {
        family,
        router: group.router,
        interval: group.interval,
        preempt: group.preempt,
        preempt_delay: group.preempt_delay,
        addresses: group.vips.iter().copied().filter(|vip| Family::of(*vip) == family).collect(),
    }
}

/// An edge that can serve only some of the VIPs stays below every edge of usual priorities that can serve all: one VIP
/// that nobody can serve must not take down the others of its group, and one that another edge can serve should move.
fn priority(configured: u8, able: usize, all: usize) -> u8 {
    if able >= all {
        return configured.clamp(1, 254);
    }
    let share = usize::from(configured) * able / (all * 4);
    u8::try_from(share).unwrap_or(configured).clamp(1, 254)
}

#[cfg(test)]
mod tests {
    use super::priority;

    #[test]
    fn an_edge_that_serves_all_outranks_one_that_does_not() {
        for (configured, able, all, expected) in
            [(200, 4, 4, 200), (200, 3, 4, 37), (254, 99, 100, 62), (1, 1, 2, 1), (255, 1, 1, 254), (3, 0, 1, 1)]
        {
            assert_eq!(priority(configured, able, all), expected, "{configured} {able}/{all}");
        }
    }
}
