use std::rc::Rc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::super::tcp::{Connect, Refusal, Summary, dial};
use super::super::{Cause, Quiet, TunnelEnd, abandon, relay::relay, reset, tunnel};
use super::*;
use crate::proxy::buffer::Buffer;
use crate::proxy::io::{Backend as IoBackend, Socket, uring};
use crate::proxy::reason::Reason;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A tunnel of which one direction has ended lives for ever as well.
fn quiet(open: Duration) -> Quiet {
    Quiet { open, half_closed: Duration::ZERO }
}

#[test]
fn a_half_closed_tunnel_in_which_nothing_moves_ends() {
    let half_closed = Duration::from_millis(150);
    on_a_worker(async move {
        for (open, expected) in [(Duration::ZERO, half_closed), (Duration::from_millis(50), Duration::from_millis(50))]
        {
            assert_eq!(Quiet { open, half_closed }.narrowed(), expected);
        }
        let wrap = |stream: TcpStream| Socket::from_std(stream.into_std().unwrap(), IoBackend::Epoll).unwrap();
        for is_spliced in [true, false] {
            let ((mut client, a), (b, mut server)) = (pair().await, pair().await);
            let idle = Quiet { open: Duration::ZERO, half_closed };
            let end = spawn_local(async move {
                if is_spliced {
                    tunnel(&a, &b, None, idle, &()).await
                } else {
                    relay(&wrap(a), &wrap(b), None, idle, &()).await
                }
            });
            // Open on both sides there is no bound.
            tokio::time::sleep(half_closed * 2).await;
            client.write_all(b"hello").await.unwrap();
            assert_eq!(exact(&mut server, 5).await, "hello");
            client.shutdown().await.unwrap();
            assert_eq!(all(&mut server).await, b"");
            let end = end.await.unwrap();
            assert_eq!(end, TunnelEnd { a_to_b: 5, b_to_a: 0, cause: Cause::Idle });
        }
    });
}

/// Two connections through a tunnel, which runs as a task.
struct Joined {
    client: TcpStream,
    server: TcpStream,
    end: tokio::task::JoinHandle<TunnelEnd>,
}

async fn joined(first: &'static [u8], idle: Duration) -> Joined {
    let ((client, a), (b, server)) = (pair().await, pair().await);
    let end = spawn_local(async move { tunnel(&a, &b, Some(Buffer::copy_of(first)), quiet(idle), &()).await });
    Joined { client, server, end }
}

/// The same over the I/O interface.
async fn relayed(backend: IoBackend, idle: Duration) -> Joined {
    let ((client, a), (b, server)) = (pair().await, pair().await);
    let wrap = |stream: TcpStream| Socket::from_std(stream.into_std().unwrap(), backend).unwrap();
    let (a, b) = (wrap(a), wrap(b));
    let end = spawn_local(async move { relay(&a, &b, Some(Buffer::copy_of(b"first ")), quiet(idle), &()).await });
    Joined { client, server, end }
}

