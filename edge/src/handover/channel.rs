//! The line of the conversation, waited on by a runtime.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::line::{Line, Received, WireError};

/// Why the conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("it has ended")]
    Ended,
    #[error("it says nothing within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it is not understood: {0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

#[derive(Debug)]
pub struct Channel {
    line: Line,
    /// The same socket under the eyes of a runtime.
    readiness: UnixStream,
}

impl Channel {
    /// On the current runtime.
    pub fn new(line: Line) -> std::io::Result<Self> {
        let watched = std::os::unix::net::UnixStream::from(line.as_fd().try_clone_to_owned()?);
        watched.set_nonblocking(true)?;
        Ok(Self { readiness: UnixStream::from_std(watched)?, line })
    }

    pub fn send<T: Serialize>(&self, message: &T, along: &[OwnedFd]) -> Result<(), ChannelError> {
        let along: Vec<BorrowedFd<'_>> = along.iter().map(|descriptor| descriptor.as_fd()).collect();
        Ok(self.line.send(message, &along)?)
    }

    /// The next message. Dropping the future loses nothing.
    pub async fn next<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        loop {
            self.readiness.readable().await?;
            let received = self.readiness.try_io(Interest::READABLE, || match self.line.receive::<T>() {
                Ok(Received::Nothing) => Err(ErrorKind::WouldBlock.into()),
                received => Ok(received),
            });
            match received {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
                Ok(received) => match received? {
                    Received::Message(message, along) => return Ok((message, along)),
                    Received::Closed => return Err(ChannelError::Ended),
                    Received::Nothing => {}
                },
            }
        }
    }

    pub async fn within<T: DeserializeOwned>(&self, patience: Duration) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        timeout(patience, self.next()).await.unwrap_or(Err(ChannelError::Silent(patience)))
    }
}
