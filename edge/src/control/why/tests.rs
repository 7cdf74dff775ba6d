use std::sync::Arc;
use std::time::Duration;

use edge_bgp::PrefixSeen;
use edge_bgp::vrrp::Family;
use edge_config::announce::{Asn, Attributes, Engine, L2Group, Offer, Peer, PeerAddress, PeerAsn, Prefix};

use super::*;
use crate::control::fixture::{ago, now, world};
use crate::control::observed::{Drain, DrainStep, Observed};
use crate::vip::gate::Stance;
use crate::vip::guard::GuardObserved;
use crate::vip::l2::{L2Observed, LeaderSeen};
use crate::vip::{AddressState, AddressesObserved, Withheld};

const VIP: &str = "192.0.2.10";

fn vip() -> IpAddr {
    VIP.parse().unwrap()
}

fn peer(name: &str) -> Peer {
    let address = PeerAddress::Address("192.0.2.254".parse().unwrap());
    Peer::plain(name, address, PeerAsn::Number(Asn::new(65000).unwrap()))
}

fn session(name: &str, state: SessionState, error: Option<&str>) -> PeerSeen {
    PeerSeen {
        name: name.into(),
        address: None,
        session: state,
        since: ago(60),
        asn: Some(65000),
        router_id: None,
        error: error.map(str::to_owned),
        received: 0,
        accepted: 0,
        advertised: 1,
        flaps: 0,
        hold_time: Some(9),
    }
}

fn told(peer: &str) -> Told {
    Told {
        peer: peer.into(),
        since: ago(30),
        next_hop: Some("192.0.2.1".parse().unwrap()),
        communities: vec![0xffff_0000],
        large_communities: vec![(64512, 1, 2)],
        as_path: vec![64512],
        med: None,
        local_pref: None,
    }
}

/// The VIP is offered to two routers, both have it, and nothing speaks against it.
fn scene() -> World {
    let mut world = world();
    let mut compiled = (*world.compiled).clone();
    let snapshot = Arc::make_mut(&mut compiled.snapshot);
    let prefix: ipnet::IpNet = format!("{VIP}/32").parse().unwrap();
    snapshot.announce.bgp = Some(Bgp {
        engine: Engine::Child { program: "/usr/bin/gobgpd".into() },
        asn: Asn::new(64512).unwrap(),
        router_id: "192.0.2.1".parse().unwrap(),
        listen: None,
        peers: vec![peer("tor1"), peer("tor2")],
        prefixes: vec![Prefix {
            prefix,
            vips: vec![vip()],
            next_hop: Default::default(),
            offers: vec![Offer { peers: vec!["tor1".into(), "tor2".into()], attributes: Attributes::default() }],
        }],
        graceful_shutdown: Duration::from_secs(5),
    });
    world.compiled = Arc::new(compiled);
    let mut bgp = edge_bgp::Observed::nothing(ago(100));
    bgp.engine.state = EngineState::Running;
    bgp.peers =
        vec![session("tor1", SessionState::Established, None), session("tor2", SessionState::Established, None)];
    bgp.prefixes = vec![PrefixSeen { prefix, is_held: true, told: vec![told("tor1"), told("tor2")] }];
    edit(&mut world, |observed| {
        observed.network.stances.insert(vip(), Stance::Announced);
        let state = AddressState::Ours { interface: "lo".to_owned() };
        observed.network.addresses =
            Arc::new(AddressesObserved { addresses: [(vip(), state)].into(), notices: Vec::new() });
        observed.network.bgp = Some(Arc::new(bgp));
    });
    world
}

fn edit(world: &mut World, change: impl FnOnce(&mut Observed)) {
    let mut observed = (*world.observed).clone();
    change(&mut observed);
    world.observed = Arc::new(observed);
}

fn edit_bgp(world: &mut World, change: impl FnOnce(&mut edge_bgp::Observed)) {
    edit(world, |observed| {
        let mut bgp = (**observed.network.bgp.as_ref().unwrap()).clone();
        change(&mut bgp);
        observed.network.bgp = Some(Arc::new(bgp));
    });
}

fn ask(world: &World) -> Why {
    why(world.scene(), &world.edge, vip()).unwrap()
}

