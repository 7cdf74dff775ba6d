//! The speaker with every kind of engine: its own child and somebody else's, series 3 and 4, over a unix socket, TCP and
//! TLS; ones that die, hang or start anew. What counts is the router's kernel.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edge_bgp::gobgp::client::{Client, Place};
use edge_bgp::plan::Call;
use edge_bgp::{Permit, SessionState, Stopped, Tell};
use edge_config::announce::{Bgp, Engine};
use edge_integration::edged::{program, until};
use edge_integration::rack::{API, CLIENT, ENGINE, Foreign, Rack, Secured, TOR, V4, V6, address, plan};
use edge_integration::speaker::{GOBGPD, Rig, announced, gobgpd4, session, told, wanted};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// What becomes of an engine when nobody wants anything of it any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Ended,
    Running,
}

/// What every engine must do; with the rig's own child, and with those of others.
fn tell_and_take_back(rack: &Rack, plan: &Bgp, left: Left) {
    let rig = Rig::new(&rack.edge);
    rig.set(announced(plan));
    rig.established("tor");
    rig.until("adj-out has both", |seen| told(seen, "tor", V4) && told(seen, "tor", V6));
    rack.has(2);
    assert_eq!(rack.router.gateways(V4), [address("10.1.1.1")]);
    assert_eq!(rack.paths(V6)[0]["nexthops"][0]["ip"], "fd00:1:1::1", "the host's own address of that family");
    assert_eq!(rack.paths(V4)[0].get("largeCommunity"), None, "tags never leave the engine");

    let seen = rig.seen();
    let tor = seen.peer("tor").unwrap();
    assert_eq!((tor.asn, tor.advertised, tor.accepted, tor.error.as_deref()), (Some(65000), 2, 0, None), "{tor:?}");
    assert_eq!((tor.hold_time, tor.router_id), (Some(9), Some("10.9.0.1".parse().unwrap())));
    let v4 = seen.prefix(&V4.parse().unwrap()).unwrap();
    assert!(v4.is_held);
    assert_eq!((v4.told[0].as_path.as_slice(), v4.told[0].next_hop), (&[65101][..], Some(address("10.1.1.1"))));

    rig.set(wanted(plan, Tell::Leaving));
    until("the router takes it as the last resort", || {
        let is_leaving = |prefix| rack.paths(prefix)[0]["community"]["string"] == "graceful-shutdown";
        (is_leaving(V4) && is_leaving(V6)).then_some(())
    });
    rig.until("the community is seen in adj-out", |seen| {
        seen.prefixes.iter().all(|prefix| prefix.told.iter().all(|told| told.communities == [0xffff_0000]))
    });
    rack.has(2);

    rig.set(wanted(plan, Tell::Withdrawn));
    rack.has(0);
    rig.until("adj-out has neither", |seen| !told(seen, "tor", V4) && !told(seen, "tor", V6));
    rig.set(announced(plan));
    rack.has(2);
    let before = rack.dropped("10.1.1.1");
    assert_eq!(before, 0, "one session for all of it");
    assert_eq!(rig.stop(), Stopped::Withdrawn);
    rack.has(0);
    if left == Left::Running {
        assert_eq!(rack.dropped("10.1.1.1"), before, "the session is the engine's");
    }
}

#[test]
fn both_families_are_told_over_one_session_and_taken_back() {
    let Some(rack) = Rack::start("both", TOR) else { return };
    tell_and_take_back(&rack, &plan(), Left::Ended);
}

#[test]
fn series_four_does_the_same() {
    let Some(rack) = Rack::start("four", TOR) else { return };
    let mut plan = plan();
    plan.engine = Engine::Child { program: gobgpd4().unwrap() };
    tell_and_take_back(&rack, &plan, Left::Ended);

    // And tells causes by itself.
    rack.router.configure(&[
        "no router bgp",
        "router bgp 65009",
        "no bgp ebgp-requires-policy",
        "neighbor 10.1.1.1 remote-as 65101",
    ]);
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.error("tor", "wrong AS");
    let seen = rig.seen();
    assert_eq!((seen.engine.api, seen.engine.version.as_deref()), (Some(4), Some("4.8.0")));
}

