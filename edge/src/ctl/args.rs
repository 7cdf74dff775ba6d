//! The command line of `edgectl`. The texts here are also its manual pages and completions.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum, ValueHint};

/// Where edged listens unless `[control] socket` says otherwise.
pub const SOCKET: &str = "/run/edge/edged.sock";

const EXIT: &str = "Exit codes:
  status   0 all up, 1 something degraded or pending, 2 something down
  explain  0 a backend or a redirect answers, 1 anything else
  check    0 no errors, 1 errors (with --strict also warnings), 2 cannot be read
  diff     0 no difference, 1 a difference, 2 cannot be read
  get      0 found, 1 not found
  reload   0 done without errors, 1 refused, or done and some files have errors
  all      3 edged cannot be reached, 64 wrong usage, 70 an answer that makes no sense";

/// Shows what an edge serves and why, and checks configuration before it is used.
#[derive(Debug, Parser)]
#[command(name = "edgectl", version, after_help = EXIT, disable_help_subcommand = true, max_term_width = 120)]
pub struct Cli {
    /// Unix socket of edged. Without it $EDGECTL_SOCKET, then /run/edge/edged.sock
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Format::Human)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people; colours on a terminal unless NO_COLOR is set
    Human,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// VIPs, listeners, certificates, routes and backends, the worst first
    Status {
        /// Every row; otherwise what is up is shortened to a few rows and a count
        #[arg(short, long)]
        all: bool,
    },
    /// Objects as edged has them, with the status that Edge gives them
    ///
    /// KIND is a kind in any case, its plural or its short name, or one of: problems (findings in all files), config
    /// (edge.toml with its defaults). Without KIND: how many objects of each kind there are.
    Get {
        /// Kind of object, problems, or config
        kind: Option<String>,
        /// NAMESPACE/NAME, or NAME of a kind without namespaces
        name: Option<String>,
    },
    /// Why a request goes where it goes: listener, certificate, every candidate route, backend, answer
    ///
    /// Asks a running edged, or the files given with --dir or --config, in which case nothing needs to run.
    Explain {
        /// URL as for curl. Without a scheme https is meant; tls, tcp and udp need a port
        #[arg(value_hint = ValueHint::Url)]
        url: String,
        /// Request method
        #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
        method: String,
        /// Request header, "name: value"; may be repeated. A host header is what routes are matched against
        #[arg(short = 'H', long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// Only the Gateway that has this address
        #[arg(long, value_name = "ADDRESS")]
        vip: Option<IpAddr>,
        /// Explain for this directory of manifests instead of a running edge
        #[arg(long, value_name = "DIR", conflicts_with = "config", value_hint = ValueHint::AnyPath)]
        dir: Option<PathBuf>,
        /// Explain for this edge.toml instead of a running edge
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        config: Option<PathBuf>,
        /// Also listeners and candidates that had no chance
        #[arg(short, long)]
        all: bool,
    },
    /// Compiles configuration without serving it, and lists what is wrong as file:line:col: message
    Check {
        /// edge.toml files, manifests, or directories of manifests
        #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
        /// Warnings are errors
        #[arg(long)]
        strict: bool,
        /// Leaves out fields that are understood but not acted on
        #[arg(long)]
        quiet: bool,
    },
    /// What a changed configuration would change in effective routing
    Diff {
        /// edge.toml, manifest, or directory of manifests after the change
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// Compare with this configuration instead of the running edge
        #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        against: Option<PathBuf>,
    },
    /// Makes edged read its files again, and waits until the result serves
    Reload,
    /// Completions for a shell, to be sourced or put where it looks for them
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The manual page, or with --dir one file per command
    Man {
        /// Directory for the files
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage() {
        for (line, good) in [
            ("edgectl status --all -o json", true),
            ("edgectl explain https://a.example/ -X POST -H a:b -H c:d --dir x", true),
            ("edgectl explain https://a.example/ --dir x --config y", false),
            ("edgectl check", false),
            ("edgectl check a b --strict", true),
            ("edgectl status -o xml", false),
            ("edgectl", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), good, "{line}");
        }
    }
}
