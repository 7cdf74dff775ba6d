//! What goes wrong with VIPs, with the real edged and real routers: each fault is one line that says what and why, and what
//! does not depend on it goes on. Judged by the routers' kernels and by `edgectl`.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::UdpSocket;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::datacentre::{self, DataCentre, FLOWS_VIP, LAN_VIP, PASSWORD, Plan, VIP};
use edge_integration::edged::{LIMIT, until};
use edge_integration::lab;
use edge_integration::netns::ip;

/// One at a time: each has a dozen processes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: skipped, loudly.
fn data_centre(scenario: &str, plan: Plan) -> Option<DataCentre> {
    match datacentre::available() {
        Ok(()) => Some(DataCentre::start(plan)),
        Err(why) => {
            lab::skip(scenario, &why);
            None
        }
    }
}

fn prefix(vip: &str) -> String {
    format!("{vip}/32")
}

/// One edge with BGP to two routers, and a virtual router.
fn plan() -> Plan {
    Plan { has_l2: true, hold_down: "0s", ..Plan::plain(1) }
}

/// Waits for one line of `edgectl` that has all of this.
fn says(centre: &mut DataCentre, command: &[&str], parts: &[&str]) -> String {
    let edge = centre.edge("a");
    let mut last = String::new();
    let start = Instant::now();
    loop {
        last.clone_from(&edge.ctl(command).text());
        if let Some(line) = last.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
            eprintln!("edgectl {}: {}", command.join(" "), line.trim());
            return line.to_owned();
        }
        assert!(start.elapsed() < LIMIT, "edgectl {command:?} does not say {parts:?}:\n{last}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nobody complains any more.
fn all_up(centre: &mut DataCentre) {
    until("all is up", || (centre.edge("a").ctl(&["status"]).code == Some(0)).then_some(()));
}

/// Changes edge.toml of edge `a`, and makes it read that.
fn edit(centre: &mut DataCentre, from: &str, to: &str) {
    let path = centre.edge("a").directory().join("edge.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    // It may have been seen already, and may be refused.
    centre.edge("a").ctl(&["reload"]);
}

/// The route of a VIP by way of router 2 that must not be touched.
struct Untouched(RouteWatch, Instant);

impl Untouched {
    fn begin(centre: &DataCentre) -> Self {
        until("tor2 has the route", || (!centre.router(2).gateways(&prefix(VIP)).is_empty()).then_some(()));
        let watch = RouteWatch::start(centre.router(2), centre.network.router(2).name(), &prefix(VIP));
        Self(watch, Instant::now())
    }

    fn end(self) {
        assert_eq!(self.0.changes(self.1), 0, "tor2's route was touched");
    }
}

#[test]
fn a_wrong_password_costs_one_session() {
    let _alone = alone();
    let plan = Plan { has_password: true, ..plan() };
    let Some(mut centre) = data_centre("a_wrong_password", plan) else { return };
    centre.wait_announced(&prefix(VIP));
    let untouched = Untouched::begin(&centre);
    let file = centre.edge("a").directory().join("tor.key");
    std::fs::write(&file, "not-this\n").unwrap();
    says(&mut centre, &["status"], &["down", "tor1", "another password"]);
    says(&mut centre, &["why", VIP], &["tor1", "nothing", "another password"]);
    // A file that is gone is told as that.
    std::fs::remove_file(&file).unwrap();
    says(&mut centre, &["why", VIP], &["tor1", "nothing", "tor.key"]);
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    centre.wait_announced(&prefix(VIP));
    all_up(&mut centre);
    untouched.end();
}

#[test]
fn an_engine_that_is_no_gobgpd_leaves_layer_2_alone() {
    let _alone = alone();
    let Some(mut centre) = data_centre("no_gobgpd", plan()) else { return };
    let lan = |centre: &mut DataCentre| centre.edge("a").has_address(LAN_VIP);
    until("the edge leads", || lan(&mut centre).then_some(()));
    centre.wait_announced(&prefix(VIP));
    edit(&mut centre, "[bgp]\n", "[bgp]\nengine = \"/nonexistent/gobgpd\"\n");
    says(&mut centre, &["status"], &["bgp:", "/nonexistent/gobgpd", "No such file"]);
    says(&mut centre, &["why", VIP], &["tor1", "nothing", "/nonexistent/gobgpd"]);
    until("tor1 has no route", || centre.router(1).gateways(&prefix(VIP)).is_empty().then_some(()));
    assert!(lan(&mut centre));

    let program = centre.edge("a").directory().join("gobgpd-of-tomorrow");
    std::fs::write(&program, "#!/bin/sh\necho gobgpd version 9.1.0\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    edit(&mut centre, "/nonexistent/gobgpd", program.to_str().unwrap());
    says(&mut centre, &["status"], &["bgp:", "9.1.0", "expected 3 or 4"]);
    assert!(lan(&mut centre));
    edit(&mut centre, program.to_str().unwrap(), "/usr/bin/gobgpd");
    centre.wait_announced(&prefix(VIP));
    all_up(&mut centre);
}

#[test]
fn without_permission_each_part_says_which_one() {
    let _alone = alone();
    let Some(mut centre) = data_centre("no_permission", plan()) else { return };
    centre.wait_announced(&prefix(VIP));
    centre.edge("a").terminate();
    centre.edge("a").restart_without(&["net_admin", "net_raw"]);
    centre.edge("a").edged().wait_control();
    says(&mut centre, &["status"], &["down", VIP, "CAP_NET_ADMIN"]);
    says(&mut centre, &["why", VIP], &["no", "address is bound", "CAP_NET_ADMIN"]);
    says(&mut centre, &["status"], &["down", LAN_VIP, "CAP_NET_RAW"]);
    // gobgpd is started and the session is up: it only has nothing to tell.
    says(&mut centre, &["status"], &["up", "tor1", "established"]);
    assert!(centre.router(1).gateways(&prefix(VIP)).is_empty());
    centre.edge("a").terminate();
    centre.edge("a").restart();
    centre.wait_announced(&prefix(VIP));
    all_up(&mut centre);
}

#[test]
fn an_interface_that_is_gone_costs_what_is_on_it_and_comes_back() {
    let _alone = alone();
    let Some(mut centre) = data_centre("interface_gone", plan()) else { return };
    until("the edge leads", || centre.edge("a").has_address(LAN_VIP).then_some(()));
    centre.wait_announced(&prefix(VIP));
    let untouched = Untouched::begin(&centre);
    let (edge, fabric) = (centre.network.edge("a").name().to_owned(), centre.network.fabric.name().to_owned());
    let run = |command: &str| ip(command).unwrap();
    run(&format!("-n {edge} link del lan"));
    says(&mut centre, &["status"], &["down", LAN_VIP, "interface lan does not exist"]);
    says(&mut centre, &["why", LAN_VIP], &["interface lan does not exist"]);
    run(&format!("-n {fabric} link add lan.a type veth peer name lan netns {edge}"));
    run(&format!("-n {fabric} link set dev lan.a master lan up"));
    run(&format!("-n {edge} addr add 10.60.0.1/24 dev lan"));
    run(&format!("-n {edge} link set dev lan up"));
    until("the edge leads again", || centre.edge("a").has_address(LAN_VIP).then_some(()));

    run(&format!("-n {edge} link del tor1"));
    says(&mut centre, &["status"], &["down", "tor1", "no route to it from this host"]);
    says(&mut centre, &["why", VIP], &["tor1", "nothing", "no route to it from this host"]);
    run(&format!("-n {fabric} link add a-tor1.e type veth peer name tor1 netns {edge}"));
    run(&format!("-n {fabric} link set dev a-tor1.e master a-tor1 up"));
    run(&format!("-n {edge} addr add 10.1.1.1/30 dev tor1"));
    run(&format!("-n {edge} addr add fd00:1:1::1/64 dev tor1 nodad"));
    run(&format!("-n {edge} link set dev tor1 up"));
    centre.wait_announced(&prefix(VIP));
    all_up(&mut centre);
    untouched.end();
}

#[test]
fn an_address_that_somebody_else_answers_for_is_reported_with_the_mac() {
    let _alone = alone();
    let Some(mut centre) = data_centre("a_conflict", plan()) else { return };
    until("the edge leads", || centre.edge("a").has_address(LAN_VIP).then_some(()));
    let untouched = Untouched::begin(&centre);
    let client = centre.client().name().to_owned();
    let shown = ip(&format!("-n {client} -o link show dev lan")).unwrap();
    let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
    ip(&format!("-n {client} addr add {LAN_VIP}/32 dev lan")).unwrap();
    // Whoever asks with an address claims it.
    let asks = |centre: &DataCentre| {
        let send = || UdpSocket::bind((LAN_VIP, 0)).unwrap().send_to(b"hello", "10.60.0.77:9").unwrap();
        centre.client().run(send).unwrap();
    };
    until("it is told", || {
        asks(&centre);
        std::thread::sleep(Duration::from_millis(200));
        centre.edge("a").ctl(&["why", LAN_VIP]).text().contains(&mac).then_some(())
    });
    says(&mut centre, &["why", LAN_VIP], &[&mac, "claims it too"]);
    says(&mut centre, &["status"], &["degraded", LAN_VIP, &mac]);
    // It is ours all the same.
    assert!(centre.edge("a").has_address(LAN_VIP));
    ip(&format!("-n {client} addr del {LAN_VIP}/32 dev lan")).unwrap();
    untouched.end();
}

#[test]
fn pools_that_overlap_or_are_empty_cost_nobody_else() {
    let _alone = alone();
    let Some(mut centre) = data_centre("bad_pools", plan()) else { return };
    centre.wait_announced(&prefix(VIP));
    let untouched = Untouched::begin(&centre);
    let tiny = "[[pool]]\nname = \"tiny\"\naddresses = [\"203.0.113.7/32\"]\n\n[[pool]]\nname = \"lan\"";
    let twice = "[[pool]]\nname = \"twice\"\naddresses = [\"198.51.100.8/29\"]\n\n[[pool]]\nname = \"lan\"";
    let lan = "[[pool]]\nname = \"lan\"";
    edit(&mut centre, lan, twice);
    says(&mut centre, &["status"], &["1 error", "edgectl get problems"]);
    says(&mut centre, &["get", "problems"], &["\"twice\" is not in effect", "overlaps pool public"]);
    says(&mut centre, &["pool"], &["twice", "not in effect: overlaps pool public"]);
    edit(&mut centre, twice, lan);
    all_up(&mut centre);

    edit(&mut centre, lan, tiny);
    let gateway = |name: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: default, \
             annotations: {{ metallb.io/address-pool: tiny }} }}\nspec: {{ gatewayClassName: edge, listeners: \
             [{{ name: http, port: 81, protocol: HTTP }}] }}\n"
        )
    };
    let file = centre.edge("a").directory().join("manifests/more.yaml");
    std::fs::write(&file, gateway("first") + &gateway("second")).unwrap();
    centre.edge("a").ctl(&["reload"]);
    says(&mut centre, &["status"], &["down", "none", "default/second", "pool tiny has no free address left"]);
    let told = centre.edge("a").ctl(&["get", "gateway", "default/second"]).text();
    assert!(told.contains("tiny has no free address left"), "{told}");
    std::fs::remove_file(&file).unwrap();
    edit(&mut centre, tiny, lan);
    all_up(&mut centre);
    untouched.end();
}

