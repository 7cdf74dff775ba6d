//! A request that Edge itself makes of an upstream, and its whole answer: checks, authorizers, OpenID providers.
//!
//! In: a head, a body, and how much is read of the answer. Out: the answer, or why there is none. The caller has the
//! deadline. A connection of before that turns out to be closed says nothing: then it is asked once more.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use edge_config::snapshot::{Balance, UpstreamProtocol};

use super::balance::Random;
use super::circuit::{Circuit, Full};
use super::{DialError, Dialer, Download, Endpoint, Lease, Upload, Upstream};
use crate::proxy::body::{Chunk, StreamError};
use crate::proxy::message::{Fields, RequestHead, ResponseHead};

pub struct Question<'q> {
    pub head: &'q RequestHead,
    pub body: Bytes,
    /// Bytes that are read of the answer's body.
    pub most: usize,
    pub balance: &'q Balance,
}

pub struct Answer {
    pub head: ResponseHead,
    pub body: Vec<u8>,
    pub trailers: Option<Fields>,
    /// Nothing was left unread.
    pub is_whole: bool,
}

impl Answer {
    /// How a call of gRPC ended: trailers say it, or the head where there is nothing else.
    pub fn grpc_status(&self) -> Option<u8> {
        let of_trailers = self.trailers.as_ref().and_then(Fields::grpc_status);
        of_trailers.or_else(|| self.head.fields.grpc_status())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no endpoint is ready")]
    NoEndpoint,
    #[error("as much is asked of it at once as its circuitBreaker allows")]
    Full,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Asks one endpoint, and another one where no connection could be made.
pub async fn ask(
    upstream: &Upstream,
    random: &Random,
    dialer: Dialer<'_>,
    question: &Question<'_>,
) -> Result<Answer, AskError> {
    // Who would have to wait for room is told so: a request is held up by this already.
    let _running = upstream.circuit.as_ref().map(Circuit::enter).transpose().map_err(|Full| AskError::Full)?;
    let mut avoid: Option<SocketAddr> = None;
    let mut fresh = false;
    loop {
        let endpoint = match avoid {
            Some(address) if fresh => upstream.endpoint_at(address),
            _ => upstream.pick(question.balance, random, avoid),
        };
        let Some(endpoint) = endpoint else { return Err(AskError::NoEndpoint) };
        let address = endpoint.address;
        let _held = match (&upstream.circuit, endpoint.vitals()) {
            (Some(circuit), Some(vitals))
                if upstream.protocol == UpstreamProtocol::Http1 && circuit.counts_connections() =>
            {
                Some(circuit.connect(vitals).map_err(|Full| AskError::Full)?)
            }
            _ => None,
        };
        let mut reused = false;
        match once(upstream, &endpoint, dialer, question, fresh, &mut reused).await {
            Ok(answer) => {
                upstream.answered(&endpoint, answer.head.status);
                return Ok(answer);
            }
            Err(AskError::Stream(_)) if reused && !fresh => (avoid, fresh) = (Some(address), true),
            Err(AskError::Dial(error)) if avoid.is_none() && upstream.endpoints().count() > 1 => {
                tracing::debug!(%error, endpoint = %address, "another endpoint is asked");
                avoid = Some(address);
            }
            Err(error) => {
                // Dialling notes its own failures.
                if matches!(error, AskError::Stream(_)) {
                    upstream.failed(&endpoint);
                }
                return Err(error);
            }
        }
    }
}

async fn once(
    upstream: &Upstream,
    endpoint: &Rc<Endpoint>,
    dialer: Dialer<'_>,
    question: &Question<'_>,
    fresh: bool,
    reused: &mut bool,
) -> Result<Answer, AskError> {
    let mut lease = Lease::new(upstream, Rc::clone(endpoint), fresh, dialer).await?;
    *reused = lease.reused;
    let answer = match lease.call(question.head) {
        Some(call) => {
            let (up, down) = call.map_err(|_| StreamError::Closed)?.halves();
            question.converse(up, down).await?
        }
        None => {
            let connection = lease.connection().ok_or(StreamError::Closed)?;
            connection.begin(question.head);
            let (up, down) = connection.halves(question.head.is_head());
            question.converse(up, down).await?
        }
    };
    if answer.is_whole {
        lease.finish(true);
    }
    Ok(answer)
}

impl Question<'_> {
    async fn converse(&self, mut up: impl Upload, mut down: impl Download) -> Result<Answer, StreamError> {
        if !self.body.is_empty() {
            up.chunk(Chunk::Shared(self.body.clone())).await?;
        }
        up.finish(None).await?;
        let mut head = ResponseHead::default();
        loop {
            down.head(&mut head).await?;
            if head.status >= 200 {
                break;
            }
        }
        let mut body = Vec::new();
        while let Some(chunk) = down.next().await? {
            let bytes = chunk.as_slice();
            let room = self.most - body.len();
            if bytes.len() > room {
                body.extend_from_slice(&bytes[..room]);
                return Ok(Answer { head, body, trailers: None, is_whole: false });
            }
            body.extend_from_slice(bytes);
        }
        Ok(Answer { head, body, trailers: down.trailers(), is_whole: true })
    }
}
