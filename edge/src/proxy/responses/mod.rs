//! What answers look like: other answers in place of some, fewer bytes, faults on purpose.
//!
//! In: the policy of a rule or listener, the request, and the head of a response, where everything is decided. Out: an
//! edited head, and what becomes of the body. A request without such a policy meets none of it.
//! Standards: RFC 9110 (§8.4 content codings, §8.8.3 entity tags, §12.5.3 Accept-Encoding), Envoy's command operators.

mod coded;
mod encoder;
mod fault;
mod maintenance;
mod negotiation;
mod page;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use bytes::Bytes;
use edge_config::policy::{Coding, FixedAnswer, Instead, Override, Responses, Source};

use self::encoder::Encoder;
use self::page::Facts;
use crate::proxy::exchange::answer::date;
use crate::proxy::filters::redirect::location;
use crate::proxy::message::{Length, RequestHead, ResponseHead};
use crate::proxy::metrics::Compression;
use crate::proxy::reason::Reason;

pub use self::coded::{Way, relay};
pub use self::fault::inject;
pub use self::maintenance::Maintenance;

/// The policy of answers for one request.
pub struct Shaping<'g> {
    policy: &'g Responses,
    /// What the client is sent, where that is coded.
    coding: Option<Coding>,
    client: IpAddr,
    /// Of the listener.
    port: u16,
    counters: &'g Compression,
    /// The endpoint's answer gives way to another.
    replaced: RefCell<Option<Replaced>>,
    endpoint_status: Cell<u16>,
}

/// What takes the place of an endpoint's body.
enum Replaced {
    /// It stays, under another head.
    Head,
    Whole(Option<Bytes>),
}

impl<'g> Shaping<'g> {
    /// Takes note of what the client accepts. The endpoint is not asked for a coding that Edge makes itself.
    pub fn begin(
        policy: &'g Responses,
        request: &mut RequestHead,
        client: IpAddr,
        port: u16,
        counters: &'g Compression,
    ) -> Self {
        let offered = &policy.compressors;
        let is_coded = !offered.is_empty() && !request.is_head() && request.upgrade.is_none() && !request.is_grpc();
        let coding = if is_coded { negotiation::choose(offered, &request.fields) } else { None };
        if coding.is_some() {
            request.fields.remove(b"accept-encoding");
        }
        Self { policy, coding, client, port, counters, replaced: RefCell::default(), endpoint_status: Cell::new(0) }
    }

    pub fn policy(&self) -> &'g Responses {
        self.policy
    }

    /// Another answer in place of one that Edge itself makes.
    pub fn local(
        &self,
        request: &RequestHead,
        response: &mut ResponseHead,
        body: Option<Bytes>,
        reason: Reason,
    ) -> Option<Bytes> {
        match self.find(Source::Local, request, response) {
            None => body,
            Some(found) => {
                let local = body.as_deref().unwrap_or_default();
                let facts = Facts { request, client: self.client, reason: Some(reason), local };
                match self.carry_out(found, response, &facts) {
                    Some(Replaced::Whole(other)) => other,
                    Some(Replaced::Head) | None => body,
                }
            }
        }
    }

    /// The same for the answer of an endpoint, of which the head is here.
    pub fn of_endpoint(&self, request: &RequestHead, response: &mut ResponseHead) {
        self.endpoint_status.set(response.status);
        if response.status == 101 {
            return;
        }
        let Some(found) = self.find(Source::Backend, request, response) else { return };
        let facts = Facts { request, client: self.client, reason: None, local: b"" };
        *self.replaced.borrow_mut() = self.carry_out(found, response, &facts);
    }

    /// The status that the endpoint sent, whatever the client gets.
    pub fn endpoint_status(&self) -> u16 {
        self.endpoint_status.get()
    }

    /// Whether the client gets another answer than the endpoint's.
    pub fn is_replaced(&self) -> bool {
        self.replaced.borrow().is_some()
    }

    fn find(&self, source: Source, request: &RequestHead, response: &ResponseHead) -> Option<&'g Override> {
        // A page is no answer to a call.
        if request.is_grpc() {
            return None;
        }
        self.policy.overrides.iter().find(|one| {
            let status = response.status;
            (one.source == Source::All || one.source == source)
                && (one.statuses.is_empty()
                    || one.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status)))
                && one
                    .fields
                    .iter()
                    .all(|field| response.fields.all(field.name.as_bytes()).any(|value| field.text.matches(value)))
        })
    }

    fn carry_out(&self, found: &Override, response: &mut ResponseHead, facts: &Facts<'_>) -> Option<Replaced> {
        match &found.instead {
            Instead::Answer(answer) => Some(match (page::replace(answer, response, facts), &answer.body) {
                (None, None) => Replaced::Head,
                (body, _) => Replaced::Whole(body),
            }),
            Instead::Redirect(redirect) => {
                // A path that cannot be one was refused with the policy.
                let location = location(redirect, facts.request, self.port, 0).ok()?;
                page::strip(&mut response.fields);
                response.status = redirect.status;
                response.length = Length::None;
                date(response);
                response.fields.add(b"location", location.as_bytes());
                Some(Replaced::Whole(None))
            }
        }
    }

    /// Codes a body of Edge's own, as a whole.
    pub fn whole(&self, request: &RequestHead, response: &mut ResponseHead, body: Option<Bytes>) -> Option<Bytes> {
        let Some(coding) = self.decide(request, response) else { return body };
        let body = body?;
        let coded = Encoder::new(coding).and_then(|mut encoder| {
            encoder.write(&body).ok()?;
            encoder.finish().ok()
        });
        let Some(coded) = coded else {
            self.counters.skipped.one();
            return Some(body);
        };
        negotiation::recode(response, coding);
        self.count(coding, body.len(), coded.len());
        response.length = Length::Known(coded.len() as u64);
        Some(Bytes::from(coded))
    }

    /// The coding of a response whose head is complete. It says in the head what follows from Accept-Encoding.
    fn decide(&self, request: &RequestHead, response: &mut ResponseHead) -> Option<Coding> {
        let offered = &self.policy.compressors;
        if offered.is_empty() || request.is_grpc() {
            return None;
        }
        if response.status == 304 {
            negotiation::confirm(&request.fields, response);
            return None;
        }
        if !negotiation::is_codable(offered, response) {
            return None;
        }
        negotiation::vary(&mut response.fields);
        let coding = self.coding?;
        let least = offered.iter().find(|one| one.coding == coding)?.at_least;
        negotiation::is_long_enough(least, response.length).then_some(coding)
    }

    fn count(&self, coding: Coding, plain: usize, coded: usize) {
        let counters = self.counters.of(coding);
        counters.responses.one();
        counters.bytes_in.add(plain as u64);
        counters.bytes_out.add(coded as u64);
    }
}

/// The answer of a rule that has it in its configuration.
pub fn direct(
    answer: &FixedAnswer,
    request: &RequestHead,
    response: &mut ResponseHead,
    client: IpAddr,
) -> Option<Bytes> {
    let facts = Facts { request, client, reason: Some(Reason::DirectResponse), local: b"" };
    page::direct(answer, response, &facts)
}