async fn all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn exact(stream: &mut TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn both_directions_with_what_was_read_before_and_half_closes() {
    on_a_worker(async {
        let Joined { mut client, mut server, end } = joined(b"hello ", Duration::ZERO).await;
        client.write_all(b"world").await.unwrap();
        assert_eq!(exact(&mut server, 11).await, "hello world");
        client.shutdown().await.unwrap();
        assert_eq!(all(&mut server).await, b"");
        // The other direction is still open.
        server.write_all(b"ready").await.unwrap();
        assert_eq!(exact(&mut client, 5).await, "ready");
        server.shutdown().await.unwrap();
        assert_eq!(all(&mut client).await, b"");
        assert_eq!(end.await.unwrap(), TunnelEnd { a_to_b: 11, b_to_a: 5, cause: Cause::Closed });
    });
}

#[test]
fn many_bytes_to_a_slow_reader_both_ways() {
    const SIZE: usize = 8 << 20;
    on_a_worker(async {
        let Joined { client, server, end } = joined(b"", Duration::from_secs(20)).await;
        let body: Rc<Vec<u8>> = Rc::new((0..SIZE).map(|at| (at * 31 / 7) as u8).collect());
        let run = |stream: TcpStream| {
            let body = Rc::clone(&body);
            async move {
                let (mut reader, mut writer) = stream.into_split();
                let sent = Rc::clone(&body);
                let writing = spawn_local(async move {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                });
                // The reader lets everything fill up first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let mut read = Vec::new();
                reader.read_to_end(&mut read).await.unwrap();
                writing.await.unwrap();
                assert!(read == *body);
            }
        };
        tokio::join!(run(client), run(server));
        let size = SIZE as u64;
        assert_eq!(end.await.unwrap(), TunnelEnd { a_to_b: size, b_to_a: size, cause: Cause::Closed });
    });
}

#[test]
fn a_reset_is_passed_on() {
    on_a_worker(async {
        for from_client in [true, false] {
            let Joined { client, server, end } = joined(b"", Duration::ZERO).await;
            let (gone, mut other) = if from_client { (client, server) } else { (server, client) };
            abandon(&gone);
            drop(gone);
            assert_eq!(other.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            let cause = if from_client { Cause::BrokenA } else { Cause::BrokenB };
            assert_eq!(end.await.unwrap().cause, cause);
        }
    });
}

#[test]
fn a_reset_is_noticed_while_the_other_side_does_not_read() {
    on_a_worker(async {
        let Joined { client, server, end } = joined(b"", Duration::ZERO).await;
        // Fill everything up to the server, which never reads.
        while tokio::time::timeout(Duration::from_millis(200), client.writable()).await.is_ok() {
            let _ = client.try_write(&[0; 65536]);
        }
        abandon(&client);
        drop(client);
        assert_eq!(end.await.unwrap().cause, Cause::BrokenA);
        drop(server);
    });
}

#[test]
fn a_server_that_closes_early_still_delivers() {
    on_a_worker(async {
        let Joined { mut client, mut server, end } = joined(b"", Duration::ZERO).await;
        client.write_all(b"x").await.unwrap();
        exact(&mut server, 1).await;
        server.write_all(b"bye").await.unwrap();
        drop(server);
        assert_eq!(all(&mut client).await, b"bye");
        drop(client);
        assert_eq!(end.await.unwrap().b_to_a, 3);
    });
}

#[test]
fn a_silent_tunnel_ends_and_a_busy_one_does_not() {
    on_a_worker(async {
        // A busy machine may stand still for a while between two of them.
        let idle = Duration::from_secs(1);
        let Joined { mut client, mut server, end } = joined(b"", idle).await;
        let start = Instant::now();
        // Traffic in one direction keeps both.
        for _ in 0..8 {
            client.write_all(b"x").await.unwrap();
            exact(&mut server, 1).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert!(!end.is_finished());
        let end = end.await.unwrap();
        assert_eq!(end, TunnelEnd { a_to_b: 8, b_to_a: 0, cause: Cause::Idle });
        assert!(start.elapsed() >= Duration::from_millis(8 * 150) + idle / 2);
        assert_eq!(all(&mut client).await, b"");
    });
}

async fn relaying(backend: IoBackend) {
    let Joined { mut client, mut server, end } = relayed(backend, Duration::ZERO).await;
    client.write_all(b"up").await.unwrap();
    assert_eq!(exact(&mut server, 8).await, "first up");
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await, b"");
    server.write_all(b"down").await.unwrap();
    drop(server);
    assert_eq!(all(&mut client).await, b"down");
    assert_eq!(end.await.unwrap(), TunnelEnd { a_to_b: 8, b_to_a: 4, cause: Cause::Closed });

    let Joined { mut client, end, .. } = relayed(backend, Duration::from_millis(20)).await;
    assert_eq!(end.await.unwrap().cause, Cause::Idle);
    assert_eq!(all(&mut client).await, b"");
}

#[test]
fn relaying_over_the_io_interface() {
    on_a_worker(relaying(IoBackend::Epoll));
    if let Err(error) = uring::probe() {
        eprintln!("io_uring is not tested: {error}");
        return;
    }
    uring::run(relaying(IoBackend::Uring)).unwrap();
}

impl Connect for Fixed {
    type Connection = TcpStream;

    async fn connect(&self, _: UpstreamId, endpoint: SocketAddr) -> Result<TcpStream, Refusal> {
        let refusal = |error| Refusal { reason: Reason::ConnectFailed, error };
        TcpStream::connect(endpoint).await.map_err(refusal)
    }
}

type Served = tokio::task::JoinHandle<(Summary, Result<TunnelEnd, Reason>)>;

/// Serves one connection as a worker does; the client's side of it, and how it ended.
async fn served(route: Option<edge_config::snapshot::StreamRoute>, targets: &Fixed) -> (TcpStream, Served) {
    let (client, accepted) = pair().await;
    let targets = targets.clone();
    let task = spawn_local(async move {
        let mut summary = Summary::default();
        let end = match dial(route.as_ref(), std::net::Ipv4Addr::LOCALHOST.into(), &targets, 0, &mut summary).await {
            Ok((upstream, _load)) => Ok(tunnel(&accepted, &upstream, None, quiet(Duration::ZERO), &()).await),
            Err(reason) => {
                reset(accepted);
                Err(reason)
            }
        };
        (summary, end)
    });
    (client, task)
}

#[test]
fn a_connection_reaches_an_endpoint() {
    on_a_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let targets = Fixed::new(&[&[endpoint]]);
        let (mut client, summary) = served(Some(route(&[(1, Some(0))])), &targets).await;
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"220 hello").await.unwrap();
        assert_eq!(exact(&mut client, 9).await, "220 hello");
        client.write_all(b"quit").await.unwrap();
        assert_eq!(exact(&mut server, 4).await, "quit");
        assert_eq!(targets.loads(), 1);
        drop((server, client));
        let (summary, end) = summary.await.unwrap();
        assert_eq!(end, Ok(TunnelEnd { a_to_b: 4, b_to_a: 9, cause: Cause::Closed }));
        assert_eq!(summary.tries, 1);
        assert_eq!((summary.endpoint, summary.backend.as_deref()), (Some(endpoint), Some("Service a/s0:1")));
        assert!(summary.connect.is_some());
        assert_eq!((targets.loads(), targets.notes()), (0, vec![(endpoint, true)]));
    });
}

