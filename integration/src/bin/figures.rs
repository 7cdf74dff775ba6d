//! `figures`: how fast VIPs leave and move, measured on the data centre and written down.
//!
//! Flows in: `figures [--rounds N] [--only PART,…] FILE`. Flows out: rows of the table in the file, with medians and the worst
//! of each; rows of parts that were not measured, and all text around the table, stay as they are. Every time is from the act
//! to the kernel route of a router, or to a client's next answer; none is our own word.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use edge_integration::cluster::process::end_on_signals;
use edge_integration::datacentre::faults::{BlackHole, Frozen};
use edge_integration::datacentre::flows::{Ask, Flow, Flows, Tally};
use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::datacentre::{self, DataCentre, Edge, HOST, LAN_VIP, Plan, UDP_PORT, VIP};
use edge_integration::edged::{until, until_within};
use edge_integration::updates::Updates;
use rustix::process::Signal;

const USAGE: &str = "usage: figures [--rounds N] [--only PART,...] FILE";
/// How many VIPs come at once.
const MANY: usize = 200;
/// For what a whole table may wait for.
const LONG: Duration = Duration::from_secs(120);
/// What can be measured, in the order of the table.
const PARTS: [&str; 11] =
    ["planned", "killed", "frozen", "hole", "change", "many", "drain", "crash", "restart", "l2-planned", "l2-killed"];

fn main() -> ExitCode {
    let (mut rounds, mut file, mut parts) = (10, None, BTreeSet::from(PARTS.map(str::to_owned)));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(10),
            "--only" => parts = arguments.next().unwrap_or_default().split(',').map(str::to_owned).collect(),
            path => file = Some(PathBuf::from(path)),
        }
    }
    let Some(file) = file.filter(|_| parts.iter().all(|part| PARTS.contains(&&**part))) else {
        eprintln!("{USAGE}\nparts: {}", PARTS.join(" "));
        return ExitCode::from(2);
    };
    if let Err(why) = datacentre::available() {
        eprintln!("figures: cannot be taken here: {why}");
        return ExitCode::FAILURE;
    }
    end_on_signals();
    let mut table = Table { rounds, ..Table::default() };
    let is_wanted = |part: &str| parts.contains(part);
    if PARTS[..8].iter().any(|part| is_wanted(part)) {
        Bgp::start().measure(&mut table, &is_wanted);
    }
    if is_wanted("restart") {
        restart_of_gobgpd(&mut table);
    }
    for part in PARTS[9..].iter().filter(|part| is_wanted(part)) {
        layer2(&mut table, part);
    }
    table.write(&file);
    ExitCode::SUCCESS
}

fn prefix() -> String {
    format!("{VIP}/32")
}

/// Two edges and what is known of the first.
struct Bgp {
    centre: DataCentre,
    watch: RouteWatch,
    hop: IpAddr,
}

impl Bgp {
    fn start() -> Self {
        let more = "\n[[pool]]\nname = \"many\"\naddresses = [\"203.0.113.0/24\"]\n\n\
                    [[bgp.advertisement]]\nname = \"many\"\npools = [\"many\"]\n";
        let plan = Plan {
            has_bfd: true,
            hold_down: "100ms",
            graceful_shutdown: "0s",
            more: more.to_owned(),
            ..Plan::plain(2)
        };
        let mut centre = DataCentre::start(plan);
        centre.wait_announced(&prefix());
        let watch = RouteWatch::start(centre.router(1), centre.network.router(1).name(), &prefix());
        let hop = centre.edge("a").next_hop(1);
        Self { centre, watch, hop }
    }

