//! What the control side has to count: gauges from the newest world, beside the data plane's counters. One series per
//! kind of thing and state, and one per certificate, so that routes and backends do not multiply.

use std::time::SystemTime;

use super::status::status;
use super::view::{Health, State};
use super::world::World;
use crate::proxy::metrics::{MetricType, Text};

/// Appends the families to a page.
pub fn write(world: &World, now: SystemTime, text: &mut Text) {
    let status = status(world, now);
    text.family("edge_info", MetricType::Gauge, "The version that runs.");
    text.sample(&[("version", &status.edge.version)], 1);
    text.family("edge_start_time_seconds", MetricType::Gauge, "When edged started, in Unix seconds.");
    text.sample(&[], unix(world.started));
    text.family("edge_generation", MetricType::Gauge, "The generation of the configuration that is published.");
    text.sample(&[], world.generation);
    text.family("edge_generation_time_seconds", MetricType::Gauge, "When it was published, in Unix seconds.");
    text.sample(&[], unix(world.since));
    text.family("edge_workers", MetricType::Gauge, "Workers, and those that serve the published generation.");
    text.sample(&[("state", &"all")], status.edge.workers);
    text.sample(&[("state", &"current")], status.edge.acknowledged);
    text.family("edge_ready", MetricType::Gauge, "1 while /readyz says yes.");
    text.sample(&[], u8::from(world.ready().is_ok()));

    text.family("edge_objects", MetricType::Gauge, "What edgectl status lists, by state.");
    let sections: [(&str, Vec<&Health>); 5] = [
        ("vip", status.vips.iter().map(|row| &row.health).collect()),
        ("listener", status.listeners.iter().map(|row| &row.health).collect()),
        ("certificate", status.certificates.iter().map(|row| &row.health).collect()),
        ("route", status.routes.iter().map(|row| &row.health).collect()),
        ("backend", status.backends.iter().map(|row| &row.health).collect()),
    ];
    for (kind, rows) in &sections {
        for state in State::ALL {
            let count = rows.iter().filter(|health| health.state == state).count();
            text.sample(&[("kind", kind), ("state", &state)], count);
        }
    }
    text.family("edge_problems", MetricType::Gauge, "Findings in the configuration.");
    let found = status.problems;
    for (severity, count) in [("error", found.errors), ("warning", found.warnings), ("inert", found.inert)] {
        text.sample(&[("severity", &severity)], count);
    }
    text.family("edge_source_up", MetricType::Gauge, "1 while a source can be read.");
    for source in &status.edge.sources {
        text.sample(&[("source", &source.name)], u8::from(source.health.state == State::Up));
    }
    let collections =
        || status.edge.sources.iter().flat_map(|source| source.collections.iter().map(move |row| (&source.name, row)));
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
    text.family("edge_certificate_not_after_seconds", MetricType::Gauge, "When a certificate ends, in Unix seconds.");
    for (id, state) in &world.observed.certificates {
        if let Some(end) = state.not_after {
            text.sample(&[("secret", id)], unix(end));
        }
    }
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
