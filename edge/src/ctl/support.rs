//! `edgectl support-bundle`: what somebody needs who is to help, in one file, without secrets.
//!
//! In: a running edged, as far as it answers; edge.toml and the machine, as far as they can be read. Out: a .tar.gz, and a
//! list of what is missing and why. Nothing is changed, and what is missing stops nothing.

mod machine;
mod scrub;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use edge_config::names::Kind;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{Client, ClientError};
use super::offline::{Offline, OfflineWorld};
use super::run::{RunError, chain};
use super::show::{View, plural};
use super::style::Style;
use crate::control::objects;
use crate::control::span;
use crate::control::view::Status;

/// Where edged has its settings unless it is told otherwise.
const CONFIG: &str = "/etc/edge/edge.toml";

/// What edged is asked, and where the answer is put.
const VIEWS: [(&str, &str); 13] = [
    ("edged/status.json", "/v1/status"),
    ("edged/why.json", "/v1/why"),
    ("edged/problems.json", "/v1/problems"),
    ("edged/settings.json", "/v1/config"),
    ("edged/routing.json", "/v1/routing"),
    ("edged/pools.json", "/v1/pools"),
    ("edged/certificates.json", "/v1/certificates"),
    ("edged/certificate-budget.json", "/v1/certificates/budget"),
    ("edged/endpoints.json", "/v1/endpoints"),
    ("edged/maintenance.json", "/v1/maintenance"),
    ("edged/fleet.json", "/v1/fleet"),
    ("edged/history.json", "/v1/history"),
    ("edged/log-levels.json", "/v1/log/levels"),
];

/// One file of the bundle, or why it is not there.
pub struct Part {
    name: String,
    content: Result<Vec<u8>, String>,
}

impl Part {
    fn text(name: &str, text: Result<String, String>) -> Self {
        Self { name: name.to_owned(), content: text.map(|text| scrub::text(&text).into_bytes()) }
    }

    fn value(name: &str, value: Result<Value, String>) -> Self {
        let content = value.map(|mut value| {
            scrub::value(&mut value);
            format!("{value:#}\n").into_bytes()
        });
        Self { name: name.to_owned(), content }
    }
}

/// What was put together.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bundle {
    pub file: String,
    pub bytes: u64,
    pub parts: usize,
    /// `NAME: why`
    pub missing: Vec<String>,
}

pub fn run(client: &Client, file: Option<&Path>, config: Option<&Path>) -> Result<Bundle, RunError> {
    let made = span::rfc3339(SystemTime::now());
    let files = Offline::load(config.unwrap_or(Path::new(CONFIG)));
    let files = files.map(Offline::compile).map_err(|error| chain(&error));
    let mut parts = of_edged(client);
    let status: Option<Status> = client.get("/v1/status").ok();
    parts.extend(of_files(files.as_ref()));
    let state = files.as_ref().ok().map(|world| world.both().0.settings.state_directory.clone());
    parts.push(Part::text(
        "state/listing.txt",
        match &state {
            Some(state) => machine::listing(state),
            None => Err("edge.toml cannot be read, so nobody says where the state is".to_owned()),
        },
    ));
    match pid(client.socket()) {
        Ok(pid) => parts.extend(machine::process(pid)),
        Err(error) => parts.push(Part::text("process/status.txt", Err(error))),
    }
    parts.extend(machine::parts());
    let name = status.as_ref().map_or("edge", |status| &status.edge.name);
    let stem = format!("edge-support-{}-{}", plain(name), plain(&made));
    parts.push(versions(status.as_ref(), &made));
    write(parts, &stem, file)
}

