//! One function per command: from arguments to text and an exit code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::CommandFactory;
use edge_config::names::ObjectRef;
use serde_json::Value;

use super::args::{Cli, Command, Format, SOCKET};
use super::client::{Client, ClientError};
use super::offline::{Offline, OfflineError};
use super::show::{Checked, Counts, Findings, Listing, Single, View, render};
use super::style::Style;
use crate::control::diff::{Effective, difference};
use crate::control::explain::{Explanation, Question, QuestionError, explain};
use crate::control::view::{State, Status};
use crate::control::world::Reloaded;

/// Exit codes that do not depend on the command.
pub const UNREACHABLE: u8 = 3;
pub const USAGE: u8 = 64;
pub const SENSELESS: u8 = 70;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error(transparent)]
    Question(#[from] QuestionError),
    #[error("{0}")]
    Write(PathBuf, #[source] std::io::Error),
    #[error("output")]
    Output(#[source] std::io::Error),
}

impl RunError {
    fn code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Refused { .. }) => 1,
            Self::Client(ClientError::Senseless(_)) => SENSELESS,
            Self::Client(_) => UNREACHABLE,
            Self::Offline(_) => 2,
            Self::Question(_) => USAGE,
            Self::Write(..) | Self::Output(_) => 74,
        }
    }
}

/// What the outside gives to a command.
pub struct Terminal<'a> {
    pub out: &'a mut dyn Write,
    pub error: &'a mut dyn Write,
    pub style: Style,
    /// `$EDGECTL_SOCKET`
    pub socket: Option<PathBuf>,
}

/// Runs a command; every error is written once, with its causes. Returns the exit code.
pub fn run(cli: &Cli, terminal: &mut Terminal<'_>) -> u8 {
    match carry_out(cli, terminal) {
        Ok(code) => code,
        // Whoever reads the output has seen enough, as with `edgectl status | head`.
        Err(RunError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            let mut text = format!("edgectl: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                // Transparent errors name their source already.
                if !text.ends_with(&inner_text) {
                    text.push_str(&format!(": {inner_text}"));
                }
                cause = inner.source();
            }
            // Nothing is left to tell it to.
            let _ = writeln!(terminal.error, "{text}");
            error.code()
        }
    }
}

fn carry_out(cli: &Cli, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let client = || {
        let path = cli.socket.as_deref().or(terminal.socket.as_deref()).unwrap_or(Path::new(SOCKET));
        Client::new(path)
    };
    match &cli.command {
        Command::Status { all } => {
            let status: Status = client().get("/v1/status")?;
            print(terminal, cli.output, &status, *all)?;
            Ok(match status.worst() {
                State::Up => 0,
                State::Degraded | State::Pending => 1,
                State::Down => 2,
            })
        }
        Command::Get { kind, name } => {
            let client = client();
            get(&client, kind.as_deref(), name.as_deref(), cli.output, terminal)
        }
        Command::Explain { url, method, headers, vip, dir, config, all } => {
            let mut question = Question::new(url);
            question.method.clone_from(method);
            question.vip = *vip;
            for header in headers {
                question.header(header)?;
            }
            let explanation: Explanation = match dir.as_ref().or(config.as_ref()) {
                Some(path) => explain(Offline::load(path)?.compile().scene(), &question, SystemTime::now())?,
                None => {
                    // Also checked here, so that wrong usage is told apart from a refusal.
                    let body = serde_json::to_vec(&question).unwrap_or_default();
                    client().post("/v1/explain", body, Duration::from_secs(20))?
                }
            };
            print(terminal, cli.output, &explanation, *all)?;
            Ok(u8::from(!explanation.answer.is_good()))
        }
        Command::Check { paths, strict, quiet } => check(paths, *strict, *quiet, cli.output, terminal),
        Command::Diff { path, against } => {
            let (before, assigned) = match against {
                Some(path) => {
                    let compiled = Offline::load(path)?.compile();
                    let assigned = compiled.assigned().clone();
                    (Effective::of(compiled.scene(), &assigned), assigned)
                }
                None => {
                    let live: Effective = client().get("/v1/routing")?;
                    let keys = live.assigned.iter();
                    let known = keys.filter_map(|(key, addresses)| Some((ObjectRef::parse(key)?, addresses.clone())));
                    let assigned = known.collect();
                    (live, assigned)
                }
            };
            // A VIP never moves by itself: what has an address keeps it.
            let compiled = Offline::load(path)?.keeping(assigned).compile();
            let after = Effective::of(compiled.scene(), compiled.assigned());
            let found = difference(&before, &after);
            print(terminal, cli.output, &found, true)?;
            Ok(u8::from(!found.is_empty()))
        }
        Command::Reload => {
            let reloaded: Reloaded = client().post("/v1/reload", Vec::new(), Duration::from_secs(75))?;
            let code = u8::from(reloaded.errors > 0);
            print(terminal, cli.output, &reloaded, true)?;
            Ok(code)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "edgectl", &mut text);
            write(terminal, &text)?;
            Ok(0)
        }
        Command::Man { dir } => man(dir.as_deref(), terminal),
    }
}

