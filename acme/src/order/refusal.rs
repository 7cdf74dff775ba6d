//! From answers and broken exchanges to reasons.
//!
//! In: what a CA answered, or how the exchange ended. Out: [`OrderError`]s with the CA's own words and times.

use crate::client::exchange::ExchangeError;
use crate::client::wire::{Problem, line, short};
use crate::client::{Answer, ClientError, KeyError, now, retry_after_in_text};
use crate::failure::{Class, Fault, OrderError, Step};

/// The answer where it is a success.
pub(super) fn checked(step: Step, sent: Result<Answer, ExchangeError>) -> Result<Answer, OrderError> {
    match sent {
        Ok(answer) if answer.status.is_success() => Ok(answer),
        Ok(answer) => Err(refused(step, &answer)),
        Err(error) => Err(broken(step, &error)),
    }
}

/// The CA said no.
pub(super) fn refused(step: Step, answer: &Answer) -> OrderError {
    let problem = Problem::of(answer);
    let status = answer.status.as_u16();
    let mut error = of_problem(step, &problem, status);
    if answer.status.is_redirection() {
        let place = line(answer.text("location").unwrap_or("nowhere"));
        // RFC 8555 knows of none; requests are signed for one URL.
        error.detail = format!("the CA sends us to {place} (HTTP {status}), and redirects are not followed").into();
    } else if problem.kind.is_empty() && problem.detail.is_empty() {
        let kind = answer.text("content-type").unwrap_or("no type");
        error.detail =
            format!("HTTP {status} without a problem document ({} bytes of {})", answer.body.len(), line(kind)).into();
    }
    let now = now();
    error.until = answer.retry_after(now).or_else(|| retry_after_in_text(&problem.detail, now));
    error
}

pub(super) fn of_problem(step: Step, problem: &Problem, status: u16) -> OrderError {
    let kind = short(&problem.kind);
    let faults: Vec<Fault> = problem
        .subproblems
        .iter()
        .take(100)
        .filter_map(|sub| {
            let (identifier, wildcard) = sub.identifier.as_ref()?.identifier()?;
            Some(Fault {
                identifier,
                wildcard,
                challenge: None,
                class: class(step, short(&sub.kind), status),
                kind: (!sub.kind.is_empty()).then(|| line(short(&sub.kind)).into()),
                detail: line(&sub.detail).into(),
                looked_at: Vec::new(),
            })
        })
        .collect();
    let of_all = match faults.first() {
        // A compound problem says nothing by itself (RFC 8555 §6.7.1).
        Some(first) if matches!(kind, "" | "compound" | "malformed") => first.class,
        _ => class(step, kind, status),
    };
    let detail = if problem.detail.is_empty() { format!("HTTP {status}") } else { line(&problem.detail) };
    let mut error = OrderError::new(of_all, step, detail);
    error.kind = (!kind.is_empty()).then(|| line(kind).into());
    error.faults = faults;
    error
}

/// `unauthorized` is said of a challenge that showed something else, and of an account that may not.
fn class(step: Step, kind: &str, status: u16) -> Class {
    match (kind, step) {
        ("unauthorized", Step::Validate | Step::Finalize) => Class::Validation,
        ("unauthorized", _) => Class::Config,
        _ => Class::of(kind, status),
    }
}

/// No whole answer came.
pub(super) fn broken(step: Step, error: &ExchangeError) -> OrderError {
    if let ExchangeError::NoNonce(answer) = error
        && !answer.status.is_success()
    {
        let error = refused(step, answer);
        // A nonce has no conditions: no status says more than that there is none now.
        let class = if error.class == Class::Limited { Class::Limited } else { Class::Transient };
        return OrderError { class, ..error };
    }
    let class = match error {
        ExchangeError::Client(ClientError::Trust(_) | ClientError::Plain(_))
        | ExchangeError::Key(KeyError::External) => Class::Config,
        // Whom to trust is configured.
        ExchangeError::Client(ClientError::Connect { reason, .. }) if reason.contains("invalid peer certificate") => {
            Class::Config
        }
        ExchangeError::Client(_) | ExchangeError::NoNonce(_) | ExchangeError::Url(_) => Class::Transient,
        ExchangeError::Key(_) | ExchangeError::NoDirectory => Class::Ours,
    };
    OrderError::new(class, step, line(&error.to_string()))
}

