//! The views of the dashboard: what `edgectl` says in lists, in portions that a browser can show.
//!
//! A [`Map`], rates and a question flow in, rows flow out. Pure. Every list is bounded, whatever there is of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use edge_config::problem::Severity;
use serde::Serialize;

use super::certificates::view::CertificateRow;
use super::map::{Chosen, Lane, Map, Node, Troubles};
use super::rates::{Rate, Rates};
use super::status::tally_of;
use super::view::{Edge, EndpointRow, FleetView, Health, Problems, SessionRow, State};
use super::why::{ElectionRow, PeerRow};
use super::{certificates as certs, span, why};

/// Rows of a page.
const PAGE: usize = 100;
/// Rows of a short list.
const FEW: usize = 12;
/// Days of the calendar.
const DAYS: usize = 91;

/// The words of a query, the last one where a name is there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question(BTreeMap<String, String>);

impl Question {
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Empty where it was not asked.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    fn some(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|text| !text.is_empty()).cloned()
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.0.get(name)?.parse().ok()
    }

    fn chosen(&self) -> Chosen {
        Chosen {
            vip: self.some("vip"),
            listener: self.some("listener"),
            certificate: self.some("certificate"),
            route: self.some("route"),
            rule: self.some("rule"),
            backend: self.some("backend"),
            endpoint: self.some("endpoint"),
            troubled: self.text("only") == "trouble",
            routes: self.text("routes").trim().to_ascii_lowercase(),
            vips_from: self.number("vips_from"),
            routes_from: self.number("routes_from"),
        }
    }
}

/// What every answer begins with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stamp {
    /// When it was true; RFC 3339, UTC.
    pub at: String,
    pub edge: String,
    pub worst: State,
}

fn stamp(map: &Map) -> Stamp {
    Stamp { at: span::rfc3339(map.at), edge: map.status.edge.name.clone(), worst: map.status.worst() }
}

#[derive(Debug, Serialize)]
pub struct Overview<'m, P> {
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The daemon itself.
    pub daemon: &'m Edge,
    pub problems: Problems,
    pub counts: BTreeMap<&'static str, [usize; State::ALL.len()]>,
    /// Rates are averages of so many seconds; absent: not yet known.
    pub seconds: Option<f64>,
    pub total: Rate,
    pub points: &'m [P],
    pub troubles: Troubles,
    pub vips: Vec<Node>,
    pub sessions: &'m [SessionRow],
    pub routers: &'m [ElectionRow],
    pub fleet: Option<&'m FleetView>,
    pub certificates: Vec<CertificateRow>,
    pub endpoints: Out,
    /// What operators have said of endpoints and hosts, one line each.
    pub orders: Vec<String>,
}

/// Endpoints that take no new work.
#[derive(Debug, Serialize)]
pub struct Out {
    pub total: usize,
    pub shown: Vec<OutRow>,
}

#[derive(Debug, Serialize)]
pub struct OutRow {
    pub backend: String,
    #[serde(flatten)]
    pub row: EndpointRow,
}

/// What is wrong comes first.
pub fn overview<'m, P>(map: &'m Map, rates: &Rates, points: &'m [P]) -> Overview<'m, P> {
    let status = &map.status;
    let lanes = map.lanes(&Chosen::default(), rates);
    let vips = lanes.into_iter().next().map(|lane| lane.nodes).unwrap_or_default();
    let mut certificates = certs::list(&map.world, map.at).certificates;
    certificates.truncate(FEW);
    let out = status.backends.iter().flat_map(|backend| {
        let out = backend.endpoints.iter().filter(|row| row.health.state != State::Up);
        out.map(move |row| OutRow { backend: backend.backend.clone(), row: row.clone() })
    });
    let mut out: Vec<OutRow> = out.collect();
    out.sort_by_key(|out| out.row.health.state);
    let total = out.len();
    out.truncate(FEW);
    let observed = &map.world.observed;
    let until = |until: Option<SystemTime>| until.map(|at| format!(" until {}", span::rfc3339(at))).unwrap_or_default();
    let holds = observed.holds.0.iter().map(|hold| {
        let standing = match hold.standing {
            super::holds::Standing::Enabled => "enabled",
            super::holds::Standing::Drained => "drained",
            super::holds::Standing::Disabled => "disabled",
        };
        format!("endpoint {} {standing} since {}{}", hold.endpoint, span::rfc3339(hold.since), until(hold.until))
    });
    let closures = observed.closures.0.iter().map(|closure| {
        format!("{} in maintenance since {}{}", closure.host, span::rfc3339(closure.since), until(closure.until))
    });
    Overview {
        stamp: stamp(map),
        daemon: &status.edge,
        problems: status.problems,
        counts: tally_of(status),
        seconds: rates.seconds(),
        total: rates.total(),
        points,
        troubles: map.troubles(),
        vips: vips.into_iter().take(FEW * 4).collect(),
        sessions: &status.peers[..status.peers.len().min(PAGE)],
        routers: &status.routers[..status.routers.len().min(PAGE)],
        fleet: status.fleet.as_ref(),
        certificates,
        endpoints: Out { total, shown: out },
        orders: holds.chain(closures).take(FEW * 2).collect(),
    }
}

