//! Requests to the API server and their answers, as far as lists and watches need them. A path flows in, bytes or lines
//! flow out, or a [`Failure`] that says what kind of fault it was. Every wait has a deadline and every buffer a bound.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::reflector::Failure;
use crate::kubernetes::client::{Api, one_line};

/// From a request to the head of its answer.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// For a whole list page.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// A page may be this large.
const MOST_OF_A_PAGE: usize = 64 << 20;
/// One object of a watch may be this large: twice what etcd takes by default, escaped.
const MOST_OF_A_LINE: usize = 8 << 20;
const MOST_OF_AN_ERROR: usize = 64 << 10;

/// Asks for a small document of the API server.
pub async fn get(api: &Api, path: &str, most: usize) -> Result<Bytes, Failure> {
    let answer = send(api, path, false).await?;
    collect(answer.into_body(), most, Instant::now() + PAGE_PATIENCE).await
}

/// Asks for one page of a list.
pub async fn page(api: &Api, path: &str) -> Result<Bytes, Failure> {
    get(api, path, MOST_OF_A_PAGE).await
}

/// Opens a watch.
pub async fn watch(api: &Api, path: &str) -> Result<Lines, Failure> {
    let answer = send(api, path, true).await?;
    Ok(Lines { body: answer.into_body(), buffer: Vec::new(), start: 0, searched: 0, is_over: false })
}

async fn send(api: &Api, path: &str, is_watch: bool) -> Result<Response<Body>, Failure> {
    let deadline = Instant::now() + HEAD_PATIENCE;
    let client = match timeout_at(deadline, api.client()).await {
        Ok(Some(client)) => client,
        Ok(None) => return Err(Failure::Other("the client is gone".to_owned())),
        Err(_) => {
            let reason = api.trouble().map_or_else(|| "no client yet".to_owned(), |reason| reason.to_string());
            return Err(Failure::Other(reason));
        }
    };
    let mut request = Request::get(path).header(header::ACCEPT, HeaderValue::from_static("application/json"));
    if is_watch {
        // Compressed streams hold events back, and several members in one stream are not understood by all layers.
        request = request.header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    let request = request.body(Body::empty()).map_err(|error| Failure::Other(error.to_string()))?;
    let answer = match timeout_at(deadline, client.send(request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Failure::Other(in_full(&error))),
        Err(_) => return Err(Failure::Silent(HEAD_PATIENCE)),
    };
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let asked = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = collect(answer.into_body(), MOST_OF_AN_ERROR, deadline).await.unwrap_or_default();
    let said = serde_json::from_slice::<Status>(&body).unwrap_or_default();
    if status == StatusCode::UNAUTHORIZED {
        api.doubt();
    }
    Err(said.failure(status.as_u16(), asked.map(Duration::from_secs)))
}

/// What others say of their errors, with all causes, in one line.
fn in_full(error: &kube::Error) -> String {
    // The outermost only says that it was a request.
    let error: &dyn std::error::Error = match error {
        kube::Error::Service(inner) => &**inner,
        other => other,
    };
    let mut text = one_line(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = one_line(&error.to_string());
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    one_line(&text)
}

async fn collect(mut body: Body, most: usize, deadline: Instant) -> Result<Bytes, Failure> {
    let mut all = Vec::new();
    loop {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(Failure::Silent(PAGE_PATIENCE)),
            Ok(None) => return Ok(all.into()),
            Ok(Some(Err(error))) => return Err(Failure::Other(one_line(&error.to_string()))),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if all.len() + data.len() > most {
                    return Err(Failure::TooLarge);
                }
                all.extend_from_slice(&data);
            }
        }
    }
}

/// `metav1.Status`, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    code: u16,
    message: String,
    reason: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: u64,
}

