//! One question to one name server: UDP first, TCP where the answer does not fit or UDP gets no answer.
//!
//! In: a server, a question, a deadline. Out: the message as it came, checked to be the answer to this question, or why
//! there is none. Foreign bytes are decoded by hickory-proto. Nothing is asked twice the same way, nothing is kept.
//! RFC 1035 §4.2, RFC 5452 (random id and port), RFC 6891, RFC 7766.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

/// What fits through every path without fragments (DNS flag day 2020).
const PAYLOAD: u16 = 1232;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("name server {server} gave no answer within {:.1} s", .patience.as_secs_f32())]
    Silent { server: SocketAddr, patience: Duration },
    #[error("name server {server}: {reason}")]
    Unreachable { server: SocketAddr, reason: Box<str> },
    #[error("name server {server} gave an answer that cannot be read: {reason}")]
    Garbled { server: SocketAddr, reason: Box<str> },
}

impl WireError {
    fn io(server: SocketAddr, error: &io::Error) -> Self {
        Self::Unreachable { server, reason: error.to_string().into() }
    }
}

/// Asks once, within `patience` over all. `recursive` is asked of resolvers, not of a zone's own servers.
pub async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursive: bool,
    patience: Duration,
) -> Result<Message, WireError> {
    let start = Instant::now();
    let end = start + patience;
    let mut question = question(name, kind, recursive);
    let answer = match over_udp(server, &question, start + patience / 2, end).await {
        Ok(answer) => answer,
        // A firewall may let only TCP through.
        Err(_) => over_tcp(server, &question, end, patience).await?,
    };
    let answer = match answer.response_code {
        // Servers from before EDNS (RFC 6891 §7).
        ResponseCode::FormErr | ResponseCode::NotImp if question.edns.is_some() => {
            question.edns = None;
            over_udp(server, &question, end, end).await.unwrap_or(answer)
        }
        _ => answer,
    };
    if answer.truncation { over_tcp(server, &question, end, patience).await } else { Ok(answer) }
}

/// Sends bytes over TCP and returns the one message that comes back, undecoded: signatures cover the bytes.
pub async fn exchange(server: SocketAddr, bytes: &[u8], patience: Duration) -> Result<Vec<u8>, WireError> {
    let end = Instant::now() + patience;
    let silent = WireError::Silent { server, patience };
    match timeout_at(end, exchange_unbounded(server, bytes)).await {
        Err(_) => Err(silent),
        Ok(Err(error)) => Err(WireError::io(server, &error)),
        Ok(Ok(answer)) => Ok(answer),
    }
}

fn question(name: &Name, kind: RecordType, recursive: bool) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = recursive;
    question.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    question.set_edns(edns);
    question
}

async fn over_udp(server: SocketAddr, question: &Message, again: Instant, end: Instant) -> Result<Message, WireError> {
    let patience = end.saturating_duration_since(Instant::now());
    let bytes = encode(server, question)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let io = |error: io::Error| WireError::io(server, &error);
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await.map_err(io)?;
    // Connected: only this server's datagrams arrive, and its ICMP errors do.
    socket.connect(server).await.map_err(io)?;
    socket.send(&bytes).await.map_err(io)?;
    // The second half of the patience is left to TCP.
    let mut buffer = vec![0; 4096];
    loop {
        let length = match timeout_at(again, socket.recv(&mut buffer)).await {
            Err(_) => return Err(WireError::Silent { server, patience }),
            Ok(received) => received.map_err(io)?,
        };
        // What is not our answer may be forged: wait on (RFC 5452 §9.1).
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answers(&answer, question)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    question: &Message,
    end: Instant,
    patience: Duration,
) -> Result<Message, WireError> {
    let bytes = encode(server, question)?;
    let answer = match timeout_at(end, exchange_unbounded(server, &bytes)).await {
        Err(_) => return Err(WireError::Silent { server, patience }),
        Ok(answer) => answer.map_err(|error| WireError::io(server, &error))?,
    };
    let garbled = |reason: String| WireError::Garbled { server, reason: reason.into() };
    let answer = Message::from_vec(&answer).map_err(|error| garbled(error.to_string()))?;
    if answers(&answer, question) { Ok(answer) } else { Err(garbled("it answers another question".into())) }
}

/// The length goes before the message in the same segment (RFC 7766 §8).
async fn exchange_unbounded(server: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::other("the message is longer than 65535 bytes"))?;
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn encode(server: SocketAddr, message: &Message) -> Result<Vec<u8>, WireError> {
    message.to_vec().map_err(|error| WireError::Garbled { server, reason: error.to_string().into() })
}

fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.metadata.op_code == question.metadata.op_code
        // Some servers leave the question out of an error.
        && (answer.queries == question.queries
            || (answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError))
}
