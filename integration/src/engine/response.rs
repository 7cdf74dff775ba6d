//! The response as the client reads it: status, Content-Length, every byte of the body.
//!
//! Flows in: bytes as they arrive. Flows out: progress, or why this is another response than the one expected. Strict
//! on purpose: no chunks, no other status, no byte too many; every proxy must pass on what the origin said.

use super::pattern;

/// Longest head that is read.
const MAX_HEAD: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Response {
    head: Vec<u8>,
    /// Set once the head is whole.
    left: Option<u64>,
    at: u64,
}

/// After some bytes.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct Progress {
    pub done: bool,
    /// Bytes of the body among these.
    pub body: u64,
}

impl Response {
    pub fn clear(&mut self) {
        self.head.clear();
        (self.left, self.at) = (None, 0);
    }

    /// The field lines of a head that has arrived in pieces or whole.
    pub fn read(&mut self, bytes: &[u8], expected: u64) -> Result<Progress, &'static str> {
        let body = match self.left {
            Some(_) => bytes,
            None => {
                let held = self.head.len();
                self.head.extend_from_slice(bytes);
                let Some(end) = end_of_head(&self.head) else {
                    return if self.head.len() > MAX_HEAD {
                        Err("a head without end")
                    } else {
                        Ok(Progress { done: false, body: 0 })
                    };
                };
                let length = content_length(self.head.get(..end).unwrap_or_default())?;
                if length != expected {
                    return Err("another content-length");
                }
                self.left = Some(length);
                bytes.get(end - held..).unwrap_or_default()
            }
        };
        let left = self.left.unwrap_or_default();
        let got = body.len() as u64;
        if got > left {
            return Err("more than the response");
        }
        if !pattern::matches(self.at, body) {
            return Err("other bytes in the body");
        }
        self.at += got;
        self.left = Some(left - got);
        Ok(Progress { done: left == got, body: got })
    }
}

pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    // Line by line: heads are short, and most bytes are no line feeds.
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == b'\n') {
        from += at + 1;
        if bytes.get(..from).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
            return Some(from);
        }
    }
    None
}

fn content_length(head: &[u8]) -> Result<u64, &'static str> {
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(match head.get(9) {
            Some(b'4') => "status 4xx",
            Some(b'5') => "status 5xx",
            _ => "another status than 200",
        });
    }
    let mut length = None;
    for line in head.split(|byte| *byte == b'\n') {
        if let Some(value) = value_of(line, b"content-length") {
            length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        }
    }
    length.ok_or("no content-length")
}

/// The value of a field line with that name in lower case.
pub(super) fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn only_the_expected_response_passes_however_it_is_cut() {
        let body = pattern::at(0, 1024);
        let good = answer("HTTP/1.1 200 OK\r\ncontent-Length: 1024\r\nx: y\r\n\r\n", body);
        for piece in [1, 7, 50, 200, good.len()] {
            let mut response = Response::default();
            let mut last = Progress { done: false, body: 0 };
            let mut total = 0;
            for bytes in good.chunks(piece) {
                assert!(!last.done);
                last = response.read(bytes, 1024).unwrap();
                total += last.body;
            }
            assert!(last.done && total == 1024, "in pieces of {piece}");
        }
        let mut other = body.to_vec();
        other[1000] ^= 1;
        let table = [
            (answer("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 1024\r\n\r\n", body), "status 5xx"),
            (answer("HTTP/1.1 200 OK\r\ncontent-length: 1023\r\n\r\n", body), "another content-length"),
            (answer("HTTP/1.1 200 OK\r\n\r\n", body), "no content-length"),
            (answer("HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n", &other), "other bytes in the body"),
            ([&good[..], b"H"].concat(), "more than the response"),
        ];
        for (bytes, why) in table {
            assert_eq!(Response::default().read(&bytes, 1024), Err(why));
        }
    }
}
