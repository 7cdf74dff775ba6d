//! What the network believes when an edge of a data centre ends, hangs or returns: judged by the routers' kernels and by
//! flows of a client, not by our own word. The figures are printed; only order and loss are judged.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_integration::datacentre::faults::{BlackHole, Frozen, FrozenThread};
use edge_integration::datacentre::flows::{Ask, Flow, Flows};
use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::datacentre::{self, DataCentre, EngineAt, FLOWS_VIP, HOST, Plan, UDP_PORT, VIP, VIP6};
use edge_integration::edged::until;
use edge_integration::lab;
use rustix::process::Signal;

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
    format!("{vip}/{}", if vip.contains(':') { 128 } else { 32 })
}

fn watch(centre: &DataCentre, router: u8) -> RouteWatch {
    RouteWatch::start(centre.router(router), centre.network.router(router).name(), &prefix(VIP))
}

/// New connections to the VIP, all the time.
fn load(centre: &DataCentre) -> Flows {
    let to = SocketAddr::new(VIP.parse().unwrap(), 80);
    let udp = SocketAddr::new(FLOWS_VIP.parse().unwrap(), UDP_PORT);
    let mut flows = vec![Flow::new(Ask::Http { host: HOST.to_owned() }, to, Duration::from_millis(20)); 4];
    flows.extend(vec![Flow::new(Ask::Udp, udp, Duration::from_millis(20)); 8]);
    Flows::start(centre.client(), flows)
}

#[test]
fn an_edge_that_dies_is_out_of_the_routes_and_comes_back() {
    let _alone = alone();
    let Some(mut centre) = data_centre("an_edge_that_dies", Plan::plain(2)) else { return };
    centre.wait_announced(&prefix(VIP));
    centre.wait_announced(&prefix(VIP6));
    let watches = [watch(&centre, 1), watch(&centre, 2)];
    let flows = load(&centre);
    std::thread::sleep(Duration::from_millis(500));
    let killed = Instant::now();
    centre.edge("b").kill();
    for (index, watch) in watches.iter().enumerate() {
        let router = u8::try_from(index + 1).unwrap();
        let gone = centre.edge("b").next_hop(router);
        let at = watch.when(killed, "edge b is out", |gateways| !gateways.contains(&gone));
        eprintln!("SIGKILL of edged to tor{router}'s kernel: {:?}", at.duration_since(killed));
    }
    until("gobgpd of edge b is gone", || centre.edge("b").processes("gobgpd").is_empty().then_some(()));
    centre.edge("b").restart();
    centre.wait_announced(&prefix(VIP));
    std::thread::sleep(Duration::from_millis(500));
    for tally in flows.stop() {
        eprintln!("{} of {} lost, longest gap {:?} {:?}", tally.lost(), tally.asked, tally.longest_gap, tally.failures);
        assert!(tally.answered > 0, "{tally:?}");
    }
}

#[test]
fn an_edge_that_hangs_is_out_of_the_routes_before_the_hold_timer_says_so() {
    let _alone = alone();
    let Some(mut centre) = data_centre("an_edge_that_hangs", Plan::plain(2)) else { return };
    centre.wait_announced(&prefix(VIP));
    let watch = watch(&centre, 1);
    let gone = centre.edge("a").next_hop(1);
    let pid = centre.edge("a").edged().pid();
    let frozen = Instant::now();
    let hang = Frozen::new([pid]);
    let at = watch.when(frozen, "edge a is out", |gateways| !gateways.contains(&gone));
    let took = at.duration_since(frozen);
    eprintln!("SIGSTOP of edged to tor1's kernel: {took:?}");
    assert!(took < Duration::from_secs(6), "that was the hold timer");
    let woken = Instant::now();
    drop(hang);
    let back = watch.when(woken, "edge a is back", |gateways| gateways.contains(&gone));
    let held = back.duration_since(woken);
    eprintln!("SIGCONT of edged to its return: {held:?}");
    assert!(held >= Duration::from_secs(1), "not before the hold-down");
}

/// The other workers and the supervisor go on, and no process has ended.
#[test]
fn an_edge_that_loses_a_worker_is_out_of_the_routes_until_it_moves_again() {
    let _alone = alone();
    let Some(mut centre) = data_centre("an_edge_that_loses_a_worker", Plan::plain(2)) else { return };
    centre.wait_announced(&prefix(VIP));
    let watch = watch(&centre, 1);
    let gone = centre.edge("a").next_hop(1);
    let pid = centre.edge("a").edged().pid();
    let begun = Instant::now();
    let Some(frozen) = FrozenThread::new(pid, "worker-0") else {
        return lab::skip("an_edge_that_loses_a_worker", "no freezer of version 1 to put one thread into");
    };
    let at = watch.when(begun, "edge a is out", |gateways| !gateways.contains(&gone));
    let took = at.duration_since(begun);
    eprintln!("a worker hangs to tor1's kernel: {took:?}");
    assert!(took < Duration::from_secs(6), "that was the hold timer");
    until("it says why", || {
        let why = centre.edge("a").ctl(&["why", VIP]);
        (why.code == Some(2) && why.text().contains("worker 0 stands still")).then_some(())
    });
    drop(frozen);
    centre.wait_announced(&prefix(VIP));
}

