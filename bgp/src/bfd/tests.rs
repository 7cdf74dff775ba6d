use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn settings() -> Settings {
    Settings { transmit: 300 * MS, receive: 300 * MS, multiplier: 3, is_passive: false, is_disabled: false }
}

fn packet(state: State) -> Packet {
    Packet {
        state,
        diagnostic: Diagnostic::NONE,
        is_poll: false,
        is_final: false,
        is_demand: false,
        multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 7,
        desired_transmit: 300 * MS,
        required_receive: 300 * MS,
    }
}

#[test]
fn a_packet_is_these_bytes() {
    let packet = Packet { is_poll: true, diagnostic: Diagnostic::NEIGHBOR_DOWN, ..packet(State::Up) };
    let bytes = encode(&packet);
    let expected = [0x23, 0xe0, 3, 24, 0, 0, 0, 9, 0, 0, 0, 7, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];
    assert_eq!(bytes, expected);
    assert_eq!(decode(&bytes), Ok(packet));
}

#[test]
fn what_is_malformed_has_a_reason() {
    let good = encode(&packet(State::Up));
    for (at, byte, why) in [
        (0, 0x43, Discard::Version),
        (2, 0, Discard::Multiplier),
        (3, 23, Discard::Short),
        (3, 25, Discard::Short),
        (1, 0xc1, Discard::Multipoint),
        (1, 0xc4, Discard::Authenticated),
        (7, 0, Discard::Discriminator),
        (11, 0, Discard::Discriminator),
    ] {
        let mut bad = good;
        bad[at] = byte;
        assert_eq!(decode(&bad), Err(why), "byte {at}");
    }
    assert_eq!(decode(&good[..23]), Err(Discard::Short));
    let mut first = encode(&packet(State::Down));
    first[11] = 0;
    assert!(decode(&first).is_ok(), "who does not know us is down");
    let mut long = good.to_vec();
    long.push(0);
    assert!(decode(&long).is_ok());
}

proptest! {
    #[test]
    fn foreign_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut session = Session::new(Duration::ZERO, 7, settings());
        if let Ok(packet) = decode(&bytes) {
            session.received(MS, &packet);
            session.tick(2 * MS, 0);
            let _ = session.deadline();
        }
    }
}

#[test]
fn a_packet_finds_its_session_by_peer_and_discriminator() {
    let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let sessions = [("a", a, 7), ("b", b, 8)];
    let find = |packet: Packet, source| select(&packet, source, sessions);
    assert_eq!(find(packet(State::Up), a), Ok("a"));
    assert_eq!(find(packet(State::Up), b), Err(Discard::NoSession), "b uses the discriminator of a");
    assert_eq!(find(Packet { your_discriminator: 0, ..packet(State::Down) }, b), Ok("b"));
    assert!(Hops::One.believes(255) && !Hops::One.believes(254));
    let several = Hops::Several { minimum_ttl: 250 };
    assert!(several.believes(250) && !several.believes(249));
    assert_eq!((Hops::One.port(), several.port()), (3784, 4784));
}

/// §6.8.6, the diagram of §6.2.
#[test]
fn states_follow_each_other_as_in_the_rfc() {
    use State::{AdminDown, Down, Init, Up};
    for (ours, theirs, next) in [
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Down, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Init, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
        (Up, AdminDown, Down),
    ] {
        let mut session = Session::new(Duration::ZERO, 7, settings());
        for state in match ours {
            Init => &[Down][..],
            Up => &[Down, Init],
            _ => &[],
        } {
            session.received(MS, &packet(*state));
        }
        assert_eq!(session.state(), ours);
        session.received(2 * MS, &packet(theirs));
        assert_eq!(session.state(), next, "{ours:?} hears {theirs:?}");
    }
}

/// Two sessions on a link with a delay; what each sends arrives unless the link is cut.
struct Pair {
    now: Duration,
    sides: [Session; 2],
    flight: Vec<(Duration, usize, Packet)>,
    cut: [bool; 2],
    random: u32,
    sent: [Vec<(Duration, Packet)>; 2],
}

impl Pair {
    fn new(a: Settings, b: Settings) -> Self {
        let sides = [Session::new(Duration::ZERO, 7, a), Session::new(Duration::ZERO, 9, b)];
        let sent = [Vec::new(), Vec::new()];
        Self { now: Duration::ZERO, sides, flight: Vec::new(), cut: [false; 2], random: 1, sent }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self.sides.iter().filter_map(Session::deadline);
            let next = timers.chain(self.flight.iter().map(|(due, ..)| *due)).min();
            let Some(next) = next.map(|next| next.max(self.now)).filter(|next| *next <= end) else { break };
            self.now = next;
            let (due, rest): (Vec<_>, Vec<_>) = self.flight.drain(..).partition(|(due, ..)| *due <= next);
            self.flight = rest;
            for (_, to, packet) in due {
                let read = decode(&encode(&packet)).unwrap();
                self.sides[to].received(next, &read);
            }
            for side in 0..2 {
                self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                for packet in self.sides[side].tick(next, self.random >> 8) {
                    self.sent[side].push((next, packet));
                    if !self.cut[side] {
                        self.flight.push((next + MS, 1 - side, packet));
                    }
                }
            }
        }
        self.now = end;
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }
}

