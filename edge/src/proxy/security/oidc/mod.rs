//! Login with OpenID Connect: who has a session passes with it, who has none is sent to the provider, if it is a browser.
//!
//! In: a request under a policy. Out: the request with what those behind Edge are to know, or the answer that is due: to the
//! provider, from it back to where the browser wanted to go, out again, or why not. Nothing is kept here: a session is a
//! sealed cookie that every edge opens ([`seal`]), and so is a login under way ([`session`]). Whatever takes asking
//! others is done by [`authorities`](crate::proxy::authorities). Nobody passes because somebody is away.
//!
//! Standards: OpenID Connect Core 1.0 §3.1 (authorization code flow), RP-Initiated Logout 1.0, RFC 6749, RFC 7636 (PKCE),
//! RFC 8707 (resources).

mod flow;
mod seal;
mod session;

use std::sync::Arc;
use std::time::Duration;

use edge_config::policy::{ClientId, Oidc};

use self::flow::{plain, redirect};
use self::seal::Seal;
use self::session::{Jar, Session};
use crate::proxy::authorities::{Exchange, Grant, Granted, Refused};
use crate::proxy::exchange::answer::Answer;
use crate::proxy::exchange::gate::{Gate, Passed, Stopped};
use crate::proxy::exchange::record::unix_seconds;
use crate::proxy::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::reason::Reason;
use crate::source::PasswordText;

/// For whoever asks others on behalf of a request; they are bounded themselves.
const PATIENCE: Duration = Duration::from_secs(15);
/// So long before its end a session is prolonged, or a tenth of its life if that is less.
const EARLY: i64 = 60;
/// What a request waits for that while its session is still good.
const EARLY_PATIENCE: Duration = Duration::from_secs(2);

/// One request, and what is at hand to judge it.
struct Visit<'a, 'g> {
    oidc: &'a Arc<Oidc>,
    gate: &'a Gate<'a, 'g>,
    client_id: Box<str>,
    client_secret: Arc<PasswordText>,
    seal: Seal,
    host: Box<str>,
    now: i64,
}

/// Lets a request pass with its session, or says what it is answered.
pub async fn pass(
    oidc: &Arc<Oidc>,
    gate: &Gate<'_, '_>,
    request: &mut RequestHead,
    response: &mut ResponseHead,
    passed: &mut Passed,
) -> Result<(), Stopped> {
    let Some(visit) = Visit::new(oidc, gate, request) else {
        return Err(stopped(Answer::new(500, Reason::SecretMissing), request, response));
    };
    let path = request.path();
    if path == &*oidc.logout_path {
        return Err(visit.logout(request, response));
    }
    if path == &*oidc.callback {
        return Err(visit.callback(request, response).await);
    }
    if visit.brings_token(&request.fields) {
        visit.hand_on(None, &mut request.fields);
        return Ok(());
    }
    match visit.session(request, passed).await {
        Ok(Some(session)) => {
            visit.hand_on(Some(&session), &mut request.fields);
            Ok(())
        }
        Ok(None) => Err(visit.login(request, response)),
        Err(Refused::Away(_)) => Err(stopped(Answer::new(503, Reason::ProviderAway), request, response)),
        Err(Refused::Denied(_) | Refused::Invalid(_)) => Err(visit.login(request, response)),
    }
}

/// An answer of ours in the terms of the request.
fn stopped(answer: Answer, request: &RequestHead, response: &mut ResponseHead) -> Stopped {
    let body = answer.fill(request.is_grpc(), response);
    response.fields.add(b"cache-control", b"no-store");
    if answer.status == 401 {
        // RFC 9110 §15.5.2: it "MUST" say how.
        response.fields.add(b"www-authenticate", b"Bearer");
    }
    Stopped { reason: answer.reason, body }
}

