//! Answers that are written in the configuration, filled in for one request.
//!
//! What a client sends may stand in a page: in HTML and JSON it is escaped, elsewhere control characters are left out.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use edge_config::policy::{Body, FixedAnswer, RequestPart, Value, What};

use crate::control::span::rfc3339;
use crate::proxy::exchange::answer::date;
use crate::proxy::filters::headers::is_editable;
use crate::proxy::message::{Fields, Length, RequestHead, ResponseHead, Scheme, Version};
use crate::proxy::reason::Reason;

/// What a page may say beside what is in the request.
pub struct Facts<'a> {
    pub request: &'a RequestHead,
    pub client: IpAddr,
    /// Why Edge itself answers.
    pub reason: Option<Reason>,
    /// What it would say.
    pub local: &'a [u8],
}

/// Fills a head that has none of anybody's fields, and gives the body.
pub fn direct(answer: &FixedAnswer, response: &mut ResponseHead, facts: &Facts<'_>) -> Option<Bytes> {
    response.clear();
    response.status = answer.status.unwrap_or(200);
    instead(answer, response);
    response.fields.remove(b"date");
    date(response);
    let body = answer.body.as_ref().map(|body| filled(body, answer.content_type.as_deref(), response, facts));
    close(answer, body, response)
}

/// Edits the head of an answer that stays; gives the body that takes the place of its own, if there is one.
pub fn replace(answer: &FixedAnswer, response: &mut ResponseHead, facts: &Facts<'_>) -> Option<Bytes> {
    if let Some(status) = answer.status {
        response.status = status;
    }
    let Some(body) = &answer.body else {
        instead(answer, response);
        return None;
    };
    let body = filled(body, answer.content_type.as_deref(), response, facts);
    strip(&mut response.fields);
    date(response);
    instead(answer, response);
    close(answer, Some(body), response)
}

/// What a status cannot do without, or who may read the answer, stays; the rest was said of another answer.
pub fn strip(fields: &mut Fields) {
    fields.remove_if(|name| {
        let stays =
            matches!(
                name,
                b"www-authenticate" | b"proxy-authenticate" | b"allow" | b"retry-after" | b"vary" | b"ratelimit"
            ) || [&b"access-control-"[..], b"x-ratelimit-", b"ratelimit-"].iter().any(|begin| name.starts_with(begin));
        !stays
    });
}