impl View for Reloaded {
    fn human(&self, style: Style, _all: bool) -> String {
        let what = if self.changed { "is published" } else { "keeps serving: nothing changed" };
        let mut out = format!("generation {} {what}\n", self.generation);
        if self.errors + self.warnings > 0 {
            let text = format!("{} errors, {} warnings: edgectl get problems", self.errors, self.warnings);
            out.push_str(&if self.errors > 0 { style.bad(&text) } else { style.warn(&text) });
            out.push('\n');
        }
        out
    }
}

fn get(
    client: &Client,
    kind: Option<&str>,
    name: Option<&str>,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<u8, RunError> {
    match (kind, name) {
        (None, _) => print(terminal, format, &Counts(client.get("/v1/objects")?), true)?,
        (Some("problems"), None) => print(terminal, format, &Findings(client.get("/v1/problems")?), true)?,
        (Some("config"), None) => print(terminal, format, &Single(client.get("/v1/config")?), true)?,
        (Some(kind), None) => {
            let found: Value = client.get(&format!("/v1/objects/{}", segment(kind)))?;
            match found {
                Value::Array(objects) => print(terminal, format, &Listing(objects), true)?,
                one => print(terminal, format, &Single(one), true)?,
            }
        }
        (Some(kind), Some(name)) => {
            let name: Vec<String> = name.split('/').map(segment).collect();
            let found = client.get(&format!("/v1/objects/{}/{}", segment(kind), name.join("/")))?;
            print(terminal, format, &Single(found), true)?;
        }
    }
    Ok(0)
}

/// Names of kinds and objects are letters, digits, `-` and `.`; anything else is made harmless and will not be found.
fn segment(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect()
}

fn check(
    paths: &[PathBuf],
    strict: bool,
    quiet: bool,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<u8, RunError> {
    let mut problems = Vec::new();
    let mut objects = 0;
    for path in paths {
        let offline = Offline::load(path)?;
        objects += offline.objects();
        problems.extend(offline.compile().findings());
    }
    let mut checked = Checked::new(problems, objects, strict);
    if quiet {
        checked.problems.retain(|problem| problem.severity != edge_config::problem::Severity::Inert);
    }
    print(terminal, format, &checked, true)?;
    Ok(u8::from(!checked.ok))
}

fn man(dir: Option<&Path>, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let command = Cli::command();
    match dir {
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text).map_err(RunError::Output)?;
            write(terminal, &text)?;
        }
        Some(dir) => {
            let failed = |error| RunError::Write(dir.to_owned(), error);
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(command, dir).map_err(failed)?;
        }
    }
    Ok(0)
}

fn print(terminal: &mut Terminal<'_>, format: Format, view: &impl View, all: bool) -> Result<(), RunError> {
    let text = render(view, format, terminal.style, all);
    write(terminal, text.as_bytes())
}

fn write(terminal: &mut Terminal<'_>, text: &[u8]) -> Result<(), RunError> {
    terminal.out.write_all(text).and_then(|()| terminal.out.flush()).map_err(RunError::Output)
}
