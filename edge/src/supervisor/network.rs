//! What the network is told of the VIPs, from what is served and seen.

use std::sync::Arc;

use edge_bgp::Secret;
use edge_config::announce::{Announce, Password};
use edge_config::settings::BindVips;
use edge_config::snapshot::Endpoints;
use tokio::time::Instant;

use super::{KERNEL, Supervisor};
use crate::control::observed::Observed;
use crate::source::Keys;
use crate::vip::announcer::Passwords;
use crate::vip::gate::{Leave, Now};
use crate::vip::kernel::{self, Demand};
use crate::vip::{Sight, Withheld, wanted_vips};

impl Supervisor {
    /// Judges every VIP and tells the announcers. Nothing is told twice.
    pub(super) fn tell_network(&mut self, observed: &Observed, endpoints: &Endpoints) {
        if self.wanted.generation == 0 {
            return;
        }
        let snapshot = &self.wanted.compiled.snapshot;
        let sight = Sight { snapshot, endpoints, addresses: &self.seen.addresses, observed };
        let mut verdicts = wanted_vips(sight);
        let guard = Arc::clone(&self.announcer.observed().guard);
        if let Some(undone) = guard.undone.as_ref().filter(|undone| undone.number > self.seen.undone) {
            self.gate.fell(&Withheld::Undone(undone.why.clone()));
            self.seen.undone = undone.number;
        }
        if let Some(why) = &guard.failing {
            verdicts.iter_mut().for_each(|(_, verdict)| *verdict = Err(Withheld::Standstill(why.clone())));
        }
        let leave = self.leaving.map_or(Leave::Stays, |leaving| leaving.leave());
        let verdicts = verdicts.iter().map(|(address, verdict)| (*address, verdict));
        let judged = self.gate.judge(verdicts, leave, snapshot.announce.hold_down, Now::of_clocks());
        for (address, stance) in &judged.stances {
            let before = self.seen.stances.get(address);
            if before != Some(stance) {
                tracing::info!(vip = %address, "{stance}");
            }
        }
        let step = self.leaving.and_then(|leaving| leaving.due());
        let held = judged.next.map(Instant::from_std);
        self.inbox.due =
            [step, held, self.next_hold(), self.next_closure(), self.next_release()].into_iter().flatten().min();
        let passwords = passwords(&snapshot.announce, &self.wanted.keys);
        self.announcer.set(&snapshot.announce, &judged.stances, &passwords, self.seen.undone);
        self.seen.stances = judged.stances.into_iter().collect();
    }

    /// Looks at the kernel's settings, if it is time to.
    pub(super) fn look_at_kernel(&mut self) {
        let now = Instant::now();
        if self.seen.kernel.1 > now {
            return;
        }
        let snapshot = &self.wanted.compiled.snapshot;
        let settings = &self.wanted.settings;
        let vips: Vec<_> = snapshot.vips.iter().map(|vip| vip.address).collect();
        let demand = Demand {
            announce: &snapshot.announce,
            vips: &vips,
            interface: (settings.vips.bind == BindVips::Auto).then_some(&*settings.vips.interface),
            max_connections: usize::try_from(settings.proxy.max_connections).unwrap_or(usize::MAX),
        };
        let found =
            if snapshot.announce.is_idle() { Vec::new() } else { kernel::findings(&demand, &kernel::read_file) };
        for finding in found.iter().filter(|finding| !self.seen.kernel.0.contains(finding)) {
            tracing::warn!("kernel: {finding}");
        }
        self.seen.kernel = (found, now + KERNEL);
    }
}

/// The texts of passwords that came with objects.
fn passwords(plan: &Announce, keys: &Keys) -> Passwords {
    let peers = plan.bgp.iter().flat_map(|bgp| &bgp.peers).filter_map(|peer| peer.password.as_ref());
    let groups = plan.l2.iter().filter_map(|group| group.key.as_ref());
    let supplied = peers.chain(groups).filter_map(|place| {
        let missing = match place {
            // Read by the announcer.
            Password::File(_) => return None,
            Password::Secret(key) => format!("Secret {key} of type kubernetes.io/basic-auth with a password not found"),
            Password::Inline(key) => format!("BGPPeer {key} has no password any more"),
        };
        let text = match keys.password(place).map(|text| std::str::from_utf8(text.bytes())) {
            Some(Ok(text)) => Ok(Secret::new(text.to_owned())),
            Some(Err(_)) => Err("the password is not UTF-8".to_owned()),
            None => Err(missing),
        };
        Some((place.clone(), text))
    });
    supplied.collect()
}