fn instead(answer: &FixedAnswer, response: &mut ResponseHead) {
    let fields = &mut response.fields;
    if let Some(content_type) = &answer.content_type {
        fields.set(b"content-type", content_type.as_bytes());
    }
    for (name, value) in answer.set.iter().filter(|(name, _)| is_editable(name)) {
        fields.set(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in answer.add.iter().filter(|(name, _)| is_editable(name)) {
        fields.add(name.as_bytes(), value.as_bytes());
    }
}

fn close(answer: &FixedAnswer, body: Option<Bytes>, response: &mut ResponseHead) -> Option<Bytes> {
    let body = body.filter(|body| !body.is_empty());
    response.length = body.as_ref().map_or(Length::None, |body| Length::Known(body.len() as u64));
    if body.is_some() && answer.content_type.is_none() && response.fields.first(b"content-type").is_none() {
        response.fields.add(b"content-type", b"text/plain; charset=utf-8");
    }
    body
}

/// How text of others is written into a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    Html,
    Json,
    None,
}

impl Escape {
    fn of(content_type: Option<&str>) -> Self {
        let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
        if content_type.contains("html") || content_type.contains("xml") {
            Self::Html
        } else if content_type.contains("json") {
            Self::Json
        } else {
            Self::None
        }
    }

    fn put(self, text: &[u8], out: &mut Vec<u8>) {
        for byte in text {
            match (self, byte) {
                (Self::Html, b'<') => out.extend_from_slice(b"&lt;"),
                (Self::Html, b'>') => out.extend_from_slice(b"&gt;"),
                (Self::Html, b'&') => out.extend_from_slice(b"&amp;"),
                (Self::Html, b'"') => out.extend_from_slice(b"&quot;"),
                (Self::Html, b'\'') => out.extend_from_slice(b"&#39;"),
                (Self::Json, b'"' | b'\\') => out.extend_from_slice(&[b'\\', *byte]),
                (Self::Json, b'\n') => out.extend_from_slice(b"\\n"),
                (Self::Html | Self::None, b'\n' | b'\t') => out.push(*byte),
                (_, 0..=0x1f | 0x7f) => {}
                (_, byte) => out.push(*byte),
            }
        }
    }
}

/// Who sends megabytes of a header gets back so much of it.
const MOST: usize = 1024;

fn filled(body: &Body, content_type: Option<&str>, response: &ResponseHead, facts: &Facts<'_>) -> Bytes {
    if let Some(text) = body.fixed() {
        return Bytes::from_owner(Arc::clone(text));
    }
    let escape = Escape::of(content_type);
    let text = body.filled(|value, out| {
        if value.what == What::Percent {
            return out.push(b'%');
        }
        let mut found = Vec::new();
        say(value, response, facts, &mut found);
        let most = if value.what == What::LocalBody { found.len() } else { MOST };
        found.truncate(value.most.unwrap_or(most).min(most));
        // A character that was cut in two would not be text any more.
        match std::str::from_utf8(&found) {
            Ok(text) => escape.put(text.as_bytes(), out),
            Err(error) => escape.put(found.get(..error.valid_up_to()).unwrap_or_default(), out),
        }
    });
    Bytes::from(text)
}

fn say(value: &Value, response: &ResponseHead, facts: &Facts<'_>, out: &mut Vec<u8>) {
    let request = facts.request;
    match &value.what {
        What::Percent => {}
        What::Status => out.extend_from_slice(response.status.to_string().as_bytes()),
        What::Reason => {
            out.extend_from_slice(facts.reason.map_or("-", Reason::code).as_bytes());
        }
        What::LocalBody => out.extend_from_slice(facts.local),
        What::Protocol => out.extend_from_slice(match request.version {
            Version::Http10 => b"HTTP/1.0",
            Version::Http11 => b"HTTP/1.1",
            Version::Http2 => b"HTTP/2",
            Version::Http3 => b"HTTP/3",
        }),
        What::Time => out.extend_from_slice(rfc3339(std::time::SystemTime::now()).as_bytes()),
        What::Client => out.extend_from_slice(facts.client.to_canonical().to_string().as_bytes()),
        What::Request(parts) => {
            let found = parts.iter().any(|part| part_of(part, request, out));
            if !found {
                out.push(b'-');
            }
        }
        What::Response(names) => {
            let found = names.iter().find_map(|name| response.fields.first(name.as_bytes()));
            out.extend_from_slice(found.unwrap_or(b"-"));
        }
    }
}

/// Whether there is anything to be said.
fn part_of(part: &RequestPart, request: &RequestHead, out: &mut Vec<u8>) -> bool {
    let before = out.len();
    match part {
        RequestPart::Method => out.extend_from_slice(request.method().as_bytes()),
        RequestPart::Path => {
            out.extend_from_slice(request.path().as_bytes());
            if let Some(query) = request.query() {
                out.push(b'?');
                out.extend_from_slice(query.as_bytes());
            }
        }
        RequestPart::Authority => out.extend_from_slice(request.authority().as_bytes()),
        RequestPart::Scheme => out.extend_from_slice(match request.scheme {
            Scheme::Http => b"http",
            Scheme::Https => b"https",
        }),
        RequestPart::Field(name) => {
            out.extend_from_slice(request.fields.first(name.as_bytes()).unwrap_or_default());
        }
    }
    out.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(content_type: Option<&str>, text: &str) -> (ResponseHead, Option<Bytes>) {
        let mut request = RequestHead::default();
        request.method = request.fields.store(b"GET");
        request.set_authority("a.example");
        request.set_path("/a");
        request.query = Some(request.fields.store(b"q=<b>\"x\"&y"));
        request.fields.add(b"x-long", &b"x".repeat(5000));
        let mut response = ResponseHead { status: 404, ..ResponseHead::default() };
        for (name, value) in
            [("server", "x"), ("www-authenticate", "Basic"), ("x-ratelimit-limit", "5"), ("etag", "\"a\"")]
        {
            response.fields.add(name.as_bytes(), value.as_bytes());
        }
        let answer = FixedAnswer {
            content_type: content_type.map(Into::into),
            body: Some(Body::parse(text).unwrap()),
            set: vec![("x-set".into(), "1".into()), ("content-length".into(), "7".into())],
            ..FixedAnswer::default()
        };
        let facts = Facts {
            request: &request,
            client: "192.0.2.1".parse().unwrap(),
            reason: Some(Reason::NoRoute),
            local: b"404 no_route\n",
        };
        let body = replace(&answer, &mut response, &facts);
        (response, body)
    }

    #[test]
    fn pages_are_filled_and_safe() {
        for (content_type, text, expected) in [
            (None, "plain", "plain"),
            (Some("text/plain"), "%RESPONSE_CODE% %REQ(:METHOD)% %REQ(:PATH)%", "404 GET /a?q=<b>\"x\"&y"),
            (Some("text/html"), "<i>%REQ(:PATH)%</i>", "<i>/a?q=&lt;b&gt;&quot;x&quot;&amp;y</i>"),
            (Some("application/json"), "{\"p\": \"%REQ(:PATH)%\"}", "{\"p\": \"/a?q=<b>\\\"x\\\"&y\"}"),
            (Some("application/json"), "\"%LOCAL_REPLY_BODY%\"", "\"404 no_route\\n\""),
            (None, "%REQ(x-none?x-long):3%|%REQ(x-none)%", "xxx|-"),
            (None, "%RESPONSE_CODE_DETAILS%, 100%%, %RESP(server)%", "no_route, 100%, x"),
            (None, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "192.0.2.1"),
        ] {
            let (response, body) = page(content_type, text);
            let body = body.unwrap();
            assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
            assert_eq!(response.length, Length::Known(body.len() as u64));
            let names: Vec<String> =
                response.fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
            for (name, is_there) in [
                ("www-authenticate", true),
                ("x-ratelimit-limit", true),
                ("x-set", true),
                ("date", true),
                ("content-type", true),
                ("server", false),
                ("etag", false),
                ("content-length", false),
            ] {
                assert_eq!(names.contains(&name.to_owned()), is_there, "{name} {names:?}");
            }
        }
        assert_eq!(page(None, "%REQ(x-long)%").1.unwrap().len(), MOST);
    }
}