#[test]
fn the_verdict_and_its_reason() {
    type Change = fn(&mut World);
    let cases: &[(&str, Change, State, &str)] = &[
        ("all is well", |_| {}, State::Up, ""),
        (
            "one router was not told",
            |world| {
                edit_bgp(world, |bgp| {
                    bgp.prefixes[0].told.remove(1);
                    bgp.peers[1] = session("tor2", SessionState::Active, Some("refused"));
                })
            },
            State::Degraded,
            "some peers have not been told",
        ),
        (
            "nobody was told",
            |world| {
                edit_bgp(world, |bgp| {
                    bgp.prefixes[0].told.clear();
                    bgp.peers = ["tor1", "tor2"]
                        .map(|name| session(name, SessionState::Active, Some("the peer wants AS 1, not 64512")))
                        .into();
                })
            },
            State::Down,
            "the peer wants AS 1, not 64512",
        ),
        (
            "no gobgpd",
            |world| {
                edit_bgp(world, |bgp| {
                    bgp.prefixes[0].told.clear();
                    bgp.engine.state = EngineState::Down;
                    bgp.engine.error = Some("/usr/bin/gobgpd: not found".to_owned());
                })
            },
            State::Down,
            "nobody has been told: /usr/bin/gobgpd: not found",
        ),
        (
            "a drain",
            |world| {
                edit(world, |observed| {
                    observed.drain = Some(Drain { since: now(), step: DrainStep::Withdrawn });
                    observed.network.stances.insert(vip(), Stance::Withheld(Withheld::Draining));
                })
            },
            State::Down,
            "this edge stays: drained since",
        ),
        (
            "a hold-down",
            |world| {
                edit(world, |observed| {
                    let stance = Stance::Held { until: now(), after: Withheld::NoListener };
                    observed.network.stances.insert(vip(), stance);
                })
            },
            State::Down,
            "since it failed: no listener of its Gateway serves",
        ),
        (
            "not bound",
            |world| {
                edit(world, |observed| {
                    let state = AddressState::Failed("cannot add it".to_owned());
                    observed.network.addresses =
                        Arc::new(AddressesObserved { addresses: [(vip(), state)].into(), notices: Vec::new() });
                })
            },
            State::Down,
            "address is bound: cannot add it",
        ),
        (
            "a worker that hangs",
            |world| {
                edit(world, |observed| {
                    let why = "worker 0 stands still for 700 ms".to_owned();
                    observed.network.stances.insert(vip(), Stance::Withheld(Withheld::Standstill(why.clone())));
                    observed.network.guard = Arc::new(GuardObserved { failing: Some(why), ..Default::default() });
                })
            },
            State::Down,
            "nothing stands still: worker 0 stands still for 700 ms",
        ),
        ("no worker", |world| edit(world, |observed| observed.serving = false), State::Down, "no worker serves"),
    ];
    for (name, change, state, reason) in cases {
        let mut world = scene();
        change(&mut world);
        let why = ask(&world);
        assert_eq!(why.health.state, *state, "{name}: {why:#?}");
        assert!(why.health.reason.contains(reason), "{name}: {}", why.health.reason);
    }
    assert_eq!(why(scene().scene(), "gw1", "192.0.2.99".parse().unwrap()), None, "no VIP");
}

#[test]
fn what_a_peer_was_told_is_told() {
    let why = ask(&scene());
    let row = why.peers[0].told.as_ref().unwrap();
    assert_eq!(row.communities, ["65535:0", "64512:1:2"]);
    assert_eq!((row.prefix.as_str(), row.next_hop.as_deref()), ("192.0.2.10/32", Some("192.0.2.1")));
    assert!(why.is_told());
    assert_eq!(all(&scene()).len(), 2);
}

#[test]
fn who_waits_behind_a_leader_is_well() {
    let group = L2Group {
        name: "lan".into(),
        interface: "eth0".to_owned(),
        router: 7,
        priority: 100,
        interval: Duration::from_millis(300),
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast: Vec::new(),
        key: None,
        virtual_mac: false,
        vips: vec![vip()],
        also: Vec::new(),
        watch: None,
    };
    let leader = |text: &str| Some(LeaderSeen { address: text.parse().unwrap(), priority: 200 });
    for (role, held, leader, state, reason) in [
        (Role::Active, VipHeld::Held, leader("10.0.0.1"), State::Up, ""),
        (Role::Active, VipHeld::Taking, leader("10.0.0.1"), State::Pending, "on its way"),
        (Role::Backup, VipHeld::NotHeld, leader("10.0.0.2"), State::Up, "the edge at 10.0.0.2 leads"),
        (Role::Backup, VipHeld::NotHeld, None, State::Pending, "no edge leads yet"),
        (Role::Active, VipHeld::Failed("no permission".to_owned()), None, State::Down, "no permission"),
    ] {
        let mut world = scene();
        let mut compiled = (*world.compiled).clone();
        let announce = &mut Arc::make_mut(&mut compiled.snapshot).announce;
        (announce.bgp, announce.l2) = (None, vec![group.clone()]);
        world.compiled = Arc::new(compiled);
        edit(&mut world, |observed| {
            let vip = VipSeen { address: vip(), state: held.clone(), conflicts: Vec::new(), announced: 0 };
            let election = ElectionSeen {
                family: Family::V4,
                role,
                since: ago(5),
                reason: "an election".to_owned(),
                priority: Some(100),
                leader,
                vips: vec![vip],
                problems: Vec::new(),
                counters: Default::default(),
            };
            let group = GroupSeen {
                name: group.name.clone(),
                interface: group.interface.clone(),
                router: group.router,
                link: Ok(()),
                elections: vec![election],
            };
            observed.network.bgp = None;
            observed.network.l2 = Arc::new(L2Observed { groups: vec![group], notices: Vec::new() });
        });
        let why = ask(&world);
        assert_eq!((why.health.state, why.is_told()), (state, held == VipHeld::Held), "{held:?}: {why:#?}");
        assert!(why.health.reason.contains(reason), "{held:?}: {}", why.health.reason);
    }
}
