//! WebSocket (RFC 6455), as much as an echo and its client need: the opening handshake's key and whole frames.
//!
//! Flows in: any byte stream after the 101. Flows out: frames. No extensions, no fragments larger than the bound below.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload accepted; an echo has no use for more.
pub const MAX_PAYLOAD: u64 = 4 << 20;

/// RFC 6455 §1.3.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn code(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn from_code(code: u8) -> io::Result<Self> {
        Ok(match code {
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("websocket opcode {code}"))),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: Opcode,
    pub payload: Vec<u8>,
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{}{KEY_SUFFIX}", key.trim()).as_bytes(),
    );
    STANDARD.encode(digest.as_ref())
}

/// Reads one frame; a masked payload is unmasked. End of stream before a frame is `UnexpectedEof`.
pub async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Frame> {
    let mut head = [0u8; 2];
    stream.read_exact(&mut head).await?;
    let [first, second] = head;
    let opcode = Opcode::from_code(first & 0x0f)?;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    if length > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("websocket frame of {length} bytes")));
    }
    let mut mask = [0u8; 4];
    let masked = second & 0x80 != 0;
    if masked {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut payload).await?;
    if masked {
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
    }
    Ok(Frame { opcode, payload })
}

/// Writes one unfragmented frame; a client passes a mask (RFC 6455 §5.3).
pub async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    opcode: Opcode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode.code());
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => frame.push(masked | short),
        (_, Ok(medium)) => {
            frame.push(masked | 126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    match mask {
        None => frame.extend_from_slice(payload),
        Some(mask) => {
            frame.extend_from_slice(&mask);
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Echoes text and binary, answers pings, returns after the close frame.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    loop {
        let frame = read_frame(stream).await?;
        match frame.opcode {
            Opcode::Text | Opcode::Binary => write_frame(stream, frame.opcode, &frame.payload, None).await?,
            Opcode::Ping => write_frame(stream, Opcode::Pong, &frame.payload, None).await?,
            Opcode::Pong => {}
            Opcode::Close => {
                write_frame(stream, Opcode::Close, &frame.payload, None).await?;
                return stream.shutdown().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    #[test]
    fn accept_key_is_the_one_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn frames_of_every_length_form_survive_an_echo() {
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        let echo = tokio::spawn(async move { echo(&mut server).await });
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            write_frame(&mut client, Opcode::Binary, &payload, Some([1, 2, 3, 4])).await.unwrap();
            assert_eq!(read_frame(&mut client).await.unwrap(), Frame { opcode: Opcode::Binary, payload });
        }
        write_frame(&mut client, Opcode::Close, &[3, 232], Some([9; 4])).await.unwrap();
        assert_eq!(read_frame(&mut client).await.unwrap().opcode, Opcode::Close);
        echo.await.unwrap().unwrap();
    }
}
