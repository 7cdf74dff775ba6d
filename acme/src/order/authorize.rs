//! Proving control over names: which challenge, put in place, told to the CA, taken back.
//!
//! In: authorizations of an order. Out: challenges in place, or one fault per name. The CA's judgement is awaited in
//! [`super::obtain`].

use std::net::IpAddr;

use edge_config::issuer::{AcmeIssuer, Solve};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::account::{Account, Live};
use super::{OrderRecord, OrderWish};
use crate::challenge::{Challenge, ChallengeKind, Identifier, Present};
use crate::client::wire::{Authorization, Status, line, short};
use crate::failure::{Class, Fault, OrderError, Step};

/// Requests at a time for one order.
const ABREAST: usize = 16;
const WITHDRAW: Duration = Duration::from_secs(30);

/// An identifier as an authorization has it: a wildcard's without its star.
pub(super) type Subject = (Identifier, bool);

/// The names of a wish, in its order, without duplicates.
pub(super) fn subjects(dns_names: &[Box<str>], addresses: &[IpAddr]) -> Vec<Subject> {
    let mut all: Vec<Subject> = Vec::with_capacity(dns_names.len() + addresses.len());
    let names = dns_names.iter().map(|name| match name.strip_prefix("*.") {
        Some(bare) => (Identifier::Dns(bare.to_ascii_lowercase().into()), true),
        None => (Identifier::Dns(name.to_ascii_lowercase().into()), false),
    });
    for subject in names.chain(addresses.iter().map(|address| (Identifier::Ip(*address), false))) {
        if !all.contains(&subject) {
            all.push(subject);
        }
    }
    all
}

/// How each name may be proved, the best way first. What can never be proved is refused before an order is made.
pub(super) fn methods(
    issuer: &AcmeIssuer,
    wish: &OrderWish,
) -> Result<Vec<(Subject, &'static [ChallengeKind])>, OrderError> {
    use ChallengeKind::{Dns01, Http01, TlsAlpn01};
    let labelled = |key: &str, value: &str| wish.labels.iter().any(|(k, v)| **k == *key && **v == *value);
    let mut all = Vec::new();
    let mut faults = Vec::new();
    for (identifier, wildcard) in subjects(&wish.dns_names, &wish.addresses) {
        let name = format!("{}{identifier}", if wildcard { "*." } else { "" });
        let solver = issuer.solver(&name, labelled);
        let found: Result<&'static [ChallengeKind], &str> = match (solver.map(|solver| &solver.solve), &identifier) {
            (None, _) => Err("no solver of the issuer is for this name"),
            (Some(Solve::Dns01 { .. }), Identifier::Ip(_)) => Err("dns-01 cannot prove an address (RFC 8738 §7)"),
            (Some(Solve::Dns01 { .. }), _) => Ok(&[Dns01]),
            (Some(_), _) if wildcard => Err("a wildcard needs a dns01 solver (RFC 8555 §8.3, RFC 8737 §3)"),
            (Some(Solve::Http01), _) => Ok(&[Http01, TlsAlpn01]),
            (Some(Solve::TlsAlpn01), _) => Ok(&[TlsAlpn01, Http01]),
        };
        match found {
            Ok(kinds) => all.push(((identifier, wildcard), kinds)),
            Err(why) => faults.push(fault((identifier, wildcard), None, Class::Config, why)),
        }
    }
    if all.is_empty() && faults.is_empty() {
        return Err(OrderError::new(Class::Config, Step::Prepare, "the certificate has neither names nor addresses"));
    }
    if faults.is_empty() {
        return Ok(all);
    }
    let mut error = OrderError::new(Class::Config, Step::Prepare, "the issuer cannot prove these names");
    error.faults = faults;
    Err(error)
}

pub(super) fn fault(
    (identifier, wildcard): Subject,
    challenge: Option<ChallengeKind>,
    class: Class,
    detail: &str,
) -> Fault {
    Fault { identifier, wildcard, challenge, class, kind: None, detail: line(detail).into(), looked_at: Vec::new() }
}

/// What the CA found wrong, with where it looked.
pub(super) fn fault_of(authorization: &Authorization) -> Option<Fault> {
    let subject = authorization.identifier()?;
    let offer = authorization.failed();
    if offer.is_none() && matches!(authorization.status, Status::Valid | Status::Pending | Status::Processing) {
        return None;
    }
    let problem = offer.and_then(|offer| offer.error.clone()).unwrap_or_default();
    let detail = match problem.detail.is_empty() {
        false => problem.detail.clone(),
        true => format!("the authorization is {:?}", authorization.status).to_ascii_lowercase(),
    };
    let kind = short(&problem.kind);
    let class = match kind {
        "caa" | "rejectedIdentifier" | "userActionRequired" => Class::Config,
        "rateLimited" => Class::Limited,
        "serverInternal" => Class::Transient,
        _ => Class::Validation,
    };
    let mut fault = fault(subject, offer.and_then(|offer| offer.challenge()), class, &detail);
    fault.kind = (!kind.is_empty()).then(|| line(kind).into());
    fault.looked_at = offer.map(|offer| offer.looked_at()).unwrap_or_default();
    Some(fault)
}

/// A challenge in place.
pub(super) struct Placed {
    pub challenge: Challenge,
    url: Box<str>,
    /// The CA has not been told yet.
    is_pending: bool,
}

impl Account {
    /// All of them, in the order of their URLs.
    pub(super) async fn authorizations(
        &self,
        live: &Live,
        urls: &[Box<str>],
    ) -> Result<Vec<Authorization>, OrderError> {
        let mut all = Vec::with_capacity(urls.len());
        for some in urls.chunks(ABREAST) {
            for found in join_all(some.iter().map(|url| self.authorization(live, url))).await {
                all.push(found?);
            }
        }
        Ok(all)
    }

