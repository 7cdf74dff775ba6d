//! One function per command: from arguments to text and an exit code.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::CommandFactory;
use edge_config::names::ObjectRef;
use serde_json::Value;

use super::args::{Cli, Command, Drill, Endpoint, Format, Held, History, SOCKET};
use super::backup::{self, BackupCommandError};
use super::cert::{self, CertError};
use super::client::{Client, ClientError};
use super::crds::{self, CrdsCommandError};
use super::maintenance::{self, MaintenanceError};
use super::migrate::{self, MigrateError};
use super::network;
use super::offline::{Offline, OfflineError};
use super::pool::{self, PoolError};
use super::show::{Checked, Counts, Findings, Listing, Single, View, render};
use super::style::Style;
use crate::control::diff::{Effective, difference};
use crate::control::explain::{Explanation, Question, QuestionError, explain};
use crate::control::fleet::FleetStatus;
use crate::control::history::HistoryView;
use crate::control::holds::{Ask, Holds, Standing};
use crate::control::maintenance::Closures;
use crate::control::view::{State, Status};
use crate::control::why::Why;
use crate::control::world::{AskUpgrade, Reloaded, Rolled, Upgraded};
use crate::history::{self, Revision};

/// Exit codes that do not depend on the command.
pub const UNREACHABLE: u8 = 3;
pub const USAGE: u8 = 64;
pub const SENSELESS: u8 = 70;

/// A command to the supervisor that has to be on disk before it is answered.
const HOLD: Duration = Duration::from_secs(10);
/// Something that compiles everything anew.
const COMPILE: Duration = Duration::from_secs(75);

/// Files that are read again, perhaps by a new edged that then takes over.
const UPGRADE: Duration = Duration::from_secs(85);

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Crds(#[from] CrdsCommandError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Cert(#[from] CertError),
    #[error(transparent)]
    Backup(#[from] BackupCommandError),
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    #[error(transparent)]
    Question(#[from] QuestionError),
    #[error("{0}")]
    Write(PathBuf, #[source] std::io::Error),
    #[error("--all before a command is for status alone; edgectl --all status")]
    Every,
    #[error("several --socket; expected one, or the command why")]
    Sockets,
    #[error("{} is no number of a revision, as which a second one is compared with", .0.display())]
    Revision(PathBuf),
    #[error("output")]
    Output(#[source] std::io::Error),
}

impl RunError {
    fn code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Refused { .. }) => 1,
            Self::Client(ClientError::Senseless(_)) => SENSELESS,
            Self::Client(_) => UNREACHABLE,
            Self::Migrate(MigrateError::Exists(_)) => 74,
            Self::Offline(_) | Self::Migrate(_) | Self::Pool(_) | Self::Maintenance(_) => 2,
            Self::Crds(_) => 1,
            Self::Cert(error) => error.code(),
            Self::Backup(error) => error.code(),
            Self::Question(_) | Self::Sockets | Self::Every | Self::Revision(_) => USAGE,
            Self::Write(..) | Self::Output(_) => 74,
        }
    }
}

/// What the outside gives to a command.
pub struct Terminal<'a> {
    pub out: &'a mut dyn Write,
    pub error: &'a mut dyn Write,
    pub style: Style,
    /// Whether `out` is a terminal, onto which no key is written.
    pub is_terminal: bool,
    /// `$EDGECTL_SOCKET`
    pub socket: Option<PathBuf>,
}

