//! The command line of `edgectl`. The texts here are also its manual pages and completions.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::certs::command::RevocationReason;
use crate::control::holds::Place;
use crate::control::maintenance::Site;

/// Where edged listens unless `[control] socket` says otherwise.
pub const SOCKET: &str = "/run/edge/edged.sock";

const EXIT: &str = "Exit codes:
  status   0 all up, 1 something degraded or pending, 2 something down
  explain  0 a backend or a redirect answers, 1 anything else
  check    0 no errors, 1 errors (with --strict also warnings), 2 cannot be read
  diff     0 no difference, 1 a difference, 2 cannot be read
  get      0 found, 1 not found
  pool     0 all in effect, with --dry-run nobody loses an address, 1 otherwise, 2 cannot be read
  migrate  0 all of it is in the output, 1 something has no equivalent, 2 something cannot be read
  history  0 found, 1 no such revision
  rollback 0 done without errors, 1 refused, or done and something has errors
  reload   0 done without errors, 1 refused, or done and some files have errors
  upgrade  0 handed over, or reloaded because there is nothing new, 1 not done, and edged goes on as before
  cert     list, show, why: 0 all as wanted, 1 something is wrong, 2 something is not served as wanted, or there is
           no such certificate; budget: 0, 1 a limit is reached; others: 0 done, 1 refused, 2 a file cannot be read
  backup, restore  0 done, 1 refused, 2 the file cannot be read
  why      0 announced to everybody who is to know, 1 not to all of them, 2 not announced or no VIP
  crds     0 done, 1 not done
  drain, undrain, drill  0 done, 1 not done, or not confirmed by the network in time
  all      3 edged cannot be reached, 64 wrong usage, 70 an answer that makes no sense";

/// Shows what an edge serves and why, and checks configuration before it is used.
#[derive(Debug, Parser)]
#[command(name = "edgectl", version, after_help = EXIT, disable_help_subcommand = true, max_term_width = 120)]
pub struct Cli {
    /// Unix socket of edged. Without it $EDGECTL_SOCKET, then /run/edge/edged.sock
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Vec<PathBuf>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Format::Human)]
    pub output: Format,
    /// Ask every edge of the fleet, through the one at the socket; with the command status
    #[arg(long = "all")]
    pub every: bool,
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

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Product {
    /// MetalLB's objects, the ConfigMap of versions before 0.13, and Services of type LoadBalancer
    Metallb,
    /// F5 BIG-IP: AS3 declarations (JSON) and bigip.conf
    F5,
    /// Ingress objects, with ingress-nginx's annotations
    Ingress,
}

