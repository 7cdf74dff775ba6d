//! The canonical request and response: parsed strictly once, whatever the protocol, and seen by everything after that.
//! Routing, filters, logs and forwarding read these types only, and the bytes that go upstream are written from them.
//!
//! A head owns one buffer and a list of spans into it, so that an edit appends instead of moving, and a connection
//! reuses both for every message. Field names are lower case; names and values are valid by RFC 9110 §5 — the decoders
//! ([`super::h1`], [`super::h2`]) guarantee it on the way in, the edits keep it.

use std::ops::Range;

use super::path::Marks;

/// A piece of a head's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// A piece of this piece, no longer than it.
    pub fn part(self, range: Range<usize>) -> Self {
        let at = |offset: usize| u32::try_from(offset).map_or(self.end, |offset| self.end.min(self.start + offset));
        Self { start: at(range.start), end: at(range.end) }
    }
}

/// Bytes of text, and fields, that a head has memory for while it is empty: connections keep theirs while they idle.
const KEPT: usize = 4 << 10;
const KEPT_FIELDS: usize = 64;

/// A bounded text store with fields. Both heads are made of one.
#[derive(Debug, Default, Clone)]
pub struct Fields {
    buffer: Vec<u8>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    /// The buffer has name, `: `, value and CRLF in one piece.
    is_line: bool,
}

impl Fields {
    /// Forgets everything, keeps the memory that a usual head needs.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        self.fields.clear();
        self.fields.shrink_to(KEPT_FIELDS);
    }

    pub fn text(&self, span: Span) -> &[u8] {
        self.buffer.get(span.range()).unwrap_or_default()
    }

    pub fn str(&self, span: Span) -> &str {
        std::str::from_utf8(self.text(span)).unwrap_or_default()
    }

    /// Stores a text and says where.
    pub fn store(&mut self, text: &[u8]) -> Span {
        let start = self.buffer.len() as u32;
        self.buffer.extend_from_slice(text);
        Span { start, end: self.buffer.len() as u32 }
    }

    /// Stores a text in lower case (ASCII).
    pub fn store_lower(&mut self, text: &[u8]) -> Span {
        let span = self.store(text);
        self.buffer[span.range()].make_ascii_lowercase();
        span
    }

    /// Appends a field. `name` is lower case already.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        self.add_value(name, value);
    }

    /// Appends a field whose name may have upper-case letters.
    pub fn add_lower(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store_lower(name);
        self.add_value(name, value);
    }

    /// Appends a field that is a line of HTTP/1 already: a name so long, `: `, the value, CRLF.
    pub fn add_line(&mut self, line: &[u8], name: usize) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(line);
        if let Some(name) = self.buffer.get_mut(start..start + name) {
            name.make_ascii_lowercase();
        }
        let (start, end) = (start as u32, self.buffer.len() as u32);
        let colon = start + name as u32;
        self.fields.push(Field {
            name: Span { start, end: colon },
            value: Span { start: colon + 2, end: end.saturating_sub(2) },
            is_line: true,
        });
    }

    /// Appends a field with a value that is stored already.
    pub fn add_copy(&mut self, name: &[u8], value: Span) {
        let name = self.store(name);
        self.buffer.extend_from_slice(b": ");
        let start = self.buffer.len() as u32;
        self.buffer.extend_from_within(value.range());
        let value = Span { start, end: self.buffer.len() as u32 };
        self.buffer.extend_from_slice(b"\r\n");
        self.fields.push(Field { name, value, is_line: true });
    }

    /// Ends the line that begins with a name.
    fn add_value(&mut self, name: Span, value: &[u8]) {
        self.buffer.extend_from_slice(b": ");
        let value = self.store(value);
        self.buffer.extend_from_slice(b"\r\n");
        self.fields.push(Field { name, value, is_line: true });
    }

    /// Replaces every field of this name by one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let value = self.store(value);
        let mut found = false;
        let buffer = &self.buffer;
        self.fields.retain_mut(|field| {
            if buffer[field.name.range()] != *name {
                return true;
            }
            field.value = value;
            field.is_line = false;
            !std::mem::replace(&mut found, true)
        });
        if !found {
            let name = self.store(name);
            self.fields.push(Field { name, value, is_line: false });
        }
    }

    pub fn remove(&mut self, name: &[u8]) {
        let buffer = &self.buffer;
        self.fields.retain(|field| buffer[field.name.range()] != *name);
    }

    /// Removes every field for whose name `drop` says so.
    pub fn remove_if(&mut self, mut drop: impl FnMut(&[u8]) -> bool) {
        let buffer = &self.buffer;
        self.fields.retain(|field| !drop(&buffer[field.name.range()]));
    }

    /// The first value of this (lower-case) name.
    pub fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// Where the first value of this (lower-case) name is.
    pub fn find(&self, name: &[u8]) -> Option<Span> {
        self.fields.iter().find(|field| self.text(field.name) == name).map(|field| field.value)
    }

    /// How a call of gRPC ended, if these fields say it.
    pub fn grpc_status(&self) -> Option<u8> {
        let text = self.first(b"grpc-status").and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.trim().parse().ok())
    }

    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// Every field as (name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (self.text(field.name), self.text(field.value)))
    }

    /// Every field as a line of HTTP/1, in order. Fields that nobody touched since they were added leave in one piece.
    pub fn put_lines(&self, mut put: impl FnMut(&[u8])) {
        let mut run = 0..0;
        let text = |range: Range<usize>| self.buffer.get(range).unwrap_or_default();
        for field in &self.fields {
            let line = field.name.range().start..field.value.range().end + 2;
            if field.is_line && line.start == run.end {
                run.end = line.end;
                continue;
            }
            put(text(std::mem::replace(&mut run, 0..0)));
            if field.is_line {
                run = line;
            } else {
                put(text(field.name.range()));
                put(b": ");
                put(text(field.value.range()));
                put(b"\r\n");
            }
        }
        put(text(run));
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    #[default]
    Http11,
    Http10,
    Http2,
    Http3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

/// How a body is delimited, once the decoder has settled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Length {
    /// There is no body.
    #[default]
    None,
    /// Exactly so many bytes.
    Known(u64),
    /// Delimited by the protocol: chunked, HTTP/2 END_STREAM, or (responses only) the end of the connection.
    Unknown,
}

