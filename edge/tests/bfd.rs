//! BFD against FRR's bfdd between network namespaces: both families, several hops, black holes, changes. Needs root and
//! the package frr; skips loudly without.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub)] // it is shared with the laboratory
#[path = "../../integration/src/netns.rs"]
mod netns;
#[path = "bfd/rig.rs"]
mod rig;

use std::net::UdpSocket;
use std::time::Duration;

use edge_bgp::bfd::{Diagnostic, Discard, Packet, State, encode};

use rig::{OURS, OURS6, Pair, THEIRS, THEIRS6, ip, peer, seen, until, wanted};

const MS: Duration = Duration::from_millis(1);

#[test]
fn sessions_come_up_and_a_black_hole_brings_both_sides_down() {
    let Some(pair) = Pair::new("up") else { return };
    let frr = pair.frr(&(peer(OURS, THEIRS) + &peer(OURS6, THEIRS6)));
    let bfd = pair.bfd();
    bfd.set(vec![wanted(THEIRS), wanted(THEIRS6)]);
    for (theirs, ours) in [(THEIRS, OURS), (THEIRS6, OURS6)] {
        until("both up", || seen(&bfd, theirs).state == State::Up && frr.peer(ours)["status"] == "up");
        until("agreed", || {
            seen(&bfd, theirs).detection == Some(900 * MS) && seen(&bfd, theirs).transmit == Some(300 * MS)
        });
        let remote = seen(&bfd, theirs).remote.unwrap();
        assert_eq!((remote.state, remote.multiplier, remote.transmit), (State::Up, 3, 300 * MS));
        until("FRR knows our pace", || frr.peer(ours)["remote-transmit-interval"] == 300);
    }
    pair.cut(true);
    for (theirs, ours) in [(THEIRS, OURS), (THEIRS6, OURS6)] {
        until("both down", || seen(&bfd, theirs).state == State::Down && frr.peer(ours)["status"] == "down");
        assert_eq!(seen(&bfd, theirs).reason, "the peer was silent for 900 ms");
        assert_eq!(frr.peer(ours)["diagnostic"], "control detection time expired");
    }
    pair.cut(false);
    for (theirs, ours) in [(THEIRS, OURS), (THEIRS6, OURS6)] {
        until("both up again", || seen(&bfd, theirs).state == State::Up && frr.peer(ours)["status"] == "up");
        assert_eq!(seen(&bfd, theirs).counters.lost, 1);
    }
    // A daemon that is killed is as silent as a path that is cut.
    frr.kill_bfdd();
    until("down", || seen(&bfd, THEIRS).state == State::Down);
    assert!(bfd.observed().borrow().discarded.is_empty());
    assert_eq!(seen(&bfd, THEIRS).problem, None);
}