/// An address at which nothing listens.
fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn another_endpoint_is_tried() {
    on_a_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (good, bad) = (listener.local_addr().unwrap(), closed_port());
        let targets = Fixed::new(&[&[good, bad]]);
        let (client, summary) = served(Some(route(&[(1, Some(0))])), &targets).await;
        drop(listener.accept().await.unwrap());
        drop(client);
        let (summary, _) = summary.await.unwrap();
        assert_eq!((summary.tries, summary.endpoint), (2, Some(good)));
        assert_eq!(targets.notes(), [(bad, false), (good, true)]);
    });
}

#[test]
fn whoever_cannot_be_served_is_reset() {
    on_a_worker(async {
        let bad = closed_port();
        for (case, route, endpoints, reason, tries) in [
            ("no route", None, &[][..], Reason::NoRoute, 0),
            ("no backend", Some(route(&[])), &[], Reason::InvalidBackend, 0),
            ("weight 0", Some(route(&[(0, Some(0))])), &[], Reason::InvalidBackend, 0),
            ("invalid", Some(route(&[(1, None), (1, Some(0))])), &[], Reason::InvalidBackend, 0),
            ("no endpoint", Some(route(&[(1, Some(0))])), &[], Reason::NoReadyEndpoint, 0),
            ("refused", Some(route(&[(1, Some(0))])), &[bad], Reason::ConnectFailed, 1),
            ("twice", Some(route(&[(1, Some(0))])), &[bad, bad], Reason::ConnectFailed, 1),
        ] {
            let targets = Fixed::new(&[endpoints]);
            let (mut client, summary) = served(route, &targets).await;
            assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{case}");
            let (summary, end) = summary.await.unwrap();
            assert_eq!((end, summary.tries, summary.connect), (Err(reason), tries, None), "{case}");
            assert_eq!(targets.loads(), 0, "{case}");
        }
    });
}