#[derive(Debug, Serialize)]
pub struct MapView {
    #[serde(flatten)]
    pub stamp: Stamp,
    pub seconds: Option<f64>,
    pub lanes: Vec<Lane>,
}

pub fn map(map: &Map, rates: &Rates, question: &Question) -> MapView {
    MapView { stamp: stamp(map), seconds: rates.seconds(), lanes: map.lanes(&question.chosen(), rates) }
}

/// A part of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    pub total: usize,
    pub from: usize,
    pub rows: Vec<T>,
}

impl<T> Page<T> {
    fn of(rows: impl Iterator<Item = T>, question: &Question) -> Self {
        let from = question.number("from").unwrap_or_default();
        let mut page = Self { total: 0, from, rows: Vec::new() };
        for row in rows {
            if page.total >= from && page.rows.len() < PAGE {
                page.rows.push(row);
            }
            page.total += 1;
        }
        page
    }
}

#[derive(Debug, Serialize)]
pub struct Announcements<'m> {
    #[serde(flatten)]
    pub stamp: Stamp,
    pub sessions: &'m [SessionRow],
    pub routers: &'m [ElectionRow],
    pub vips: Page<Told>,
}

/// Who was told of a VIP.
#[derive(Debug, Serialize)]
pub struct Told {
    pub address: String,
    pub owners: Vec<String>,
    #[serde(flatten)]
    pub health: Health,
    pub peers: Vec<PeerRow>,
    pub elections: Vec<ElectionRow>,
}

pub fn announcements<'m>(map: &'m Map, question: &Question) -> Announcements<'m> {
    let q = question.text("q").to_ascii_lowercase();
    let vips = map.status.vips.iter().filter(|row| {
        q.is_empty()
            || row.address.as_ref().is_some_and(|address| address.contains(&q))
            || row.owners.iter().any(|owner| owner.to_ascii_lowercase().contains(&q))
    });
    let page = Page::of(vips.filter(|row| row.address.is_some()), question);
    let rows = page.rows.into_iter().filter_map(|row| {
        let address = row.address.as_ref()?;
        let found = why::why(map.world.scene(), &map.world.edge, address.parse().ok()?)?;
        // The row knows of bound addresses and sockets too, and names the same reason.
        let health = row.health.clone().and(found.health);
        Some(Told {
            address: address.clone(),
            owners: found.owners,
            health,
            peers: found.peers,
            elections: found.elections,
        })
    });
    Announcements {
        stamp: stamp(map),
        sessions: &map.status.peers,
        routers: &map.status.routers,
        vips: Page { total: page.total, from: page.from, rows: rows.collect() },
    }
}

#[derive(Debug, Serialize)]
pub struct Certificates {
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The edge that orders from ACME CAs.
    pub orders: Option<String>,
    /// How many are renewed, and how many end, on each day from today.
    pub renewals: Vec<usize>,
    pub ends: Vec<usize>,
    pub certificates: Page<CertificateRow>,
}

pub fn certificates(map: &Map, question: &Question) -> Certificates {
    let list = certs::list(&map.world, map.at);
    let (mut renewals, mut ends) = (vec![0; DAYS], vec![0; DAYS]);
    let day = |at: SystemTime| {
        let ahead = at.duration_since(map.at).unwrap_or(Duration::ZERO);
        usize::try_from(ahead.as_secs() / 86_400).unwrap_or(usize::MAX)
    };
    for state in map.world.observed.certificates.values() {
        if let Some(count) = state.renews_at.and_then(|at| renewals.get_mut(day(at))) {
            *count += 1;
        }
        if let Some(count) = state.not_after.and_then(|at| ends.get_mut(day(at))) {
            *count += 1;
        }
    }
    let q = question.text("q").to_ascii_lowercase();
    let rows = list.certificates.into_iter().filter(|row| {
        q.is_empty()
            || row.certificate.contains(&q)
            || row.names.iter().any(|name| name.to_ascii_lowercase().contains(&q))
    });
    Certificates { stamp: stamp(map), orders: list.orders, renewals, ends, certificates: Page::of(rows, question) }
}

#[derive(Debug, Serialize)]
pub struct Findings {
    #[serde(flatten)]
    pub stamp: Stamp,
    pub problems: Problems,
    pub findings: Page<FindingRow>,
}

#[derive(Debug, Serialize)]
pub struct FindingRow {
    pub severity: Severity,
    /// `file:line:column`, where it is known.
    pub place: String,
    pub object: String,
    pub message: String,
}

/// As `edgectl get problems`, errors first.
pub fn findings(map: &Map, question: &Question) -> Findings {
    let q = question.text("q").to_ascii_lowercase();
    let mut all = map.world.findings();
    all.sort_by_key(|problem| problem.severity);
    let rows = all.into_iter().map(|problem| FindingRow {
        severity: problem.severity,
        place: problem.origin.map(|at| format!("{}:{}:{}", at.file, at.line, at.column)).unwrap_or_default(),
        object: problem.object.map(|object| object.to_string()).unwrap_or_default(),
        message: problem.message,
    });
    let rows = rows.filter(|row| {
        let has = |text: &str| text.to_ascii_lowercase().contains(&q);
        q.is_empty() || has(&row.object) || has(&row.message) || has(&row.place)
    });
    Findings { stamp: stamp(map), problems: map.status.problems, findings: Page::of(rows, question) }
}
