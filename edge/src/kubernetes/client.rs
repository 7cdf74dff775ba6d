//! Connecting to the API server: from settings to a client that stays valid.
//!
//! In: where credentials are. Out: [`Api`], which always holds the newest client. Credentials that expire, files that
//! change (a rotated client certificate, another server) and answers of 401 end in a new client; tokens that kube renews
//! by itself (`tokenFile`, exec plugins with an expiry, the service account) do not. It sends no request of its own.
//! Standards: kubeconfig v1, client-go credential plugins v1 and v1beta1.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edge_config::settings::{Credentials, KubernetesSettings};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// How long an exec plugin and everything else about credentials may take.
const CREDENTIALS_PATIENCE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the files are looked at, and the least time between two new clients.
const LOOK: Duration = Duration::from_secs(10);
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
        let mut backoff = super::backoff::Backoff::default();
        loop {
            let (files, made) = make(&credentials).await;
            let mut next = Instant::now() + LOOK;
            let ends = match made {
                Ok(client) => {
                    backoff.reset();
                    let valid = client.valid_until().map(|end| end.as_second());
                    publish.send_replace(Some(client));
                    tell.send_replace(None);
                    valid.map(|end| Instant::now() + until(end).saturating_sub(BEFORE_EXPIRY).max(LOOK))
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
                    next = Instant::now() + backoff.next(None);
                    Some(next)
                }
            };
            // Until there is a reason for a new one.
            loop {
                let is_doubted = tokio::select! {
                    () = doubt.notified() => true,
                    () = sleep_until(next) => false,
                    () = publish.closed() => return,
                };
                if is_doubted {
                    // Doubts of all watches at once are one.
                    sleep_until(next).await;
                }
                if is_doubted || ends.is_some_and(|end| end <= Instant::now()) || files.changed() {
                    break;
                }
                next = Instant::now() + LOOK;
            }
        }
    };
    (api, task)
}

fn until(unix_seconds: i64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0)).saturating_sub(now)
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

/// Reads credentials and makes a client. Files and exec plugins block, so this leaves the runtime alone.
async fn make(credentials: &Credentials) -> (Files, Result<Client, ConnectError>) {
    let credentials = credentials.clone();
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let (files, config) = match &credentials {
            Credentials::InCluster => (Files::default(), Config::incluster().map_err(ConnectError::InCluster)),
            Credentials::Kubeconfig { path, context } => {
                let read = Kubeconfig::read_from(path);
                let files = Files::of(std::iter::once(path.clone()).chain(read.iter().flat_map(files_of)));
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let config = read.and_then(|read| runtime.block_on(Config::from_custom_kubeconfig(read, &options)));
                let named = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
                (files, config.map_err(named))
            }
        };
        let client = config.and_then(|mut config| {
            config.connect_timeout = Some(CONNECT_TIMEOUT);
            config.write_timeout = Some(WRITE_TIMEOUT);
            // Every caller has its own deadline, and knows better than a layer below when to try again.
            config.read_timeout = None;
            config.default_retry = false;
            let builder = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
            Ok(builder.build())
        });
        (files, client)
    });
    match timeout(CREDENTIALS_PATIENCE, work).await {
        Ok(Ok(made)) => made,
        Ok(Err(_)) => (Files::default(), Err(ConnectError::Panicked)),
        Err(_) => (Files::default(), Err(ConnectError::Late)),
    }
}

/// Files that a kubeconfig refers to and that kube reads only once.
fn files_of(config: &Kubeconfig) -> Vec<PathBuf> {
    let users = config.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let users = users.flat_map(|user| [&user.client_certificate, &user.client_key].into_iter().flatten());
    let clusters = config.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let clusters = clusters.filter_map(|cluster| cluster.certificate_authority.as_ref());
    users.chain(clusters).map(PathBuf::from).collect()
}
