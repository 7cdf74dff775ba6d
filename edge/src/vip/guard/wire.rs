//! What edged and its guard say to each other, and the line between them: a pair of sequenced-packet sockets, whose
//! end at one side is seen at once at the other, however it came about.
//!
//! In and out: whole messages, none longer than [`MOST_BYTES`]. A descriptor of gobgpd goes along with its message
//! (SCM_RIGHTS, unix(7)), so the guard can never signal another process of the same number. Nobody waits on this line
//! for longer than [`PATIENCE`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use edge_config::announce::Engine;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Of one message, on both sides.
const MOST_BYTES: usize = 64 << 10;
/// How long a full line is waited for.
const PATIENCE: Duration = Duration::from_millis(250);

/// From edged. Numbers ascend; each letter is answered by a [`Report`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub number: u64,
    /// How many undoings edged knows of.
    pub known: u64,
    pub order: Order,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Beat,
    Failing { why: String },
    Charge(Charged),
    Farewell,
}

/// The whole of what is to be undone.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charged {
    pub charge: u64,
    /// The number of the process whose descriptor comes along.
    pub gobgpd: Option<u32>,
    pub address_list: Option<PathBuf>,
    pub engine: Option<Engine>,
}

/// From the guard.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of the last letter.
    pub heard: u64,
    /// The charge in force.
    pub charge: u64,
    pub undone: u64,
    /// Of the last undoing: why, and what could not be undone.
    pub why: String,
    pub failed: Vec<String>,
}

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("message of {0} bytes, at most 65536 are possible")]
    Length(usize),
    #[error("not a message: {0}")]
    Form(#[from] serde_json::Error),
    #[error("the line is full")]
    Full,
    #[error("{0}")]
    Line(#[from] Errno),
}

#[derive(Debug)]
pub enum Received<T> {
    Message(T, Option<OwnedFd>),
    Nothing,
    Closed,
}

/// One end.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// Two ends; neither survives an exec but as a standard descriptor.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(near), far))
    }

    /// An end that was handed over, if it is one.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        match rustix::net::sockopt::socket_type(&descriptor)? {
            SocketType::SEQPACKET => Ok(Self(descriptor)),
            _ => Err(io::Error::other("not a socket of sequenced packets")),
        }
    }

    pub fn send<T: Serialize>(&self, message: &T, along: Option<BorrowedFd<'_>>) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MOST_BYTES {
            return Err(WireError::Length(bytes.len()));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let descriptors = along.as_slice();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        for is_last in [false, true] {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) if !is_last => wait(&[(self.0.as_fd(), PollFlags::OUT)], Some(PATIENCE))?,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
        }
        Err(WireError::Full)
    }

    /// The next message, without waiting.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Received<T>, WireError> {
        let mut bytes = vec![0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
            // What was not read when the other end was closed.
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(error.into()),
        };
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(WireError::Length(MOST_BYTES + 1));
        }
        let along = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Received::Message(serde_json::from_slice(&bytes[..received.bytes])?, along))
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors is ready, but not beyond a time. A signal ends it, too: everybody looks again.
pub fn wait(on: &[(BorrowedFd<'_>, PollFlags)], timeout: Option<Duration>) -> Result<usize, Errno> {
    let mut on: Vec<_> = on.iter().map(|(descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags)).collect();
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut on, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(0),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> (Line, Line) {
        let (near, far) = Line::pair().unwrap();
        (near, Line::from_descriptor(far).unwrap())
    }

    #[test]
    fn messages_keep_their_edges_and_descriptors() {
        let (near, far) = lines();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let wanted = || Charged {
            charge: 7,
            gobgpd: Some(42),
            address_list: Some("/run/edge/l2.addresses".into()),
            engine: Some(Engine::Tcp { address: "127.0.0.1:50051".parse().unwrap(), tls: None }),
        };
        let letter = |order| Letter { number: 1, known: 2, order };
        near.send(&letter(Order::Beat), None).unwrap();
        near.send(&letter(Order::Charge(wanted())), Some(file.as_fd())).unwrap();
        let Received::Message(first, None) = far.receive::<Letter>().unwrap() else { panic!() };
        assert_eq!(first, letter(Order::Beat));
        let Received::Message(second, Some(_)) = far.receive::<Letter>().unwrap() else { panic!() };
        assert_eq!(second.order, Order::Charge(wanted()));
        assert!(matches!(far.receive::<Letter>().unwrap(), Received::Nothing));
        far.send(&Report::default(), None).unwrap();
        drop(far);
        assert!(matches!(near.receive::<Report>().unwrap(), Received::Message(..)));
        assert!(matches!(near.receive::<Report>().unwrap(), Received::Closed));
        assert!(near.send(&letter(Order::Farewell), None).is_err());
    }

    #[test]
    fn who_does_not_listen_costs_a_moment_and_nonsense_an_error() {
        let (near, far) = lines();
        let report = Report { failed: vec!["x".repeat(40_000)], ..Report::default() };
        let sent = (0..100).take_while(|_| near.send(&report, None).is_ok()).count();
        assert!((1..100).contains(&sent), "{sent}");
        assert!(matches!(near.send(&Report { why: "x".repeat(70_000), ..report }, None), Err(WireError::Length(_))));
        near.send(&Report::default(), None).unwrap_err();
        while let Received::Message(_, _) = far.receive::<Report>().unwrap() {}
        near.send(&"nonsense", None).unwrap();
        assert!(matches!(far.receive::<Report>(), Err(WireError::Form(_))));
        assert!(Line::from_descriptor(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
