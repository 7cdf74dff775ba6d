//! What every response of a rule is subject to, whoever makes it: edits, CORS, what the gate owes, and the policy of
//! answers.

use bytes::Bytes;
use edge_config::snapshot::{Cors, Listener, ListenerHeaders, Rule};

use super::answer::{self, Answer};
use super::record::Record;
use super::relay::Failure;
use crate::proxy::body::Sink;
use crate::proxy::filters;
use crate::proxy::message::{Fields, RequestHead, ResponseHead, Scheme};
use crate::proxy::reason::Reason;
use crate::proxy::responses::Shaping;
use crate::proxy::worker::Current;

#[derive(Clone, Copy)]
pub struct Dues<'a> {
    pub rule: &'a Rule,
    /// The rule's or a policy's.
    pub cors: Option<&'a Cors>,
    /// Of the request: the edits before may have removed it there.
    pub origin: Option<&'a [u8]>,
    /// What the gate owes to the client.
    pub owed: Option<&'a Fields>,
    pub late: Option<Late<'a>>,
    /// What is said of answers.
    pub shaping: Option<&'a Shaping<'a>>,
}

impl Dues<'_> {
    /// What is the rule's; [`Self::end`] comes last.
    pub fn edit(&self, response: &mut ResponseHead) {
        let edits = &self.rule.filters.response_headers;
        if !edits.is_empty() {
            filters::headers::apply(edits, &mut response.fields);
        }
        if let Some(cors) = self.cors {
            filters::cors::decorate(cors, self.origin, &mut response.fields);
        }
        for (name, value) in self.owed.into_iter().flat_map(Fields::iter) {
            response.fields.add(name, value);
        }
    }

    pub fn end(&self, response: &mut ResponseHead) {
        if let Some(late) = self.late {
            late.apply(response);
        }
    }

    pub fn settle(&self, response: &mut ResponseHead) {
        self.edit(response);
        self.end(response);
    }

    pub fn settle_and_code(
        &self,
        request: &RequestHead,
        response: &mut ResponseHead,
        body: Option<Bytes>,
    ) -> Option<Bytes> {
        self.settle(response);
        match self.shaping {
            Some(shaping) => shaping.whole(request, response, body),
            None => body,
        }
    }

    /// Of an answer that Edge itself makes, which a policy may put another one in the place of.
    pub fn settle_local(
        &self,
        request: &RequestHead,
        response: &mut ResponseHead,
        body: Option<Bytes>,
        reason: Reason,
    ) -> Option<Bytes> {
        let body = match self.shaping {
            Some(shaping) => shaping.local(request, response, body, reason),
            None => body,
        };
        self.settle_and_code(request, response, body)
    }

    /// Sends an answer in place of the backend's.
    pub async fn answer<K: Sink>(
        &self,
        answer: Answer,
        request: &RequestHead,
        response: &mut ResponseHead,
        sink: &mut K,
        record: &mut Record,
    ) -> Result<(), Failure> {
        if matches!(answer.status, 408 | 413) {
            sink.close();
        }
        let body = answer.fill(self.rule.grpc || request.is_grpc(), response);
        let body = self.settle_local(request, response, body, answer.reason);
        record.answered(response.status, answer.reason);
        answer::send(sink, response, body).await.map_err(Failure::Client)
    }
}

/// The last edits of a response, which are its listener's.
#[derive(Clone, Copy)]
pub struct Late<'a> {
    headers: Option<&'a ListenerHeaders>,
    secure: bool,
    /// Where HTTP/3 is served.
    http3: Option<u16>,
}

/// How long a client may remember that there is HTTP/3, in seconds. One that finds it gone comes by TCP again.
const REMEMBERED: u32 = 86_400;

impl<'a> Late<'a> {
    pub fn of(listener: &'a Listener, secure: bool, announces_http3: bool) -> Option<Self> {
        let headers = listener.client.headers.as_deref();
        let http3 = announces_http3.then_some(listener.port);
        (headers.is_some() || http3.is_some()).then_some(Self { headers, secure, http3 })
    }

    fn apply(&self, response: &mut ResponseHead) {
        if let Some(port) = self.http3 {
            // RFC 7838 §3. Who says something else of his service means it.
            if response.fields.first(b"alt-svc").is_none() {
                response.fields.add(b"alt-svc", format!("h3=\":{port}\"; ma={REMEMBERED}").as_bytes());
            }
        }
        if let Some(headers) = self.headers {
            filters::headers::apply_late(&headers.late, self.secure, &mut response.fields);
        }
    }
}

/// The last edits of a response that no rule has.
pub fn edit_late(current: &Current, request: &RequestHead, response: &mut ResponseHead, record: &Record) {
    let listener = record.listener.and_then(|id| current.snapshot().listeners.get(id.index()));
    let is_secure = request.scheme == Scheme::Https;
    if let Some(late) = listener.and_then(|listener| Late::of(listener, is_secure, record.announces_http3)) {
        late.apply(response);
    }
}