impl<'a, 'g> Visit<'a, 'g> {
    /// `None`: a secret is not at hand.
    fn new(oidc: &'a Arc<Oidc>, gate: &'a Gate<'a, 'g>, request: &RequestHead) -> Option<Self> {
        let secrets = gate.current.secrets();
        let client_secret = Arc::clone(secrets.text(&oidc.client_secret).ok()?);
        let client_id: Box<str> = match &oidc.client_id {
            ClientId::Text(text) => text.clone(),
            ClientId::Secret(reference) => {
                std::str::from_utf8(secrets.text(reference).ok()?.bytes()).ok()?.trim().into()
            }
        };
        if client_secret.bytes().is_empty() || client_id.is_empty() {
            return None;
        }
        let seal = Seal::new(oidc, &client_id, client_secret.bytes())?;
        let host = request.host().into();
        let now = i64::try_from(unix_seconds()).unwrap_or(i64::MAX);
        Some(Self { oidc, gate, client_id, client_secret, seal, host, now })
    }

    fn jar(&self) -> Jar<'_> {
        Jar { oidc: self.oidc, seal: &self.seal, host: &self.host, secure: self.gate.sender.https }
    }

    /// A token that is verified elsewhere, which looks for it in just these bytes.
    fn brings_token(&self, request: &Fields) -> bool {
        let is_token = |value: &[u8], prefix: &str| {
            value.strip_prefix(prefix.as_bytes()).is_some_and(|token| !token.trim_ascii().is_empty())
        };
        let mut fields = self.oidc.pass_through.iter();
        fields.any(|(name, prefix)| request.first(name.as_bytes()).is_some_and(|value| is_token(value, prefix)))
    }

    /// Tells those behind Edge who it is, and nothing that only a client says.
    fn hand_on(&self, session: Option<&Session>, request: &mut Fields) {
        self.jar().hand_on(session, request);
        let Some(session) = session else {
            // A token of the client's own is in a field that another step verifies.
            if let Some(name) = &self.oidc.forward_id_token {
                request.remove(name.as_bytes());
            }
            return;
        };
        if self.oidc.forward_access_token {
            forward(request, b"authorization", "Bearer ", session.access_token.as_deref());
        }
        if let Some(name) = &self.oidc.forward_id_token {
            let prefix = if &**name == "authorization" { "Bearer " } else { "" };
            forward(request, name.as_bytes(), prefix, session.id_token.as_deref());
        }
    }

    /// The session of a request, prolonged where it is due. `Ok(None)`: it has none.
    async fn session(&self, request: &RequestHead, passed: &mut Passed) -> Result<Option<Session>, Refused> {
        let Some(session) = self.jar().session(&request.fields) else { return Ok(None) };
        let is_good = session.expires > self.now;
        let early = EARLY.min((session.expires - session.issued) / 10);
        if session.expires - early > self.now {
            return Ok(Some(session));
        }
        let may_refresh = self.oidc.refresh_ttl.is_some() && session.refresh_expires > self.now;
        let Some(token) = session.refresh_token.clone().filter(|_| may_refresh) else {
            return Ok(is_good.then_some(session));
        };
        let grant = Grant::Refresh { token, subject: session.subject.clone() };
        let patience = if is_good { EARLY_PATIENCE } else { PATIENCE };
        match self.exchange(grant, patience).await {
            Ok(granted) => {
                let prolonged = self.of(granted, Some(session));
                let kept = self.jar().keep(&prolonged, self.lasts(&prolonged), &request.fields, &mut passed.fields);
                if !kept {
                    tracing::debug!(policy = %self.oidc.owner, "a session is too large for cookies");
                }
                Ok(Some(prolonged))
            }
            // Who has a session keeps it to its end.
            Err(refused) => {
                tracing::debug!(policy = %self.oidc.owner, ?refused, "a session is not prolonged");
                if is_good { Ok(Some(session)) } else { Err(refused) }
            }
        }
    }

    async fn exchange(&self, grant: Grant, patience: Duration) -> Result<Granted, Refused> {
        let exchange = Exchange {
            oidc: Arc::clone(self.oidc),
            client_id: self.client_id.clone(),
            client_secret: Arc::clone(&self.client_secret),
            grant,
        };
        let worker = self.gate.worker;
        let timer = worker.clock.timer();
        let asked = worker.authorities().exchange(exchange);
        timer.within(patience, asked).await.unwrap_or_else(|_| Err(Refused::Away("no answer in time".to_owned())))
    }

    /// What is kept of tokens; of `before` what a refresh did not replace.
    fn of(&self, granted: Granted, before: Option<Session>) -> Session {
        let oidc = self.oidc;
        let needs_access = oidc.forward_access_token || oidc.cookies.access_token.is_some();
        let refresh_ttl = oidc.refresh_ttl.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX / 2));
        let (mut id_before, mut refresh_before, mut refresh_until) = (None, None, 0);
        if let Some(before) = before {
            (id_before, refresh_before, refresh_until) =
                (before.id_token, before.refresh_token, before.refresh_expires);
        }
        let refresh_expires = match (&granted.refresh_token, refresh_ttl) {
            (_, None) => 0,
            (Some(token), Some(ttl)) => flow::expiry_of(token).unwrap_or(self.now.saturating_add(ttl)),
            (None, Some(_)) => refresh_until,
        };
        Session {
            access_token: granted.access_token.filter(|_| needs_access),
            id_token: granted.id_token.or(id_before),
            refresh_token: granted.refresh_token.or(refresh_before).filter(|_| refresh_ttl.is_some()),
            subject: granted.subject,
            issued: self.now,
            expires: granted.expires,
            refresh_expires,
        }
    }

    /// How long a browser keeps it, in seconds.
    fn lasts(&self, session: &Session) -> i64 {
        let refresh = session.refresh_token.as_ref().map_or(0, |_| session.refresh_expires);
        session.expires.max(refresh).saturating_sub(self.now)
    }

    /// Ends the session here, and at the provider where it offers that.
    fn logout(&self, request: &RequestHead, response: &mut ResponseHead) -> Stopped {
        let session = self.jar().session(&request.fields);
        let home = match self.oidc.home.as_deref() {
            Some(path) if path.starts_with('/') => format!("{}{path}", self.origin(request)),
            Some(url) => url.to_owned(),
            None => format!("{}/", self.origin(request)),
        };
        let endpoints = self.gate.worker.authorities().endpoints(&self.oidc.provider).ok();
        let end = endpoints.and_then(|endpoints| endpoints.end_session.clone());
        let location = match end {
            Some(url) => {
                let id_token = session.as_ref().and_then(|session| session.id_token.as_deref());
                flow::end_session(&url, &self.client_id, id_token, &home)
            }
            None => home,
        };
        redirect(&location, response);
        self.jar().forget(&request.fields, &mut response.fields);
        Stopped { reason: Reason::OidcLogout, body: None }
    }

    /// Sends a browser to the provider; whoever is none is told that a login is needed.
    fn login(&self, request: &RequestHead, response: &mut ResponseHead) -> Stopped {
        if !flow::may_be_redirected(self.oidc, request) {
            return stopped(Answer::new(401, Reason::LoginRequired), request, response);
        }
        let endpoints = match self.gate.worker.authorities().endpoints(&self.oidc.provider) {
            Ok(endpoints) => endpoints,
            Err(_) => return stopped(Answer::new(503, Reason::ProviderAway), request, response),
        };
        let origin = self.origin(request);
        let target = flow::target(&origin, request);
        let back =
            self.oidc.redirect_url.as_deref().map_or_else(|| format!("{origin}{}", self.oidc.callback), str::to_owned);
        let Some(login) = flow::begin(target, back, self.now) else {
            return stopped(Answer::new(500, Reason::Internal), request, response);
        };
        redirect(&flow::authorization(self.oidc, &endpoints, &self.client_id, &login), response);
        if !self.jar().begin(&login, &request.fields, &mut response.fields) {
            return stopped(Answer::new(500, Reason::Internal), request, response);
        }
        Stopped { reason: Reason::OidcLogin, body: None }
    }

    /// The browser is back from the provider.
    async fn callback(&self, request: &RequestHead, response: &mut ResponseHead) -> Stopped {
        let failed = |why: &str, request: &RequestHead, response: &mut ResponseHead| {
            tracing::debug!(policy = %self.oidc.owner, "login failed: {why}");
            stopped(Answer::new(401, Reason::LoginFailed), request, response)
        };
        let answer = flow::Returned::of(request.query().unwrap_or_default());
        let login = answer.state.as_deref().and_then(|state| self.jar().login(state, &request.fields));
        let Some(login) = login.filter(|login| self.is_current(login)) else {
            // Somebody who goes back in history, or a forged link: whoever has a session needs no other one.
            if self.jar().session(&request.fields).is_some_and(|session| session.expires > self.now) {
                redirect(&format!("{}/", self.origin(request)), response);
                return Stopped { reason: Reason::OidcLogin, body: None };
            }
            return failed("there is no such login, or it took too long", request, response);
        };
        let Some(code) = answer.code else {
            let why = answer.error.unwrap_or_else(|| "no code".to_owned());
            let stopped = failed(&why, request, response);
            self.jar().end(&login.state, &mut response.fields);
            return stopped;
        };
        let grant = Grant::Code {
            code: code.into(),
            redirect: login.redirect.clone(),
            verifier: login.verifier.clone(),
            nonce: login.nonce.clone(),
        };
        match self.exchange(grant, PATIENCE).await {
            Ok(granted) => self.arrive(&login, granted, request, response),
            Err(Refused::Away(why)) => {
                tracing::debug!(policy = %self.oidc.owner, "login failed: {why}");
                stopped(Answer::new(503, Reason::ProviderAway), request, response)
            }
            Err(Refused::Denied(why)) => failed(&why, request, response),
            Err(Refused::Invalid(why)) => {
                // The provider has said yes, so this is for whoever runs it.
                tracing::warn!(policy = %self.oidc.owner, issuer = %self.oidc.provider.issuer, "login failed: {why}");
                stopped(Answer::new(401, Reason::LoginFailed), request, response)
            }
        }
    }

    fn is_current(&self, login: &session::Login) -> bool {
        let lasts = i64::try_from(self.oidc.login_ttl.as_secs()).unwrap_or(i64::MAX);
        // Another edge's clock may be ahead.
        let age = self.now.saturating_sub(login.began);
        age <= lasts && age >= -crate::proxy::authorities::SKEW
    }

    /// A login that came to its end.
    fn arrive(
        &self,
        login: &session::Login,
        granted: Granted,
        request: &RequestHead,
        response: &mut ResponseHead,
    ) -> Stopped {
        let session = self.of(granted, None);
        let is_strict = self.oidc.cookies.same_site == edge_config::policy::SameSite::Strict;
        let body = if is_strict {
            // The chain of redirects began at another site: a strict cookie comes only with a page of ours.
            Some(plain(&login.target, response))
        } else {
            redirect(&login.target, response);
            None
        };
        if !self.jar().keep(&session, self.lasts(&session), &request.fields, &mut response.fields) {
            tracing::warn!(policy = %self.oidc.owner, "the provider's tokens are too large for cookies");
            return stopped(Answer::new(502, Reason::LoginFailed), request, response);
        }
        self.jar().end(&login.state, &mut response.fields);
        Stopped { reason: Reason::OidcLogin, body }
    }

    /// Scheme and authority by which the client came.
    fn origin(&self, request: &RequestHead) -> String {
        let scheme = if self.gate.sender.https { "https" } else { "http" };
        format!("{scheme}://{}", request.authority())
    }
}

/// Sets a field to a token, and takes away what a client said there.
fn forward(request: &mut Fields, name: &[u8], prefix: &str, token: Option<&str>) {
    match token {
        Some(token) => request.set(name, format!("{prefix}{token}").as_bytes()),
        None => request.remove(name),
    }
}

#[cfg(test)]
mod tests;
