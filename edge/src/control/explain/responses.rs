//! What is said of answers, in words.

use edge_config::policy::{AbortStatus, FixedAnswer, Instead, Override, Responses, Share, Source, TextMatch};

use edge_config::snapshot::{Extension, HostEdit};

use super::describe;
use crate::control::span;

pub fn policy(policy: &Responses) -> Vec<String> {
    let mut lines: Vec<String> = policy.overrides.iter().map(one).collect();
    if !policy.compressors.is_empty() {
        let codings = policy.compressors.iter().map(|one| match one.at_least {
            30 => one.coding.token().to_owned(),
            least => format!("{} from {least} bytes on", one.coding.token()),
        });
        lines.push(format!("compressed with {}", codings.collect::<Vec<_>>().join(", ")));
    }
    if let Some(fault) = &policy.fault {
        let of = |share: Share| match share {
            Share::ALL => "every request".to_owned(),
            Share(parts) => format!("{} % of the requests", f64::from(parts) / 10_000.0),
        };
        if let Some(delay) = fault.delay {
            lines.push(format!("fault: {} waits {}", of(delay.share), span::exact(delay.length)));
        }
        if let Some(abort) = fault.abort {
            let status = match abort.status {
                AbortStatus::Http(status) => status.to_string(),
                AbortStatus::Grpc(code) => format!("grpc-status {code}"),
            };
            lines.push(format!("fault: {} is answered {status}", of(abort.share)));
        }
    }
    lines
}

fn one(one: &Override) -> String {
    let mut when: Vec<String> = one
        .statuses
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
        .collect();
    when.extend(one.fields.iter().map(|field| {
        let (how, text): (_, &str) = match &field.text {
            TextMatch::Exact(text) => (": ", text),
            TextMatch::Prefix(text) => (" begins with ", text),
            TextMatch::Suffix(text) => (" ends with ", text),
            TextMatch::Regex(pattern) => (" ~ ", pattern.as_str()),
        };
        format!("header {}{how}{text}", field.name)
    }));
    let whose = match one.source {
        Source::All => "",
        Source::Local => " of Edge itself",
        Source::Backend => " of backends",
    };
    let instead = match &one.instead {
        Instead::Answer(answer) => fixed(answer),
        Instead::Redirect(redirect) => describe::redirect(redirect),
    };
    format!("answers{whose} with {} become {instead}", when.join(", "))
}

/// What an HTTPRouteFilter says of requests. The credential itself is nobody's business.
pub fn extension(extension: &Extension) -> Vec<String> {
    let host = extension.host.as_ref().map(|host| match host {
        HostEdit::Field(name) => format!("rewrite host to header {name}"),
        HostEdit::Backend => "rewrite host to the name of the backend".to_owned(),
        HostEdit::Path(substitution) => format!("rewrite host to path, {substitution}"),
    });
    let path = extension.path.as_ref().map(|substitution| format!("rewrite path {substitution}"));
    let credential = extension.credential.as_ref().map(|credential| {
        let (field, secret) = (&credential.field, &credential.secret.secret);
        let how = if credential.replaces { "set" } else { "set where absent" };
        format!("request header {field} {how} to a credential of Secret {secret}")
    });
    [host, path, credential].into_iter().flatten().collect()
}

/// An answer that is in the configuration.
pub fn fixed(answer: &FixedAnswer) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(answer.status.map(|status| status.to_string()));
    parts.extend(answer.content_type.as_ref().map(ToString::to_string));
    parts.extend(answer.body.as_ref().map(|body| format!("{} bytes", body.size())));
    let names = answer.set.iter().chain(&answer.add).map(|(name, _)| format!("header {name}"));
    parts.extend(names);
    if parts.is_empty() { "the same".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use edge_config::policy::{Abort, Body, Coding, Compressor, Delay, Fault, FieldIs};

    use super::*;

    #[test]
    fn lines() {
        let page = FixedAnswer {
            status: Some(503),
            content_type: Some("text/html".into()),
            body: Some(Body::parse("<p>later</p>").unwrap()),
            ..FixedAnswer::default()
        };
        let field = FieldIs { name: "x-error".into(), text: TextMatch::Prefix("db".into()) };
        let policy_of = Responses {
            overrides: vec![Override {
                statuses: vec![(500, 500), (502, 504)],
                fields: vec![field],
                source: Source::Backend,
                instead: Instead::Answer(page.into()),
            }],
            compressors: vec![
                Compressor { coding: Coding::Brotli, at_least: 30 },
                Compressor { coding: Coding::Gzip, at_least: 1024 },
            ],
            fault: Some(Fault {
                delay: Some(Delay { length: std::time::Duration::from_secs(2), share: Share(12_500) }),
                abort: Some(Abort { status: AbortStatus::Grpc(14), share: Share::ALL }),
            }),
        };
        assert_eq!(
            policy(&policy_of),
            [
                "answers of backends with 500, 502 to 504, header x-error begins with db become 503, text/html, 12 bytes",
                "compressed with br, gzip from 1024 bytes on",
                "fault: 1.25 % of the requests waits 2s",
                "fault: every request is answered grpc-status 14",
            ]
        );
        assert_eq!(fixed(&FixedAnswer::default()), "the same");
    }
}
