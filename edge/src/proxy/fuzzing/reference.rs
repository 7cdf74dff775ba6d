//! A second opinion on HTTP/1: a small, slow and strict reader of RFC 9110 and RFC 9112, written only to judge the real one.
//!
//! It shares no code and no dependency with `h1`, looks at whole inputs instead of buffers, and refuses whatever has two
//! readings. Where Edge accepts, it must agree; where it refuses, nothing may be forwarded.

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Every byte was used, between two messages.
    End,
    /// The input ended within a message.
    Truncated,
    /// Not HTTP, or not with one meaning.
    Malformed(&'static str),
    /// The last message ended the connection; what follows it is nobody's.
    Closed,
}

pub type Field = (Vec<u8>, Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    pub method: Vec<u8>,
    /// Path and query as a backend must see them.
    pub target: Vec<u8>,
    pub authority: Vec<u8>,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    pub keeps_alive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    pub keeps_alive: bool,
}

/// Requests as a server reads them: the complete ones, then what is there of the next, and why it went no further.
#[derive(Debug, PartialEq, Eq)]
pub struct Requests {
    pub complete: Vec<Request>,
    /// The head was good and the body was not, or not yet.
    pub partial: Option<Request>,
    pub stop: Stop,
    /// Bytes of the complete ones.
    pub used: usize,
}

pub fn requests(input: &[u8]) -> Requests {
    let mut found = Requests { complete: Vec::new(), partial: None, stop: Stop::End, used: 0 };
    loop {
        let mut reader = Reader { input, at: found.used };
        // RFC 9112 §2.2: empty lines before a request are to be ignored.
        while reader.rest().starts_with(b"\r\n") {
            reader.at += 2;
        }
        if reader.rest().is_empty() {
            return found;
        }
        let mut request = Request::default();
        let framing = match request_head(&mut reader, &mut request) {
            Ok(framing) => framing,
            Err(stop) => return Requests { stop, ..found },
        };
        if let Err(stop) = reader.body(framing, &mut request.body, &mut request.trailers) {
            return Requests { partial: Some(request), stop, ..found };
        }
        found.used = reader.at;
        let goes_on = request.keeps_alive;
        found.complete.push(request);
        if !goes_on {
            return Requests { stop: Stop::Closed, ..found };
        }
    }
}

/// What a client makes of the bytes after a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Responses {
    pub interim: Vec<Response>,
    pub last: Response,
    /// How much the responses took; the rest belongs to nobody, or to the next one.
    pub used: usize,
    /// Its end is the end of the connection.
    pub until_close: bool,
}

/// Interim responses and the final one. `Err` has the body as far as it came, for a final head that was good.
pub fn response(input: &[u8], is_head: bool) -> Result<Responses, (Stop, Option<Response>)> {
    let mut reader = Reader { input, at: 0 };
    let mut interim = Vec::new();
    loop {
        let mut response = Response::default();
        let framing = response_head(&mut reader, &mut response).map_err(|stop| (stop, None))?;
        if response.status == 101 {
            return Err((Stop::Malformed("101 to a request without upgrade"), None));
        }
        if response.status < 200 {
            interim.push(response);
            continue;
        }
        let bodiless = is_head || matches!(response.status, 204 | 304);
        let framing = if bodiless { Framing::None } else { framing };
        if let Err(stop) = reader.body(framing, &mut response.body, &mut response.trailers) {
            return Err((stop, Some(response)));
        }
        return Ok(Responses { interim, last: response, used: reader.at, until_close: framing == Framing::Close });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
    Close,
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    /// A line without its CRLF. CR and LF stand nowhere else.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = self.rest();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Err(Stop::Truncated) };
        let line = rest[..end].strip_suffix(b"\r").ok_or(Stop::Malformed("LF without CR"))?;
        if line.contains(&b'\r') {
            return Err(Stop::Malformed("CR without LF"));
        }
        self.at += end + 1;
        Ok(line)
    }

    fn take(&mut self, count: u64, into: &mut Vec<u8>) -> Result<(), Stop> {
        let rest = self.rest();
        let there = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
        into.extend_from_slice(&rest[..there]);
        self.at += there;
        if there as u64 == count { Ok(()) } else { Err(Stop::Truncated) }
    }

    fn fields(&mut self) -> Result<Vec<Field>, Stop> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Stop::Malformed("field without colon"))?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
                return Err(Stop::Malformed("field name"));
            }
            if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
                return Err(Stop::Malformed("field value"));
            }
            fields.push((name.to_ascii_lowercase(), strip(value).to_vec()));
        }
    }

    fn body(&mut self, framing: Framing, body: &mut Vec<u8>, trailers: &mut Vec<Field>) -> Result<(), Stop> {
        match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.take(length, body),
            Framing::Close => self.take(self.rest().len() as u64, body),
            Framing::Chunked => {
                while let size @ 1.. = chunk_size(self.line()?)? {
                    self.take(size, body)?;
                    match self.rest() {
                        [b'\r', b'\n', ..] => self.at += 2,
                        [] | [b'\r'] => return Err(Stop::Truncated),
                        _ => return Err(Stop::Malformed("chunk is not as long as its size")),
                    }
                }
                *trailers = self.fields()?;
                let framing = [&b"content-length"[..], b"transfer-encoding", b"host"];
                if trailers.iter().any(|(name, _)| framing.contains(&name.as_slice())) {
                    return Err(Stop::Malformed("framing in trailers"));
                }
                Ok(())
            }
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Stop> {
    let bad = Stop::Malformed("chunk size");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if !(1..=16).contains(&digits) || !matches!(line.get(digits), None | Some(b';')) {
        return Err(bad);
    }
    if line[digits..].iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        return Err(Stop::Malformed("chunk extension"));
    }
    let digits = std::str::from_utf8(&line[..digits]).map_err(|_| bad)?;
    u64::from_str_radix(digits, 16).map_err(|_| bad)
}

