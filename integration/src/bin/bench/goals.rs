//! What the project wants to reach, each as a limit on a figure of the run.

use crate::peers::Peer;
use crate::report::{Results, Spread};

enum Figure {
    /// Cost beside a peer, paired by round.
    Peer(Peer),
    /// Cost beside our own cost in another scenario, paired by round.
    Own(&'static str),
    Cost,
    Reload,
    Memory,
}

struct Goal {
    work: &'static str,
    scenario: &'static str,
    figure: Figure,
    limit: f64,
    unit: &'static str,
}

const fn beside(work: &'static str, scenario: &'static str, peer: Peer, limit: f64) -> Goal {
    let unit = match peer {
        Peer::Envoy => "of Envoy",
        _ => "of HAProxy",
    };
    Goal { work, scenario, figure: Figure::Peer(peer), limit, unit }
}

const GOALS: &[Goal] = &[
    beside("HTTP/1.1 keep-alive, 1 KB", "plain", Peer::Haproxy, 0.80),
    beside("the same at 20,000 requests/s", "rate", Peer::Haproxy, 0.95),
    beside("HTTPS keep-alive, 1 KB", "tls", Peer::Haproxy, 0.75),
    beside("full handshake", "handshake", Peer::Haproxy, 0.55),
    beside("resumed handshake", "resumed", Peer::Haproxy, 0.55),
    beside("HTTPS download, 1 MB", "download-1m", Peer::Haproxy, 0.75),
    beside("HTTPS download, 1 MB", "download-1m", Peer::Envoy, 1.0),
    beside("HTTPS download, 10 MB", "download-10m", Peer::Haproxy, 0.75),
    beside("HTTPS download, 10 MB", "download-10m", Peer::Envoy, 1.0),
    beside("HTTPS upload, 10 MB", "upload-10m", Peer::Haproxy, 0.75),
    beside("HTTPS upload, 10 MB", "upload-10m", Peer::Envoy, 1.0),
    beside("HTTP/2 over TLS to HTTP/1.1", "h2", Peer::Haproxy, 0.90),
    beside("gRPC-like h2 to h2c", "grpc", Peer::Haproxy, 0.65),
    beside("TLS passthrough", "passthrough", Peer::Haproxy, 0.50),
    beside("TLS passthrough", "passthrough", Peer::Envoy, 0.45),
    beside("TCP", "tcp", Peer::Haproxy, 0.50),
    beside("TCP", "tcp", Peer::Envoy, 0.45),
    beside("WebSocket messages", "websocket", Peer::Haproxy, 1.0),
    Goal {
        work: "10,000 host routes at random",
        scenario: "hosts-10k",
        figure: Figure::Own("hosts-1"),
        limit: 1.15,
        unit: "of one route",
    },
    Goal {
        work: "10,000 host routes: reload to effect",
        scenario: "hosts-10k",
        figure: Figure::Reload,
        limit: 50.0,
        unit: "ms",
    },
    Goal {
        work: "10,000 host routes: memory (PSS)",
        scenario: "hosts-10k",
        figure: Figure::Memory,
        limit: 64.0,
        unit: "MB",
    },
    Goal { work: "10,000 idle TLS connections", scenario: "idle", figure: Figure::Cost, limit: 6.0, unit: "kB each" },
    Goal { work: "access log on", scenario: "log-on", figure: Figure::Own("log-off"), limit: 1.10, unit: "of log off" },
    Goal {
        work: "two workers, CPU per request",
        scenario: "workers-2",
        figure: Figure::Own("workers-1"),
        limit: 1.10,
        unit: "of one worker",
    },
];

/// The table of goals, one column for each Edge that was measured; empty where none was.
pub fn markdown(results: &Results, peers: &[Peer]) -> String {
    let edges: Vec<Peer> = peers.iter().copied().filter(|peer| peer.is_edge()).collect();
    if edges.is_empty() {
        return String::new();
    }
    let titles: Vec<&str> = edges.iter().map(|peer| peer.title()).collect();
    let mut text = format!("| work | goal | {} |\n| --- | --- |{}\n", titles.join(" | "), " --- |".repeat(edges.len()));
    for goal in GOALS {
        let found: Vec<Option<Spread>> = edges.iter().map(|peer| figure(results, goal, *peer)).collect();
        if found.iter().all(Option::is_none) {
            continue;
        }
        let cells: Vec<String> = found.iter().map(|spread| verdict(goal, spread.as_ref())).collect();
        let digits = if goal.limit < 5.0 { 2 } else { 0 };
        text += &format!("| {} | ≤ {:.digits$} {} | {} |\n", goal.work, goal.limit, goal.unit, cells.join(" | "));
    }
    text
}

fn figure(results: &Results, goal: &Goal, peer: Peer) -> Option<Spread> {
    match goal.figure {
        Figure::Peer(other) => results.ratio((goal.scenario, peer), (goal.scenario, other)),
        Figure::Own(other) => results.ratio((goal.scenario, peer), (other, peer)),
        Figure::Cost => results.spread(goal.scenario, peer, |cell| Some(cell.cost)),
        Figure::Reload => results.spread(goal.scenario, peer, |cell| cell.reload),
        Figure::Memory => results.spread(goal.scenario, peer, |cell| Some(cell.pss)),
    }
}

fn verdict(goal: &Goal, spread: Option<&Spread>) -> String {
    let Some(spread) = spread else { return "-".to_owned() };
    let digits = if goal.limit < 5.0 { 2 } else { 1 };
    let word = if spread.middle <= goal.limit { "reached" } else { "**not reached**" };
    format!("{:.digits$} ({:.digits$} to {:.digits$}) {word}", spread.middle, spread.least, spread.most)
}
