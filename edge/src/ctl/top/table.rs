//! Frames as tables: which rows, in which order, with which columns. The screen and `--batch` show the same ones.

use std::cmp::Ordering;

use clap::ValueEnum;

use crate::control::top::{Frame, Line, Rates};
use crate::control::view::State;
use crate::ctl::show::tap::{bytes, millis};
use crate::ctl::style::Style;
use crate::ctl::table::{Cell, Table, one_line};

/// What the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    Host,
    Route,
    Listener,
    Backend,
    Endpoint,
    Vip,
    /// What is not up
    Problem,
}

impl By {
    pub const EACH: [Self; 7] =
        [Self::Problem, Self::Host, Self::Route, Self::Listener, Self::Backend, Self::Endpoint, Self::Vip];

    pub fn title(self) -> &'static str {
        match self {
            Self::Host => "hosts",
            Self::Route => "routes",
            Self::Listener => "listeners",
            Self::Backend => "backends",
            Self::Endpoint => "endpoints",
            Self::Vip => "vips",
            Self::Problem => "problems",
        }
    }
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    Requests,
    Errors,
    P99,
    Bytes,
    Name,
}

impl Sort {
    pub const EACH: [Self; 5] = [Self::Requests, Self::Errors, Self::P99, Self::Bytes, Self::Name];

    pub fn title(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Errors => "errors",
            Self::P99 => "p99",
            Self::Bytes => "bytes",
            Self::Name => "name",
        }
    }

    fn order(self, a: &Line, b: &Line) -> Ordering {
        let most = |value: fn(&Rates) -> f64| value(&b.rates).total_cmp(&value(&a.rates));
        let of = match self {
            Self::Requests => most(|rates| rates.requests),
            Self::Errors => most(|rates| rates.errors),
            Self::P99 => most(|rates| rates.p99.unwrap_or(-1.0)),
            Self::Bytes => most(|rates| rates.bytes_in + rates.bytes_out),
            Self::Name => Ordering::Equal,
        };
        of.then_with(|| a.name.cmp(&b.name))
    }
}

#[derive(Debug, Clone)]
pub struct Choice {
    /// `None`: what is wrong and everything that is busy.
    pub by: Option<By>,
    pub sort: Sort,
    pub is_reversed: bool,
    /// In a name, in any case; empty: all.
    pub filter: String,
}

impl Choice {
    fn lets(&self, name: &str) -> bool {
        self.filter.is_empty() || name.to_lowercase().contains(&self.filter.to_lowercase())
    }
}

/// A table as cells, worst state of each row first in it.
pub struct Rows {
    pub heads: Vec<&'static str>,
    pub rows: Vec<(State, Vec<String>)>,
}

pub fn rows(frame: &Frame, by: By, choice: &Choice) -> Rows {
    let lines = match by {
        By::Host => &frame.hosts,
        By::Route => &frame.routes,
        By::Listener => &frame.listeners,
        By::Backend => &frame.backends,
        By::Endpoint => &frame.endpoints,
        By::Vip => {
            let vips = frame
                .vips
                .iter()
                .filter(|vip| choice.lets(&vip.address) || vip.owners.iter().any(|owner| choice.lets(owner)));
            let row = |vip: &crate::control::top::VipLine| {
                let announced = vip.announced.clone().unwrap_or_else(|| "-".to_owned());
                let cells = [
                    vip.address.clone(),
                    vip.health.state.to_string(),
                    announced,
                    vip.owners.join(", "),
                    vip.health.reason.clone(),
                ];
                (vip.health.state, cells.map(|cell| one_line(&cell)).to_vec())
            };
            return Rows { heads: vec!["VIP", "STATE", "ANNOUNCED", "OWNER", "REASON"], rows: vips.map(row).collect() };
        }
        By::Problem => {
            let problems = frame
                .problems
                .iter()
                .filter(|problem| choice.lets(&problem.what) || choice.lets(&problem.health.reason));
            let row = |problem: &crate::control::top::Problem| {
                let cells = [problem.health.state.to_string(), problem.what.clone(), problem.health.reason.clone()];
                (problem.health.state, cells.map(|cell| one_line(&cell)).to_vec())
            };
            return Rows { heads: vec!["STATE", "WHAT", "REASON"], rows: problems.map(row).collect() };
        }
    };
    let mut shown: Vec<&Line> = lines.iter().filter(|line| choice.lets(&line.name)).collect();
    shown.sort_by(|a, b| choice.sort.order(a, b));
    if choice.is_reversed {
        shown.reverse();
    }
    let name = match by {
        By::Host => "HOST",
        By::Route => "ROUTE",
        By::Listener => "LISTENER",
        By::Backend => "BACKEND",
        _ => "ENDPOINT",
    };
    let mut heads = vec!["REQ/S", "ERR/S", "4XX/S", "P50", "P95", "P99", "IN/S", "OUT/S"];
    if by == By::Backend {
        heads.extend(["UNDER WAY", "READY"]);
    }
    heads.push(name);
    let row = |line: &&Line| {
        let Rates { requests, errors, refused, bytes_in, bytes_out, p50, p95, p99 } = line.rates;
        let time = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), millis);
        let mut cells = vec![
            rate(requests),
            rate(errors),
            rate(refused),
            time(p50),
            time(p95),
            time(p99),
            bytes(bytes_in as u64),
            bytes(bytes_out as u64),
        ];
        if by == By::Backend {
            cells.push(line.in_flight.map_or_else(|| "-".to_owned(), |count| count.to_string()));
            cells.push(line.ready.map_or_else(|| "-".to_owned(), |(ready, all)| format!("{ready}/{all}")));
        }
        cells.push(one_line(&line.name));
        let state = if errors > 0.0 { State::Down } else { State::Up };
        (state, cells)
    };
    Rows { heads, rows: shown.iter().map(row).collect() }
}