impl Status {
    /// The status code of the answer and Retry-After, or 0 and nothing for a status within a watch.
    pub fn failure(&self, code: u16, asked: Option<Duration>) -> Failure {
        let code = if code == 0 { self.code } else { code };
        let details = self.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
        let asked = asked.or(details.map(Duration::from_secs));
        let said = || {
            let message = one_line(&self.message);
            if message.is_empty() { format!("the server answers {code}") } else { format!("{code}: {message}") }
        };
        match code {
            401 => Failure::Unauthorized,
            403 => Failure::Forbidden(said()),
            404 => Failure::Missing,
            410 => Failure::Gone,
            // A watch from a version that the server's cache does not reach any more.
            _ if matches!(self.reason.as_str(), "Expired" | "Gone") => Failure::Gone,
            429 => Failure::Busy(asked),
            503 if asked.is_some() => Failure::Busy(asked),
            _ => Failure::Other(said()),
        }
    }
}

/// The lines of a watch.
pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to here there is no line break.
    searched: usize,
    is_over: bool,
}

impl Lines {
    /// The next line that is here already.
    pub fn ready(&mut self) -> Option<&[u8]> {
        let from = self.searched.max(self.start);
        match memchr::memchr(b'\n', self.buffer.get(from..)?) {
            Some(offset) => {
                let line = self.start..from + offset;
                self.start = line.end + 1;
                self.searched = self.start;
                self.buffer.get(line)
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    /// Reads more; `false`: the watch ended.
    pub async fn more(&mut self, patience: Duration) -> Result<bool, Failure> {
        if self.is_over {
            return Ok(false);
        }
        self.buffer.drain(..self.start);
        self.searched -= self.start.min(self.searched);
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > 256 << 10 {
            // What a large object needed is not kept for small ones.
            self.buffer = Vec::new();
        }
        loop {
            let frame = match timeout(patience, self.body.frame()).await {
                Err(_) => return Err(Failure::Silent(patience)),
                Ok(None) => {
                    self.is_over = true;
                    return Ok(false);
                }
                Ok(Some(Err(error))) => return Err(Failure::Other(one_line(&error.to_string()))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            if self.buffer.len() + data.len() > MOST_OF_A_LINE {
                return Err(Failure::TooLarge);
            }
            self.buffer.extend_from_slice(&data);
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let said = |text: &str| serde_json::from_str::<Status>(text).unwrap();
        let second = Duration::from_secs(1);
        for (text, code, asked, expected) in [
            (r#"{"code":410,"reason":"Expired","message":"too old resource version"}"#, 0, None, Failure::Gone),
            (r#"{"code":500,"reason":"Expired"}"#, 0, None, Failure::Gone),
            (r#"{"code":429,"details":{"retryAfterSeconds":3}}"#, 429, None, Failure::Busy(Some(3 * second))),
            ("{}", 429, Some(second), Failure::Busy(Some(second))),
            ("{}", 503, Some(second), Failure::Busy(Some(second))),
            ("{}", 503, None, Failure::Other("the server answers 503".to_owned())),
            ("{}", 404, None, Failure::Missing),
            ("{}", 401, None, Failure::Unauthorized),
            (r#"{"message":"no\n way"}"#, 403, None, Failure::Forbidden("403: no way".to_owned())),
        ] {
            assert_eq!(said(text).failure(code, asked), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn lines_across_frames() {
        let body = Body::from(b"one\ntwo\n\nthree\nrest".to_vec());
        let mut lines = Lines { body, buffer: Vec::new(), start: 0, searched: 0, is_over: false };
        assert_eq!(lines.ready(), None);
        assert_eq!(lines.more(Duration::from_secs(5)).await, Ok(true));
        for expected in ["one", "two", "", "three"] {
            assert_eq!(lines.ready(), Some(expected.as_bytes()));
        }
        assert_eq!(lines.ready(), None);
        lines.buffer.extend_from_slice(b" of it\n");
        assert_eq!(lines.ready(), Some(&b"rest of it"[..]));
        assert_eq!(lines.more(Duration::from_secs(5)).await, Ok(false));
    }
}
