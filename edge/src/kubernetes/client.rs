//! Connecting to the API server: from settings to a client that stays valid.
//!
//! In: where credentials are. Out: [`Api`], which always holds the newest client. Credentials that expire, files that
//! change (a rotated client certificate, another server) and answers of 401 end in a new client; tokens that kube renews
//! by itself (`tokenFile`, the service account) do not. Credential plugins are run here ([`plugin`]), never by kube, which
//! would wait for them on the thread of the watches. It sends no request of its own.
//! Standards: kubeconfig v1.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_config::settings::{Credentials, KubernetesSettings};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::Backoff;
use super::plugin::{self, PluginError};

/// How long an exec plugin and everything else about credentials may take.
const CREDENTIALS_PATIENCE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the files are looked at, and how often while the server refuses what they hold.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_IN_DOUBT: Duration = Duration::from_millis(500);
/// Credentials that were not refused for so long are good.
const TRUST: Duration = Duration::from_secs(60);
/// Where a Pod finds the token of its service account.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// A client is replaced so long before its credentials end.
const BEFORE_EXPIRY: Duration = Duration::from_secs(60);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("kubeconfig {}", path.display())]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("no service account of a Pod")]
    InCluster(#[source] kube::config::InClusterError),
    #[error("no client can be made of the credentials")]
    Client(#[source] Box<kube::Error>),
    #[error("credential plugin {command}")]
    Plugin { command: String, source: PluginError },
    #[error("credentials took longer than 30s")]
    Late,
    #[error("the thread that reads credentials panicked")]
    Panicked,
}

impl ConnectError {
    /// With all its causes, in one line.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&one_line(&error.to_string()));
            cause = error.source();
        }
        text
    }
}

/// The first line of what others say, cut.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Access to the API server. Cheap to clone; every clone sees the newest client.
#[derive(Clone)]
pub struct Api {
    client: watch::Receiver<Option<Client>>,
    trouble: watch::Receiver<Option<Arc<str>>>,
    doubt: Arc<Notify>,
}

impl Api {
    /// The client to use now. Waits while there is none, which may be for ever: give it a deadline.
    pub async fn client(&self) -> Option<Client> {
        let mut client = self.client.clone();
        // An error: the task that makes clients is gone, and so is the daemon soon.
        client.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Returns when there is another client than now.
    pub async fn renewed(&self) {
        let mut client = self.client.clone();
        client.mark_unchanged();
        if client.changed().await.is_err() {
            // The task that makes clients is gone, and so is the daemon soon.
            std::future::pending().await
        }
    }

    /// Says that the server refused the credentials (401): they are read again, soon.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Why there is no newer client, if something is wrong.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.borrow().clone()
    }
}

/// Access, and the task that keeps it. The task ends when every clone of the access is gone.
pub fn keep(settings: &KubernetesSettings) -> (Api, impl Future<Output = ()> + Send + 'static) {
    let (publish, client) = watch::channel(None);
    let (tell, trouble) = watch::channel(None);
    let doubt = Arc::new(Notify::new());
    let api = Api { client, trouble, doubt: Arc::clone(&doubt) };
    let credentials = settings.credentials.clone();
    let task = async move {
        let (mut failures, mut doubts) = (Backoff::default(), Backoff::default());
        loop {
            let (files, made) = make(&credentials).await;
            let made_at = Instant::now();
            let ends = match made {
                Ok((client, ends)) => {
                    failures.reset();
                    publish.send_replace(Some(client));
                    tell.send_replace(None);
                    ends.map(|end| made_at + until(end).saturating_sub(BEFORE_EXPIRY).max(LOOK))
                }
                Err(error) => {
                    let reason: Arc<str> = error.in_full().into();
                    tell.send_if_modified(|known| {
                        let is_new = known.as_deref() != Some(&*reason);
                        if is_new {
                            tracing::error!("kubernetes: {reason}");
                            *known = Some(reason);
                        }
                        is_new
                    });
                    Some(made_at + failures.next(None))
                }
            };
            // Until there is a reason for a new one. Doubts of all watches at once are one.
            let mut again_at: Option<Instant> = None;
            loop {
                let look = Instant::now() + if again_at.is_some() { LOOK_IN_DOUBT } else { LOOK };
                let next = [ends, again_at].into_iter().flatten().fold(look, Instant::min);
                tokio::select! {
                    () = doubt.notified(), if again_at.is_none() => {
                        if made_at.elapsed() > TRUST {
                            doubts.reset();
                        }
                        again_at = Some(Instant::now() + doubts.next(None));
                        continue;
                    }
                    () = sleep_until(next) => {}
                    () = publish.closed() => return,
                }
                let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
                if is_due(again_at) || is_due(ends) || files.changed() {
                    break;
                }
            }
        }
    };
    (api, task)
}

