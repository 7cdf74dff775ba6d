//! What the answers look like: overrides and error pages, compression, faults on purpose. Also fixed answers, of which
//! overrides and direct responses are made.
//!
//! Values are decided here and never judged again: header names are lower case and valid, statuses are statuses, a
//! [`Body`] has only blanks that are known.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::TextMatch;
use crate::snapshot::Redirect;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Responses {
    /// The first that matches a response is carried out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// In the order of preference where a client has none; one of each kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compressors: Vec<Compressor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl Responses {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Another answer in place of one that would be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Override {
    /// Inclusive ranges, any of them; empty: every status.
    pub statuses: Vec<(u16, u16)>,
    /// All of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldIs>,
    pub source: Source,
    pub instead: Instead,
}

/// Whose answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    All,
    /// Those that Edge makes itself.
    Local,
    Backend,
}

/// One of the fields of this name is this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldIs {
    pub name: Box<str>,
    pub text: TextMatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Instead {
    Answer(Arc<FixedAnswer>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
}

/// An answer that is written in the configuration. In place of another one it leaves alone what it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FixedAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(Box<str>, Box<str>)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(Box<str>, Box<str>)>,
}

/// The largest body of a [`FixedAnswer`]: that of a ConfigMap.
pub const LARGEST_BODY: usize = 1 << 20;

/// A text, with places that are filled in for each answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    text: Arc<[u8]>,
    blanks: Box<[Blank]>,
}

/// What stands at a place of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blank {
    place: Range<usize>,
    value: Value,
}

/// What is filled in: a command operator of Envoy's. Where there is nothing to be said it is `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub what: What,
    /// Bytes of it at most.
    pub most: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `%%`
    Percent,
    /// `REQ`: the first of these that the request has.
    Request(Vec<RequestPart>),
    /// `RESP`: the first of these fields (lower case) that the response had before.
    Response(Vec<Box<str>>),
    /// `RESPONSE_CODE`: the one that is sent.
    Status,
    /// `RESPONSE_CODE_DETAILS`: why Edge itself answers.
    Reason,
    /// `LOCAL_REPLY_BODY`: what Edge would have said.
    LocalBody,
    /// `PROTOCOL`
    Protocol,
    /// `START_TIME`, in RFC 3339.
    Time,
    /// `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`
    Client,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPart {
    Method,
    /// And query.
    Path,
    Authority,
    Scheme,
    /// Lower case.
    Field(Box<str>),
}

impl Body {
    /// Reads a text with operators. The error names the one that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut blanks = Vec::new();
        let mut at = 0;
        while let Some(start) = text[at..].find('%').map(|found| at + found) {
            let Some(length) = operator(&text[start..]) else {
                at = start + 1;
                continue;
            };
            let place = start..start + length;
            let inner = &text[start + 1..place.end - 1];
            blanks.push(Blank { value: value(inner)?, place: place.clone() });
            at = place.end;
        }
        Ok(Self { text: text.as_bytes().into(), blanks: blanks.into() })
    }

    /// The whole of it, where nothing is to be filled in.
    pub fn fixed(&self) -> Option<&Arc<[u8]>> {
        self.blanks.is_empty().then_some(&self.text)
    }

    /// The text with each blank filled in by `fill`.
    pub fn filled(&self, mut fill: impl FnMut(&Value, &mut Vec<u8>)) -> Vec<u8> {
        let mut filled = Vec::with_capacity(self.text.len() + 256);
        let mut at = 0;
        for blank in &self.blanks {
            filled.extend_from_slice(self.text.get(at..blank.place.start).unwrap_or_default());
            fill(&blank.value, &mut filled);
            at = blank.place.end;
        }
        filled.extend_from_slice(self.text.get(at..).unwrap_or_default());
        filled
    }

    pub fn size(&self) -> usize {
        self.text.len()
    }
}

/// The length of the operator that a text begins with: `%NAME%`, `%NAME(argument)%`, `%NAME(argument):number%`, `%%`.
/// Another percent sign, as in a style sheet, stands for itself.
fn operator(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.starts_with(b"%%") {
        return Some(2);
    }
    let mut end = 1 + bytes.get(1..)?.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'_').count();
    if end < 4 {
        return None;
    }
    if bytes.get(end) == Some(&b'(') {
        end += bytes.get(end..)?.iter().position(|byte| matches!(byte, b')' | b'\n' | b'%'))?;
        if bytes.get(end) != Some(&b')') {
            return None;
        }
        end += 1;
    }
    if bytes.get(end) == Some(&b':') {
        end += 1 + bytes.get(end + 1..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    }
    (bytes.get(end) == Some(&b'%')).then_some(end + 1)
}