/// Runs a command; every error is written once, with its causes. Returns the exit code.
pub fn run(cli: &Cli, terminal: &mut Terminal<'_>) -> u8 {
    match carry_out(cli, terminal) {
        Ok(code) => code,
        // Whoever reads the output has seen enough, as with `edgectl status | head`.
        Err(RunError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => tell(&error, terminal),
    }
}

/// The code that it means.
fn tell(error: &RunError, terminal: &mut Terminal<'_>) -> u8 {
    let mut text = format!("edgectl: {error}");
    let mut cause = std::error::Error::source(error);
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

fn carry_out(cli: &Cli, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let client = || {
        let path = cli.socket.first().or(terminal.socket.as_ref()).map_or(Path::new(SOCKET), PathBuf::as_path);
        Client::new(path)
    };
    if cli.socket.len() > 1 && !matches!(cli.command, Command::Why { .. }) {
        return Err(RunError::Sockets);
    }
    if cli.every && !matches!(cli.command, Command::Status { .. }) {
        return Err(RunError::Every);
    }
    match &cli.command {
        Command::Status { all } if cli.every => {
            let status: FleetStatus = client().get("/v1/fleet")?;
            print(terminal, cli.output, &status, *all)?;
            Ok(match status.worst() {
                State::Up => 0,
                State::Degraded | State::Pending => 1,
                State::Down => 2,
            })
        }
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
        Command::Diff { path, to, .. } if revision(path).is_some() || to.is_some() => {
            let Some(from) = revision(path) else { return Err(RunError::Revision(path.clone())) };
            let client = client();
            let of = |number: u64| client.get_patiently::<Effective>(&format!("/v1/history/{number}/routing"), COMPILE);
            let before = of(from)?;
            let after = match to {
                Some(to) => of(*to)?,
                None => client.get("/v1/routing")?,
            };
            let found = difference(&before, &after);
            print(terminal, cli.output, &found, true)?;
            Ok(u8::from(!found.is_empty()))
        }
        Command::Diff { path, against, .. } => {
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
        Command::History { history: None, all } => {
            let view: HistoryView = client().get("/v1/history")?;
            print(terminal, cli.output, &view, *all)?;
            Ok(0)
        }
        Command::History { history: Some(History::Show { revision }), .. } => {
            let found: Revision = client().get(&format!("/v1/history/{revision}"))?;
            print(terminal, cli.output, &found, true)?;
            Ok(0)
        }
        Command::Rollback { revision, length, .. } => {
            let ask = history::Ask { revision: *revision, seconds: length.map(|length| length.as_secs()) };
            let body = serde_json::to_vec(&ask).unwrap_or_default();
            let rolled: Rolled = client().post("/v1/rollback", body, COMPILE)?;
            print(terminal, cli.output, &rolled, true)?;
            Ok(u8::from(rolled.errors > 0))
        }
        Command::Reload => {
            let reloaded: Reloaded = client().post("/v1/reload", Vec::new(), UPGRADE)?;
            let code = u8::from(reloaded.errors > 0);
            print(terminal, cli.output, &reloaded, true)?;
            Ok(code)
        }
        Command::Upgrade { force } => {
            let body = serde_json::to_vec(&AskUpgrade { force: *force }).unwrap_or_default();
            let done: Upgraded = client().post("/v1/upgrade", body, UPGRADE)?;
            print(terminal, cli.output, &done, true)?;
            Ok(0)
        }
        Command::Pool { dry_run: Some(path), against, .. } => {
            let found = match pool::dry_run(&client(), path, against.as_deref()) {
                // The text itself is at fault.
                Err(RunError::Client(ClientError::Refused { status, message }))
                    if status == hyper::StatusCode::UNPROCESSABLE_ENTITY =>
                {
                    // Nothing is left to tell it to.
                    let _ = writeln!(terminal.error, "{message}");
                    return Ok(2);
                }
                found => found?,
            };
            let code = u8::from(!found.is_harmless());
            print(terminal, cli.output, &found, true)?;
            Ok(code)
        }
        Command::Pool { config, all, .. } => {
            let found = pool::usage(&client(), config.as_deref())?;
            let code = u8::from(found.pools.iter().any(|pool| pool.fault.is_some()));
            print(terminal, cli.output, &found, *all)?;
            Ok(code)
        }
        Command::Migrate { from, paths, into } => {
            migrate::run((*from).into(), paths, into.as_deref(), cli.output, terminal)
        }
        Command::Why { address } => {
            let clients = match &*cli.socket {
                [] => vec![client()],
                sockets => sockets.iter().map(|path| Client::new(path)).collect(),
            };
            why(&clients, *address, cli.output, terminal)
        }
        Command::Drain => moved(network::drain(&client())?, cli.output, terminal),
        Command::Undrain => moved(network::undrain(&client())?, cli.output, terminal),
        Command::Endpoint { endpoint } => {
            let ask = |standing, held: &Held| Ask {
                endpoint: held.endpoint,
                standing,
                seconds: held.length.map(|length| length.as_secs()),
            };
            let ask = match endpoint {
                Endpoint::List => None,
                Endpoint::Drain(held) => Some(ask(Standing::Drained, held)),
                Endpoint::Disable(held) => Some(ask(Standing::Disabled, held)),
                Endpoint::Enable { endpoint } => {
                    Some(Ask { endpoint: *endpoint, standing: Standing::Enabled, seconds: None })
                }
            };
            let holds: Holds = match ask {
                None => client().get("/v1/endpoints")?,
                Some(ask) => {
                    let body = serde_json::to_vec(&ask).unwrap_or_default();
                    client().post("/v1/endpoints/hold", body, HOLD)?
                }
            };
            print(terminal, cli.output, &holds, true)?;
            Ok(0)
        }
        Command::Maintenance { maintenance } => {
            let closures: Closures = match maintenance::ask(maintenance)? {
                None => client().get("/v1/maintenance")?,
                Some(ask) => {
                    let body = serde_json::to_vec(&ask).unwrap_or_default();
                    client().post("/v1/maintenance/set", body, HOLD)?
                }
            };
            print(terminal, cli.output, &closures, true)?;
            Ok(0)
        }
        Command::Drill { drill: Drill::Failover { away, yes: true } } => {
            moved(network::failover(&client(), Duration::from_secs(*away))?, cli.output, terminal)
        }
        Command::Drill { drill: Drill::Failover { away, yes: false } } => {
            let text = format!(
                "this takes every VIP of this edge off the network for {away} s and ends its connections; other edges \
                 must be able to take over\nedgectl drill failover --yes does it\n"
            );
            write(terminal, text.as_bytes())?;
            Ok(1)
        }
        Command::Cert { cert } => cert::run(&client(), cert, cli.output, terminal),
        Command::Backup { file } => {
            let saved = backup::save(&client(), file)?;
            print(terminal, cli.output, &saved, true)?;
            Ok(0)
        }
        Command::Restore { file, config, state, dry_run } => {
            let restored = backup::restore(file, config.as_deref(), state.as_deref(), *dry_run)?;
            print(terminal, cli.output, &restored, true)?;
            Ok(0)
        }
        Command::Crds { crds } => {
            match crds::run(crds)? {
                Some(done) => print(terminal, cli.output, &done, true)?,
                None => write(terminal, crds::manifests().as_bytes())?,
            }
            Ok(0)
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

/// A number that is no file here.
fn revision(path: &Path) -> Option<u64> {
    let number = path.to_str()?.parse().ok()?;
    (!path.exists()).then_some(number)
}

/// Of every edge that is asked. The code of the worst.
fn why(clients: &[Client], address: IpAddr, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    let mut found: Vec<Why> = Vec::new();
    let mut code = 0;
    for client in clients {
        match client.get::<Why>(&format!("/v1/why/{address}")) {
            Ok(why) => {
                code = code.max(match why.health.state {
                    State::Up => 0,
                    State::Degraded | State::Pending => 1,
                    State::Down => 2,
                });
                found.push(why);
            }
            Err(error @ ClientError::Refused { status: hyper::StatusCode::NOT_FOUND, .. }) => {
                // Nothing is left to tell it to.
                let _ = writeln!(terminal.error, "edgectl: {error}");
                code = code.max(2);
            }
            // The others may know more.
            Err(error) => code = code.max(tell(&error.into(), terminal)),
        }
    }
    match &*found {
        [] => {}
        [one] if clients.len() == 1 => print(terminal, format, one, true)?,
        several => print(terminal, format, &Several(several), true)?,
    }
    Ok(code)
}

/// What several edges say.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct Several<'w>(&'w [Why]);

impl View for Several<'_> {
    fn human(&self, style: Style, all: bool) -> String {
        let texts: Vec<String> = self.0.iter().map(|why| why.human(style, all)).collect();
        texts.join("\n")
    }
}

fn moved(moved: network::Moved, format: Format, terminal: &mut Terminal<'_>) -> Result<u8, RunError> {
    print(terminal, format, &moved, true)?;
    Ok(u8::from(!moved.done))
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

impl View for Upgraded {
    fn human(&self, style: Style, all: bool) -> String {
        match self {
            Self::Reloaded(reloaded) => {
                format!("the program on disk is the one that runs; {}", reloaded.human(style, all))
            }
            Self::HandedOver { from, to, process, generation, preparing_ms, taking_ms, connections, drain_seconds } => {
                let left = match connections {
                    0 => "nothing is left of the one before".to_owned(),
                    left => format!("the one before still has {left} connections, for {drain_seconds} s at most"),
                };
                format!(
                    "edged {to} (process {process}) took over from edged {from} with generation {generation}: \
                     ready in {preparing_ms} ms, everything in its hands {taking_ms} ms later; {left}\n"
                )
            }
        }
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

pub(super) fn print(terminal: &mut Terminal<'_>, format: Format, view: &impl View, all: bool) -> Result<(), RunError> {
    let text = render(view, format, terminal.style, all);
    write(terminal, text.as_bytes())
}

pub(super) fn write(terminal: &mut Terminal<'_>, text: &[u8]) -> Result<(), RunError> {
    terminal.out.write_all(text).and_then(|()| terminal.out.flush()).map_err(RunError::Output)
}
