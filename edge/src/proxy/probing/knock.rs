//! A check that only connects, at the price of a connect: the endpoint's kernel has answered with SYN-ACK, and a reset takes
//! the connection back before it was ever the server's to accept. HAProxy checks so, and F5 calls it half open.
//!
//! Such checks are made by the thousand, so nothing is done that the connect itself does not need: no option of a connection
//! that carries bytes, and no registration with the reactor where the answer is there after [`PAUSE`], as it is in any
//! local network. All that begin together wait for one wake-up.
//!
//! Standards: RFC 9293 §3.5 (a half-open connection is reset).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, set_tcp_quickack};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};
use tokio::net::TcpStream;

/// For the answer of an endpoint that is near.
const PAUSE: Duration = Duration::from_millis(2);

/// Whether somebody listens there, and has said so within `limit`. Dropped, the attempt is taken back.
pub async fn knock(address: SocketAddr, limit: Duration) -> io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // The answer is not acknowledged at once, so what the endpoint gets next is the reset.
    set_tcp_quickack(&socket, false)?;
    // Closed, it resets: no port waits for a minute (TIME-WAIT) for each check.
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    match connect(&socket, &address) {
        Ok(()) => return Ok(()),
        Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    tokio::time::sleep(PAUSE).await;
    // Asked again, a connect says what has become of it (connect(2)).
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::ISCONN) => Ok(()),
        Err(Errno::ALREADY | Errno::INPROGRESS) => {
            let answer = tokio::time::timeout(limit.saturating_sub(PAUSE), answered(socket)).await;
            answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for an endpoint that is further away, or silent.
async fn answered(socket: OwnedFd) -> io::Result<()> {
    let socket = TcpStream::from_std(socket.into())?;
    socket.writable().await?;
    socket.take_error()?.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn run(check: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check);
    }

    #[test]
    fn who_listens_is_found_and_nothing_is_left_to_accept() {
        run(async {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let listener = TcpListener::bind(address).unwrap();
                listener.set_nonblocking(true).unwrap();
                let address = listener.local_addr().unwrap();
                knock(address, LIMIT).await.unwrap();
                // The reset is there before this asks: it goes through loopback within close(2).
                let accepted = listener.accept();
                assert_eq!(accepted.unwrap_err().kind(), io::ErrorKind::WouldBlock, "{address}");
                drop(listener);
                let refused = knock(address, LIMIT).await.unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{address}");
            }
        });
    }

    #[test]
    fn who_answers_late_is_waited_for_and_who_never_does_is_not_up() {
        run(async {
            // A listener whose queue is full answers nobody; once there is room, the SYN that comes again is answered.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let address = listener.local_addr().unwrap();
            let _filling = std::net::TcpStream::connect(address).unwrap();
            let early = knock(address, Duration::from_millis(200)).await.unwrap_err();
            assert_eq!(early.kind(), io::ErrorKind::TimedOut);
            let mut late = std::pin::pin!(knock(address, LIMIT));
            let early = tokio::time::timeout(Duration::from_millis(200), late.as_mut()).await;
            assert!(early.is_err(), "{early:?}");
            drop(listener.accept().unwrap());
            // The SYN is sent again.
            late.await.unwrap();
        });
    }
}