/// What instant-acme made of an exchange whose last answer was `seen`.
pub(super) fn engine(step: Step, error: &instant_acme::Error, seen: Option<&Answer>) -> OrderError {
    if let instant_acme::Error::Other(cause) = error
        && let Some(cause) = cause.downcast_ref::<ExchangeError>()
    {
        return broken(step, cause);
    }
    match seen {
        Some(answer) if !answer.status.is_success() => refused(step, answer),
        _ => OrderError::new(Class::Transient, step, line(&format!("the CA's answer cannot be used: {error}"))),
    }
}

pub(super) fn key(step: Step, error: &KeyError) -> OrderError {
    let class = if matches!(error, KeyError::Random | KeyError::Sign) { Class::Ours } else { Class::Config };
    OrderError::new(class, step, error.to_string())
}

pub(super) fn journal(why: &str) -> OrderError {
    OrderError::new(Class::Ours, Step::Journal, line(why))
}

/// The CA answers, and the order stays where it is.
pub(super) fn unmoved(step: Step, what: &str) -> OrderError {
    OrderError { resumes: true, answered: true, ..OrderError::new(Class::Transient, step, what) }
}

pub(super) fn resumable(mut error: OrderError, resumes: bool) -> OrderError {
    error.resumes = resumes;
    error
}

pub(super) fn invalid(faults: Vec<crate::failure::Fault>) -> OrderError {
    let class = faults.iter().map(|fault| fault.class).max_by_key(|class| match class {
        Class::Config => 3,
        Class::Limited => 2,
        Class::Validation => 1,
        Class::Transient | Class::Ours => 0,
    });
    let detail = faults.first().map(|fault| fault.detail.clone()).unwrap_or_default();
    let mut error = OrderError::new(class.unwrap_or(Class::Validation), Step::Validate, detail);
    error.kind = faults.first().and_then(|fault| fault.kind.clone());
    error.faults = faults;
    error
}

/// instant-acme compares what the CA repeats of `replaces`, and has no type of error for it.
pub(super) fn is_mismatch(error: &(dyn std::error::Error + Send + Sync)) -> bool {
    error.to_string().starts_with("replaces field mismatch")
}

/// RFC 9773 §5: whatever a CA has against `replaces`, the order is good without it.
pub(super) fn is_about_replaces(error: &OrderError) -> bool {
    if error.is_kind("alreadyReplaced") {
        return true;
    }
    let names_it = error.detail.to_ascii_lowercase().contains("replace");
    names_it
        || matches!(error.kind.as_deref(), Some("unauthorized" | "malformed" | "serverInternal" | "conflict"))
        || error.kind.as_deref() == Some("notFound")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, header};

    use super::*;

    fn answer(status: u16, headers: &[(header::HeaderName, &str)], body: &'static str) -> Answer {
        let headers: HeaderMap = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn html_is_no_problem_document_but_its_status_counts() {
        let html = [(header::CONTENT_TYPE, "text/html"), (header::RETRY_AFTER, "7")];
        let error = refused(Step::NewOrder, &answer(503, &html, "<html>\n</html>"));
        assert_eq!(error.class, Class::Limited);
        assert_eq!(&*error.detail, "HTTP 503 without a problem document (14 bytes of text/html)");
        assert!(error.until.is_some_and(|until| until > now()));
        assert_eq!(refused(Step::NewOrder, &answer(502, &[], "")).class, Class::Transient);
    }

    #[test]
    fn the_class_of_a_compound_problem_is_that_of_its_names() {
        let body = r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"Some of the identifiers requested were rejected",
            "subproblems":[{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"not allowed",
              "identifier":{"type":"dns","value":"*.example.org"}}]}"#;
        let error = refused(Step::NewOrder, &answer(403, &[], body));
        assert_eq!((error.class, error.faults[0].wildcard), (Class::Config, true));
        assert_eq!(error.to_string(), "making the order: *.example.org: not allowed (rejectedIdentifier)");
    }

    #[test]
    fn unauthorized_depends_on_whom() {
        let body = r#"{"type":"urn:ietf:params:acme:error:unauthorized","detail":"no"}"#;
        for (step, class) in [(Step::Validate, Class::Validation), (Step::NewOrder, Class::Config)] {
            assert_eq!(refused(step, &answer(403, &[], body)).class, class);
        }
    }
}
