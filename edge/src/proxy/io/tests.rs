//! Both back ends keep the same promises.

use std::time::Duration;

use super::*;

/// Runs a test on each back end that this machine has.
fn on_both<F: Future<Output = ()> + 'static>(test: impl Fn(Backend) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test(Backend::Epoll));
    match uring::probe() {
        Ok(()) => uring::run(test(Backend::Uring)).unwrap(),
        Err(error) => eprintln!("io_uring not tested: {error}"),
    }
}

async fn pair(backend: Backend) -> (Socket, Socket) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = Socket::connect(listener.local_addr().unwrap(), backend).await.unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_nonblocking(true).unwrap();
    (near, Socket::from_std(far, backend).unwrap())
}

fn text(text: &str) -> Chunk {
    Chunk::Pooled(Buffer::copy_of(text.as_bytes()))
}

#[test]
fn bytes_pass_and_the_end_is_seen() {
    on_both(|backend| async move {
        let (near, far) = pair(backend).await;
        near.write(text("hello ")).await.0.unwrap();
        near.write(Chunk::Shared(bytes::Bytes::from_static(b"world"))).await.0.unwrap();
        near.finish().await.unwrap();
        let mut buffer = Buffer::take();
        loop {
            let (count, back) = far.read(buffer).await;
            buffer = back;
            if count.unwrap() == 0 {
                break;
            }
        }
        assert_eq!(buffer.as_slice(), b"hello world");
        // The end stays visible, and the other direction still works.
        far.readable().await.unwrap();
        assert!(!far.is_quiet());
        far.write(text("bye")).await.0.unwrap();
        assert_eq!(near.read(Buffer::take()).await.0.unwrap(), 3);
    });
}

#[test]
fn a_dropped_wait_loses_no_byte() {
    on_both(|backend| async move {
        let (near, far) = pair(backend).await;
        for round in 0..20 {
            // Both kinds of wait, dropped while pending.
            let short = Duration::from_millis(1);
            assert!(tokio::time::timeout(short, far.readable()).await.is_err());
            if round % 2 == 0 {
                assert!(tokio::time::timeout(short, far.read(Buffer::take())).await.is_err());
            }
            near.write(text("x")).await.0.unwrap();
            let (count, buffer) = far.read(Buffer::take()).await;
            assert_eq!((count.unwrap(), buffer.as_slice()), (1, &b"x"[..]));
        }
    });
}

#[test]
fn quiet_means_that_nothing_has_arrived() {
    on_both(|backend| async move {
        let (near, far) = pair(backend).await;
        assert!(far.is_quiet());
        near.write(text("x")).await.0.unwrap();
        far.readable().await.unwrap();
        assert!(!far.is_quiet());
        // A read that fills the buffer leaves the readiness in doubt.
        let mut small = Buffer::take();
        small.append(&vec![0; super::super::buffer::BUFFER_SIZE - 1]);
        assert_eq!(far.read(small).await.0.unwrap(), 1);
        assert!(far.is_quiet());
        drop(near);
        far.readable().await.unwrap();
        assert!(!far.is_quiet());
    });
}

#[test]
fn a_writer_that_has_to_wait_writes_everything() {
    on_both(|backend| async move {
        let (near, far) = pair(backend).await;
        let big = bytes::Bytes::from((0..8 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
        let expected = big.clone();
        let write = async { near.write(Chunk::Shared(big)).await.0.unwrap() };
        let read = async {
            let mut got = 0;
            while got < expected.len() {
                let (count, buffer) = far.read(Buffer::take()).await;
                let count = count.unwrap();
                assert_eq!(buffer.as_slice(), &expected[got..got + count]);
                got += count;
            }
        };
        tokio::join!(write, read);
    });
}

#[test]
fn abort_ends_a_pending_read() {
    on_both(|backend| async move {
        let (_near, far) = pair(backend).await;
        let read = far.read(Buffer::take());
        let abort = async {
            tokio::task::yield_now().await;
            far.abort();
        };
        let ((result, _), ()) = tokio::join!(read, abort);
        assert_eq!(result.unwrap_or(0), 0);
    });
}

#[test]
fn a_refused_connection_is_an_error() {
    on_both(|backend| async move {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(Socket::connect(address, backend).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_socket_becomes_a_tokio_stream() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    on_both(|backend| async move {
        let (near, far) = pair(backend).await;
        near.write(text("ping")).await.0.unwrap();
        let mut far = far.into_tokio().unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).await.unwrap();
        far.write_all(b"pong").await.unwrap();
        assert_eq!(near.read(Buffer::take()).await.0.unwrap(), 4);
    });
}
