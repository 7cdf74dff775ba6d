//! The line between two processes of Edge: a pair of sequenced-packet sockets, whose end at one side is seen at once at
//! the other, however it came about.
//!
//! In and out: whole messages as JSON, none longer than [`MOST_BYTES`], with up to [`MOST_ALONG`] descriptors
//! (SCM_RIGHTS, unix(7)). Nobody waits on this line for longer than [`PATIENCE`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Of one message, on both sides.
pub const MOST_BYTES: usize = 64 << 10;
/// Descriptors with one message; the kernel allows 253.
pub const MOST_ALONG: usize = 64;
/// How long a full line is waited for.
const PATIENCE: Duration = Duration::from_millis(250);

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("message of {0} bytes, at most 65536 and 64 descriptors are possible")]
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
    Message(T, Vec<OwnedFd>),
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

    pub fn send<T: Serialize>(&self, message: &T, along: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MOST_BYTES || along.len() > MOST_ALONG {
            return Err(WireError::Length(bytes.len()));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_ALONG))];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        for is_last in [false, true] {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !along.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(along));
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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_ALONG))];
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
        let along = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let along = along.flatten().collect();
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
