use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::spawn_local;

use super::super::udp::{Serving, SessionEnd, Udp, UdpLimits};
use super::*;
use crate::proxy::metrics::{ListenerSeries, UdpDrop};
use crate::proxy::reason::Reason;

struct Fixture {
    udp: Rc<Udp<Fixed>>,
    address: SocketAddr,
    series: Arc<ListenerSeries>,
    ended: Rc<RefCell<Vec<SessionEnd>>>,
}

fn serving(backends: &[(u32, Option<u32>)], targets: &Fixed, series: &Arc<ListenerSeries>) -> Serving<Fixed> {
    let draws = Cell::new(0u32);
    Serving {
        route: (!backends.is_empty()).then(|| route(backends)),
        sources: None,
        targets: targets.clone(),
        series: Arc::clone(series),
        // Draws that are spread evenly.
        draw: Box::new(move || draws.replace(draws.get().wrapping_add(0x9e37_79b9))),
        most: usize::MAX,
    }
}

fn start(address: &str, backends: &[(u32, Option<u32>)], targets: &Fixed, limits: UdpLimits) -> Fixture {
    let socket = std::net::UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let series = Arc::<ListenerSeries>::default();
    let ended = Rc::<RefCell<Vec<SessionEnd>>>::default();
    let log = Rc::clone(&ended);
    let udp = Udp::start(
        UdpSocket::from_std(socket).unwrap(),
        limits,
        serving(backends, targets, &series),
        Arc::default(),
        Box::new(move |end| log.borrow_mut().push(end.clone())),
    );
    spawn_local(Rc::clone(&udp).run());
    Fixture { udp, address, series, ended }
}

impl Fixture {
    fn dropped(&self, drop: UdpDrop) -> u64 {
        self.series.udp_dropped[drop as usize].value()
    }
}

/// An endpoint that answers with its name and what it got.
async fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn_local(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), &buffer[..count]].concat();
            let _ = socket.send_to(&answer[..answer.len().min(65_507)], from).await;
        }
    });
    address
}

struct Client(UdpSocket);

impl Client {
    async fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    async fn send(&self, to: SocketAddr, text: &str) {
        self.0.send_to(text.as_bytes(), to).await.unwrap();
    }

    /// The answer, and from where it came.
    async fn answer(&self) -> Option<(String, SocketAddr)> {
        let mut buffer = vec![0; 65_535];
        let received = tokio::time::timeout(Duration::from_secs(2), self.0.recv_from(&mut buffer)).await.ok()?;
        let (count, from) = received.unwrap();
        Some((String::from_utf8(buffer[..count].to_vec()).unwrap(), from))
    }

    async fn ask(&self, to: SocketAddr, text: &str) -> String {
        self.send(to, text).await;
        self.answer().await.expect("an answer").0
    }
}

#[test]
fn the_bound_of_all_addresses_holds_for_each() {
    on_a_worker(async {
        let targets = Fixed::new(&[&[echo("a").await]]);
        let all = Arc::<AtomicUsize>::default();
        let series = Arc::<ListenerSeries>::default();
        let open = || async {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let serving = Serving { most: 2, ..serving(&[(1, Some(0))], &targets, &series) };
            let udp = Udp::start(socket, UdpLimits::default(), serving, Arc::clone(&all), Box::new(|_| ()));
            spawn_local(Rc::clone(&udp).run());
            (udp, address)
        };
        let ((one, first), (two, second)) = (open().await, open().await);
        let clients = [Client::new().await, Client::new().await, Client::new().await];
        for (client, address) in clients.iter().zip([first, second]) {
            client.send(address, "x").await;
            assert_eq!(client.answer().await, Some(("ax".to_owned(), address)));
        }
        clients[2].send(first, "x").await;
        until("it is dropped", || series.udp_dropped[UdpDrop::TableFull as usize].value() == 1).await;
        assert_eq!((one.sessions(), two.sessions(), all.load(Ordering::Relaxed)), (1, 1, 2));
        two.close();
        until("the place is free", || all.load(Ordering::Relaxed) == 1).await;
        clients[2].send(first, "y").await;
        assert_eq!(clients[2].answer().await, Some(("ay".to_owned(), first)));
    });
}

