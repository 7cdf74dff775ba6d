use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use tokio::sync::Notify;

use super::*;
use crate::proxy::h3::steering::Keys;
use crate::proxy::health::Health;
use crate::proxy::limits::Limits;

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A generation is not acknowledged while a socket of it is not accepted on, it is tried again without being asked to,
/// and the reason is known meanwhile.
#[test]
fn a_worker_that_cannot_accept_says_so_and_serves_when_it_can() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let shared = Arc::new(Shared {
        connections: AtomicUsize::new(0),
        udp_sessions: Arc::default(),
        affinity: Default::default(),
        deaf: vec![Mutex::default()],
        live: vec![AtomicU64::new(0)],
        pulses: vec![Default::default()],
        health: Health::new(1),
        registry: Arc::default(),
        tally: Default::default(),
        board: Arc::new(crate::proxy::challenges::Board::new(1)),
        authorities: crate::proxy::authorities::Authorities::new().0,
        ledger: Arc::default(),
        changed: Notify::new(),
    });
    let generation = |number| {
        let (snapshot, endpoints, tls) = Default::default();
        Arc::new(Generation {
            number,
            snapshot,
            endpoints,
            tls,
            secrets: Arc::default(),
            limits: Limits::default(),
            responders: Arc::default(),
            maintenance: None,
        })
    };
    let wanted = |number, sockets, mode| {
        Arc::new(Wanted { generation: generation(number), series: vec![Arc::default()], sockets, mode })
    };
    // Bound for no worker at all: there is no descriptor for this one.
    let bad = Arc::new(Bound::new(address, Transport::Tcp, 0, &Keys::new(b"test")).unwrap());
    let (sender, receiver) = watch::channel(wanted(1, vec![bad], Mode::Serve));
    let seat = Seat {
        index: 0,
        backend: Backend::Epoll,
        wanted: receiver,
        shared: Arc::clone(&shared),
        metrics: WorkerMetrics::new(),
        tokens: Arc::new(Tokens::new(b"test").unwrap()),
        log: None,
    };
    let live = || shared.live[0].load(Ordering::Acquire);
    let deaf = || shared.deaf[0].lock().unwrap().clone();
    let work = async {
        let worker = tokio::task::spawn_local(run(seat));
        until("the fault is told", || deaf().is_some()).await;
        assert!(deaf().unwrap().starts_with(&format!("worker 0 cannot accept on {address}: ")), "{:?}", deaf());
        // Longer than the first pause: it is still so.
        tokio::time::sleep(FIRST_PAUSE * 3).await;
        assert_eq!(live(), 0);
        let good = Arc::new(Bound::new(address, Transport::Tcp, 1, &Keys::new(b"test")).unwrap());
        sender.send_replace(wanted(2, vec![good], Mode::Serve));
        until("the next generation is live", || live() == 2).await;
        assert_eq!(deaf(), None);
        sender.send_replace(wanted(2, Vec::new(), Mode::Stop));
        worker.await.unwrap();
    };
    crate::proxy::io::epoll::run(work).unwrap();
}