impl From<Product> for edge_config::migrate::Product {
    fn from(product: Product) -> Self {
        match product {
            Product::Metallb => Self::Metallb,
            Product::F5 => Self::F5,
            Product::Ingress => Self::Ingress,
        }
    }
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
    ///
    /// Or, with numbers of revisions in the place of PATH, what was changed: from the first to the second, or to what is in
    /// force now.
    Diff {
        /// edge.toml, manifest, or directory of manifests after the change; or the number of a revision before it
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// The number of a revision after the change
        #[arg(value_name = "REVISION", conflicts_with = "against")]
        to: Option<u64>,
        /// Compare with this configuration instead of the running edge
        #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        against: Option<PathBuf>,
    },
    /// How full each pool of addresses is and who has what, or what an edit would change
    ///
    /// Asks a running edged. With --dry-run it says who would lose or move an address if the pools were as in FILE;
    /// nothing is changed.
    Pool {
        /// The edited edge.toml, or a manifest with IPAddressPools: what would happen with the pools in it
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        dry_run: Option<PathBuf>,
        /// Compare with this configuration instead of the running edge
        #[arg(long, value_name = "PATH", requires = "dry_run", value_hint = ValueHint::AnyPath)]
        against: Option<PathBuf>,
        /// Look at this edge.toml or directory of manifests instead of a running edge
        #[arg(long, value_name = "PATH", conflicts_with = "dry_run", value_hint = ValueHint::AnyPath)]
        config: Option<PathBuf>,
        /// Every address; otherwise the first few and a count
        #[arg(short, long)]
        all: bool,
    },
    /// Other products' configuration as edge.toml and manifests, and a line for everything that is not the same
    ///
    /// Works on files alone. The output goes to standard output, the lines to standard error; nothing is overwritten.
    Migrate {
        /// What the files are of
        #[arg(value_enum)]
        from: Product,
        /// Files, directories of files, or - for standard input
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
        /// Write the files into this directory instead
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        into: Option<PathBuf>,
    },
    /// Configurations that were in force: when, why, by whom, what changed
    History {
        #[command(subcommand)]
        history: Option<History>,
        /// All that are kept; otherwise the newest
        #[arg(short, long)]
        all: bool,
    },
    /// Holds the configuration at an earlier revision, over restarts, until it is released
    ///
    /// Objects and settings are those of then; endpoints, Secrets, certificates and addresses of VIPs are those of now. What
    /// files and the API server say meanwhile waits.
    #[command(group(clap::ArgGroup::new("what").required(true).args(["revision", "release"])))]
    Rollback {
        /// As edgectl history lists it
        revision: Option<u64>,
        /// For so long, such as 1h; else until it is released
        #[arg(long = "for", value_name = "DURATION", value_parser = length, conflicts_with = "release")]
        length: Option<std::time::Duration>,
        /// Back to what files and the API server say now
        #[arg(long)]
        release: bool,
    },
    /// Makes edged read its files again, and waits until the result serves
    Reload,
    /// Makes edged read its files again, and hand over to the program on disk where that is another one
    ///
    /// The new edged gets ready beside the one that runs, takes sockets, announcements and state, and the old one ends its
    /// connections. Nobody is refused and no VIP is withdrawn. If the new one cannot take over, the old one goes on.
    Upgrade {
        /// Also where the program on disk is the one that runs, such as for settings that need a restart
        #[arg(long)]
        force: bool,
    },
    /// Why a VIP is announced, or is not: every rule with its evidence, and what each peer has really been told
    ///
    /// With several --socket it asks each of these edges, whose sockets may have been forwarded here (ssh -L); one that
    /// does not answer is told on standard error, and the exit code is that of the worst.
    Why {
        /// Address of the VIP
        address: IpAddr,
    },
    /// Takes this edge off the network, in order: other ways are preferred, VIPs withdrawn, connections left to end
    ///
    /// It stays off until undrain, over restarts too. Waits until nobody is told of any VIP any more.
    Drain,
    /// Brings this edge back to the network, and waits until its VIPs are announced
    Undrain,
    /// Drains, disables or enables single endpoints, over restarts and whatever checks say
    Endpoint {
        #[command(subcommand)]
        endpoint: Endpoint,
    },
    /// Closes single hosts (503 with Retry-After), over restarts and whatever routes say
    Maintenance {
        #[command(subcommand)]
        maintenance: Maintenance,
    },
    /// cert-manager's kinds (ClusterIssuer, Issuer, Certificate) for a cluster that has no cert-manager
    ///
    /// With them manifests written for cert-manager can be applied as they are; Edge acts on them.
    Crds {
        #[command(subcommand)]
        crds: Crds,
    },
    /// Certificates: what serves, when it ends, who renews it, why something is not as wanted
    ///
    /// NAME is a host name, or NAMESPACE/NAME of the Secret.
    Cert {
        #[command(subcommand)]
        cert: Cert,
    },
    /// Everything that cannot be made again, in one file: certificates, account keys, the internal CA, VIP assignments
    ///
    /// Asks a running edged, whose store is taken at one moment. What the store has sealed stays sealed: keep its key as
    /// well. The file has mode 0600; what is in it is told.
    Backup {
        /// The file to write; one that is there is not written over
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Puts a backup into an empty state directory, as long as no edged uses it
    Restore {
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Its state directory. Without it /etc/edge/edge.toml
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        config: Option<PathBuf>,
        /// The state directory itself
        #[arg(long, value_name = "DIR", conflicts_with = "config", value_hint = ValueHint::DirPath)]
        state: Option<PathBuf>,
        /// Only say what is in the file
        #[arg(long)]
        dry_run: bool,
    },
    /// Does what will be needed one day, and measures it
    Drill {
        #[command(subcommand)]
        drill: Drill,
    },
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

#[derive(Debug, Subcommand)]
pub enum History {
    /// One of them, with every change that is kept by name
    Show {
        /// As edgectl history lists it
        revision: u64,
    },
}

#[derive(Debug, Subcommand)]
pub enum Endpoint {
    /// No request but those of sessions that are pinned to it
    Drain(Held),
    /// No request at all; those under way are left alone
    Disable(Held),
    /// As Service, routes and checks say
    Enable {
        /// Address, or address and port
        endpoint: Place,
    },
    /// What is drained or disabled, and until when
    List,
}

#[derive(Debug, Subcommand)]
pub enum Maintenance {
    /// Answers 503 for a host; challenges of CAs are answered all the same
    On(Closing),
    /// Opens a host again
    Off {
        /// As it was closed
        host: Site,
    },
    /// What is closed, and until when
    List,
}

#[derive(Debug, Args)]
pub struct Closing {
    /// www.example.com, *.example.com, or * for all
    pub host: Site,
    /// For so long, such as 2h; else until it is taken back
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    pub length: Option<std::time::Duration>,
    /// What clients see: .html, .json or text, up to 32 KiB
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Seconds after which clients shall come back
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub retry_after: u32,
    /// Clients that are served all the same; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub allow: Vec<ipnet::IpNet>,
}

fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from);
    let network = text.parse().ok().or_else(address);
    network.ok_or_else(|| "expected a network such as 192.0.2.0/24, or an address".to_owned())
}