    async fn authorization(&self, live: &Live, url: &str) -> Result<Authorization, OrderError> {
        let answer = self.post(Step::Authorize, live, url, None).await?;
        let read: Result<Authorization, _> = serde_json::from_slice(&answer.body);
        let mut read = read.map_err(|error| {
            OrderError::new(Class::Transient, Step::Authorize, line(&format!("the CA sent no authorization: {error}")))
        })?;
        read.url = url.into();
        Ok(read)
    }

    /// Puts an answer in place for every name that the CA does not believe us yet. Where one of them fails, those in
    /// place are handed over with the error.
    pub(super) async fn place(
        &self,
        live: &Live,
        (methods, failed): (&[(Subject, &'static [ChallengeKind])], &OrderRecord),
        authorizations: &[Authorization],
        present: &impl Present,
        deadline: Instant,
    ) -> (Vec<Placed>, Result<(), OrderError>) {
        let open = |one: &&Authorization| one.status != Status::Valid;
        let all: Vec<&Authorization> = authorizations.iter().filter(open).collect();
        let (mut placed, mut faults) = (Vec::new(), Vec::new());
        for some in all.chunks(ABREAST) {
            let each = some.iter().map(|one| self.place_one(live, (methods, failed), one, present, deadline));
            for outcome in join_all(each).await {
                match outcome {
                    Ok(one) => placed.push(one),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        let Some(first) = faults.first() else { return (placed, Ok(())) };
        let mut error = OrderError::new(first.class, Step::Present, first.detail.clone());
        error.faults = faults;
        // The order is as good as it was; the next try goes on with it.
        error.resumes = error.class == Class::Transient;
        (placed, Err(error))
    }

    async fn place_one(
        &self,
        live: &Live,
        (methods, record): (&[(Subject, &'static [ChallengeKind])], &OrderRecord),
        authorization: &Authorization,
        present: &impl Present,
        deadline: Instant,
    ) -> Result<Placed, Fault> {
        let unknown = || (Identifier::Dns(line(&authorization.identifier.value).into()), false);
        let Some(subject) = authorization.identifier() else {
            return Err(fault(unknown(), None, Class::Transient, "the CA asks for an identifier that was not ordered"));
        };
        let Some((_, kinds)) = methods.iter().find(|(one, _)| *one == subject) else {
            return Err(fault(subject, None, Class::Transient, "the CA asks for a name that was not ordered"));
        };
        let (identifier, wildcard) = subject;
        let mut last = None;
        for kind in kinds.iter().copied() {
            if record.failed.iter().any(|(name, tried)| *name == identifier && *tried == kind) {
                continue;
            }
            let Some(offer) = authorization.offer(kind).filter(|offer| offer.has_sound_token()) else { continue };
            let challenge = Challenge {
                identifier: identifier.clone(),
                wildcard,
                kind,
                token: offer.token.as_str().into(),
                key_authorization: format!("{}.{}", offer.token, live.thumbprint).into(),
            };
            match timeout_at(deadline, present.present(&challenge)).await {
                Ok(Ok(())) => {
                    let is_pending = matches!(offer.status, Status::Pending | Status::Unknown);
                    return Ok(Placed { challenge, url: offer.url.as_str().into(), is_pending });
                }
                Ok(Err(why)) => last = Some((kind, why)),
                Err(_) => last = Some((kind, "not in place in time".to_owned())),
            }
        }
        Err(match last {
            Some((kind, why)) => fault((identifier, wildcard), Some(kind), Class::Transient, &why),
            None => {
                let offered: Vec<&str> = authorization.challenges.iter().map(|one| one.kind.as_str()).take(9).collect();
                let wanted: Vec<String> = kinds.iter().map(ToString::to_string).collect();
                let why = format!("the CA offers {}, the solver can {}", offered.join(", "), wanted.join(", "));
                fault((identifier, wildcard), None, Class::Config, &why)
            }
        })
    }

    /// Tells the CA to look. What it answers is seen in the authorizations, so a refusal here is none yet.
    pub(super) async fn set_ready(&self, live: &Live, placed: &[Placed]) -> Result<(), OrderError> {
        let pending: Vec<&Placed> = placed.iter().filter(|one| one.is_pending).collect();
        let nothing = json!({});
        for some in pending.chunks(ABREAST) {
            let told = some.iter().map(|one| self.post(Step::Validate, live, &one.url, Some(&nothing)));
            for outcome in join_all(told).await {
                match outcome {
                    // Caddy's server validates at once and says here how it went.
                    Err(error) if error.class == Class::Validation || error.kind.as_deref() == Some("malformed") => {}
                    Err(mut error) => {
                        error.resumes = matches!(error.class, Class::Transient | Class::Limited);
                        return Err(error);
                    }
                    Ok(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Authorizations that nobody goes on with would count as pending for a week.
    pub(super) async fn deactivate_pending(&self, live: &Live, urls: &[Box<str>]) {
        let give_up = async {
            let Ok(all) = self.authorizations(live, urls).await else { return };
            let wish = json!({ "status": "deactivated" });
            let pending: Vec<&Authorization> = all.iter().filter(|one| one.status == Status::Pending).collect();
            for some in pending.chunks(ABREAST) {
                join_all(some.iter().map(|one| self.post(Step::Authorize, live, &one.url, Some(&wish)))).await;
            }
        };
        // Politeness, not correctness.
        let _ = timeout(WITHDRAW, give_up).await;
    }
}

/// Takes all of them back.
pub(super) async fn withdraw(placed: &[Placed], present: &impl Present) {
    let each = join_all(placed.iter().map(|one| present.withdraw(&one.challenge)));
    let _ = timeout(WITHDRAW, each).await;
}
