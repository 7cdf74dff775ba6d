//! The client against the origin, with nobody between them.

use std::net::TcpListener;
use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn work(address: SocketAddr, kind: Kind) -> Work {
    Work { address, opening: Opening::Plain, kind, connections: 4, hosts: 3, once: false }
}

#[test]
fn every_kind_of_exchange_is_done_and_verified() {
    crate::pki::install_provider();
    let origin = FastOrigin::start().unwrap().address;
    let table = [
        ("small", work(origin, Kind::Download(1024)), 200),
        ("empty", work(origin, Kind::Download(0)), 20),
        ("large", work(origin, Kind::Download(3_000_001)), 12),
        ("upload", work(origin, Kind::Upload(3_000_001)), 12),
        ("echo", work(origin, Kind::Echo), 200),
        ("a connection per request", Work { once: true, ..work(origin, Kind::Download(1024)) }, 40),
        ("hello first", Work { opening: Opening::HelloOnly, ..work(origin, Kind::Download(70_000)) }, 40),
    ];
    for (name, work, wanted) in table {
        let size = match work.kind {
            Kind::Download(size) | Kind::Upload(size) => size,
            Kind::Echo => 64,
        };
        for pace in [Pace::Closed, Pace::Rate(20_000.0)] {
            let mut driver = Driver::new(work.clone(), pace).unwrap();
            let outcome = driver.run(LONG, wanted).unwrap();
            assert!(outcome.requests >= wanted && outcome.failed() == 0, "{name}, {pace:?}: {outcome:?}");
            assert!(outcome.bytes >= wanted * size, "{name}, {pace:?}: {} bytes", outcome.bytes);
            assert!(outcome.latency.quantile(0.5) > Duration::ZERO, "{name}, {pace:?}");
        }
    }
}

#[test]
fn held_connections_stay_and_answer_once_more() {
    let origin = FastOrigin::start().unwrap().address;
    let mut driver = Driver::new(Work { connections: 300, ..work(origin, Kind::Download(10)) }, Pace::Hold).unwrap();
    let opened = driver.run(LONG, 300).unwrap();
    assert_eq!((opened.requests, opened.failed(), driver.open()), (300, 0, 300));
    let again = driver.ask_held(50, LONG).unwrap();
    assert_eq!((again.requests, again.failed()), (50, 0));
}

#[test]
fn a_peer_that_closes_or_refuses_is_a_failure() {
    // Accepts and closes at once.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [closing, refusing] {
        let mut driver = Driver::new(work(address, Kind::Download(10)), Pace::Closed).unwrap();
        let outcome = driver.run(Duration::from_millis(200), u64::MAX).unwrap();
        assert!(outcome.requests == 0 && outcome.failed() > 0, "{address}: {outcome:?}");
    }
}