#[derive(Debug, Args)]
pub struct Held {
    /// Address, or address and port
    pub endpoint: Place,
    /// For so long, such as 30m; else until it is enabled
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    pub length: Option<std::time::Duration>,
}

fn length(text: &str) -> Result<std::time::Duration, String> {
    let length = edge_config::wire::GepDuration::parse(text).map(|length| length.0);
    let length = length.filter(|length| length.as_secs() > 0);
    length.ok_or_else(|| "expected a duration such as 90s or 1h30m".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Every certificate, the most urgent first; of what is well a few and a count
    List {
        /// Every row
        #[arg(short, long)]
        all: bool,
    },
    /// All that is known of one: chain, times, window of the CA, account, budget, where it lies
    Show { name: String },
    /// Why it is as it is: one sentence with cause and remedy, then what it rests on
    Why { name: String },
    /// Obtains it anew now, as far as the limits of its CA allow; says why not
    Renew { name: String },
    /// Has its CA revoke it, then obtains another one with another key
    Revoke {
        name: String,
        /// Told to the CA
        #[arg(long, value_enum, default_value_t = Revocation::Unspecified)]
        reason: Revocation,
    },
    /// Serves a certificate that was obtained elsewhere, without ordering, and renews it when its time comes
    ///
    /// It must bear all names that are wanted, and be valid.
    Import {
        /// PEM files with the chain, leaf first, and the private key, in one file or several
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
        /// For which certificate; without it the one whose names it bears
        #[arg(long)]
        name: Option<String>,
    },
    /// The chain that serves, as PEM on standard output
    Export {
        name: String,
        /// Also the private key, into this file with mode 0600; - for standard output, unless that is a terminal
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        key: Option<PathBuf>,
    },
    /// What is left of the limits of each CA, and accounts
    Budget,
}

/// RFC 5280 §5.3.1, those that ACME lets an account use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Revocation {
    Unspecified,
    /// Somebody else has or had the key
    KeyCompromise,
    AffiliationChanged,
    Superseded,
    CessationOfOperation,
}

impl From<Revocation> for RevocationReason {
    fn from(reason: Revocation) -> Self {
        match reason {
            Revocation::Unspecified => Self::Unspecified,
            Revocation::KeyCompromise => Self::KeyCompromise,
            Revocation::AffiliationChanged => Self::AffiliationChanged,
            Revocation::Superseded => Self::Superseded,
            Revocation::CessationOfOperation => Self::CessationOfOperation,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Crds {
    /// The manifests, for kubectl apply or GitOps
    Print,
    /// Installs or updates them, and waits until the API server serves them
    ///
    /// Nothing is changed where cert-manager's own definitions are.
    Install {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Removes what install installed, as long as no object of these kinds exists
    Remove {
        #[command(flatten)]
        cluster: Cluster,
        /// Also with objects, which are deleted with their kind
        #[arg(long)]
        force: bool,
    },
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct Cluster {
    /// The cluster of this edge.toml. Without it and --kubeconfig /etc/edge/edge.toml
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The cluster of this kubeconfig, whose user must be allowed to define kinds
    #[arg(long, value_name = "FILE", conflicts_with = "config", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; without it the current one
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Drill {
    /// Takes this edge off the network and brings it back, as drain and undrain do, and prints how long each step took
    ///
    /// Other edges must be able to take over: connections to this one end.
    Failover {
        /// How long to stay away, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
        away: u64,
        /// Really do it
        #[arg(long)]
        yes: bool,
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
            ("edgectl pool --dry-run a.toml --against b", true),
            ("edgectl pool --against b", false),
            ("edgectl migrate f5 - --into x", true),
            ("edgectl migrate f5", false),
            ("edgectl migrate nginx x", false),
            ("edgectl crds print", true),
            ("edgectl crds install --kubeconfig x --context y", true),
            ("edgectl crds install --kubeconfig x --config y", false),
            ("edgectl crds remove --force", true),
            ("edgectl crds", false),
            ("edgectl cert list --all", true),
            ("edgectl cert revoke a.example --reason key-compromise", true),
            ("edgectl cert revoke a.example --reason whim", false),
            ("edgectl cert import a.pem b.pem --name ns/x", true),
            ("edgectl cert export a.example --key -", true),
            ("edgectl cert", false),
            ("edgectl restore x --config a --state b", false),
            ("edgectl status -o xml", false),
            ("edgectl", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), good, "{line}");
        }
    }
}