#[test]
fn a_session_stays_with_its_endpoint_and_answers_come_from_the_vip() {
    on_a_worker(async {
        let targets = Fixed::new(&[&[echo("a").await, echo("b").await, echo("c").await]]);
        let one = start("127.0.0.1:0", &[(1, Some(0))], &targets, UdpLimits::default());
        // The same port on another address of the same host.
        let vip = format!("127.0.0.2:{}", one.address.port());
        let two = start(&vip, &[(1, Some(0))], &targets, UdpLimits::default());
        let client = Client::new().await;
        for fixture in [&one, &two] {
            let first = client.ask(fixture.address, "x").await;
            for _ in 0..3 {
                client.send(fixture.address, "x").await;
                assert_eq!(client.answer().await, Some((first.clone(), fixture.address)));
            }
            assert_eq!(fixture.udp.sessions(), 1);
        }
        let other = Client::new().await;
        assert_ne!(other.ask(one.address, "x").await, client.ask(one.address, "x").await);
        assert_eq!((one.udp.sessions(), targets.loads()), (2, 3));
        let series = &one.series;
        assert_eq!((series.udp_datagrams_received.value(), series.udp_datagrams_sent.value()), (6, 6));
        assert_eq!((series.received.value(), series.sent.value(), series.udp_sessions_opened.value()), (6, 12, 2));
        one.udp.close();
        assert_eq!((one.udp.sessions(), one.series.udp_sessions_closed.value()), (0, 2));
        assert!(one.ended.borrow().iter().all(|end| end.reason == Some(Reason::Draining)));
    });
}

#[test]
fn empty_and_large_datagrams_pass() {
    on_a_worker(async {
        let targets = Fixed::new(&[&[echo("").await]]);
        let fixture = start("127.0.0.1:0", &[(1, Some(0))], &targets, UdpLimits::default());
        let client = Client::new().await;
        for size in [0, 1, 1500, 65_507] {
            let text = "x".repeat(size);
            assert!(client.ask(fixture.address, &text).await == text, "{size}");
        }
    });
}

#[test]
fn sessions_follow_weights_and_the_invalid_share_is_dropped() {
    on_a_worker(async {
        let targets = Fixed::new(&[&[echo("a").await], &[echo("b").await]]);
        let backends = [(50, Some(0)), (25, Some(1)), (25, None), (0, Some(1))];
        let fixture = start("127.0.0.1:0", &backends, &targets, UdpLimits::default());
        let mut counts = [0; 3];
        for _ in 0..100 {
            let client = Client::new().await;
            let before = fixture.dropped(UdpDrop::InvalidBackend);
            client.send(fixture.address, "x").await;
            until("taken", || {
                fixture.dropped(UdpDrop::InvalidBackend) > before
                    || fixture.series.udp_datagrams_sent.value() > counts[0] + counts[1]
            })
            .await;
            if fixture.dropped(UdpDrop::InvalidBackend) > before {
                counts[2] += 1;
            } else {
                let (answer, _) = client.answer().await.unwrap();
                counts[usize::from(answer == "bx")] += 1;
            }
        }
        assert!(
            (45..=55).contains(&counts[0]) && (20..=30).contains(&counts[1]) && (20..=30).contains(&counts[2]),
            "{counts:?}"
        );
    });
}

#[test]
fn what_cannot_be_served_is_dropped_and_counted() {
    on_a_worker(async {
        for (backends, endpoints, expected) in [
            (&[][..], &[][..], UdpDrop::InvalidBackend),
            (&[(0, Some(0))], &[], UdpDrop::InvalidBackend),
            (&[(1, None)], &[], UdpDrop::InvalidBackend),
            (&[(1, Some(0))], &[], UdpDrop::NoReadyEndpoint),
        ] {
            let fixture = start("127.0.0.1:0", backends, &Fixed::new(&[endpoints]), UdpLimits::default());
            Client::new().await.send(fixture.address, "x").await;
            until("dropped", || fixture.dropped(expected) == 1).await;
            assert_eq!(fixture.udp.sessions(), 0);
        }
    });
}