fn pid(rig: &Rig) -> Pid {
    Pid::from_raw(rig.seen().engine.pid.unwrap().cast_signed()).unwrap()
}

#[test]
fn a_killed_engine_is_filled_again() {
    let Some(rack) = Rack::start("kill", TOR) else { return };
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan()));
    rig.established("tor");
    rack.has(2);
    let before = pid(&rig);
    kill_process(before, Signal::KILL).unwrap();
    rig.until("the loss is seen", |seen| !told(seen, "tor", V4));
    let seen = rig.until("another child", |seen| {
        seen.engine.pid.is_some_and(|pid| pid.cast_signed() != before.as_raw_nonzero().get())
    });
    assert!(seen.engine.restarts <= 1);
    rig.established("tor");
    rack.has(2);
    let seen = rig.until("it is told", |seen| told(seen, "tor", V4));
    assert_eq!((seen.engine.restarts, seen.peers[0].flaps), (1, 1), "{seen:?}");
}

#[test]
fn with_graceful_restart_nothing_is_withdrawn() {
    nothing_is_withdrawn("graceful", GOBGPD.into());
}

#[test]
fn with_graceful_restart_series_four_withdraws_nothing_either() {
    nothing_is_withdrawn("graceful4", gobgpd4().unwrap());
}

fn nothing_is_withdrawn(scenario: &str, program: PathBuf) {
    let config = TOR.replace(" bgp bestpath", " bgp graceful-restart\n bgp bestpath");
    let Some(rack) = Rack::start(scenario, &config) else { return };
    let mut plan = plan();
    plan.engine = Engine::Child { program };
    plan.peers[0].graceful_restart = Some(Duration::from_secs(60));
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("tor");
    rack.has(2);
    // Each change of the kernel's routes is a line.
    let mut monitor = Command::new("ip");
    monitor.args(["-n", rack.tor.name(), "monitor", "route"]).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut monitor = monitor.spawn().unwrap();
    kill_process(pid(&rig), Signal::KILL).unwrap();
    rig.until("the loss is seen", |seen| !told(seen, "tor", V4));
    assert_eq!(rack.router.kernel_routes(), 2, "kept by the router");
    rig.established("tor");
    rig.until("it is told", |seen| told(seen, "tor", V4) && told(seen, "tor", V6));
    until("the router has heard all of it", || rack.paths(V4)[0].get("stale").is_none().then_some(()));
    monitor.kill().unwrap();
    let lines = String::from_utf8(monitor.wait_with_output().unwrap().stdout).unwrap();
    assert!(!lines.contains("Deleted"), "{lines}");
    assert_eq!(rack.router.kernel_routes(), 2);
    // Its orderly end is no restart: everything is withdrawn at once.
    assert_eq!(rig.stop(), Stopped::Withdrawn);
    rack.has(0);
}

/// It writes a line before it tells its peers, and who reads it may be dead: its minder does, so that it comes to tell them.
#[test]
fn an_engine_whose_log_nobody_reads_takes_its_leave() {
    let directory = tempfile::tempdir().unwrap();
    let engine = directory.path().join("engine");
    // More than a pipe holds.
    let text = "#!/bin/sh\ntrap 'echo stopping; head -c 200000 /dev/zero; echo told >told; exit' TERM\necho up\n\
                while :; do sleep 0.05; done\n";
    std::fs::write(&engine, text).unwrap();
    std::fs::set_permissions(&engine, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ((log, log_end), (life, lifeline)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let mut minder = Command::new(program("edged"))
        .arg0("edge-minder")
        .arg(&engine)
        .current_dir(directory.path())
        .stdin(life)
        .stdout(Stdio::null())
        .stderr(log_end)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(log);
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    // As when edged is killed.
    drop((log, lifeline));
    let how = until("the minder has ended", || minder.try_wait().unwrap());
    assert!(how.success(), "{how}");
    assert!(directory.path().join("told").exists(), "it was cut off");
}

#[test]
fn a_frozen_engine_is_replaced() {
    let Some(rack) = Rack::start("freeze", TOR) else { return };
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan()));
    rig.established("tor");
    rack.has(2);
    let frozen = pid(&rig);
    kill_process(frozen, Signal::STOP).unwrap();
    // Nobody who wants something waits for it.
    let begun = std::time::Instant::now();
    rig.want(Some(wanted(&plan(), Tell::Withdrawn)));
    assert!(begun.elapsed() < Duration::from_secs(1));
    rig.until("another child", |seen| {
        seen.engine.pid.is_some_and(|pid| pid.cast_signed() != frozen.as_raw_nonzero().get())
    });
    assert!(test_kill_process(frozen).is_err(), "the old one is gone");
    rack.has(0);
}