/// Per second: small ones with a digit behind the point.
pub fn rate(count: f64) -> String {
    match count {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{small:.1}"),
        large => format!("{large:.0}"),
    }
}

/// The two lines above the tables.
pub fn summary(frame: &Frame) -> [String; 2] {
    let time = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), millis);
    let Rates { requests, errors, refused, bytes_in, bytes_out, p50, p95, p99 } = frame.all;
    let up = frame.vips.iter().filter(|vip| vip.health.state == State::Up).count();
    [
        format!(
            "{} {}  generation {}  {}  {} of {} VIPs up  {} problems",
            one_line(&frame.edge),
            frame.health.state,
            frame.generation,
            frame.at,
            up,
            frame.vips.len(),
            frame.problems.len()
        ),
        format!(
            "{} requests/s  {} errors/s  {} 4xx/s  p50 {}  p95 {}  p99 {}  {}/s in  {}/s out  {} connections, {} new/s",
            rate(requests),
            rate(errors),
            rate(refused),
            time(p50),
            time(p95),
            time(p99),
            bytes(bytes_in as u64),
            bytes(bytes_out as u64),
            frame.connections,
            rate(frame.connections_per_second)
        ),
    ]
}

/// A frame as text, for `--batch`.
pub fn text(frame: &Frame, choice: &Choice, style: Style) -> String {
    let [first, second] = summary(frame);
    let mut out = format!("{}\n{second}\n", style.heading(&first));
    for by in By::EACH.into_iter().filter(|by| choice.by.is_none_or(|chosen| chosen == *by)) {
        let Rows { heads, rows } = rows(frame, by, choice);
        if rows.is_empty() && choice.by.is_none() {
            continue;
        }
        out.push_str(&format!("\n{}\n", style.heading(&by.title().to_uppercase())));
        if rows.is_empty() {
            out.push_str("  none\n");
            continue;
        }
        let is_text = matches!(by, By::Vip | By::Problem);
        let mut table = Table::new(2, &heads);
        for (state, cells) in rows {
            let last = cells.len() - 1;
            let cell = |(place, cell): (usize, String)| match place {
                _ if is_text && cell == state.to_string() => Cell::state(state),
                place if is_text || place == last => Cell::text(cell),
                _ => Cell::number(cell),
            };
            table.row(cells.into_iter().enumerate().map(cell).collect());
        }
        out.push_str(&table.render(style));
    }
    out.push('\n');
    out
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn frame() -> Frame {
        let line = |name: &str, requests: f64, errors: f64, p99: f64| {
            serde_json::json!({
                "name": name, "requests": requests, "errors": errors, "refused": 0.0, "bytes_in": 0.0, "bytes_out": 4096.0,
                "p50": 1.0, "p95": 2.0, "p99": p99,
            })
        };
        let hosts = [line("a.example", 100.0, 0.0, 3.0), line("b.example", 5.0, 2.5, 900.0)];
        let all = line("", 105.0, 2.5, 800.0);
        serde_json::from_value(serde_json::json!({
            "at": "2026-11-23T23:20:16Z", "seconds": 1.0, "edge": "rack-a", "state": "up", "reason": "", "generation": 3,
            "connections": 7, "connections_per_second": 1.0, "all": all, "hosts": hosts, "routes": [], "listeners": [],
            "backends": [], "endpoints": [],
            "vips": [{"state": "down", "reason": "no endpoint", "address": "192.0.2.1", "owners": ["Gateway a/b"], "announced": null}],
            "problems": [{"state": "down", "reason": "no endpoint", "what": "VIP 192.0.2.1"}],
        }))
        .unwrap()
    }

    #[test]
    fn batch() {
        let choice = |by, sort, filter: &str| Choice { by, sort, is_reversed: false, filter: filter.to_owned() };
        let page = text(&frame(), &choice(None, Sort::Requests, ""), Style::default());
        assert!(page.starts_with("rack-a up  generation 3"), "{page}");
        assert!(page.find("PROBLEMS").unwrap() < page.find("HOSTS").unwrap(), "{page}");
        assert!(!page.contains("ROUTES") && page.contains("192.0.2.1"), "{page}");
        assert!(page.find("a.example").unwrap() < page.find("b.example").unwrap(), "{page}");
        let page = text(&frame(), &choice(Some(By::Host), Sort::P99, ""), Style::default());
        assert!(
            page.find("b.example").unwrap() < page.find("a.example").unwrap() && !page.contains("PROBLEMS"),
            "{page}"
        );
        let page = text(&frame(), &choice(Some(By::Host), Sort::Name, "B.EX"), Style::default());
        assert!(page.contains("b.example") && !page.contains("a.example"), "{page}");
        let page = text(&frame(), &choice(Some(By::Route), Sort::Name, ""), Style::default());
        assert!(page.contains("ROUTES\n  none\n"), "{page}");
    }
}
