//! The unidirectional streams of a client: settings, and QPACK's, which have nothing to say without a dynamic table
//! (RFC 9114 §6.2 and §7.2, RFC 9204 §4.2).

use std::rc::Rc;
use std::time::Duration;

use quinn::RecvStream;

use super::body::{Reader, Trouble};
use super::connection::Connection;
use super::frame::{Code, integer, kind, setting, stream};
use crate::proxy::h2::body::Patience;

/// SETTINGS have a few entries of a few bytes.
const LONGEST_SETTINGS: u64 = 4096;
/// What carries one integer.
const LONGEST_ID: u64 = 8;

/// Reads a stream to its end.
pub async fn read(connection: Rc<Connection>, stream: RecvStream) {
    // Settings have a deadline, which is the connection's; after them there may be silence.
    let mut patience = Patience::new(&connection.worker.clock, Duration::ZERO);
    let mut reader = Reader::new(stream, Rc::clone(&connection));
    let outcome = follow(&connection, &mut reader, &mut patience).await;
    connection.note(outcome.err());
}

async fn follow(connection: &Connection, reader: &mut Reader, patience: &mut Patience) -> Result<(), Trouble> {
    let Some(kind) = reader.integer(patience).await? else { return Ok(()) };
    match kind {
        stream::CONTROL | stream::ENCODER | stream::DECODER if !connection.claim(kind) => {
            return Err(Trouble::Broken(Code::StreamCreation, "critical stream twice"));
        }
        stream::CONTROL => control(connection, reader, patience).await?,
        stream::ENCODER => encoder(reader, patience).await?,
        stream::DECODER => decoder(connection, reader, patience).await?,
        stream::PUSH => return Err(Trouble::Broken(Code::StreamCreation, "push stream of a client")),
        // "Unknown stream types ... MUST either abort reading of the stream or discard incoming data" (§6.2).
        _ => {
            reader.stop(Code::StreamCreation);
            return connection.spend_frame();
        }
    }
    Err(Trouble::Broken(Code::ClosedCriticalStream, "critical stream closed"))
}

async fn control(connection: &Connection, reader: &mut Reader, patience: &mut Patience) -> Result<(), Trouble> {
    match reader.head(patience).await? {
        Some((kind::SETTINGS, length)) if length <= LONGEST_SETTINGS => {
            let payload = reader.payload(patience, length).await?;
            settings(&payload)?;
            connection.heard_settings();
        }
        Some((kind::SETTINGS, _)) => return Err(Trouble::Broken(Code::ExcessiveLoad, "SETTINGS without end")),
        Some(_) => return Err(Trouble::Broken(Code::MissingSettings, "another frame before SETTINGS")),
        None => return Ok(()),
    }
    while let Some((kind, length)) = reader.head(patience).await? {
        connection.spend_frame()?;
        match kind {
            kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH => {
                if length > LONGEST_ID {
                    return Err(Trouble::Broken(Code::Frame, "frame is longer than an integer"));
                }
                let payload = reader.payload(patience, length).await?;
                if integer(&payload).is_none_or(|(_, used)| used != payload.len()) {
                    return Err(Trouble::Broken(Code::Frame, "frame is no integer"));
                }
                // Nothing was ever pushed (§7.2.3).
                if kind == kind::CANCEL_PUSH {
                    return Err(Trouble::Broken(Code::Id, "CANCEL_PUSH of what was not promised"));
                }
            }
            kind::SETTINGS => return Err(Trouble::Broken(Code::FrameUnexpected, "SETTINGS twice")),
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => {
                return Err(Trouble::Broken(Code::FrameUnexpected, "frame of a request on the control stream"));
            }
            kind if kind::is_of_http2(kind) => {
                return Err(Trouble::Broken(Code::FrameUnexpected, "frame of HTTP/2"));
            }
            _ => reader.skip(patience, length).await?,
        }
    }
    Ok(())
}

/// Nothing of what a client sets changes what we do: we send less than any limit on fields that is in use, and need no table.
fn settings(mut payload: &[u8]) -> Result<(), Trouble> {
    let mut seen: Vec<u64> = Vec::new();
    while !payload.is_empty() {
        let cut = Trouble::Broken(Code::Frame, "SETTINGS end inside an entry");
        let Some((id, first)) = integer(payload) else { return Err(cut) };
        let Some((_, second)) = payload.get(first..).and_then(integer) else { return Err(cut) };
        if setting::is_of_http2(id) {
            return Err(Trouble::Broken(Code::Settings, "setting of HTTP/2"));
        }
        if seen.contains(&id) {
            return Err(Trouble::Broken(Code::Settings, "setting twice"));
        }
        seen.push(id);
        payload = payload.get(first + second..).unwrap_or_default();
    }
    Ok(())
}

/// The only thing that may be said of a table of size 0 is that it has this size.
async fn encoder(reader: &mut Reader, patience: &mut Patience) -> Result<(), Trouble> {
    while let Some(byte) = reader.byte(patience).await? {
        if byte != 0x20 {
            return Err(Trouble::Broken(Code::QpackEncoderStream, "dynamic table beyond its size"));
        }
    }
    Ok(())
}

/// Streams may be taken back; nothing else was ever sent that could be acknowledged.
async fn decoder(connection: &Connection, reader: &mut Reader, patience: &mut Patience) -> Result<(), Trouble> {
    while let Some(first) = reader.byte(patience).await? {
        if first & 0xc0 != 0x40 {
            return Err(Trouble::Broken(Code::QpackDecoderStream, "acknowledgement of what was not sent"));
        }
        connection.spend_frame()?;
        let mut more = first & 0x3f == 0x3f;
        for _ in 0..9 {
            if !more {
                break;
            }
            let Some(byte) = reader.byte(patience).await? else { return Ok(()) };
            more = byte & 0x80 != 0;
        }
        if more {
            return Err(Trouble::Broken(Code::QpackDecoderStream, "integer without use"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_to_the_end() {
        for (payload, expected) in [
            (&[][..], None),
            (&[0x06, 0x40, 0x80, 0x01, 0x00, 0x33, 0x01], None),
            (&[0x06], Some(Code::Frame)),
            (&[0x06, 0x40], Some(Code::Frame)),
            (&[0x02, 0x00], Some(Code::Settings)),
            (&[0x05, 0x00], Some(Code::Settings)),
            (&[0x07, 0x00, 0x07, 0x00], Some(Code::Settings)),
        ] {
            let code = settings(payload).err().map(|trouble| match trouble {
                Trouble::Broken(code, _) => code,
                other => panic!("{other:?}"),
            });
            assert_eq!(code, expected, "{payload:x?}");
        }
    }
}
