//! Requests of the data plane to foreign servers: bounded in size, time and number, and on the way that the policy says:
//! by the host of the URL, or through backends of its own.
//!
//! In: a URL and what is sent. Out: the answer, or one line that says why there is none. A redirect is followed for what is
//! only read, a few times, and never from https to http. Standards: RFC 9110, RFC 6749 §3.2.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edge_acme::client::{Https, Settings};
use edge_config::policy::ServiceName;
use edge_config::snapshot::Target;
use http::{Request, Uri};
use tokio::sync::Semaphore;

use super::super::clock::Clock;
use super::super::io::Backend as IoBackend;
use super::super::message::{Length, RequestHead, Scheme};
use super::super::metrics::Series;
use super::super::upstream::ask::{Question, ask};
use super::super::upstream::balance::Random;
use super::super::upstream::circuit::Registry;
use super::super::upstream::{Called, Definition, Dialer, Upstreams, priority};
use crate::proxy::generation::Generation;

/// The whole of one exchange, redirects included.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
pub const MOST: usize = 512 << 10;
/// At once.
const CONCURRENCY: usize = 64;
const REDIRECTS: usize = 3;

/// What came back, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
    /// Seconds that the server's clock is ahead of ours, where it says.
    pub clock_ahead: Option<i64>,
}

/// What is sent.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// application/x-www-form-urlencoded; `None`: something is only read.
    pub body: Option<Bytes>,
    /// Credentials of HTTP Basic, ready to be sent.
    pub authorization: Option<Box<str>>,
}

pub struct Outgoing {
    clock: Rc<Clock>,
    random: Random,
    view: RefCell<Rc<View>>,
    upstreams: Rc<RefCell<Upstreams>>,
    /// Made when somebody first asks a URL: the system's certificates are many.
    https: OnceCell<Https>,
    places: Semaphore,
}

/// A generation as it is seen from here.
struct View {
    generation: Arc<Generation>,
    series: Arc<Series>,
    called: Called,
}

impl View {
    fn definition(&self) -> Definition<'_> {
        let Generation { snapshot, endpoints, tls, .. } = &*self.generation;
        Definition { snapshot, endpoints, tls, series: &self.series }
    }
}

impl Outgoing {
    pub fn new(clock: Rc<Clock>, registry: Arc<Registry>, generation: Arc<Generation>) -> Self {
        let view = View { generation, series: Arc::default(), called: Called::none() };
        Self {
            clock,
            random: Random::from_system(),
            view: RefCell::new(Rc::new(view)),
            upstreams: Rc::new(RefCell::new(Upstreams::new(registry))),
            https: OnceCell::new(),
            places: Semaphore::new(CONCURRENCY),
        }
    }

    /// Asks the endpoints of this generation from now on.
    pub fn adopt(&self, generation: Arc<Generation>) {
        let before = Rc::clone(&self.view.borrow());
        let mut view = View { generation, series: Arc::default(), called: Called::none() };
        view.called = self.upstreams.borrow_mut().succeed(&view.definition(), &before.called);
        self.view.replace(Rc::new(view));
    }

    /// Closes connections that idle for too long.
    pub fn sweep(&self) {
        let timeout = self.view.borrow().generation.limits.upstream_idle_timeout;
        self.upstreams.borrow().sweep(timeout);
    }