#[test]
fn without_a_permit_nothing_is_told_and_everything_can_be_taken_back() {
    let Some(rack) = Rack::start("permit", TOR) else { return };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    let engine = || Foreign::start(&rack, Path::new(GOBGPD), &format!("unix://{}", socket.display()), &[]);
    let _engine = engine();
    let mut plan = plan();
    plan.engine = Engine::Unix { path: socket.clone() };
    // What the guard has undone that is known to us; 0: there is something that is not.
    let known = Arc::new(AtomicU64::new(1));
    let asked = known.clone();
    let permit = move || Some(asked.load(Ordering::Relaxed)).filter(|known| *known > 0);
    let rig = Rig::with(&rack.edge, Permit::new(permit));
    rig.set(announced(&plan));
    rig.established("tor");
    rack.has(2);

    // Somebody takes our paths out of the engine, as the guard does, and the speaker reads the engine anew.
    known.store(0, Ordering::Relaxed);
    let take = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::connect(&Place::Unix(socket.clone())).await.unwrap();
            let paths = client.read().await.unwrap().seen.paths.into_values().collect();
            client.call(&Call::Withdraw(paths)).await.unwrap();
        });
    };
    take();
    rack.has(0);
    let before = rack.updates("10.1.1.1");
    let generation = rig.want(Some(announced(&plan)));
    rig.until("it has looked and waits", |seen| {
        seen.generation == generation && !seen.is_settled && !told(seen, "tor", V4)
    });
    assert_eq!(rack.updates("10.1.1.1"), before);
    // Known and judged: it is not to be told, or it is.
    rig.want(Some(wanted(&plan, Tell::Withdrawn)));
    known.store(2, Ordering::Relaxed);
    rig.until("nothing is left to do", |seen| seen.generation == generation + 1 && seen.is_settled);
    assert_eq!(rack.updates("10.1.1.1"), before);
    rig.set(announced(&plan));
    rack.has(2);
    // Taking back needs no permit.
    known.store(0, Ordering::Relaxed);
    rig.want(Some(wanted(&plan, Tell::Withdrawn)));
    rack.has(0);
}

#[test]
fn somebody_else_s_engine_is_filled_adopted_and_left_in_order() {
    let Some(rack) = Rack::start("external", TOR) else { return };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("engine.sock");
    let engine = || Foreign::start(&rack, Path::new(GOBGPD), &format!("unix://{}", socket.display()), &[]);
    let mut plan = plan();
    plan.engine = Engine::Unix { path: socket.clone() };
    let rig = Rig::new(&rack.edge);
    let generation = rig.want(Some(announced(&plan)));
    rig.until("it says that nobody is there", |seen| {
        seen.engine.error.as_deref().is_some_and(|error| error.contains("engine.sock"))
    });
    let first = engine();
    rig.until("it is filled", |seen| seen.generation == generation && seen.is_settled);
    rig.established("tor");
    rack.has(2);
    assert_eq!(rig.seen().engine.pid, None);
    drop(rig);

    // We died; the engine lives and tells on. The next of us takes it over without a word to the router.
    let before = rack.updates("10.1.1.1");
    assert_eq!(rack.router.kernel_routes(), 2);
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rig.established("tor");
    rig.until("adj-out has both", |seen| told(seen, "tor", V4) && told(seen, "tor", V6));
    assert_eq!((rack.updates("10.1.1.1"), rack.dropped("10.1.1.1")), (before, 0));
    drop(rig);

    // The next wants less: what is ours and not wanted any more goes.
    plan.prefixes.pop();
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rack.has(1);
    assert_eq!(rig.stop(), Stopped::Withdrawn);
    rack.has(0);
    assert_eq!(rack.dropped("10.1.1.1"), 0, "the session stays");

    // It dies and comes back empty.
    let rig = Rig::new(&rack.edge);
    rig.set(announced(&plan));
    rack.has(1);
    drop(first);
    rig.until("it is away", |seen| session(seen, "tor") == SessionState::Absent);
    let _engine = engine();
    rack.has(1);
    rig.until("it was filled anew", |seen| seen.engine.restarts == 1 && told(seen, "tor", V4));
}