fn until(end: SystemTime) -> Duration {
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The files that credentials came from, as they were.
#[derive(Default)]
struct Files(Vec<(PathBuf, Option<SystemTime>)>);

impl Files {
    fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path.clone(), changed_at(&path))).collect())
    }

    fn changed(&self) -> bool {
        self.0.iter().any(|(path, then)| changed_at(path) != *then)
    }
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

type Made = Result<(Client, Option<SystemTime>), ConnectError>;

/// Reads credentials and makes a client; the time is when it ends.
async fn make(credentials: &Credentials) -> (Files, Made) {
    let mut files = Files::default();
    let made = timeout(CREDENTIALS_PATIENCE, connect(credentials, &mut files)).await;
    (files, made.unwrap_or(Err(ConnectError::Late)))
}

/// Files block, so they are read beside the runtime.
async fn connect(credentials: &Credentials, files: &mut Files) -> Made {
    let mut config = match credentials {
        Credentials::InCluster => {
            *files = Files::of([PathBuf::from(ACCOUNT_TOKEN)]);
            Config::incluster().map_err(ConnectError::InCluster)?
        }
        Credentials::Kubeconfig { path, context } => {
            let named = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let at = path.clone();
            let read = beside(move || {
                let read = Kubeconfig::read_from(&at);
                (Files::of(std::iter::once(at).chain(read.iter().flat_map(files_of))), read)
            });
            let read = read.await?;
            *files = read.0;
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(read.1.map_err(named)?, &options).await.map_err(named)?
        }
    };
    let mut ends = None;
    if let Some(exec) = config.auth_info.exec.take() {
        let command = exec.command.clone().unwrap_or_default();
        let found = plugin::run(&exec, plugin::PATIENCE).await;
        let found = found.map_err(|source| ConnectError::Plugin { command, source })?;
        ends = found.ends;
        if let Some(token) = &found.token {
            config.auth_info.token = Some(token.as_str().to_owned().into());
        }
        if let Some((chain, key)) = &found.pair {
            config.auth_info.client_certificate_data = Some(STANDARD.encode(chain));
            config.auth_info.client_key_data = Some(STANDARD.encode(key.as_bytes()).into());
        }
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    // Every caller has its own deadline, and knows better than a layer below when to try again.
    config.read_timeout = None;
    config.default_retry = false;
    let runtime = tokio::runtime::Handle::current();
    let client = beside(move || {
        // The client has tasks of its own.
        let _runtime = runtime.enter();
        ClientBuilder::try_from(config).map(ClientBuilder::build)
    });
    Ok((client.await?.map_err(|error| ConnectError::Client(Box::new(error)))?, ends))
}

async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ConnectError::Panicked)
}

/// Files that a kubeconfig refers to: kube reads some of them once, and a token only when the one before it is old.
fn files_of(config: &Kubeconfig) -> Vec<PathBuf> {
    let users = config.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let users =
        users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file].into_iter().flatten());
    let clusters = config.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let clusters = clusters.filter_map(|cluster| cluster.certificate_authority.as_ref());
    users.chain(clusters).map(PathBuf::from).collect()
}