/// A request, canonical. The connection-level fields (Connection and those it names, Keep-Alive, Proxy-Connection, TE,
/// Transfer-Encoding, Upgrade, HTTP2-Settings, Content-Length, Host) are not among `fields`: the decoders took them out
/// and they live on as the members below. `te: trailers` lives on as `te_trailers`.
#[derive(Debug, Default, Clone)]
pub struct RequestHead {
    pub fields: Fields,
    pub method: Span,
    /// Host and optional port as the client wrote them; forwarded unchanged unless rewritten.
    pub authority: Span,
    /// `authority` without port, in lower case: the key of routing.
    pub host: Span,
    /// Absolute path, canonical once `path_marks` are settled by the listener's policy ([`super::path`]), which is before
    /// anything is matched. `*` for OPTIONS.
    pub path: Span,
    pub path_marks: Marks,
    /// Without the `?`.
    pub query: Option<Span>,
    pub version: Version,
    pub scheme: Scheme,
    pub length: Length,
    /// The token of an Upgrade that may be honoured (`websocket`), only where the request is a valid one for it.
    pub upgrade: Option<Span>,
    pub te_trailers: bool,
    pub expect_continue: bool,
}

impl RequestHead {
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    pub fn method(&self) -> &str {
        self.fields.str(self.method)
    }

    pub fn authority(&self) -> &str {
        self.fields.str(self.authority)
    }

    pub fn host(&self) -> &str {
        self.fields.str(self.host)
    }

    pub fn path(&self) -> &str {
        self.fields.str(self.path)
    }

    pub fn query(&self) -> Option<&str> {
        self.query.map(|span| self.fields.str(span))
    }