fn request_head(reader: &mut Reader<'_>, request: &mut Request) -> Result<Framing, Stop> {
    let bad = |what| Err(Stop::Malformed(what));
    let line = reader.line()?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return bad("request line") };
    if !is_method(method) {
        return bad("method");
    }
    let is_old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return bad("version"),
    };
    if target.is_empty() || !target.iter().all(|byte| (0x21..=0x7e).contains(byte)) {
        return bad("target");
    }
    let fields = reader.fields()?;
    let hosts = values(&fields, b"host");
    let named = match hosts[..] {
        [] if is_old => None,
        // RFC 9112 §3.2: empty where the target has no authority.
        [host] if host.is_empty() || is_authority(host) => Some(host),
        _ => return bad("Host"),
    };
    let (authority, path) = match target {
        b"*" if method == b"OPTIONS" => (None, target.to_vec()),
        [b'/', ..] => (None, path_and_query(target)?),
        _ => {
            let rest = match target.get(..7) {
                Some(start) if start.eq_ignore_ascii_case(b"http://") => &target[7..],
                _ => return bad("target form"),
            };
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !is_authority(authority) {
                return bad("authority");
            }
            let path = if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() };
            (Some(authority), path_and_query(&path)?)
        }
    };
    let bare = |name: &[u8]| name.strip_suffix(b":80").unwrap_or(name).to_ascii_lowercase();
    request.authority = match (authority, named) {
        (Some(target), Some(host)) if bare(target) != bare(host) => return bad("Host differs from the target"),
        (Some(target), _) => target.to_vec(),
        (None, host) => host.unwrap_or_default().to_vec(),
    };
    (request.method, request.target) = (method.to_vec(), path);
    let framing = framing(&fields, is_old)?.unwrap_or(Framing::None);
    request.keeps_alive = keeps_alive(&fields, is_old);
    request.fields = fields;
    Ok(framing)
}

fn response_head(reader: &mut Reader<'_>, response: &mut Response) -> Result<Framing, Stop> {
    let bad = |what| Err(Stop::Malformed(what));
    let line = reader.line()?;
    let is_old = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return bad("version"),
    };
    let digits = line.get(9..12).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let status = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let Some(status @ 100..=599) = status else { return bad("status") };
    let reason = &line[12..];
    let is_text = reason.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f));
    if !matches!(reason, [] | [b' ', ..]) || !is_text {
        return bad("reason");
    }
    let fields = reader.fields()?;
    let framing = framing(&fields, is_old)?.unwrap_or(Framing::Close);
    response.status = status;
    response.keeps_alive = keeps_alive(&fields, is_old);
    response.fields = fields;
    Ok(framing)
}

/// RFC 9112 §6.3, where every "ought to be an error" is one.
fn framing(fields: &[Field], is_old: bool) -> Result<Option<Framing>, Stop> {
    let (lengths, codings) = (values(fields, b"content-length"), values(fields, b"transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([], [coding]) if !is_old && coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            length.map(|length| Some(Framing::Length(length))).ok_or(Stop::Malformed("Content-Length"))
        }
        _ => Err(Stop::Malformed("framing")),
    }
}

fn keeps_alive(fields: &[Field], is_old: bool) -> bool {
    let options = values(fields, b"connection");
    let has = |wanted: &[u8]| {
        options
            .iter()
            .flat_map(|list| list.split(|byte| *byte == b','))
            .any(|option| strip(option).eq_ignore_ascii_case(wanted))
    };
    !has(b"close") && (!is_old || has(b"keep-alive"))
}

/// The path without second readings, its encoded unreserved characters decoded, and the query as it is.
pub fn path_and_query(target: &[u8]) -> Result<Vec<u8>, Stop> {
    let bad = Stop::Malformed("path");
    let question = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(question);
    if target.contains(&b'#') || path.contains(&b'\\') {
        return Err(bad);
    }
    let (mut written, mut meant) = (Vec::new(), Vec::new());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            written.push(byte);
            meant.push(byte);
            continue;
        }
        let mut digit = || bytes.next().filter(u8::is_ascii_hexdigit);
        let digits = [digit().ok_or(bad)?, digit().ok_or(bad)?];
        let value =
            std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(bad)?;
        if matches!(value, b'/' | b'\\' | 0..=0x1f | 0x7f) {
            return Err(bad);
        }
        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
            written.push(value);
        } else {
            written.extend_from_slice(&[b'%', digits[0], digits[1]]);
        }
        meant.push(value);
    }
    if meant.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..") {
        return Err(bad);
    }
    written.extend_from_slice(query);
    Ok(written)
}

pub fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !text[colon..].contains(&b']') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| {
        let number = std::str::from_utf8(port).ok().filter(|_| port.iter().all(u8::is_ascii_digit));
        number.is_some_and(|port| port.parse::<u16>().is_ok())
    });
    let host_fits = match host {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        }
        _ => !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte)),
    };
    port_fits && host_fits
}

pub fn values<'a>(fields: &'a [Field], name: &[u8]) -> Vec<&'a [u8]> {
    fields.iter().filter(|(candidate, _)| candidate == name).map(|(_, value)| value.as_slice()).collect()
}

fn strip(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

pub fn is_method(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token(*byte))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
