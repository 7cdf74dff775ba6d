//! What the control side has to count: gauges from the newest world, beside the data plane's counters. One series per
//! kind of thing and state, and one per certificate, so that routes and backends do not multiply.

use std::fmt::Display;
use std::time::SystemTime;

use edge_bgp::vrrp::Role;

use super::certificates;
use super::status::{Tally, tally};
use super::view::State;
use super::world::World;
use crate::proxy::metrics::{MetricType, Text};

/// Appends the families to a page.
pub fn write(world: &World, now: SystemTime, text: &mut Text) {
    let tally = tally(world, now);
    text.family("edge_info", MetricType::Gauge, "The version that runs.");
    text.sample(&[("version", &tally.edge.version)], 1);
    text.family("edge_start_time_seconds", MetricType::Gauge, "When edged started, in Unix seconds.");
    text.sample(&[], unix(world.started));
    text.family("edge_generation", MetricType::Gauge, "The generation of the configuration that is published.");
    text.sample(&[], world.generation);
    text.family("edge_generation_time_seconds", MetricType::Gauge, "When it was published, in Unix seconds.");
    text.sample(&[], unix(world.since));
    text.family("edge_workers", MetricType::Gauge, "Workers, and those that serve the published generation.");
    text.sample(&[("state", &"all")], tally.edge.workers);
    text.sample(&[("state", &"current")], tally.edge.acknowledged);
    text.family("edge_ready", MetricType::Gauge, "1 while /readyz says yes.");
    text.sample(&[], u8::from(world.ready().is_ok()));

    text.family("edge_maintenance_hosts", MetricType::Gauge, "Hosts that are in maintenance by command.");
    text.sample(&[], world.observed.closures.0.len());

    let held = world.observed.held.as_ref();
    text.family("edge_configuration_held", MetricType::Gauge, "1 while the configuration is held at a revision.");
    text.sample(&[], u8::from(held.is_some()));
    text.family("edge_configuration_waiting", MetricType::Gauge, "Objects and settings that wait for its release.");
    text.sample(&[], held.map_or(0, |held| held.waiting.total));

    text.family("edge_objects", MetricType::Gauge, "What edgectl status lists, by state.");
    for (kind, counts) in &tally.counts {
        for (state, count) in State::ALL.iter().zip(counts) {
            text.sample(&[("kind", kind), ("state", state)], count);
        }
    }
    text.family("edge_problems", MetricType::Gauge, "Findings in the configuration.");
    let found = tally.problems;
    for (severity, count) in [("error", found.errors), ("warning", found.warnings), ("inert", found.inert)] {
        text.sample(&[("severity", &severity)], count);
    }
    text.family("edge_source_up", MetricType::Gauge, "1 while a source can be read.");
    for source in &tally.edge.sources {
        text.sample(&[("source", &source.name)], u8::from(source.health.state == State::Up));
    }
    let collections =
        || tally.edge.sources.iter().flat_map(|source| source.collections.iter().map(move |row| (&source.name, row)));
    if collections().next().is_some() {
        text.family("edge_source_collection_up", MetricType::Gauge, "1 while a kind of a source is followed.");
        for (source, row) in collections() {
            text.sample(&[("source", source), ("kind", &row.name)], u8::from(row.health.state == State::Up));
        }
        text.family("edge_source_collection_objects", MetricType::Gauge, "Objects of a kind.");
        for (source, row) in collections() {
            text.sample(&[("source", source), ("kind", &row.name)], row.objects);
        }
        text.family("edge_source_collection_lists", MetricType::Counter, "How often a kind was read anew.");
        for (source, row) in collections() {
            text.sample(&[("source", source), ("kind", &row.name)], row.lists);
        }
        text.family("edge_source_collection_failures", MetricType::Counter, "Requests that came to nothing.");
        for (source, row) in collections() {
            text.sample(&[("source", source), ("kind", &row.name)], row.failures);
        }
    }
    if let Some(fleet) = world.observed.fleet.as_deref() {
        text.family("edge_fleet_edge_up", MetricType::Gauge, "1 while another edge of the fleet answers.");
        for peer in &fleet.peers {
            text.sample(&[("edge", &peer.name)], u8::from(peer.is_live));
        }
        text.family(
            "edge_fleet_drift",
            MetricType::Gauge,
            "1 while another edge is configured differently for too long.",
        );
        for peer in &fleet.peers {
            let drifts = fleet.drift.iter().any(|drifted| drifted.edge == peer.name);
            text.sample(&[("edge", &peer.name)], u8::from(drifts));
        }
    }
    network(world, &tally, text);
    certificates::metrics::write(world, now, text);
}

/// What the network was told.
fn network(world: &World, tally: &Tally, text: &mut Text) {
    text.family("edge_vip_announced", MetricType::Gauge, "1 while the network has been told of a VIP.");
    for row in &tally.vips {
        if let Some(address) = &row.address {
            text.sample(&[("vip", address)], u8::from(row.announced.is_some()));
        }
    }
    let groups = &world.observed.network.l2.groups;
    if !groups.is_empty() {
        text.family("edge_vrrp_active", MetricType::Gauge, "1 while this edge leads a virtual router.");
        for group in groups {
            for election in &group.elections {
                let family = election.family.name();
                let labels: [(&str, &dyn Display); 3] =
                    [("interface", &group.interface), ("router", &group.router), ("family", &family)];
                text.sample(&labels, u8::from(election.role == Role::Active));
            }
        }
    }
    let Some(seen) = &world.observed.network.bgp else { return };
    text.family("edge_bgp_session_up", MetricType::Gauge, "1 while a BGP session is established.");
    for peer in &tally.peers {
        text.sample(&[("peer", &peer.peer)], u8::from(peer.health.state == State::Up));
    }
    text.family("edge_bgp_sessions_lost", MetricType::Counter, "How often an established session was lost.");
    for peer in &tally.peers {
        text.sample(&[("peer", &peer.peer)], peer.flaps);
    }
    text.family("edge_bgp_prefixes", MetricType::Gauge, "Prefixes that a peer has been told, and that it told us.");
    for peer in &tally.peers {
        text.sample(&[("peer", &peer.peer), ("direction", &"advertised")], peer.advertised);
        text.sample(&[("peer", &peer.peer), ("direction", &"received")], peer.received);
    }
    text.family("edge_bgp_engine_restarts", MetricType::Counter, "How often gobgpd had to be filled anew.");
    text.sample(&[], seen.engine.restarts);
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture::{golden, now, world};
    use crate::proxy::metrics::Format;

    #[test]
    fn a_page() {
        let mut text = Text::new(Format::OpenMetrics);
        write(&world(), now(), &mut text);
        golden("metrics.txt", &text.finish());
    }
}