#[test]
fn an_engine_over_tcp_needs_no_tls_where_nobody_asks_for_it() {
    let Some(rack) = Rack::start("tcp", TOR) else { return };
    let _engine = Foreign::start(&rack, Path::new(GOBGPD), API, &[]);
    let plan = Bgp { engine: Engine::Tcp { address: API.parse().unwrap(), tls: None }, ..plan() };
    tell_and_take_back(&rack, &plan, Left::Running);
}

#[test]
fn an_engine_over_tls_is_spoken_to_as_its_certificate_says() {
    let Some(rack) = Rack::start("tls", TOR) else { return };
    let directory = tempfile::tempdir().unwrap();
    let secured = Secured::new(directory.path());
    let with = |place: Engine| announced(&Bgp { engine: place, ..plan() });
    let right = || secured.place("ca.pem", ENGINE, None);
    // Each of these is one line, and nothing is told to somebody who is not who he should be.
    let engine = Foreign::start(&rack, Path::new(GOBGPD), API, &secured.words("engine", false));
    let plain = Engine::Tcp { address: API.parse().unwrap(), tls: None };
    for (place, said) in [
        (secured.place("stranger.pem", ENGINE, None), "UnknownIssuer"),
        (secured.place("ca.pem", "other.edge.test", None), "not valid for name"),
        (secured.place("nothing.pem", ENGINE, None), "nothing.pem: No such file"),
        (secured.place("engine.key", ENGINE, None), "engine.key: no CERTIFICATE in it"),
        (plain, API),
    ] {
        let rig = Rig::new(&rack.edge);
        rig.want(Some(with(place)));
        let seen = rig.until(said, |seen| seen.engine.error.as_deref().is_some_and(|error| error.contains(said)));
        println!("{}", seen.engine.error.as_deref().unwrap());
        assert_eq!(rack.router.kernel_routes(), 0);
    }
    tell_and_take_back(&rack, &Bgp { engine: right(), ..plan() }, Left::Running);

    // One that starts anew with another certificate is not trusted, and once more with a good one it is.
    let rig = Rig::new(&rack.edge);
    rig.set(with(right()));
    rack.has(2);
    drop(engine);
    let expired = Foreign::start(&rack, Path::new(GOBGPD), API, &secured.words("expired", false));
    let said = "expired";
    rig.until(said, |seen| seen.engine.error.as_deref().is_some_and(|error| error.contains(said)));
    rack.has(0);
    drop(expired);
    let _engine = Foreign::start(&rack, Path::new(GOBGPD), API, &secured.words("engine", false));
    rack.has(2);
    rig.until("it was filled anew", |seen| seen.engine.restarts == 1 && told(seen, "tor", V4));
}

#[test]
fn an_engine_that_asks_for_a_certificate_gets_one() {
    let Some(rack) = Rack::start("mtls", TOR) else { return };
    let directory = tempfile::tempdir().unwrap();
    let secured = Secured::new(directory.path());
    let _engine = Foreign::start(&rack, &gobgpd4().unwrap(), API, &secured.words("engine", true));
    for (client, said) in [(None, "ertificate"), (Some("expired"), "ertificate"), (Some("nobody"), "nobody.pem")] {
        let rig = Rig::new(&rack.edge);
        rig.want(Some(announced(&Bgp { engine: secured.place("ca.pem", ENGINE, client), ..plan() })));
        let seen = rig.until(said, |seen| seen.engine.error.as_deref().is_some_and(|error| error.contains(said)));
        println!("{client:?}: {}", seen.engine.error.as_deref().unwrap());
        assert_eq!(rack.router.kernel_routes(), 0);
    }
    tell_and_take_back(&rack, &Bgp { engine: secured.place("ca.pem", ENGINE, Some(CLIENT)), ..plan() }, Left::Running);
}