#[test]
fn the_table_is_bounded_and_idle_sessions_leave_it() {
    on_a_worker(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let targets = Fixed::new(&[&[echo("a").await], &[silent.local_addr().unwrap()]]);
        // A busy machine may stand still for a while between two datagrams.
        let (idle, unanswered) = (Duration::from_millis(1500), Duration::from_millis(700));
        let limits = UdpLimits { sessions: 2, idle, unanswered };
        let fixture = start("127.0.0.1:0", &[(1, Some(0))], &targets, limits);
        let clients = [Client::new().await, Client::new().await, Client::new().await];
        assert_eq!(clients[0].ask(fixture.address, "1").await, "a1");
        // A client whose endpoint never answers.
        fixture.udp.set(serving(&[(1, Some(1)), (0, Some(0))], &targets, &fixture.series));
        clients[1].send(fixture.address, "2").await;
        until("two sessions", || fixture.udp.sessions() == 2).await;
        clients[2].send(fixture.address, "3").await;
        until("the third is refused", || fixture.dropped(UdpDrop::TableFull) == 1).await;
        until("the unanswered one goes first", || fixture.udp.sessions() == 1).await;
        // Traffic keeps the other.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert_eq!(clients[0].ask(fixture.address, "1").await, "a1");
        }
        until("it goes too", || fixture.udp.sessions() == 0).await;
        assert_eq!(targets.loads(), 0);
        let ended = fixture.ended.borrow();
        let listed: Vec<_> = ended.iter().map(|end| (end.received, end.sent, end.reason)).collect();
        assert_eq!(listed, [(1, 0, None), (6, 12, None)]);
        assert!(ended[1].duration >= Duration::from_millis(2000));
    });
}

#[test]
fn an_endpoint_that_refuses_is_left() {
    on_a_worker(async {
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let good = echo("a").await;
        // The first choice is the second of the list.
        let targets = Fixed::new(&[&[good, gone]]);
        let fixture = start("127.0.0.1:0", &[(1, Some(0))], &targets, UdpLimits::default());
        let client = Client::new().await;
        client.send(fixture.address, "1").await;
        until("the ICMP error", || targets.notes() == [(gone, false)]).await;
        until("the session is over", || fixture.udp.sessions() == 0).await;
        assert_eq!(fixture.ended.borrow()[0].reason, Some(Reason::ConnectFailed));
        assert_eq!(client.ask(fixture.address, "2").await, "a2");
    });
}

#[test]
fn a_reload_ends_only_sessions_that_lost_their_backend() {
    on_a_worker(async {
        let (a, b) = (echo("a").await, echo("b").await);
        let targets = Fixed::new(&[&[a], &[b]]);
        let fixture = start("127.0.0.1:0", &[(1, Some(0))], &targets, UdpLimits::default());
        let client = Client::new().await;
        assert_eq!(client.ask(fixture.address, "1").await, "a1");
        // Weights change, a backend is added: the session stays, new ones go elsewhere.
        fixture.udp.set(serving(&[(0, Some(0)), (1, Some(1))], &targets, &fixture.series));
        assert_eq!(client.ask(fixture.address, "2").await, "a2");
        let other = Client::new().await;
        assert_eq!(other.ask(fixture.address, "3").await, "b3");
        // The endpoint is replaced: its session moves.
        let c = echo("c").await;
        targets.put(&[&[c], &[b]]);
        fixture.udp.set(serving(&[(1, Some(0)), (1, Some(1))], &targets, &fixture.series));
        assert_eq!(fixture.udp.sessions(), 1);
        assert_eq!(other.ask(fixture.address, "4").await, "b4");
        assert_ne!(client.ask(fixture.address, "5").await, "a5");
        // The route goes.
        fixture.udp.set(serving(&[], &targets, &fixture.series));
        assert_eq!(fixture.udp.sessions(), 0);
        until("their endpoints are free", || targets.loads() == 0).await;
        let reasons: Vec<_> = fixture.ended.borrow().iter().map(|end| end.reason).collect();
        assert_eq!(reasons, [Some(Reason::BackendClosed); 3]);
    });
}
