//! The request that is asked about: a URL as one would give it to curl, a method, header fields.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Asked;
use crate::proxy::message::{RequestHead, Scheme};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `https` is assumed where no scheme is written. Others: `http`, and `tls`, `tcp`, `udp` with a port.
    pub url: String,
    #[serde(default = "get")]
    pub method: String,
    /// A `host` field is what routes see; the URL keeps naming the server.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Ask the Gateway with this address only.
    #[serde(default)]
    pub vip: Option<IpAddr>,
}

fn get() -> String {
    "GET".to_owned()
}

/// Why a question cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    #[error("url {0:?}: has no host")]
    Host(String),
    #[error("url {url:?}: {what} in the host, expected a host name or an address")]
    HostCharacter { url: String, what: String },
    #[error("url {0:?}: not a port, expected 1 to 65535")]
    Port(String),
    #[error("url {url:?}: scheme {scheme:?}, expected http, https, tls, tcp or udp")]
    Scheme { url: String, scheme: String },
    #[error("url {0:?}: needs a port, such as tcp://host:5432")]
    NoPort(String),
    #[error("url {0:?}: has user information, which no proxy accepts")]
    User(String),
    #[error("url {0:?}: has a character that must be percent-encoded")]
    Character(String),
    #[error("method {0:?}: not a method name")]
    Method(String),
    #[error("header {0:?}: expected \"name: value\"")]
    Header(String),
}

impl Question {
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), method: get(), headers: Vec::new(), vip: None }
    }

    /// Adds a field as curl's `-H` takes it.
    pub fn header(&mut self, line: &str) -> Result<(), QuestionError> {
        let (name, value) = line.split_once(':').ok_or_else(|| QuestionError::Header(line.to_owned()))?;
        if !is_token(name) || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(QuestionError::Header(line.to_owned()));
        }
        self.headers.push((name.to_owned(), value.trim().to_owned()));
        Ok(())
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

pub fn parse(question: &Question) -> Result<Asked, QuestionError> {
    let url = &question.url;
    let bad = |error: fn(String) -> QuestionError| error(url.clone());
    if !is_token(&question.method) {
        return Err(QuestionError::Method(question.method.clone()));
    }
    // RFC 3986 §2: a URI is printable ASCII; a browser would have encoded anything else.
    if url.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(bad(QuestionError::Character));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let scheme = scheme.to_ascii_lowercase();
    let well_known = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        "tls" | "tcp" | "udp" => None,
        _ => return Err(QuestionError::Scheme { url: url.clone(), scheme }),
    };
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains('@') {
        return Err(bad(QuestionError::User));
    }
    let (server, port) = split_port(authority).ok_or_else(|| bad(QuestionError::Port))?;
    let port = port.or(well_known).ok_or_else(|| bad(QuestionError::NoPort))?;
    let server = host_of(server, url)?;
    let host = match question.field("host") {
        Some(field) => host_of(split_port(field).ok_or_else(|| bad(QuestionError::Port))?.0, url)?,
        None => server.clone(),
    };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let encrypted = scheme == "https" || scheme == "tls";
    Ok(Asked {
        url: url.clone(),
        method: question.method.clone(),
        server_name: (encrypted && server.parse::<IpAddr>().is_err()).then_some(server),
        protocol: scheme,
        host,
        port,
        path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        query,
    })
}

