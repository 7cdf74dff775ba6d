use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::proxy::h3::steering::Keys;
use crate::proxy::limits::Limits;
use crate::proxy::{authorities, io, probing};

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a worker is to do; its generation serves nothing.
fn wanted(number: u64, sockets: Vec<Arc<Bound>>, mode: Mode) -> Arc<Wanted> {
    let (snapshot, endpoints, tls) = Default::default();
    let generation = Arc::new(Generation {
        number,
        snapshot,
        endpoints,
        tls,
        secrets: Arc::default(),
        limits: Limits::default(),
        responders: Arc::default(),
        maintenance: None,
        tracer: None,
    });
    Arc::new(Wanted { generation, series: vec![Arc::default()], sockets, mode })
}

/// A generation is not acknowledged while a socket of it is not accepted on, it is tried again without being asked to,
/// and the reason is known meanwhile.
#[test]
fn a_worker_that_cannot_accept_says_so_and_serves_when_it_can() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let shared = Arc::new(Shared::new(1, Authorities::new().0));
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

/// Threads that get their first turn only when the proxy is stopped already end all the same.
#[test]
fn what_is_stopped_before_it_began_ends() {
    let (_sender, receiver) = watch::channel(wanted(1, Vec::new(), Mode::Stop));
    let (authorities, orders) = Authorities::new();
    let shared = Arc::new(Shared::new(1, authorities));
    let ended = io::epoll::run(async {
        let asking = authorities::run(Arc::clone(&shared), receiver.clone(), orders);
        let checking = probing::run(Arc::clone(&shared), receiver.clone());
        let working = run(Seat {
            index: 0,
            backend: Backend::Epoll,
            wanted: receiver,
            shared: Arc::clone(&shared),
            metrics: WorkerMetrics::new(),
            tokens: Arc::new(Tokens::new(b"test").unwrap()),
            log: None,
        });
        let all = async { tokio::join!(asking, checking, working) };
        tokio::time::timeout(Duration::from_secs(30), all).await.is_ok()
    });
    assert!(ended.unwrap(), "a thread goes on for ever");
}