    pub fn set_authority(&mut self, authority: &str) {
        self.authority = self.fields.store(authority.as_bytes());
    }

    /// Replaces the query; `None`: there is none any more.
    pub fn set_query(&mut self, query: Option<&str>) {
        self.query = query.map(|query| self.fields.store(query.as_bytes()));
    }

    /// What routing reads.
    pub fn view(&self) -> edge_config::matching::RequestView<'_, Fields> {
        edge_config::matching::RequestView {
            host: self.host(),
            method: self.method(),
            path: self.path(),
            query: self.query(),
            fields: &self.fields,
        }
    }

    pub fn set_path(&mut self, path: &str) {
        self.path = self.fields.store(path.as_bytes());
    }

    /// Replaces the first `covered` bytes of the path.
    pub fn replace_path_prefix(&mut self, covered: usize, replacement: &str) {
        let rest = self.path.range().start.saturating_add(covered).min(self.path.range().end)..self.path.range().end;
        let start = self.fields.buffer.len() as u32;
        self.fields.buffer.extend_from_slice(replacement.as_bytes());
        self.fields.buffer.extend_from_within(rest);
        self.path = Span { start, end: self.fields.buffer.len() as u32 };
    }

    /// RFC 9110 §9.2.2.
    pub fn is_idempotent(&self) -> bool {
        matches!(self.fields.text(self.method), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    pub fn is_head(&self) -> bool {
        self.fields.text(self.method) == b"HEAD"
    }

    pub fn is_grpc(&self) -> bool {
        self.fields.first(b"content-type").is_some_and(|value| value.starts_with(b"application/grpc"))
    }
}

impl edge_config::matching::Fields for Fields {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.first(name.as_bytes())
    }
}

/// A response, canonical; connection-level fields and Content-Length are taken out as for a request.
#[derive(Debug, Default, Clone)]
pub struct ResponseHead {
    pub fields: Fields,
    pub status: u16,
    pub length: Length,
    /// For a 101: the token of the Upgrade field.
    pub upgrade: Option<Span>,
}

impl ResponseHead {
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// Whether the status or the method rules a body out (RFC 9110 §6.4.1).
    pub fn is_bodiless(&self, request_is_head: bool) -> bool {
        request_is_head || matches!(self.status, 100..=199 | 204 | 304)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_the_fields_say_whatever_was_edited() {
        type Edit = fn(&mut Fields);
        let edits: [(&str, Edit); 7] = [
            ("a: 1\r\nb: \r\nc-c: 3\r\n", |_| {}),
            ("b: \r\nc-c: 3\r\n", |fields| fields.remove(b"a")),
            ("a: 1\r\nc-c: 3\r\n", |fields| fields.remove(b"b")),
            ("a: 1\r\nb: x\r\nc-c: 3\r\n", |fields| fields.set(b"b", b"x")),
            ("a: 1\r\nb: \r\nc-c: 3\r\nd: 4\r\n", |fields| fields.set(b"d", b"4")),
            ("a: 1\r\nc-c: 3\r\nb: 5\r\n", |fields| {
                fields.remove(b"b");
                fields.store(b"between");
                fields.add(b"b", b"5");
            }),
            ("", Fields::clear),
        ];
        for (expected, edit) in edits {
            let mut fields = Fields::default();
            fields.store(b"GET");
            fields.add(b"a", b"1");
            fields.add(b"b", b"");
            fields.add_lower(b"C-c", b"3");
            edit(&mut fields);
            let mut lines = Vec::new();
            fields.put_lines(|piece| lines.extend_from_slice(piece));
            assert_eq!(String::from_utf8_lossy(&lines), expected);
            let each: Vec<u8> =
                fields.iter().flat_map(|(name, value)| [name, b": ", value, b"\r\n"].concat()).collect();
            assert_eq!(each, lines);
        }
        let mut fields = Fields::default();
        let host = fields.store(b"a.test");
        fields.add_copy(b"x-forwarded-host", host);
        assert_eq!(fields.first(b"x-forwarded-host"), Some(&b"a.test"[..]));
    }
}