/// What edged says, as far as it does.
fn of_edged(client: &Client) -> Vec<Part> {
    let mut parts: Vec<Part> =
        VIEWS.iter().map(|(name, path)| Part::value(name, view(client, path).map_err(|error| chain(&error)))).collect();
    match client.get::<serde_json::Map<String, Value>>("/v1/objects") {
        Ok(counts) => parts.extend(counts.keys().map(|kind| {
            let found = client.get(&format!("/v1/objects/{}", plain(kind)));
            Part::value(&format!("edged/objects/{}.json", plain(kind)), found.map_err(|error| chain(&error)))
        })),
        Err(error) => parts.push(Part::text("edged/objects", Err(chain(&error)))),
    }
    let metrics = client.page("/metrics").map_err(|error| chain(&error));
    parts.push(Part::text("edged/metrics.txt", metrics.map(|page| String::from_utf8_lossy(&page).into_owned())));
    parts.push(lines(client, "edged/log.jsonl", "/v1/log", br#"{"lines":100000}"#, u64::MAX));
    parts.push(lines(client, "edged/top.jsonl", "/v1/top", br#"{"interval_ms":1000,"rows":1000}"#, 1));
    parts
}

/// What edged does not have (a fleet, perhaps) is said in its place, and is not missing.
fn view(client: &Client, path: &str) -> Result<Value, ClientError> {
    match client.get(path) {
        Err(ClientError::Refused { status: StatusCode::NOT_FOUND, message }) => Ok(Value::String(message)),
        other => other,
    }
}

fn lines(client: &Client, name: &str, path: &str, body: &[u8], most: u64) -> Part {
    let mut text = String::new();
    let mut left = most;
    let told = client.lines(path, body.to_vec(), |line| {
        let mut value = serde_json::from_slice(line).unwrap_or(Value::Null);
        scrub::value(&mut value);
        text.push_str(&format!("{value}\n"));
        left -= 1;
        if left == 0 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    Part::text(name, told.map(|()| text).map_err(|error| chain(&error)))
}

/// What the files say that edged would read, whether it runs or not.
fn of_files(files: Result<&OfflineWorld, &String>) -> Vec<Part> {
    let world = match files {
        Ok(world) => world,
        Err(why) => return vec![Part::text("files/settings.json", Err(why.clone()))],
    };
    let (inputs, _) = world.both();
    let kinds = Kind::ALL.into_iter().map(|kind| (kind, objects::all(inputs, &objects::Statuses::new(), kind)));
    let mut parts = vec![
        Part::value("files/settings.json", to_value(&*inputs.settings)),
        Part::value("files/problems.json", to_value(&world.findings())),
    ];
    parts.extend(
        kinds
            .filter(|(_, objects)| !objects.is_empty())
            .map(|(kind, objects)| Part::value(&format!("files/objects/{kind}.json"), Ok(Value::Array(objects)))),
    );
    parts
}

fn to_value(value: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

fn versions(status: Option<&Status>, made: &str) -> Part {
    let edged = status.map_or_else(|| "does not answer".to_owned(), |status| status.edge.version.clone());
    Part::text("versions.txt", Ok(format!("made {made}\nedgectl {}\nedged {edged}\n", env!("CARGO_PKG_VERSION"))))
}

/// Who serves the socket, as the kernel says.
fn pid(socket: &Path) -> Result<u32, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
    let stream = UnixStream::connect(socket).map_err(failed)?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).map_err(|error| failed(error.into()))?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).map_err(|_| format!("{}: no process", socket.display()))
}

/// For names of files.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '-' }).collect()
}

fn write(parts: Vec<Part>, stem: &str, file: Option<&Path>) -> Result<Bundle, RunError> {
    let path = file.map_or_else(|| PathBuf::from(format!("{stem}.tar.gz")), Path::to_owned);
    let failed = |error| RunError::Write(path.clone(), error);
    // For its owner: it tells much of a network, if nothing secret.
    let out = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    let mut index =
        String::from("What is in this bundle. Secrets are removed; look through it before you give it away.\n\n");
    let mut missing = Vec::new();
    let mut put = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()));
        archive.append_data(&mut header, format!("{stem}/{name}"), content)
    };
    let mut count = 0;
    for part in &parts {
        match &part.content {
            Ok(content) => {
                put(&part.name, content).map_err(failed)?;
                index.push_str(&format!("{:>10} {}\n", content.len(), part.name));
                count += 1;
            }
            Err(why) => missing.push(format!("{}: {}", part.name, scrub::text(why.trim()))),
        }
    }
    index.push_str(&format!("\nMissing: {}\n{}\n", missing.len(), missing.join("\n")));
    put("index.txt", index.as_bytes()).map_err(failed)?;
    let mut out = archive.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
    out.flush().and_then(|()| out.sync_all()).map_err(failed)?;
    let bytes = out.metadata().map_err(failed)?.len();
    Ok(Bundle { file: path.display().to_string(), bytes, parts: count + 1, missing })
}

impl View for Bundle {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = format!("wrote {}: {}, {} bytes\n", self.file, plural(self.parts, "part", "parts"), self.bytes);
        for missing in &self.missing {
            out.push_str(&style.warn(&format!("missing: {missing}")));
            out.push('\n');
        }
        out.push_str("secrets are removed; it tells much of your network all the same: look through it before you give it away\n");
        out
    }
}