/// The request as the data plane would decode it.
pub fn head(asked: &Asked, question: &Question) -> RequestHead {
    let scheme = if asked.protocol == "https" { Scheme::Https } else { Scheme::Http };
    let mut head = RequestHead { scheme, ..RequestHead::default() };
    for (name, value) in question.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        head.fields.add(name.to_ascii_lowercase().as_bytes(), value.as_bytes());
    }
    head.method = head.fields.store(asked.method.as_bytes());
    let literal = if asked.host.contains(':') { format!("[{}]", asked.host) } else { asked.host.clone() };
    let well_known = matches!((asked.protocol.as_str(), asked.port), ("http", 80) | ("https", 443));
    head.set_authority(&if well_known { literal } else { format!("{literal}:{}", asked.port) });
    head.host = head.fields.store(asked.host.as_bytes());
    head.set_path(&asked.path);
    head.query = asked.query.as_ref().map(|query| head.fields.store(query.as_bytes()));
    head
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let after = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after..].rfind(':') {
        Some(at) => {
            let (host, port) = authority.split_at(after + at);
            let digits = &port[1..];
            // RFC 3986 §3.2.3: an empty port is as good as none.
            if digits.is_empty() {
                return Some((host, None));
            }
            let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten();
            number.filter(|port| *port > 0).map(|port| (host, Some(port)))
        }
        None => Some((authority, None)),
    }
}

fn host_of(text: &str, url: &str) -> Result<String, QuestionError> {
    let fault = |what: &str| QuestionError::HostCharacter { url: url.to_owned(), what: what.to_owned() };
    if text.is_empty() {
        return Err(QuestionError::Host(url.to_owned()));
    }
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(|| fault("an unclosed '['"))?;
        return inner
            .parse::<std::net::Ipv6Addr>()
            .map(|address| address.to_string())
            .map_err(|_| fault("no IPv6 address"));
    }
    if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._".contains(*c))) {
        return Err(fault(&format!("{bad:?}")));
    }
    Ok(text.trim_end_matches('.').to_ascii_lowercase())
}

/// RFC 9110 §5.6.2
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: &str) -> Result<Asked, QuestionError> {
        parse(&Question::new(url))
    }

    #[test]
    fn urls() {
        for (url, protocol, host, sni, port, path, query) in [
            ("https://A.example/x?y=1#z", "https", "a.example", Some("a.example"), 443, "/x", Some("y=1")),
            ("a.example", "https", "a.example", Some("a.example"), 443, "/", None),
            ("a.example:8443/x", "https", "a.example", Some("a.example"), 8443, "/x", None),
            ("http://a.example?q", "http", "a.example", None, 80, "/", Some("q")),
            ("https://192.0.2.1/", "https", "192.0.2.1", None, 443, "/", None),
            ("http://[2001:DB8::1]:8080", "http", "2001:db8::1", None, 8080, "/", None),
            ("tcp://db.example:5432", "tcp", "db.example", None, 5432, "/", None),
            ("http://a.example./", "http", "a.example", None, 80, "/", None),
        ] {
            let found = asked(url).unwrap();
            assert_eq!(
                (found.protocol.as_str(), found.host.as_str(), found.server_name.as_deref(), found.port),
                (protocol, host, sni, port),
                "{url}"
            );
            assert_eq!((found.path.as_str(), found.query.as_deref()), (path, query), "{url}");
        }
    }

    #[test]
    fn what_is_no_url() {
        for (url, message) in [
            ("https://", "has no host"),
            ("https://a.example:0/", "not a port"),
            ("https://a.example:x/", "not a port"),
            ("ftp://a.example/", "scheme \"ftp\""),
            ("tcp://a.example", "needs a port"),
            ("https://u:p@a.example/", "user information"),
            ("https://a.example/a b", "percent-encoded"),
            ("https://a%2e.example/", "'%' in the host"),
        ] {
            assert!(asked(url).unwrap_err().to_string().contains(message), "{url}: {}", asked(url).unwrap_err());
        }
    }

    #[test]
    fn the_host_field_is_what_routes_see() {
        let mut question = Question::new("https://a.example/");
        question.header("Host: B.example:443").unwrap();
        let found = parse(&question).unwrap();
        assert_eq!((found.host.as_str(), found.server_name.as_deref()), ("b.example", Some("a.example")));
        assert!(question.header("no colon").is_err());
        assert!(question.header("a b: c").is_err());
    }
}
