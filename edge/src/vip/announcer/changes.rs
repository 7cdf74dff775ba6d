//! The log of what changes between this edge and the network: sessions with routers, elections, BFD. What is so now is in
//! the status; here is when it became so.

use edge_bgp::SessionState;

use crate::control::observed::Network;

/// Tells what is new.
pub(super) fn log(before: &Network, now: &Network) {
    for peer in now.bgp.iter().flat_map(|bgp| &bgp.peers) {
        let known = before.bgp.as_ref().and_then(|bgp| bgp.peers.iter().find(|known| known.name == peer.name));
        let was = known.map_or(SessionState::Idle, |known| known.session);
        let (up, was_up) = (peer.session == SessionState::Established, was == SessionState::Established);
        match (was_up, up) {
            (false, true) => tracing::info!(peer = %peer.name, asn = peer.asn, "bgp: session established"),
            (true, false) => {
                let why = peer.error.as_deref().unwrap_or("no reason is known");
                tracing::warn!(peer = %peer.name, "bgp: session lost: {why}");
            }
            _ if was != peer.session => {
                tracing::debug!(peer = %peer.name, why = peer.error.as_deref(), "bgp: session {:?}", peer.session);
            }
            _ => {}
        }
        let told = known.map_or(0, |known| known.advertised);
        if told != peer.advertised {
            tracing::debug!(peer = %peer.name, before = told, now = peer.advertised, "bgp: prefixes in adj-out");
        }
    }
    for group in &now.l2.groups {
        let known = before.l2.groups.iter().find(|known| known.name == group.name);
        for election in &group.elections {
            let was = known.and_then(|known| known.elections.iter().find(|known| known.family == election.family));
            if was.is_none_or(|was| was.role != election.role) {
                let (role, family, why) = (election.role.name(), election.family.name(), &election.reason);
                tracing::info!(target: "edge::vip::l2", group = %group.name, router = group.router, "l2: {role} for {family}: {why}");
            }
        }
    }
    for session in &now.bfd.sessions {
        let is_same =
            |known: &&crate::vip::bfd::BfdSeen| known.peer == session.peer && known.interface == session.interface;
        let was = before.bfd.sessions.iter().find(is_same);
        if was.is_none_or(|was| was.state != session.state) {
            let (state, why) = (session.state.name(), &session.reason);
            tracing::info!(target: "edge::vip::bfd", peer = %session.peer, "bfd: {state}: {why}");
        }
    }
}
