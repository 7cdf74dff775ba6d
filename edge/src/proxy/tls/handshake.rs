//! A server's handshake that leaves nothing of rustls behind but the keys.
//!
//! In flow a socket and the ClientHello that was read from it; out flow [`Records`], what was agreed on, and bytes that came
//! behind the handshake. rustls is given one record at a time, so that it never opens what is ours; its records leave in one
//! write per flight, and the tickets with the first data.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use super::large;
use super::record::Records;
use super::stream::TlsError;
use crate::proxy::body::Chunk;
use crate::proxy::buffer::{BUFFER_SIZE, Buffer};
use crate::proxy::io::Io;

/// Bytes of unfinished handshake messages at most: rustls takes messages of 64 KiB, and fragments have framing.
const MOST_HELD: usize = 160 << 10;

/// What a handshake settled.
#[derive(Debug, Clone, Copy)]
pub struct Agreed {
    pub version: Option<ProtocolVersion>,
    pub suite: Option<SupportedCipherSuite>,
    pub resumed: bool,
    pub h2: bool,
}

impl Agreed {
    pub fn of(connection: &CommonState) -> Self {
        Self {
            version: connection.protocol_version(),
            suite: connection.negotiated_cipher_suite(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            h2: connection.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// A finished handshake.
pub(super) struct Done {
    pub agreed: Agreed,
    /// The client's chain, where one was asked for and shown.
    pub certificates: Option<Box<[CertificateDer<'static>]>>,
    pub records: Records,
    /// What came behind it.
    pub incoming: Option<Buffer>,
}

/// Handshakes as a server whose config lets secrets be extracted. The deadline is the caller's.
pub(super) async fn serve<S: Io>(io: &S, config: &Arc<ServerConfig>, initial: Buffer) -> Result<Done, TlsError> {
    let mut driver = Driver {
        connection: UnbufferedServerConnection::new(Arc::clone(config))?,
        incoming: Some(initial),
        visible: 0,
        outgoing: None,
    };
    loop {
        match driver.advance() {
            Ok(Next::Send) => driver.send(io).await?,
            Ok(Next::Record) => {
                if !driver.reveal() {
                    driver.receive(io).await?;
                }
            }
            Ok(Next::Done) => {
                // In TLS 1.2 the client still waits for our Finished.
                if driver.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
                    driver.send(io).await?;
                }
                return driver.finish();
            }
            Err(error) => {
                // The alert says it to the peer as well.
                driver.last_words();
                let _ = driver.send(io).await;
                return Err(error.into());
            }
        }
    }
}

enum Next {
    /// What was collected should leave.
    Send,
    /// One more record is needed.
    Record,
    Done,
}

struct Driver {
    connection: UnbufferedServerConnection,
    /// None while nothing of the client is here: who only began a handshake holds no buffer.
    incoming: Option<Buffer>,
    /// So many bytes of `incoming` are whole records that rustls may see.
    visible: usize,
    outgoing: Option<Buffer>,
}

impl Driver {
    /// Lets rustls work until it wants something.
    fn advance(&mut self) -> Result<Next, rustls::Error> {
        loop {
            let bytes = self.incoming.as_mut().map(Buffer::as_mut_slice).unwrap_or_default();
            let bytes = bytes.get_mut(..self.visible).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(bytes);
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    encode(&mut record, self.outgoing.get_or_insert_with(Buffer::take))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(flight)) => {
                    flight.done();
                    Some(Next::Send)
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Some(Next::Record),
                // No record is shown after the last of the handshake, and no early data is allowed.
                Ok(_) => return Err(rustls::Error::General("data before the end of the handshake".into())),
                Err(error) => return Err(error),
            };
            if let Some(incoming) = &mut self.incoming {
                incoming.advance(discard);
            }
            self.visible -= discard.min(self.visible);
            match next {
                None => {}
                // What comes with the last flight (tickets) has time until there is data.
                Some(_) if !self.connection.is_handshaking() => return Ok(Next::Done),
                Some(next) => return Ok(next),
            }
        }
    }

    /// Collects what rustls has to say after it refused something. It looks at what came in once nothing is left to be
    /// said, and must not look again: neither at the same bytes, nor at less than it has taken note of.
    fn last_words(&mut self) {
        while self.connection.wants_write() {
            let bytes = self.incoming.as_mut().map(Buffer::as_mut_slice).unwrap_or_default();
            let bytes = bytes.get_mut(..self.visible).unwrap_or_default();
            let Ok(ConnectionState::EncodeTlsData(mut record)) = self.connection.process_tls_records(bytes).state
            else {
                return;
            };
            if encode(&mut record, self.outgoing.get_or_insert_with(Buffer::take)).is_err() {
                return;
            }
        }
    }

    /// Shows rustls one more record; `false` where none is complete.
    fn reveal(&mut self) -> bool {
        let bytes = self.incoming.as_ref().map(Buffer::as_slice).unwrap_or_default();
        let hidden = bytes.get(self.visible..).unwrap_or_default();
        let Some(&[_, _, _, high, low]) = hidden.first_chunk() else { return false };
        let total = 5 + usize::from(u16::from_be_bytes([high, low]));
        // What is longer than any record is for rustls to refuse.
        let whole = hidden.len() >= total || total > BUFFER_SIZE + 2048 + 5;
        if whole {
            self.visible += total.min(hidden.len());
        }
        whole
    }

    async fn receive<S: Io>(&mut self, io: &S) -> Result<(), TlsError> {
        self.incoming = self.incoming.take().filter(|incoming| !incoming.is_empty());
        io.readable().await?;
        let mut buffer = self.incoming.take().unwrap_or_else(Buffer::take);
        if buffer.room() == 0 {
            buffer.compact();
        }
        if buffer.room() == 0 {
            if buffer.len() >= MOST_HELD {
                return Err(TlsError::Refused("handshake message is too long".into()));
            }
            let mut larger = Buffer::with_size((buffer.len() * 2).max(large::SIZE));
            larger.append(buffer.as_slice());
            buffer = larger;
        }
        let (result, buffer) = io.read(buffer).await;
        self.incoming = Some(buffer);
        if result? == 0 { Err(TlsError::Closed) } else { Ok(()) }
    }

    async fn send<S: Io>(&mut self, io: &S) -> Result<(), TlsError> {
        match self.outgoing.take() {
            Some(flight) => Ok(io.write(Chunk::Pooled(flight)).await.0?),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Done, TlsError> {
        let Self { connection, incoming, visible, outgoing } = self;
        if visible > 0 {
            return Err(TlsError::Refused("bytes behind the end of the handshake in its last record".into()));
        }
        let agreed = Agreed::of(&connection);
        let certificates = connection.peer_certificates().map(Into::into);
        let (secrets, keys) = connection.dangerous_into_kernel_connection()?;
        let owed = outgoing.map(|flight| flight.as_slice().to_vec()).unwrap_or_default();
        let records = Records::new(&secrets, keys, owed)
            .ok_or_else(|| TlsError::Refused("cipher suite cannot be used".into()))?;
        Ok(Done { agreed, certificates, records, incoming: incoming.filter(|incoming| !incoming.is_empty()) })
    }
}

/// Puts a record of rustls's behind what is to be sent.
fn encode<Side>(record: &mut EncodeTlsData<'_, Side>, outgoing: &mut Buffer) -> Result<(), rustls::Error> {
    loop {
        match record.encode(outgoing.room_mut()) {
            Ok(count) => {
                outgoing.grow(count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(error)) => {
                let mut larger = Buffer::with_size((outgoing.len() + error.required_size) * 2);
                larger.append(outgoing.as_slice());
                *outgoing = larger;
            }
            Err(error) => return Err(rustls::Error::General(error.to_string())),
        }
    }
}

/// A finished handshake in memory, for tests of what comes after: the server's secrets and keys.
#[cfg(test)]
pub(super) fn in_memory(
    config: &Arc<ServerConfig>,
    client: &mut rustls::ClientConnection,
) -> (rustls::ExtractedSecrets, rustls::kernel::KernelConnection<rustls::server::ServerConnectionData>, Vec<u8>) {
    let connection = UnbufferedServerConnection::new(Arc::clone(config)).unwrap();
    let mut driver = Driver { connection, incoming: None, visible: 0, outgoing: None };
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        if !bytes.is_empty() {
            driver.incoming = Some(Buffer::copy_of(&bytes));
        }
        let done = loop {
            match driver.advance().unwrap() {
                Next::Send => break false,
                Next::Record => assert!(driver.reveal(), "the client has said nothing"),
                Next::Done => break true,
            }
        };
        let flight = driver.outgoing.take().map(|flight| flight.as_slice().to_vec()).unwrap_or_default();
        let is_new = driver.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if !done || !is_new {
            client.read_tls(&mut &flight[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        if done {
            assert!(driver.incoming.is_none_or(|incoming| incoming.is_empty()));
            let (secrets, keys) = driver.connection.dangerous_into_kernel_connection().unwrap();
            return (secrets, keys, if is_new { flight } else { Vec::new() });
        }
    }
}
