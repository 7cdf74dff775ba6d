//! The successor's side: takes what it is offered, and says how far it is.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use edge_bgp::child::{Descriptors, Handed};

use super::VERSIONS;
use super::channel::{Channel, ChannelError};
use super::message::{FlowName, FromPredecessor, FromSuccessor, Hello, Standing, ToldName};
use super::successor::HandedControl;
use crate::line::Line;
use crate::proxy::l4::udp::HandedFlow;
use crate::proxy::listening::HandedSocket;
use crate::vip::announcer::Told;

/// From one of its messages to the next, at first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum PredecessorError {
    #[error("standard input is no line to another edged: --take-over is for edged itself")]
    NoLine(#[source] std::io::Error),
    #[error("the edged that runs: {0}")]
    Channel(#[from] ChannelError),
    #[error("the edged that runs refuses: {0}")]
    Refused(String),
    #[error("the edged that runs says {0}, which makes no sense here")]
    Senseless(String),
}

/// The edged that runs, with what it offers.
pub struct Predecessor {
    channel: Arc<Channel>,
    pub process: u32,
    pub edged: String,
    pub sockets: Vec<HandedSocket>,
    pub control: HandedControl,
    pub standing: Standing,
}

/// What it says later.
#[derive(Debug)]
pub enum News {
    Told(Told),
    Flows(Vec<HandedFlow>),
    Datagrams,
    Over,
    Draining {
        connections: usize,
        seconds: u64,
    },
    /// It is gone.
    Ended,
}

/// A handle to speak to it.
#[derive(Clone)]
pub struct Speech(Arc<Channel>);

impl Speech {
    pub fn say(&self, what: &FromSuccessor) {
        // One that is gone is noticed where it is listened to.
        let _ = self.0.send(what, &[]);
    }
}

impl Predecessor {
    /// Introduces itself on standard input, on the current runtime, and takes the offer.
    pub async fn meet() -> Result<Self, PredecessorError> {
        let line = std::io::stdin().as_fd().try_clone_to_owned().and_then(Line::from_descriptor);
        let channel = line.and_then(Channel::new).map_err(PredecessorError::NoLine)?;
        let (oldest, newest) = (*VERSIONS.start(), *VERSIONS.end());
        channel.send(&Hello { oldest, newest, edged: env!("CARGO_PKG_VERSION").to_owned() }, &[])?;
        let (process, edged) = match channel.within(PATIENCE).await?.0 {
            FromPredecessor::Welcome { edged, process, .. } => (process, edged),
            FromPredecessor::Refused(why) => return Err(PredecessorError::Refused(why)),
            said => return Err(senseless(&said)),
        };
        let (mut sockets, mut control) = (Vec::new(), None);
        let standing = loop {
            match channel.within(PATIENCE).await? {
                (FromPredecessor::Sockets(names), along) if names.len() == along.len() => {
                    let taken = names.into_iter().zip(along).map(|(name, descriptor)| {
                        let transport = name.transport();
                        HandedSocket { address: name.address, transport, index: name.index, descriptor }
                    });
                    sockets.extend(taken);
                }
                (FromPredecessor::Control(name), descriptors) => control = Some(HandedControl { name, descriptors }),
                (FromPredecessor::Offered(standing), _) => break standing,
                (said, _) => return Err(senseless(&said)),
            }
        };
        let control = control.ok_or_else(|| PredecessorError::Senseless("nothing of its control socket".to_owned()))?;
        Ok(Self { channel: Arc::new(channel), process, edged, sockets, control, standing })
    }

    pub fn speech(&self) -> Speech {
        Speech(Arc::clone(&self.channel))
    }

    /// What it says from here on.
    pub fn ear(&self) -> Ear {
        Ear(Arc::clone(&self.channel))
    }
}

pub struct Ear(Arc<Channel>);

impl Ear {
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> News {
        loop {
            return match self.0.next().await {
                Ok((FromPredecessor::Told(name), along)) => News::Told(told(name, along)),
                Ok((FromPredecessor::Flows(names), along)) => News::Flows(flows(names, along)),
                Ok((FromPredecessor::Datagrams, _)) => News::Datagrams,
                Ok((FromPredecessor::Over, _)) => News::Over,
                Ok((FromPredecessor::Draining { connections, seconds }, _)) => News::Draining { connections, seconds },
                // Of no meaning to this version.
                Ok(_) => continue,
                Err(_) => News::Ended,
            };
        }
    }
}

fn told(name: ToldName, along: Vec<OwnedFd>) -> Told {
    let ToldName { gobgpd, l2, bfd } = name;
    let descriptors: Result<[OwnedFd; 4], _> = along.try_into();
    let gobgpd = gobgpd.zip(descriptors.ok()).map(|(name, [process, lifeline, words, log])| Handed {
        pid: name.process,
        program: name.program,
        socket: name.socket,
        version: name.version,
        descriptors: Descriptors { process, lifeline, words, log },
    });
    Told { gobgpd, l2, bfd }
}

fn flows(names: Vec<FlowName>, along: Vec<OwnedFd>) -> Vec<HandedFlow> {
    // Descriptors that the kernel has left out would be others' than the names say.
    if names.len() != along.len() {
        return Vec::new();
    }
    let flow = |(name, socket): (FlowName, OwnedFd)| {
        let FlowName { local, index, client, endpoint, backend, is_answered } = name;
        HandedFlow { local, index, client, endpoint, backend: backend.into(), answered: is_answered, socket }
    };
    names.into_iter().zip(along).map(flow).collect()
}

fn senseless(said: &FromPredecessor) -> PredecessorError {
    PredecessorError::Senseless(format!("{said:?}"))
}