#[test]
fn what_a_router_sends_is_not_used_and_too_much_of_it_costs_its_session() {
    let _alone = alone();
    let Some(mut centre) = data_centre("a_full_table", Plan { has_l2: false, ..Plan::plain(2) }) else { return };
    centre.wait_announced(&prefix(VIP));
    edit(&mut centre, "name = \"tor1\"\n", "name = \"tor1\"\nmax_prefixes = 20\n");
    centre.wait_announced(&prefix(VIP));
    // tor1 sends a the VIPs that it has of b, which are a's own; and ten networks.
    let originate = |range: std::ops::Range<u8>| {
        let networks: Vec<String> = range.map(|third| format!("network 198.18.{third}.0/24")).collect();
        let mut lines = vec!["router bgp 65001", "no bgp network import-check", "address-family ipv4 unicast"];
        lines.extend(networks.iter().map(String::as_str));
        lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()
    };
    let configure = |centre: &DataCentre, lines: Vec<String>| {
        centre.router(1).configure(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let sent = |centre: &DataCentre| {
        let told = centre.router(1).json("show bgp ipv4 unicast neighbors 10.1.1.1 advertised-routes json");
        told["totalPrefixCounter"].as_u64().unwrap_or_default()
    };
    configure(&centre, originate(0..10));
    until("tor1 sends it", || (sent(&centre) >= 12).then_some(()));
    // Time for whatever a would do about it: what comes back to the router says that all before was heard.
    let other = FLOWS_VIP;
    until("a still tells all", || (centre.router(2).gateways(&prefix(other)).len() == 2).then_some(()));
    says(&mut centre, &["status"], &["up", "tor1", "established"]);
    let paths = centre.router(2).json(&format!("show bgp ipv4 unicast {VIP}/32 json"));
    for path in paths["paths"].as_array().unwrap() {
        let way = path["aspath"]["string"].as_str().unwrap();
        // By way of itself or of the other router, never by an edge that heard it from a router.
        assert!(!way.starts_with("65101 ") && !way.starts_with("65102 "), "an edge is a transit: {way}");
    }
    let table = centre.router(2).ask("show bgp ipv4 unicast");
    assert!(!table.contains("198.18."), "an edge is a transit:\n{table}");
    assert!(!ip(&format!("-n {} route show", centre.network.edge("a").name())).unwrap().contains("198.18."));

    let untouched = Untouched::begin(&centre);
    configure(&centre, originate(10..100));
    says(&mut centre, &["status"], &["down", "tor1", "more than 20 prefixes"]);
    says(&mut centre, &["why", VIP], &["tor1", "nothing", "more than 20 prefixes"]);
    let left = [centre.edge("b").next_hop(1)];
    until("tor1 has b only", || (centre.router(1).gateways(&prefix(VIP)) == left).then_some(()));
    untouched.end();
}