#[test]
fn who_is_held_down_on_purpose_says_so() {
    let Some(pair) = Pair::new("ad") else { return };
    let frr = pair.frr(&peer(OURS, THEIRS));
    let bfd = pair.bfd();
    bfd.set(vec![wanted(THEIRS)]);
    until("both up", || seen(&bfd, THEIRS).state == State::Up && frr.peer(OURS)["status"] == "up");

    frr.configure(&["bfd", &format!("peer {OURS} local-address {THEIRS} interface eth0"), "shutdown"]);
    until("we follow", || seen(&bfd, THEIRS).state == State::Down);
    assert_eq!(seen(&bfd, THEIRS).reason, "the peer is administratively down");
    frr.configure(&["bfd", &format!("peer {OURS} local-address {THEIRS} interface eth0"), "no shutdown"]);
    until("up again", || seen(&bfd, THEIRS).state == State::Up);

    let mut held = wanted(THEIRS);
    held.is_disabled = true;
    bfd.set(vec![held]);
    until("FRR follows", || frr.peer(OURS)["status"] == "down");
    assert_eq!(frr.peer(OURS)["diagnostic"], "neighbor signaled session down");
    assert_eq!(frr.peer(OURS)["remote-diagnostic"], "administratively down");
    bfd.set(vec![wanted(THEIRS)]);
    until("up once more", || frr.peer(OURS)["status"] == "up");

    // Nobody wishes it any more: the same farewell, and not a silence.
    bfd.set(Vec::new());
    until("FRR follows again", || frr.peer(OURS)["remote-diagnostic"] == "administratively down");
    bfd.set(vec![wanted(THEIRS)]);
    until("and comes back", || frr.peer(OURS)["status"] == "up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bfd.stop());
    until("the end is told", || frr.peer(OURS)["remote-diagnostic"] == "administratively down");
}

#[test]
fn a_new_pace_is_agreed_without_a_loss() {
    let Some(pair) = Pair::new("iv") else { return };
    let frr = pair.frr(&peer(OURS, THEIRS));
    let bfd = pair.bfd();
    bfd.set(vec![wanted(THEIRS)]);
    until("both up", || seen(&bfd, THEIRS).state == State::Up && frr.peer(OURS)["status"] == "up");
    for (transmit, receive) in [(100, 300), (500, 700), (300, 300)] {
        let mut next = wanted(THEIRS);
        (next.bfd.transmit, next.bfd.receive) = (transmit * MS, receive * MS);
        bfd.set(vec![next]);
        until("FRR knows", || {
            let peer = frr.peer(OURS);
            peer["remote-transmit-interval"] == transmit && peer["remote-receive-interval"] == receive
        });
        until("we obey", || seen(&bfd, THEIRS).transmit == Some((transmit * MS).max(300 * MS)));
        let detection = (receive * MS).max(300 * MS) * 3;
        until("we wait", || seen(&bfd, THEIRS).detection == Some(detection));
    }
    frr.configure(&["bfd", "profile fast", "transmit-interval 600", "receive-interval 400"]);
    until("we know", || {
        seen(&bfd, THEIRS).detection == Some(1800 * MS) && seen(&bfd, THEIRS).transmit == Some(400 * MS)
    });
    assert_eq!((seen(&bfd, THEIRS).counters.lost, seen(&bfd, THEIRS).state), (0, State::Up));
    assert_eq!(frr.counters(OURS)["session-down"], 0);
}

#[test]
fn several_hops_link_local_peers_and_passive_sides() {
    let Some(pair) = Pair::new("mh") else { return };
    let (ours, theirs) = (pair.link_local(0), pair.link_local(1));
    let config = format!(
        " peer {OURS} multihop local-address {THEIRS}\n  profile fast\n  minimum-ttl 250\n !\n \
         peer {ours} local-address {theirs} interface eth0\n  profile fast\n !\n"
    );
    let frr = pair.frr(&config);
    let bfd = pair.bfd();
    let (mut far, mut near) = (wanted(THEIRS), wanted(&theirs));
    (far.is_multihop, far.bfd.minimum_ttl, far.local) = (true, 250, Some(ip(OURS)));
    far.bfd.is_passive = true;
    near.interface = Some("eth0".into());
    bfd.set(vec![far, near]);
    until("several hops", || seen(&bfd, THEIRS).state == State::Up);
    until("link-local", || seen(&bfd, &theirs).state == State::Up);
    until("FRR agrees", || frr.peer(OURS)["status"] == "up" && frr.peer(&ours)["status"] == "up");
    // The interface goes and comes again.
    pair.ip(0, "link set eth0 down");
    until("both down", || seen(&bfd, THEIRS).state == State::Down && seen(&bfd, &theirs).state == State::Down);
    pair.ip(0, "link set eth0 up");
    until("and up", || seen(&bfd, THEIRS).state == State::Up && seen(&bfd, &theirs).state == State::Up);
}

#[test]
fn what_cannot_be_believed_is_counted_and_what_cannot_work_has_a_reason() {
    let Some(pair) = Pair::new("no") else { return };
    let bfd = pair.bfd();
    let mut lost = wanted("fe80::7");
    lost.interface = Some("eth7".into());
    bfd.set(vec![wanted(THEIRS), lost]);
    until("no such interface", || {
        seen(&bfd, "fe80::7").problem == Some("cannot send to fe80::7: interface eth7 does not exist".into())
    });
    let packet = Packet {
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        is_poll: false,
        is_final: false,
        is_demand: false,
        multiplier: 3,
        my_discriminator: 1,
        your_discriminator: 0,
        desired_transmit: 300 * MS,
        required_receive: 300 * MS,
    };
    pair.run(1, || {
        let send = |ttl, bytes: &[u8]| {
            let socket = UdpSocket::bind((ip(THEIRS), 0)).unwrap();
            socket.set_ttl(ttl).unwrap();
            socket.send_to(bytes, (ip(OURS), 3784)).unwrap();
        };
        send(254, &encode(&packet));
        send(255, &encode(&packet)[..20]);
        send(255, &encode(&Packet { your_discriminator: 0x1234_5678, ..packet }));
    });
    until("all counted", || {
        let seen = bfd.observed().borrow().clone();
        [Discard::Hops, Discard::Short, Discard::NoSession].iter().all(|why| seen.discarded.get(why) == Some(&1))
    });
    assert_eq!(seen(&bfd, THEIRS).state, State::Down);
    // Another speaker has the port.
    let _other = pair.run(0, || UdpSocket::bind("0.0.0.0:4784").unwrap());
    let mut far = wanted(THEIRS);
    far.is_multihop = true;
    bfd.set(vec![far]);
    until("told", || {
        let seen = bfd.observed().borrow().clone();
        seen.notices
            .iter()
            .any(|notice| notice.starts_with("UDP port 4784 of IPv4: ") && notice.contains("another BFD speaker"))
    });
}
