//! Why a request goes where it goes, for one URL: address, listener, certificate, every candidate match, the backend and
//! its endpoints, and what the client gets.
//!
//! A [`Scene`] and a [`Question`] flow in, an [`Explanation`] flows out; pure, so it works on a running edge and on files
//! alike. The decisions are those of the data plane: the same host maps, route tables and filters are asked, nothing is
//! decided a second time.

mod access;
mod answer;
mod asked;
mod clients;
pub(super) mod describe;
mod hints;
mod limits;
mod question;
pub(super) mod responses;
mod walk;

use std::time::SystemTime;

use edge_config::names::ObjectRef;
use edge_config::problem::{Problem, Severity};
use serde::{Deserialize, Serialize};

use super::findings::findings;
use super::status::{Lookup, backend_rows};
use super::view::{BackendRow, CertificateRow, Health};
use super::world::Scene;

pub use question::{Question, QuestionError};

/// Candidates beyond this many are counted, not listed.
const CANDIDATES: usize = 40;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub request: Asked,
    /// What the client gets; where several Gateways have the port, from the first of `walks`.
    pub answer: Answer,
    /// The way through every Gateway that could be asked, the best answer first.
    pub walks: Vec<Walk>,
    /// What might have been meant, or what to look at, one line each.
    pub hints: Vec<String>,
    /// Findings about the objects concerned, one line each.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub url: String,
    pub method: String,
    pub protocol: String,
    /// Lower case, without port: what routes are matched against.
    pub host: String,
    /// The name in the ClientHello; absent without TLS and for addresses.
    pub server_name: Option<String>,
    pub port: u16,
    pub path: String,
    pub query: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A backend answers.
    Backend,
    Redirect,
    /// Edge answers a CORS preflight.
    Preflight,
    /// Edge answers what is in the configuration.
    Direct,
    /// Edge answers with an error.
    Error,
    /// No answer: the connection is closed, refused, or leads nowhere.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Answer {
    pub kind: Kind,
    /// Absent where a backend chooses it or nothing is answered.
    pub status: Option<u16>,
    pub text: String,
}

impl Answer {
    fn new(kind: Kind, status: impl Into<Option<u16>>, text: impl Into<String>) -> Self {
        Self { kind, status: status.into(), text: text.into() }
    }

    /// Whether this is what an operator wants to see.
    pub fn is_good(&self) -> bool {
        matches!(self.kind, Kind::Backend | Kind::Redirect | Kind::Preflight | Kind::Direct)
    }
}

/// The way of the request through one Gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Walk {
    /// `Gateway ns/name` or `Service ns/name`.
    pub owner: String,
    /// Addresses at which a client reaches the port, `192.0.2.1:443`.
    pub sockets: Vec<SocketStep>,
    /// In the order in which they are considered; at most one is chosen.
    pub listeners: Vec<ListenerStep>,
    pub certificates: Vec<CertificateRow>,
    /// What the chosen listener asks of clients, one line for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<String>,
    /// In the order of precedence; at most one won.
    pub candidates: Vec<CandidateStep>,
    /// Further matches at this host that are not listed.
    pub omitted: u32,
    /// How many matches the listener has for other hosts.
    pub other_hosts: u32,
    pub rule: Option<RuleStep>,
    pub answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStep {
    #[serde(flatten)]
    pub health: Health,
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStep {
    /// `Gateway ns/name` or `ListenerSet ns/name`.
    pub parent: String,
    pub name: String,
    pub hostname: String,
    pub protocol: String,
    pub chosen: bool,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateStep {
    /// `HTTPRoute ns/name`.
    pub route: String,
    pub rule: u32,
    pub rule_name: Option<String>,
    /// The host pattern under which it stands.
    pub host: String,
    /// `PathPrefix /v3, method GET`.
    pub matches: String,
    pub won: bool,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleStep {
    pub route: String,
    pub rule: u32,
    pub rule_name: Option<String>,
    /// Filters, timeouts, retry, session and balance, one line each.
    pub applies: Vec<String>,
    pub backends: Vec<BackendStep>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendStep {
    /// As the route writes it.
    pub reference: String,
    pub weight: u32,
    /// Of the requests of the rule, in percent.
    pub share: f64,
    /// Absent where the reference is refused.
    pub upstream: Option<BackendRow>,
    /// Why the reference is refused, and what its share gets.
    pub refused: Option<String>,
    pub applies: Vec<String>,
}

/// Answers the question from what is configured and, on a running edge, observed.
pub fn explain(scene: Scene<'_>, question: &Question, now: SystemTime) -> Result<Explanation, QuestionError> {
    let asked = question::parse(question)?;
    let lookup = Lookup::new(scene);
    let backends: Vec<BackendRow> = backend_rows(&lookup, now).collect();
    let context = walk::Context { lookup: &lookup, backends: &backends, asked: &asked, question, now };
    let mut walks: Vec<(Walk, Vec<ObjectRef>)> =
        walk::gateways(&context).into_iter().map(|port| walk::walk(&context, port)).collect();
    walks.sort_by_key(|(walk, _)| (walk.answer.kind, walk.listeners.iter().all(|listener| !listener.chosen)));
    // Gateways that have the port but no listener for the host only matter while nothing else does.
    if walks.first().is_some_and(|(walk, _)| walk.listeners.iter().any(|listener| listener.chosen)) {
        walks.retain(|(walk, _)| walk.listeners.iter().any(|listener| listener.chosen));
    }
    let mut concerned: Vec<ObjectRef> = walks.iter().flat_map(|(_, objects)| objects.iter().cloned()).collect();
    let walks: Vec<Walk> = walks.into_iter().map(|(walk, _)| walk).collect();
    let answer = walks.first().map_or_else(|| walk::unreachable(&context), |walk| walk.answer.clone());
    let hints = hints::hints(&context, &walks, &answer, &mut concerned);
    Ok(Explanation { problems: problems(scene, &concerned, &walks), request: asked, answer, walks, hints })
}

/// What is wrong with the objects on the way; of listeners only with those that are chosen, where one is.
fn problems(scene: Scene<'_>, concerned: &[ObjectRef], walks: &[Walk]) -> Vec<String> {
    let chosen: Vec<String> = walks
        .iter()
        .flat_map(|walk| &walk.listeners)
        .filter(|step| step.chosen)
        .map(|step| format!("listener {}:", step.name))
        .collect();
    let matters = |problem: &Problem| {
        let is_of_another = problem.message.starts_with("listener ")
            && !chosen.is_empty()
            && !chosen.iter().any(|listener| problem.message.starts_with(listener));
        problem.object.as_ref().is_some_and(|object| concerned.contains(object)) && !is_of_another
    };
    let found = findings(scene, &[]);
    found
        .iter()
        .filter(|problem| problem.severity != Severity::Inert && matters(problem))
        .map(ToString::to_string)
        .collect()
}

#[cfg(test)]
mod tests;