#[test]
fn vips_of_a_segment_are_spread_over_the_edges() {
    let _alone = alone();
    let more = "\n[[pool]]\nname = \"more\"\naddresses = [\"fd00:60::80/123\"]\n".to_owned();
    let l2 = "spread = 2\nedges = [\"a\", \"b\"]\nvips = [\"fd00:60::80/123\"]";
    let plan = Plan { has_l2: true, l2, more, hold_down: "0s", ..Plan::plain(2) };
    let Some(mut centre) = data_centre("vips_are_spread", plan) else { return };
    let vips: Vec<String> =
        (81..87).map(|last| format!("10.60.0.{last}")).chain((3..9).map(|last| format!("fd00:60::8{last}"))).collect();
    let addresses: Vec<String> = vips.iter().map(|vip| format!("{{ type: IPAddress, value: \"{vip}\" }}")).collect();
    let objects = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: more, namespace: default }}\n\
         spec:\n  gatewayClassName: edge\n  addresses: [{}]\n  \
         listeners: [{{ name: http, port: 80, protocol: HTTP }}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: more, namespace: default }}\n\
         spec:\n  parentRefs: [{{ name: more }}]\n  rules: [{{ backendRefs: [{{ name: shop, port: 80 }}] }}]\n",
        addresses.join(", ")
    );
    for edge in &centre.edges {
        std::fs::write(edge.directory().join("manifests/more.yaml"), &objects).unwrap();
    }
    let led = |centre: &mut DataCentre, name: &str| {
        let edge = centre.edge(name);
        vips.iter().filter(|vip| edge.has_address(vip)).cloned().collect::<Vec<_>>()
    };
    let is_spread = |centre: &mut DataCentre| {
        let (a, b) = (led(centre, "a"), led(centre, "b"));
        let is_whole = a.len() + b.len() == vips.len() && a.iter().all(|vip| !b.contains(vip));
        // Whoever is up first leads all of a family until the other, which is better for its part, has preempted.
        let has_both = |led: &[String]| [true, false].iter().all(|v6| led.iter().any(|vip| vip.contains(':') == *v6));
        (is_whole && has_both(&a) && has_both(&b)).then_some((a, b))
    };
    let (a, b) = until("each edge leads some of each family, and each VIP has one", || is_spread(&mut centre));
    eprintln!("a leads {a:?}, b {b:?}");
    answers(&centre, &vips);
    centre.edge("a").kill();
    until("b leads all", || (led(&mut centre, "b").len() == vips.len()).then_some(()));
    answers(&centre, &vips);
    centre.edge("a").restart();
    until("they are spread as before", || is_spread(&mut centre).filter(|now| *now == (a.clone(), b.clone())));
    answers(&centre, &vips);
}

/// A client at the segment gets an answer from each.
fn answers(centre: &DataCentre, vips: &[String]) {
    let ask = |vip: &String| {
        let to = SocketAddr::new(vip.parse().unwrap(), 80);
        let flow = Flow::new(Ask::Http { host: HOST.to_owned() }, to, Duration::from_millis(20));
        let flows = Flows::start(centre.client(), vec![flow]);
        std::thread::sleep(Duration::from_millis(100));
        flows.stop()[0].answered > 0
    };
    for vip in vips {
        until(&format!("{vip} answers"), || ask(vip).then_some(()));
    }
}

#[test]
fn a_black_hole_costs_about_a_second_with_bfd() {
    a_black_hole(EngineAt::Child);
}

/// It has a BFD of its own, which nobody starts.
#[test]
fn a_black_hole_costs_no_more_with_series_four() {
    a_black_hole(EngineAt::Tls);
}

fn a_black_hole(engine: EngineAt) {
    let _alone = alone();
    let plan = Plan { has_bfd: true, engine, ..Plan::plain(2) };
    let Some(mut centre) = data_centre("a_black_hole", plan) else { return };
    centre.wait_announced(&prefix(VIP));
    let watch = watch(&centre, 1);
    let gone = centre.edge("a").next_hop(1);
    until("bfd is up", || {
        let said = centre.router(1).ask("show bfd peers brief");
        (said.matches(" up").count() >= 2).then_some(())
    });
    let begun = Instant::now();
    let hole = BlackHole::between(&centre.network, "a", 1);
    let at = watch.when(begun, "edge a is out", |gateways| !gateways.contains(&gone));
    let took = at.duration_since(begun);
    eprintln!("black hole to tor1's kernel: {took:?}");
    assert!(took < Duration::from_secs(5), "that was the hold timer");
    drop(hole);
    centre.wait_announced(&prefix(VIP));
}

#[test]
fn gobgpd_that_dies_is_replaced_and_told_everything() {
    let _alone = alone();
    let Some(mut centre) = data_centre("gobgpd_that_dies", Plan::plain(1)) else { return };
    centre.wait_announced(&prefix(VIP));
    let watch = watch(&centre, 1);
    let hop = centre.edge("a").next_hop(1);
    let killed = Instant::now();
    centre.edge("a").signal("gobgpd", Signal::KILL);
    watch.when(killed, "the route is gone", |gateways| !gateways.contains(&hop));
    let back = watch.when(killed, "the route is back", |gateways| gateways.contains(&hop));
    eprintln!("SIGKILL of gobgpd to the return of the route: {:?}", back.duration_since(killed));
}