#[test]
fn two_sides_come_up_agree_on_a_pace_and_notice_a_cut_within_the_detection_time() {
    let mut pair = Pair::new(settings(), Settings { transmit: 100 * MS, ..settings() });
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sides[0].reason(), Reason::Heard);
    // b would send every 100 ms, but a bears one each 300 ms.
    assert_eq!(pair.sides[1].pace(), Some(300 * MS));
    assert_eq!(pair.sides[0].detection(), Some(900 * MS));
    let gaps: Vec<Duration> = pair.sent[1].windows(2).rev().take(5).map(|two| two[1].0 - two[0].0).collect();
    assert!(gaps.iter().all(|gap| (225 * MS..=300 * MS).contains(gap)), "{gaps:?}");
    assert!(!pair.sent[1].last().unwrap().1.is_poll, "the poll was answered");

    pair.cut = [true, true];
    let cut = pair.now;
    pair.run(Duration::from_millis(905));
    assert_eq!(pair.states(), [State::Down; 2]);
    assert_eq!(pair.sides[0].reason(), Reason::Silent { detection: 900 * MS });
    assert!(pair.sides[0].since() <= cut + 901 * MS);
    assert_eq!(pair.sides[0].counters().lost, 1);
    pair.cut = [false, false];
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn a_path_that_is_cut_one_way_is_down_on_both_sides() {
    let mut pair = Pair::new(settings(), settings());
    pair.run(Duration::from_secs(4));
    pair.cut = [true, false];
    pair.run(Duration::from_millis(910));
    assert_eq!(pair.states(), [State::Down; 2]);
    assert_eq!(pair.sides[0].reason(), Reason::PeerDown { diagnostic: Diagnostic::TIME_EXPIRED });
    // And stays so: b hears nothing.
    pair.run(Duration::from_secs(10));
    assert!(!pair.sides[1].is_up() && !pair.sides[0].is_up());
}

#[test]
fn new_settings_are_agreed_without_a_loss() {
    let mut pair = Pair::new(settings(), settings());
    pair.run(Duration::from_secs(4));
    for (transmit, receive) in [(50, 50), (1000, 1000), (20, 500), (300, 300)] {
        let next = Settings { transmit: transmit * MS, receive: receive * MS, ..settings() };
        let now = pair.now;
        pair.sides[0].set(now, next);
        pair.run(Duration::from_secs(5));
        assert_eq!(pair.states(), [State::Up; 2]);
        assert_eq!(pair.sides[1].detection(), Some((transmit * MS).max(300 * MS) * 3));
        assert_eq!(pair.sides[1].pace(), Some((receive * MS).max(300 * MS)));
        assert!(pair.sent[0].iter().any(|(at, packet)| *at >= now && packet.is_poll));
        assert!(pair.sent[1].iter().any(|(at, packet)| *at >= now && packet.is_final));
    }
    assert_eq!(pair.sides[0].counters().lost + pair.sides[1].counters().lost, 0);
}

#[test]
fn a_slower_pace_waits_for_the_answer() {
    let mut pair = Pair::new(settings(), settings());
    pair.run(Duration::from_secs(4));
    // The answer cannot arrive: until it does the old pace is kept, and the old detection time.
    pair.cut[1] = true;
    let now = pair.now;
    pair.sides[0].set(now, Settings { transmit: 2000 * MS, receive: 10 * MS, ..settings() });
    assert_eq!(pair.sides[0].pace(), Some(300 * MS));
    assert_eq!(pair.sides[0].detection(), Some(900 * MS));
}

#[test]
fn a_passive_side_does_not_begin() {
    let passive = Settings { is_passive: true, ..settings() };
    let mut pair = Pair::new(passive, passive);
    pair.run(Duration::from_secs(5));
    assert!(pair.sent.iter().all(Vec::is_empty));
    assert_eq!(pair.states(), [State::Down; 2]);
    let mut pair = Pair::new(passive, settings());
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn held_down_by_the_administrator_the_peer_is_told_why() {
    let mut pair = Pair::new(settings(), settings());
    pair.run(Duration::from_secs(4));
    let now = pair.now;
    pair.sides[0].set(now, Settings { is_disabled: true, ..settings() });
    pair.run(10 * MS);
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    assert_eq!(pair.sides[1].reason(), Reason::PeerAdminDown);
    // It falls silent after a while.
    pair.run(Duration::from_secs(20));
    let quiet = pair.sent[0].len();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.sent[0].len(), quiet);
    let now = pair.now;
    pair.sides[0].set(now, settings());
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn with_a_multiplier_of_one_no_packet_uses_the_whole_interval() {
    let single = Settings { multiplier: 1, ..settings() };
    let mut pair = Pair::new(single, single);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sides[0].counters().lost, 0);
    let gaps = pair.sent[0].windows(2).skip(10).map(|two| two[1].0 - two[0].0);
    assert!(gaps.max().unwrap() <= 270 * MS);
}

#[test]
fn a_peer_that_wants_nothing_is_left_alone() {
    let mut session = Session::new(Duration::ZERO, 7, settings());
    session.tick(MS, 0);
    session.received(2 * MS, &Packet { required_receive: Duration::ZERO, ..packet(State::Down) });
    session.tick(2 * MS, 0);
    assert_eq!(session.pace(), None);
    assert_eq!(session.tick(900 * MS, 0), []);
    assert_eq!(session.deadline(), Some(902 * MS), "only its silence is waited for");
}