    /// Sends it and reads the answer.
    pub async fn send(&self, url: &str, via: Option<&ServiceName>, form: &Form) -> Result<Reply, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let timer = self.clock.timer();
        let host = host_of(url);
        let sent = async {
            match via {
                Some(service) => self.through(url, service, form).await,
                None => self.direct(url, form).await,
            }
        };
        let answer = timer.within(PATIENCE, sent).await;
        answer.unwrap_or_else(|_| Err(format!("no answer from {host} within {} s", PATIENCE.as_secs())))
    }

    async fn direct(&self, url: &str, form: &Form) -> Result<Reply, String> {
        let https = self.https()?;
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let mut request = match &form.body {
                Some(_) => Request::post(&url).header("content-type", FORM),
                None => Request::get(&url),
            };
            request = request.header("accept", "application/json");
            if let Some(credentials) = &form.authorization {
                request = request.header("authorization", &**credentials);
            }
            let request = request.body(form.body.clone().unwrap_or_default());
            let request = request.map_err(|_| format!("{url:?} is no URL"))?;
            let answer = https.send(request).await.map_err(|error| error.to_string())?;
            let status = answer.status.as_u16();
            if let (None, 301 | 302 | 303 | 307 | 308, Some(location)) = (&form.body, status, answer.text("location")) {
                url = redirected(&url, location)?;
                continue;
            }
            let ahead = answer.clock_ahead(edge_acme::client::now());
            return Ok(Reply { status, body: answer.body, clock_ahead: ahead });
        }
        Err(format!("{} redirects more than {REDIRECTS} times", host_of(&url)))
    }

    fn https(&self) -> Result<&Https, String> {
        if let Some(https) = self.https.get() {
            return Ok(https);
        }
        let settings = Settings { total: PATIENCE, connect: PATIENCE / 2, body_limit: MOST, ..Settings::default() };
        let https = Https::new(&settings).map_err(|error| error.to_string())?;
        Ok(self.https.get_or_init(|| https))
    }

    async fn through(&self, url: &str, service: &ServiceName, form: &Form) -> Result<Reply, String> {
        let view = Rc::clone(&self.view.borrow());
        let backends = view.generation.snapshot.service(service).map(|service| &*service.backends);
        let census = |id| {
            let upstream = view.called.get(id, &view.definition(), &self.upstreams);
            upstream.map(|upstream| upstream.census()).unwrap_or_default()
        };
        let chosen = priority::choose(backends.unwrap_or_default(), self.random.next_u32(), census);
        let (id, balance) = match chosen.map(|backend| (&backend.target, &backend.balance)) {
            Some((Target::Upstream(id), balance)) => (*id, balance.clone().unwrap_or_default()),
            Some((Target::Invalid { reason, .. }, _)) => return Err(reason.to_string()),
            None => return Err(format!("{service} has no backend")),
        };
        let upstream = view.called.get(id, &view.definition(), &self.upstreams);
        let upstream = upstream.ok_or_else(|| format!("{service} has no upstream"))?;
        let secure = upstream.tls.is_some();
        let head = head(url, form, secure)?;
        let limits = &view.generation.limits;
        let dialer =
            Dialer { clock: &self.clock, backend: IoBackend::Epoll, limits, origin: None, connect_timeout: None };
        let body = form.body.clone().unwrap_or_default();
        let question = Question { head: &head, body, most: MOST, balance: &balance };
        let answer = ask(upstream, &self.random, dialer, &question).await;
        let answer = answer.map_err(|error| format!("{}: {error}", upstream.key))?;
        if !answer.is_whole {
            return Err(format!("answer of {} is longer than {MOST} bytes", upstream.key));
        }
        let date = answer.head.fields.first(b"date").and_then(|text| std::str::from_utf8(text).ok());
        let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
        let date = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        let ahead = date.map(|date| date.as_secs() as i64 - edge_acme::client::now());
        Ok(Reply { status: answer.head.status, body: answer.body.into(), clock_ahead: ahead })
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn head(url: &str, form: &Form, secure: bool) -> Result<RequestHead, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let authority = uri.authority().ok_or_else(|| format!("{url:?} names no host"))?;
    let mut head = RequestHead::default();
    head.method = head.fields.store(if form.body.is_some() { b"POST" } else { b"GET" });
    head.set_authority(authority.as_str());
    head.set_path(if uri.path().is_empty() { "/" } else { uri.path() });
    head.query = uri.query().map(|query| head.fields.store(query.as_bytes()));
    head.scheme = if secure { Scheme::Https } else { Scheme::Http };
    head.fields.add(b"accept", b"application/json");
    head.fields.add(b"user-agent", b"edge");
    if let Some(credentials) = &form.authorization {
        head.fields.add(b"authorization", credentials.as_bytes());
    }
    if let Some(body) = &form.body {
        head.fields.add(b"content-type", FORM.as_bytes());
        head.length = Length::Known(body.len() as u64);
    }
    Ok(head)
}

/// Where a redirect leads, if it may be followed.
fn redirected(from: &str, location: &str) -> Result<String, String> {
    let base: Uri = from.parse().map_err(|_| format!("{from:?} is no URL"))?;
    let refuse = || format!("{} redirects to {location:?}, which is not followed", host_of(from));
    let (Some(scheme), Some(authority)) = (base.scheme_str(), base.authority()) else { return Err(refuse()) };
    let target = match location.strip_prefix('/') {
        Some(rest) if !rest.starts_with(['/', '\\']) => format!("{scheme}://{authority}{location}"),
        Some(_) => return Err(refuse()),
        None => location.to_owned(),
    };
    let is_sound = target.parse::<Uri>().is_ok_and(|uri| {
        uri.host().is_some()
            && (uri.scheme_str() == Some("https") || (scheme == "http" && uri.scheme_str() == Some("http")))
    });
    if is_sound { Ok(target) } else { Err(refuse()) }
}

/// The host of a URL, for people.
pub fn host_of(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    uri.as_ref().and_then(Uri::host).map_or_else(|| url.chars().take(100).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_what_they_were() {
        for (from, location, expected) in [
            ("https://a.test/x", "/y", Some("https://a.test/y")),
            ("https://a.test/x", "https://b.test/y?z", Some("https://b.test/y?z")),
            ("https://a.test/x", "http://b.test/y", None),
            ("https://a.test/x", "//b.test/y", None),
            ("https://a.test/x", "/\\b.test/y", None),
            ("https://a.test/x", "y", None),
            ("http://127.0.0.1/x", "http://127.0.0.1:1/y", Some("http://127.0.0.1:1/y")),
            ("http://127.0.0.1/x", "https://b.test/y", Some("https://b.test/y")),
            ("https://a.test/x", "javascript:alert(1)", None),
        ] {
            assert_eq!(redirected(from, location).ok().as_deref(), expected, "{from} {location}");
        }
    }

    #[test]
    fn a_head_from_a_url() {
        let form = Form { body: Some(Bytes::from_static(b"a=b")), authorization: None };
        let made = head("https://id.test:8443/token?x=1", &form, true).unwrap();
        assert_eq!(
            (made.method(), made.authority(), made.path(), made.query()),
            ("POST", "id.test:8443", "/token", Some("x=1"))
        );
        assert_eq!(made.length, Length::Known(3));
        let made = head("http://id.test", &Form::default(), false).unwrap();
        assert_eq!((made.method(), made.path(), made.query()), ("GET", "/", None));
        assert!(head("/nothing", &Form::default(), false).is_err());
    }
}