    fn measure(&mut self, table: &mut Table, is_wanted: &dyn Fn(&str) -> bool) {
        type Act = fn(&mut Bgp) -> Duration;
        let times: [(&str, &str, Act, u64); 5] = [
            ("planned", "planned withdrawal (`edgectl drain`, no time as last resort)", Self::planned, 100),
            ("killed", "SIGKILL of edged", Self::killed, 300),
            ("frozen", "edged frozen (SIGSTOP)", Self::frozen, 1000),
            ("hole", "black hole with BFD of 3 × 300 ms", Self::hole, 1200),
            ("many", "200 new VIPs, from the file to the last kernel route", Self::many, 1000),
        ];
        for (part, what, act, promise) in times {
            if is_wanted(part) {
                let times = (0..table.rounds).map(|_| act(self)).collect();
                table.add(part, what, times, promise);
            }
        }
        if is_wanted("change") {
            let told = self.updates_after_a_change();
            table.count("change", "BGP updates after a change that concerns no peer and no VIP (tcpdump)", told, 0);
        }
        if is_wanted("drain") {
            let tallies = self.under_load(|edge| {
                edge.ctl(&["drain"]);
            });
            self.centre.edge("a").ctl(&["undrain"]);
            self.back();
            table.lost("drain", "requests lost by a drain of one of two edges under load", &tallies, Some(0));
        }
        if is_wanted("crash") {
            let tallies = self.under_load(Edge::kill);
            self.return_of_the_killed();
            table.lost("crash", "requests lost by SIGKILL of one of two edges under load", &tallies, None);
        }
    }

    fn planned(&mut self) -> Duration {
        let begun = Instant::now();
        self.centre.edge("a").ctl(&["drain"]);
        let took = gone(&self.watch, begun, self.hop);
        self.centre.edge("a").ctl(&["undrain"]);
        self.back();
        took
    }

    fn killed(&mut self) -> Duration {
        let begun = Instant::now();
        self.centre.edge("a").kill();
        let took = gone(&self.watch, begun, self.hop);
        self.return_of_the_killed();
        took
    }

    fn return_of_the_killed(&mut self) {
        until("gobgpd is gone", || self.centre.edge("a").processes("gobgpd").is_empty().then_some(()));
        self.centre.edge("a").restart();
        self.back();
    }

    fn frozen(&mut self) -> Duration {
        let pid = self.centre.edge("a").edged().pid();
        let begun = Instant::now();
        let hang = Frozen::new([pid]);
        let took = gone(&self.watch, begun, self.hop);
        drop(hang);
        self.back();
        took
    }

    fn hole(&mut self) -> Duration {
        let is_up = |centre: &DataCentre| centre.router(1).ask("show bfd peers brief").matches(" up").count() >= 2;
        until("bfd is up", || is_up(&self.centre).then_some(()));
        let begun = Instant::now();
        let hole = BlackHole::between(&self.centre.network, "a", 1);
        let took = gone(&self.watch, begun, self.hop);
        drop(hole);
        self.back();
        took
    }

    fn back(&self) {
        until_within(LONG, "the edge is back", || self.watch.now().contains(&self.hop).then_some(()));
        self.centre.wait_announced(&prefix());
    }

