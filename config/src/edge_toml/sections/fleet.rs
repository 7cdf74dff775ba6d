//! `[fleet]` with its edges.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Section, Sink, label, path};
use crate::settings::{FleetEdge, FleetSettings};
use crate::yaml::Quoted;

/// Every edge keeps a connection to every other.
const MOST_EDGES: usize = 32;
const LEAST_ALONE: Duration = Duration::from_secs(60);
const LEAST_DRIFT: Duration = Duration::from_secs(5);
const MOST_DRIFT: Duration = Duration::from_secs(86_400);
/// A change that is rolled out is everywhere by then.
const DRIFT: Duration = Duration::from_secs(60);
const MOST_ALONE: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn fleet(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<FleetSettings> {
    let listen = section.required(sink, "listen", socket);
    let secret_file = section.required(sink, "secret_file", path);
    let start = section.value_start("alone_after");
    let alone_after = section.duration_in(sink, "alone_after", LEAST_ALONE, MOST_ALONE);
    let drift_after = section.duration_in(sink, "drift_after", LEAST_DRIFT, MOST_DRIFT).unwrap_or(DRIFT);
    let sections = section.sections(sink, "edge");
    let written = sections.len();
    let mut edges: Vec<FleetEdge> = Vec::with_capacity(written);
    for mut section in sections {
        let start = section.start();
        let name = section.required(sink, "name", label);
        let address = section.required(sink, "address", address);
        section.finish(sink);
        let (Some(name), Some(address)) = (name, address) else { continue };
        for earlier in &edges {
            if earlier.name == name {
                sink.error(start..start, format!("fleet.edge: {} is the name of two edges", Quoted(&name)));
            } else if earlier.address == address {
                let message = format!("fleet.edge: {address} is the address of {:?} and {name:?}", earlier.name);
                sink.error(start..start, message);
            }
        }
        edges.push(FleetEdge { name, address });
    }
    if !(2..=MOST_EDGES).contains(&written) {
        section.error(sink, &format!("has {written} [[fleet.edge]], expected 2 to {MOST_EDGES}, this edge included"));
    }
    if alone_after.is_some() && written > 2 {
        let message = format!("fleet.alone_after is for a fleet of two edges, and there are {written}");
        sink.error(start..start, message);
    }
    section.finish(sink);
    edges.sort_by(|one, other| one.name.cmp(&other.name));
    Some(FleetSettings { listen: listen?, secret_file: secret_file?, edges, alone_after, drift_after })
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(socket) if socket.port() != 0 => Ok(socket),
        _ => Err(format!("{} is no socket, expected one such as \"192.0.2.1:7946\"", Quoted(text))),
    }
}

/// Where somebody can call.
fn address(text: &str) -> Result<SocketAddr, String> {
    let socket = socket(text)?;
    match socket.ip().is_unspecified() || socket.ip().is_multicast() {
        true => Err(format!("{} is no address of one edge", Quoted(text))),
        false => Ok(socket),
    }
}
