//! What one side still has to send: a head, then pattern bytes.
//!
//! Flows in: a head and the length of a body. Flows out: bytes on a socket, as many at a time as it takes.

use std::io::{self, IoSlice, Write};

use super::pattern;

/// Pattern slices of one vectored write: up to 1 MiB.
const SLICES: usize = 17;

#[derive(Default)]
pub(super) struct Outgoing {
    /// Built by the owner; kept so that its memory is used again.
    pub head: Vec<u8>,
    sent: usize,
    body_at: u64,
    body_end: u64,
}

impl Outgoing {
    /// Begins with what [`Self::head`] holds now.
    pub fn start(&mut self, body: u64) {
        (self.sent, self.body_at, self.body_end) = (0, 0, body);
    }

    pub fn done(&self) -> bool {
        self.sent == self.head.len() && self.body_at == self.body_end
    }

    /// Bytes of the body that were handed over so far.
    pub fn body_sent(&self) -> u64 {
        self.body_at
    }

    /// Writes until everything is out (`true`) or the sink is full (`false`).
    pub fn write_to(&mut self, sink: &mut impl Write) -> io::Result<bool> {
        while !self.done() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (first, rest) = slices.split_at_mut(1);
            if let Some(slot) = first.first_mut() {
                *slot = IoSlice::new(self.head.get(self.sent..).unwrap_or_default());
            }
            let mut at = self.body_at;
            let mut used = 1;
            for slot in rest {
                if at == self.body_end {
                    break;
                }
                let bytes = pattern::at(at, self.body_end - at);
                *slot = IoSlice::new(bytes);
                at += bytes.len() as u64;
                used += 1;
            }
            let written = match sink.write_vectored(slices.get(..used).unwrap_or_default()) {
                // rustls says "full" so.
                Ok(0) => return Ok(false),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let of_head = written.min(self.head.len() - self.sent);
            self.sent += of_head;
            self.body_at += (written - of_head) as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time and is full now and then.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(7001);
            self.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn head_and_body_arrive_whole_and_in_order() {
        let mut outgoing = Outgoing { head: b"head".to_vec(), ..Outgoing::default() };
        outgoing.start(200_000);
        let mut sink = Narrow(Vec::new(), 0);
        while !outgoing.write_to(&mut sink).unwrap() {}
        let (head, body) = sink.0.split_at(4);
        assert_eq!((head, body.len()), (&b"head"[..], 200_000));
        assert!(pattern::matches(0, body) && outgoing.done());
    }
}
