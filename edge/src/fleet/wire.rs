//! Frames on the channel: four bytes of length, most significant first, then a message. Bounded, with deadlines.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

/// The largest message: a record of the store in base64, and room.
pub const MOST: usize = 6 << 20;
/// A peer that takes nothing for so long is dead.
pub const WRITE: Duration = Duration::from_secs(2);
/// From the first byte of a frame to its last.
const REST: Duration = Duration::from_secs(5);
/// Memory is given for what has arrived, not for what was announced; keys are in smaller messages, which are never
/// copied to a larger place.
const PIECE: usize = 512 << 10;

/// Reads a frame; `None` at an end between two frames. The first byte may take `patience`.
pub async fn read(from: &mut (impl AsyncRead + Unpin), patience: Duration) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut length = [0; 4];
    let first = tokio::time::timeout(patience, from.read(&mut length)).await;
    let have = match first.map_err(|_| late("nothing was heard", patience))?? {
        0 => return Ok(None),
        have => have,
    };
    tokio::time::timeout(REST, async {
        from.read_exact(length.get_mut(have..).unwrap_or_default()).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes, expected at most {MOST}"),
            ));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.min(PIECE)));
        while bytes.len() < length {
            let have = bytes.len();
            let more = (length - have).min(have.max(PIECE));
            bytes.resize(have + more, 0);
            from.read_exact(bytes.get_mut(have..).unwrap_or_default()).await?;
        }
        Ok(Some(bytes))
    })
    .await
    .map_err(|_| late("a message did not end", REST))?
}

pub async fn write(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= MOST);
    let Some(length) = length else {
        let why = format!("a message of {} bytes, expected at most {MOST}", message.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    tokio::time::timeout(WRITE, async {
        to.write_all(&length.to_be_bytes()).await?;
        to.write_all(message).await?;
        to.flush().await
    })
    .await
    .map_err(|_| late("the other side takes nothing", WRITE))?
}

fn late(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {limit:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_they_were_written() {
        let (mut one, mut other) = tokio::io::duplex(1000);
        let large = vec![b'x'; 300_000];
        let sent = large.clone();
        let writer = tokio::spawn(async move {
            for message in [&b"first"[..], b"", &sent] {
                write(&mut one, message).await.unwrap();
            }
        });
        for expected in [&b"first"[..], b"", &large] {
            assert_eq!(read(&mut other, WRITE).await.unwrap().unwrap().as_slice(), expected);
        }
        assert!(read(&mut other, WRITE).await.unwrap().is_none());
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 9, 1], &[0], &[0xff; 40]] {
            let mut from = bytes;
            assert!(read(&mut from, WRITE).await.is_err(), "{bytes:?}");
        }
        let (mut one, mut other) = tokio::io::duplex(10);
        assert_eq!(read(&mut other, Duration::from_millis(1)).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(write(&mut one, &vec![0; MOST + 1]).await.is_err());
    }
}
