//! From one request to one answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer};
use super::assets;
use super::auth::{self, Shown};
use super::feed::Feed;
use super::host::Names;
use super::material::Material;
use super::throttle::Throttle;
use crate::control::shown as views;

/// A question is a name and a few ids; ids are names of objects.
const MAX_QUERY: usize = 4096;

pub(super) struct Site {
    feed: Arc<Feed>,
    names: Names,
    throttle: Throttle,
}

/// What speaks for whoever asks.
enum Visitor {
    Known,
    Stranger,
    /// Was wrong too often; seconds to wait.
    Slowed(u64),
}

impl Site {
    pub fn new(feed: Arc<Feed>, names: Names) -> Self {
        Self { feed, names, throttle: Throttle::default() }
    }

    pub fn answer<B>(&self, known: &Material, from: IpAddr, shown: Shown, request: &Request<B>) -> Answer {
        let mut answer = self.judged(known, from, shown, request);
        if request.method() == Method::HEAD {
            *answer.body_mut() = Full::default();
        }
        answer
    }

    fn judged<B>(&self, known: &Material, from: IpAddr, shown: Shown, request: &Request<B>) -> Answer {
        // HTTP/1.1: a target with an authority counts instead of the field (RFC 9112 §3.2.2).
        let host = request.uri().authority().map(|authority| authority.as_str());
        let mut fields = request.headers().get_all(header::HOST).iter();
        let host = host.or_else(|| fields.next().and_then(|field| field.to_str().ok())).unwrap_or_default();
        if fields.next().is_some() || !self.names.has(host) {
            let text = "this is not the dashboard of that host; edge.toml names its hosts in [dashboard] names";
            return answer::error(StatusCode::MISDIRECTED_REQUEST, text);
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = answer::error(StatusCode::METHOD_NOT_ALLOWED, "the dashboard takes GET and HEAD");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let path = request.uri().path();
        if let Some(asset) = assets::find(path) {
            return answer::of(StatusCode::OK, asset.kind, asset.text);
        }
        match path {
            "/login" if !known.is_open => return answer::of(StatusCode::OK, assets::LOGIN.kind, assets::LOGIN.text),
            "/login" => return answer::redirect("/"),
            "/logout" => return forgotten(),
            _ => {}
        }
        match self.visitor(known, from, shown, request) {
            Visitor::Known => {}
            Visitor::Slowed(seconds) => {
                let text = format!("too many wrong tokens from {from}: wait {seconds} s");
                let mut answer = answer::error(StatusCode::TOO_MANY_REQUESTS, &text);
                answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
                return answer;
            }
            Visitor::Stranger if path == "/" => return answer::redirect("/login"),
            Visitor::Stranger => {
                let mut answer = answer::error(StatusCode::UNAUTHORIZED, "a token, or a client certificate, is needed");
                answer
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"edge\""));
                return answer;
            }
        }
        match path {
            "/" => answer::of(StatusCode::OK, assets::INDEX.kind, assets::INDEX.text),
            "/session" => begun(known),
            path => match path.strip_prefix("/api/") {
                Some(view) => self.view(view, request.uri().query().unwrap_or_default()),
                None => answer::error(StatusCode::NOT_FOUND, "there is nothing here"),
            },
        }
    }

    fn visitor<B>(&self, known: &Material, from: IpAddr, shown: Shown, request: &Request<B>) -> Visitor {
        if known.is_open || shown == Shown::Certificate {
            return Visitor::Known;
        }
        let Some(token) = &known.token else { return Visitor::Stranger };
        let presented = request.headers().get(header::AUTHORIZATION);
        if let Some(presented) = presented.and_then(|field| auth::bearer(field.as_bytes())) {
            let now = Instant::now();
            if let Some(wait) = self.throttle.wait(from, now) {
                return Visitor::Slowed(wait.as_secs().max(1));
            }
            if token.is(presented) {
                return Visitor::Known;
            }
            self.throttle.failed(from, now);
            tracing::warn!("dashboard: wrong token from {from}");
            return Visitor::Stranger;
        }
        let now = SystemTime::now();
        let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
        match cookies.filter_map(auth::cookie).any(|cookie| token.is_session(cookie, now)) {
            true => Visitor::Known,
            false => Visitor::Stranger,
        }
    }

    fn view(&self, view: &str, query: &str) -> Answer {
        if query.len() > MAX_QUERY {
            return answer::error(StatusCode::URI_TOO_LONG, "the query is longer than 4096 bytes");
        }
        let moment = self.feed.moment();
        let question = views::Question::parse(query);
        let (map, rates) = (&moment.map, &moment.rates);
        let make = |make: &dyn Fn() -> Bytes| answer::json(moment.answer(&format!("{view}?{query}"), |_| make()));
        match view {
            "overview" => make(&|| answer::encoded(&views::overview(map, rates, &moment.points))),
            "map" => make(&|| answer::encoded(&views::map(map, rates, &question))),
            "search" => make(&|| answer::encoded(&map.find(question.text("q")))),
            "announcements" => make(&|| answer::encoded(&views::announcements(map, &question))),
            "certificates" => make(&|| answer::encoded(&views::certificates(map, &question))),
            "findings" => make(&|| answer::encoded(&views::findings(map, &question))),
            _ => answer::error(StatusCode::NOT_FOUND, "there is no such view"),
        }
    }
}

/// What a browser keeps, so that the token is typed once.
fn begun(known: &Material) -> Answer {
    let mut answer = answer::of(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", Bytes::new());
    let Some(token) = &known.token else { return answer };
    let value = token.session(SystemTime::now());
    let text = format!(
        "{}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Strict",
        auth::COOKIE,
        auth::SESSION.as_secs()
    );
    if let Ok(mut field) = HeaderValue::from_str(&text) {
        field.set_sensitive(true);
        answer.headers_mut().insert(header::SET_COOKIE, field);
    }
    answer
}

fn forgotten() -> Answer {
    let mut answer = answer::redirect("/login");
    let text = format!("{}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict", auth::COOKIE);
    if let Ok(field) = HeaderValue::from_str(&text) {
        answer.headers_mut().insert(header::SET_COOKIE, field);
    }
    answer
}