/// What stands between the percent signs.
fn value(text: &str) -> Result<Value, String> {
    let plain = |what| Ok(Value { what, most: None });
    if text.is_empty() {
        return plain(What::Percent);
    }
    let unknown = || format!("%{text}% is not acted on by this version");
    let (name, rest) = text.split_once('(').unwrap_or((text, ""));
    if rest.is_empty() {
        return plain(match name {
            "RESPONSE_CODE" => What::Status,
            "RESPONSE_CODE_DETAILS" => What::Reason,
            "LOCAL_REPLY_BODY" => What::LocalBody,
            "PROTOCOL" => What::Protocol,
            "START_TIME" => What::Time,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => What::Client,
            _ => return Err(unknown()),
        });
    }
    let (argument, most) = rest.split_once(')').ok_or_else(unknown)?;
    let most = match most.strip_prefix(':') {
        Some(number) => Some(number.parse().map_err(|_| unknown())?),
        None => None,
    };
    let is_name = |name: &str| crate::wire::is_token(name);
    let names = argument.split('?').map(str::to_ascii_lowercase);
    let what = match name {
        "REQ" => {
            let part = |name: String| match name.as_str() {
                ":method" => Ok(RequestPart::Method),
                ":path" => Ok(RequestPart::Path),
                ":authority" | "host" => Ok(RequestPart::Authority),
                ":scheme" => Ok(RequestPart::Scheme),
                field if is_name(field) => Ok(RequestPart::Field(field.into())),
                _ => Err(unknown()),
            };
            What::Request(names.map(part).collect::<Result<_, _>>()?)
        }
        "RESP" => {
            let field = |name: String| if is_name(&name) { Ok(name.into()) } else { Err(unknown()) };
            What::Response(names.map(field).collect::<Result<_, _>>()?)
        }
        _ => return Err(unknown()),
    };
    Ok(Value { what, most })
}

/// What is shown of a long one.
const SHOWN: usize = 120;

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.text);
        let shown: String = text.chars().take(SHOWN).collect();
        write!(f, "{shown:?}")?;
        if shown.len() < text.len() { write!(f, "… ({} bytes)", self.text.len()) } else { Ok(()) }
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = String::from_utf8_lossy(&self.text);
        if text.chars().count() <= SHOWN {
            return serializer.serialize_str(&text);
        }
        let shown: String = text.chars().take(SHOWN).collect();
        serializer.collect_str(&format_args!("{shown}… ({} bytes)", self.text.len()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Compressor {
    pub coding: Coding,
    /// Shorter bodies are left alone; of one whose length is not known it is not asked.
    pub at_least: u64,
}

/// Content codings (RFC 9110 §8.4.1; RFC 7932; RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Brotli, Self::Zstd];

    /// As in Content-Encoding.
    pub fn token(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// Requests are held up or answered by Edge, for who wants to see how clients bear it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Delay {
    pub length: Duration,
    pub share: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Abort {
    pub status: AbortStatus,
    pub share: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AbortStatus {
    Http(u16),
    Grpc(u8),
}

/// Of a million requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    pub const ALL: Self = Self(1_000_000);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each blank in brackets, with what it was read as.
    fn read(text: &str) -> Result<String, String> {
        let body = Body::parse(text)?;
        let filled = body.filled(|value, out| {
            out.extend_from_slice(format!("[{:?} {:?}]", value.what, value.most).as_bytes());
        });
        Ok(String::from_utf8(filled).unwrap())
    }

    #[test]
    fn texts_with_blanks() {
        for (text, expected) in [
            ("", Ok("")),
            ("plain", Ok("plain")),
            ("a{width:100%;height:5%}", Ok("a{width:100%;height:5%}")),
            ("100% SURE%", Ok("100% SURE%")),
            ("%2F%41%C3%A4", Ok("%2F%41%C3%A4")),
            ("%", Ok("%")),
            ("50%% off", Ok("50[Percent None] off")),
            ("%RESPONSE_CODE%", Ok("[Status None]")),
            ("<%RESPONSE_CODE%:%PROTOCOL%>", Ok("<[Status None]:[Protocol None]>")),
            ("%REQ(:PATH)%", Ok("[Request([Path]) None]")),
            ("%REQ(X-Id?:AUTHORITY):20%", Ok("[Request([Field(\"x-id\"), Authority]) Some(20)]")),
            ("%RESP(X-A)%", Ok("[Response([\"x-a\"]) None]")),
            ("%REQ(a b)%", Err("%REQ(a b)% is not acted on by this version")),
            ("%REQ()%", Err("%REQ()% is not acted on by this version")),
            ("%REQ(a", Ok("%REQ(a")),
            ("%DURATION%", Err("%DURATION% is not acted on by this version")),
            ("%START_TIME(%s)%", Ok("%START_TIME(%s)%")),
            (
                "%REQ(a):99999999999999999999999%",
                Err("%REQ(a):99999999999999999999999% is not acted on by this version"),
            ),
        ] {
            assert_eq!(read(text), expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        assert!(Body::parse("a").unwrap().fixed().is_some());
        assert!(Body::parse("%%").unwrap().fixed().is_none());
    }

    #[test]
    fn what_is_long_is_shown_in_part() {
        let body = Body::parse(&"ä".repeat(1000)).unwrap();
        let shown = serde_json::to_string(&body).unwrap();
        assert!(shown.len() < 300 && shown.contains("(2000 bytes)"), "{shown}");
        assert!(format!("{body:?}").len() < 300);
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_it(text in "[%A-Z_():?0-9a-zä \n]{0,60}") {
            if let Ok(body) = Body::parse(&text) {
                // With nothing filled in, everything else is there.
                let filled = body.filled(|_, _| {});
                proptest::prop_assert!(filled.len() <= text.len());
            }
        }
    }
}
