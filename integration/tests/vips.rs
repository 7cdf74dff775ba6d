//! What VIPs do when an edge is told to leave, starts anew, or cannot speak to its routers: with real routers, judged by
//! their kernels. No figures here: those are `make figures`.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edge_integration::datacentre::faults::Frozen;
use edge_integration::datacentre::flows::{Ask, Flow, Flows, Tally};
use edge_integration::datacentre::routes::RouteWatch;
use edge_integration::datacentre::{self, DataCentre, EngineAt, HOST, Plan, VIP};
use edge_integration::edged::{edgectl, until};
use edge_integration::lab;
use edge_integration::updates::Updates;

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

fn prefix() -> String {
    format!("{VIP}/32")
}

fn ways(centre: &DataCentre, router: u8, wanted: usize) {
    until(&format!("tor{router} has {wanted} ways"), || {
        (centre.router(router).gateways(&prefix()).len() == wanted).then_some(())
    });
}

#[test]
fn a_drain_lasts_until_it_is_undone() {
    let _alone = alone();
    let Some(mut centre) = data_centre("a_drain_lasts", Plan { graceful_shutdown: "0s", ..Plan::plain(2) }) else {
        return;
    };
    centre.wait_announced(&prefix());
    let said = centre.edge("a").ctl(&["drain"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    ways(&centre, 1, 1);
    ways(&centre, 2, 1);
    let why = centre.edge("a").ctl(&["why", VIP]);
    assert!(why.code == Some(2) && why.text().contains("drain"), "{why:?}");
    // Of both edges at once; one that is not there hides nobody.
    let sockets = ["a", "b", "none"].map(|name| centre.directory().join(name).join("edged.sock"));
    let [a, b, none] = sockets.each_ref().map(|path| path.to_str().unwrap());
    let both = edgectl(&["--socket", a, "--socket", b, "why", VIP]);
    assert_eq!(both.code, Some(2), "{both:?}");
    assert!(both.stdout.contains("on edge a") && both.stdout.contains("on edge b"), "{both:?}");
    let all = edgectl(&["--socket", none, "--socket", a, "--socket", b, "-o", "json", "why", VIP]);
    assert!(all.code == Some(3) && all.stderr.contains(none), "{all:?}");
    let edges: Vec<_> = all.json().as_array().unwrap().iter().map(|why| why["edge"].clone()).collect();
    assert_eq!(edges, ["a", "b"]);
    assert_eq!(edgectl(&["--socket", a, "--socket", b, "status"]).code, Some(64));
    // Neither a restart nor a crash brings it back.
    centre.edge("a").terminate();
    centre.edge("a").restart();
    until("edge a says that it drains", || centre.edge("a").ctl(&["why", VIP]).text().contains("drain").then_some(()));
    assert_eq!(centre.router(1).gateways(&prefix()).len(), 1);
    let said = centre.edge("a").ctl(&["undrain"]);
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    centre.wait_announced(&prefix());
}

#[test]
fn an_engine_of_somebody_else_is_withdrawn_from_and_lives_on() {
    is_withdrawn_from(EngineAt::Unix);
}

/// The guard has nobody to ask for the certificates when it is time.
#[test]
fn an_engine_behind_tls_is_withdrawn_from_and_lives_on() {
    is_withdrawn_from(EngineAt::Tls);
}

fn is_withdrawn_from(engine: EngineAt) {
    let _alone = alone();
    let Some(mut centre) = data_centre("an_engine_of_somebody_else", Plan { engine, ..Plan::plain(2) }) else { return };
    centre.wait_announced(&prefix());
    let watch = RouteWatch::start(centre.router(1), centre.network.router(1).name(), &prefix());
    let hop = centre.edge("a").next_hop(1);
    let killed = Instant::now();
    centre.edge("a").kill();
    let gone = watch.when(killed, "edge a is out", |gateways| !gateways.contains(&hop));
    eprintln!("SIGKILL of edged, gobgpd lives ({engine:?}), to tor1's kernel: {:?}", gone.duration_since(killed));
    ways(&centre, 1, 1);
    ways(&centre, 2, 1);
    centre.edge("a").engine().unwrap().must_live();
    // Its sessions are up, they only have nothing to tell.
    let neighbours = centre.router(1).json("show bgp neighbors json");
    assert_eq!(neighbours["10.1.1.1"]["bgpState"], "Established");
    centre.edge("a").restart();
    centre.wait_announced(&prefix());
}

#[test]
fn a_router_with_another_number_is_named_as_the_reason() {
    let _alone = alone();
    let Some(mut centre) = data_centre("another_number", Plan { wrong_asn: 7, ..Plan::plain(1) }) else { return };
    let said = until("the reason is known", || {
        let said = centre.edge("a").ctl(&["why", VIP]);
        said.text().contains("65001").then_some(said)
    });
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.text().contains("65008"), "{said:?}");
    assert!(centre.router(1).gateways(&prefix()).is_empty());
}

/// What the guard has taken back stays so until the VIPs were judged anew: not even a moment of it is on the wire.
#[test]
fn who_wakes_up_tells_nothing_before_the_gate_allows_it() {
    const HOLD_DOWN: Duration = Duration::from_secs(8);
    let _alone = alone();
    let plan = Plan { engine: EngineAt::Unix, hold_down: "8s", ..Plan::plain(1) };
    let Some(mut centre) = data_centre("who_wakes_up", plan) else { return };
    let wires = [1, 2].map(|router| Updates::start(centre.network.router(router).name(), "a"));
    let told = |since: Instant| {
        let told = [1, 2].map(|router| format!("10.{router}.1.1"));
        wires
            .iter()
            .zip(told)
            .filter_map(|(wire, from)| wire.announcement(since, &from, &prefix()))
            .min_by_key(|u| u.at)
    };
    let begun = Instant::now();
    for is_engine_replaced in [false, true] {
        centre.wait_announced(&prefix());
        until("the listeners see announcements", || told(begun));
        let frozen = Frozen::new([centre.edge("a").edged().pid()]);
        ways(&centre, 1, 0);
        ways(&centre, 2, 0);
        if is_engine_replaced {
            centre.edge("a").restart_engine();
        }
        // The speaker is overdue for its audit by then, so that it reads the engine first thing.
        std::thread::sleep(Duration::from_secs(11));
        let woken = Instant::now();
        drop(frozen);
        let first = until("it is told again", || told(woken));
        let after = first.at.duration_since(woken);
        assert!(after >= HOLD_DOWN, "told {after:?} after the thaw, engine replaced: {is_engine_replaced}: {first:?}");
    }
}

/// HTTP on new and on kept connections.
fn load(centre: &DataCentre) -> Flows {
    let to = SocketAddr::new(VIP.parse().unwrap(), 80);
    let host = || HOST.to_owned();
    let mut flows = vec![Flow::new(Ask::Http { host: host() }, to, Duration::from_millis(20)); 4];
    flows.extend(vec![Flow::new(Ask::HttpKept { host: host() }, to, Duration::from_millis(20)); 4]);
    Flows::start(centre.client(), flows)
}

/// RFC 8326: first the last resort, then gone, and only then are connections ended.
#[test]
fn a_drain_goes_in_its_order_and_loses_nothing() {
    const NOTICE: Duration = Duration::from_secs(3);
    let _alone = alone();
    let plan = Plan { graceful_shutdown: "3s", hold_down: "0s", ..Plan::plain(2) };
    let Some(mut centre) = data_centre("a_drain_in_order", plan) else { return };
    centre.wait_announced(&prefix());
    let wires = [1, 2].map(|router| Updates::start(centre.network.router(router).name(), "a"));
    let flows = load(&centre);
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let said = centre.edge("a").ctl(&["drain"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    eprintln!("{}", said.text());
    for (wire, router) in wires.iter().zip(1..) {
        let from = format!("10.{router}.1.1");
        let of_vip =
            || wire.since(begun, &from).into_iter().filter(|update| update.names(&prefix())).collect::<Vec<_>>();
        let withdrawn = until("it is withdrawn", || of_vip().into_iter().find(|update| !update.announces(&prefix())));
        let told = of_vip();
        assert_eq!(told.len(), 2, "one message each: {told:#?}");
        assert!(told[0].announces(&prefix()) && told[0].text.contains("65535:0"), "{told:#?}");
        let between = withdrawn.at.duration_since(told[0].at);
        assert!(between >= NOTICE.mul_f32(0.9), "tor{router} had {between:?} to move away");
    }
    ways(&centre, 1, 1);
    ways(&centre, 2, 1);
    let said = centre.edge("a").ctl(&["undrain"]);
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    centre.wait_announced(&prefix());
    assert_lossless(&flows.stop());
}

fn assert_lossless(tallies: &[Tally]) {
    for tally in tallies {
        assert!(tally.asked > 0 && tally.lost() == 0, "{tally:?}");
    }
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    eprintln!("{} asked, none lost, {} asked once more", sum(|t| t.asked), sum(|t| t.repeated));
}

#[test]
fn a_drill_takes_the_vips_away_brings_them_back_and_says_how_fast() {
    let _alone = alone();
    let plan = Plan { graceful_shutdown: "1s", hold_down: "0s", ..Plan::plain(2) };
    let Some(mut centre) = data_centre("a_drill", plan) else { return };
    centre.wait_announced(&prefix());
    let watch = RouteWatch::start(centre.router(1), centre.network.router(1).name(), &prefix());
    let hop = centre.edge("a").next_hop(1);
    let asked = centre.edge("a").ctl(&["drill", "failover"]);
    assert!(asked.code == Some(1) && asked.text().contains("--yes"), "not by accident: {asked:?}");
    let flows = load(&centre);
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let said = centre.edge("a").ctl(&["drill", "failover", "--away", "2", "--yes"]);
    eprintln!("{}", said.text());
    assert_eq!(said.code, Some(0), "{said:?}");
    let gone = watch.when(begun, "it was away", |gateways| !gateways.contains(&hop));
    let back = watch.when(gone, "it is back", |gateways| gateways.contains(&hop));
    assert!(back.duration_since(gone) >= Duration::from_secs(2), "away for {:?}", back.duration_since(gone));
    centre.wait_announced(&prefix());
    assert_lossless(&flows.stop());
}