    fn updates_after_a_change(&mut self) -> usize {
        let wires = [1, 2].map(|router| {
            let space = self.centre.network.router(router).name();
            ["a", "b"]
                .map(|edge| (format!("10.{router}.{}.1", if edge == "a" { 1 } else { 2 }), Updates::start(space, edge)))
        });
        let path = self.centre.edge("a").directory().join("manifests/site.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let rule = |path: &str| {
            format!(
                "{{ matches: [{{ path: {{ type: PathPrefix, value: {path} }} }}], backendRefs: [{{ name: shop, port: 80 }}] }}"
            )
        };
        let before = "rules: [{ backendRefs: [{ name: shop, port: 80 }] }]";
        let changed = text.replace(before, &format!("rules: [{}, {}]", rule("/"), rule("/new")));
        assert_ne!(text, changed);
        let begun = Instant::now();
        std::fs::write(&path, changed).unwrap();
        let said = self.centre.edge("a").ctl(&["reload"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        std::thread::sleep(Duration::from_secs(2));
        wires.iter().flatten().map(|(from, wire)| wire.since(begun, from).len()).sum()
    }

    fn many(&mut self) -> Duration {
        let mut text = String::new();
        for number in 1..=MANY {
            let _ = write!(
                text,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
                 metadata: {{ name: many-{number}, namespace: default }}\nspec:\n  gatewayClassName: edge\n  \
                 addresses: [{{ type: IPAddress, value: \"203.0.113.{number}\" }}]\n  \
                 listeners: [{{ name: http, port: 80, protocol: HTTP }}]\n"
            );
        }
        let path = self.centre.edge("a").directory().join("manifests/many.yaml");
        let router = self.centre.router(1);
        let before = router.kernel_routes();
        let begun = Instant::now();
        std::fs::write(&path, text).unwrap();
        until("all of them are announced", || (router.kernel_routes() >= before + MANY).then_some(()));
        let took = begun.elapsed();
        std::fs::remove_file(&path).unwrap();
        until("all of them are withdrawn", || (router.kernel_routes() <= before).then_some(()));
        took
    }

    /// What clients lose when something is done to edge `a`: on new and on kept connections.
    fn under_load(&mut self, act: impl FnOnce(&mut Edge)) -> Vec<Tally> {
        let to = SocketAddr::new(VIP.parse().unwrap(), 80);
        let host = || HOST.to_owned();
        let mut flows = vec![Flow::new(Ask::Http { host: host() }, to, Duration::from_millis(5)); 8];
        flows.extend(vec![Flow::new(Ask::HttpKept { host: host() }, to, Duration::from_millis(5)); 8]);
        let flows = Flows::start(self.centre.client(), flows);
        std::thread::sleep(Duration::from_secs(1));
        act(self.centre.edge("a"));
        std::thread::sleep(Duration::from_secs(3));
        flows.stop()
    }
}

fn gone(watch: &RouteWatch, since: Instant, hop: IpAddr) -> Duration {
    watch.when(since, "the edge is out", |gateways| !gateways.contains(&hop)).duration_since(since)
}

fn restart_of_gobgpd(table: &mut Table) {
    let rounds = table.rounds.min(5);
    let mut centre = DataCentre::start(Plan { graceful_restart: Some(60), ..Plan::plain(2) });
    centre.wait_announced(&prefix());
    let watch = RouteWatch::start(centre.router(1), centre.network.router(1).name(), &prefix());
    let hop = centre.edge("a").next_hop(1);
    let mut withdrawals = 0;
    for _ in 0..rounds {
        let established = || centre.router(1).json("show bgp neighbors json");
        let drops = |said: &serde_json::Value| said["10.1.1.1"]["connectionsDropped"].as_u64().unwrap_or_default();
        let before = drops(&established());
        let begun = Instant::now();
        centre.edge("a").signal("gobgpd", Signal::KILL);
        until("the session is back", || {
            let said = centre.router(1).json("show bgp neighbors json");
            (drops(&said) > before && said["10.1.1.1"]["bgpState"] == "Established").then_some(())
        });
        std::thread::sleep(Duration::from_secs(2));
        withdrawals += watch.without(begun, hop);
    }
    let what = format!("withdrawals when gobgpd is killed {rounds} times, with graceful restart");
    table.count("restart", &what, withdrawals, 0);
}

fn layer2(table: &mut Table, part: &str) {
    let mut centre =
        DataCentre::start(Plan { has_l2: true, hold_down: "100ms", graceful_shutdown: "0s", ..Plan::plain(2) });
    let leads = |centre: &mut DataCentre| {
        let names: Vec<&str> =
            centre.edges.iter().filter(|edge| edge.has_address(LAN_VIP)).map(|edge| edge.name).collect();
        (names.len() == 1).then(|| names[0])
    };
    let is_planned = part == "l2-planned";
    let mut gaps = vec![];
    for _ in 0..table.rounds {
        // Who takes over again after its delay would be a second gap.
        until_within(LONG, "edge a leads", || (leads(&mut centre) == Some("a")).then_some(()));
        // A connection would wait a second for its first packet to be sent again, whatever the edges do.
        let to = SocketAddr::new(LAN_VIP.parse().unwrap(), UDP_PORT);
        let flows = Flows::start(centre.client(), vec![Flow::new(Ask::Udp, to, Duration::from_millis(5))]);
        std::thread::sleep(Duration::from_millis(500));
        if is_planned {
            centre.edge("a").ctl(&["drain"]);
        } else {
            centre.edge("a").kill();
        }
        until("edge b leads", || centre.edge("b").has_address(LAN_VIP).then_some(()));
        std::thread::sleep(Duration::from_millis(1500));
        gaps.push(flows.stop()[0].longest_gap);
        if is_planned {
            centre.edge("a").ctl(&["undrain"]);
        } else {
            centre.edge("a").restart();
        }
    }
    if is_planned {
        table.add(part, "L2, planned: a client without an answer", gaps, 150);
    } else {
        table.add(part, "L2, SIGKILL of edged, advertisements each 300 ms: a client without an answer", gaps, 1000);
    }
}

/// Rows by the part that they are of.
#[derive(Default)]
struct Table {
    rounds: usize,
    rows: Vec<(String, String)>,
}

/// What the table of the file lies between. Each row ends with the name of its part, in a comment.
const BEGIN: &str = "<!-- figures: `make figures` writes what is between these two lines -->\n";
const END: &str = "<!-- figures: end -->";

impl Table {
    fn add(&mut self, part: &str, what: &str, mut times: Vec<Duration>, promise: u64) {
        times.sort();
        let milliseconds = |time: Option<&Duration>| time.map_or(0, Duration::as_millis);
        let (median, worst) = (milliseconds(times.get(times.len() / 2)), milliseconds(times.last()));
        let verdict = if median <= promise.into() { "kept" } else { "**not kept**" };
        self.row(part, format!("| {what} | {median} ms | {worst} ms | ≤ {promise} ms | {verdict} |"));
    }

    fn count(&mut self, part: &str, what: &str, found: usize, promise: usize) {
        let verdict = if found <= promise { "kept" } else { "**not kept**" };
        self.row(part, format!("| {what} | {found} | | {promise} | {verdict} |"));
    }

    fn lost(&mut self, part: &str, what: &str, tallies: &[Tally], promise: Option<u64>) {
        let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
        let (asked, lost, repeated) = (sum(|t| t.asked), sum(Tally::lost), sum(|t| t.repeated));
        for tally in tallies.iter().filter(|tally| tally.lost() > 0) {
            println!("{part}: lost {} of {}: {:?}", tally.lost(), tally.asked, tally.failures);
        }
        println!("{part}: {asked} asked, {lost} lost, {repeated} on kept connections asked once more");
        let (promise, verdict) = match promise {
            Some(promise) if lost <= promise => (promise.to_string(), "kept"),
            Some(promise) => (promise.to_string(), "**not kept**"),
            None => (String::new(), "counted"),
        };
        self.row(part, format!("| {what} | {lost} of {asked} | | {promise} | {verdict} |"));
    }

    fn row(&mut self, part: &str, line: String) {
        println!("{line}");
        self.rows.push((part.to_owned(), format!("{line}<!-- {part} -->")));
    }

    /// Puts the rows into the file, in the place of older ones.
    fn write(&self, file: &Path) {
        let old = std::fs::read_to_string(file).unwrap_or_default();
        let (before, rest) = old.split_once(BEGIN).unwrap_or((&old, ""));
        let (table, after) = rest.split_once(END).unwrap_or(("", "\n"));
        let row = |part: &str| {
            let mark = format!("<!-- {part} -->");
            let new = self.rows.iter().find(|(of, _)| of == part).map(|(_, row)| row.as_str());
            new.or_else(|| table.lines().find(|line| line.ends_with(&mark)))
        };
        let rows: Vec<&str> = PARTS.iter().filter_map(|part| row(part)).collect();
        let text = format!(
            "{before}{BEGIN}\nPrograms {}; medians of {} rounds of each time, in the data centre of `make lab` (two FRR routers, two\n\
             edges, Debian's gobgpd). Times of BGP are from the act to the kernel route of a router, times of L2 are how long a\n\
             client that asks every 5 ms is without an answer.\n\n\
             | what | median | worst | promise | |\n| --- | --- | --- | --- | --- |\n{}\n\n{END}{after}",
            if cfg!(debug_assertions) { "without optimisation" } else { "optimised" },
            self.rounds,
            rows.join("\n")
        );
        std::fs::write(file, text).unwrap();
    }
}
