use std::time::SystemTime;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::control::fleet::Witnessed;
use crate::control::world::{Command, Reloaded, World, channels};
use crate::proxy::metrics::MetricType;

struct Served {
    directory: tempfile::TempDir,
    publish: tokio::sync::watch::Sender<Arc<World>>,
    commands: tokio::sync::mpsc::Receiver<Command>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
    metrics: SocketAddr,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/edged.sock");
        let sockets = Sockets::bind(&path, Some("127.0.0.1:0".parse().unwrap())).unwrap();
        let metrics = sockets.metrics_address().unwrap();
        let (publish, commands, handle) = channels(World::empty("edge-1", SystemTime::now()));
        let (stop, stopped) = watch::channel(false);
        let api = Api {
            handle,
            metrics: Arc::new(|text: &mut Text| {
                text.family("edge_of_the_data_plane", MetricType::Gauge, "Test.");
                text.sample(&[], 1);
            }),
            revisions: Folder::new(directory.path()),
            fleet: None,
            witness: Arc::new(Witnessed::new(publish.subscribe())),
        };
        let thread = Some(start(api, sockets, stopped).unwrap());
        Self { directory, publish, commands, stop, thread, metrics }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/edged.sock")
    }

    async fn ask(&self, text: &str) -> (u16, String) {
        exchange(UnixStream::connect(self.path()).await.unwrap(), text).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: edge\r\n\r\n")).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.ask(&format!("POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-length: {length}\r\n\r\n{body}")).await
    }

    fn end(mut self) {
        self.stop.send(true).unwrap();
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.path().exists(), "the socket is removed at the end");
    }
}

async fn exchange(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, text: &str) -> (u16, String) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // What was not read of a refused request becomes a reset behind the answer.
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn pages() {
    let served = Served::new();
    let (code, body) = served.get("/v1/status").await;
    assert_eq!(code, 200);
    let status: crate::control::view::Status = serde_json::from_str(&body).unwrap();
    assert_eq!((status.edge.name.as_str(), status.edge.generation), ("edge-1", 0));
    for (path, code, part) in [
        ("/healthz", 200, "ok"),
        ("/readyz", 503, "no generation"),
        ("/metrics", 200, "edge_generation 0\n"),
        ("/metrics", 200, "edge_of_the_data_plane 1\n"),
        ("/v1/problems", 200, "[]"),
        ("/v1/config", 200, "/var/lib/edge"),
        ("/v1/routing", 200, "\"routes\":{}"),
        ("/v1/objects", 200, "{}"),
        ("/v1/objects/httproutes", 200, "[]"),
        ("/v1/objects/HTTPRoute/shop/cart", 404, "HTTPRoute shop/cart does not exist"),
        ("/v1/objects/pods", 404, "is not known"),
        ("/v2", 404, "not here"),
        ("/v1/explain", 405, "takes POST"),
    ] {
        let (found, body) = served.get(path).await;
        assert_eq!(found, code, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    served.end();
}

#[tokio::test]
async fn readiness_follows_the_world() {
    let served = Served::new();
    let mut world = World::empty("edge-1", SystemTime::now());
    world.generation = 1;
    let mut observed = crate::control::observed::Observed { serving: true, ..Default::default() };
    world.observed = Arc::new(observed.clone());
    served.publish.send(Arc::new(world.clone())).unwrap();
    assert_eq!(served.get("/readyz").await.0, 200);
    let now = SystemTime::now();
    observed.drain =
        Some(crate::control::observed::Drain { since: now, step: crate::control::observed::DrainStep::Withdrawn });
    world.observed = Arc::new(observed);
    served.publish.send(Arc::new(world)).unwrap();
    assert_eq!(served.get("/readyz").await, (503, "draining\n".to_owned()));
    served.end();
}

#[tokio::test]
async fn questions() {
    let served = Served::new();
    let (code, body) = served.post("/v1/explain", r#"{"url":"https://a.example/"}"#).await;
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("no listener of any Gateway serves"), "{body}");
    for (body, part) in [
        ("{", "EOF"),
        (r#"{"url":"ftp://x"}"#, "scheme"),
        (r#"{"url":"https://a.example/","more":1}"#, "unknown field"),
    ] {
        let (code, answer) = served.post("/v1/explain", body).await;
        assert_eq!(code, 400, "{answer}");
        assert!(answer.contains(part), "{answer}");
    }
    let (code, _) = served.post("/v1/explain", &"x".repeat(70 << 10)).await;
    assert_eq!(code, 413);
    served.end();
}

#[tokio::test]
async fn a_reload_is_answered_by_the_supervisor() {
    let mut served = Served::new();
    let mut commands = std::mem::replace(&mut served.commands, tokio::sync::mpsc::channel(1).1);
    let supervisor = tokio::spawn(async move {
        for answer in [Ok(Reloaded { generation: 7, changed: true, errors: 1, warnings: 0 }), Err("broken".to_owned())]
        {
            let Some(Command::Reload { reply, .. }) = commands.recv().await else { return };
            reply.send(answer).unwrap();
        }
    });
    assert_eq!(
        served.post("/v1/reload", "").await,
        (200, "{\"generation\":7,\"changed\":true,\"errors\":1,\"warnings\":0}\n".to_owned())
    );
    assert_eq!(served.post("/v1/reload", "").await, (409, "{\"error\":\"broken\"}\n".to_owned()));
    supervisor.await.unwrap();
    let (code, body) = served.post("/v1/reload", "").await;
    assert_eq!(code, 503, "{body}");
    served.end();
}

#[tokio::test]
async fn only_metrics_are_on_tcp() {
    let served = Served::new();
    for (path, expected) in
        [("/metrics", 200), ("/healthz", 200), ("/readyz", 503), ("/v1/status", 404), ("/v1/reload", 404)]
    {
        let stream = tokio::net::TcpStream::connect(served.metrics).await.unwrap();
        let (code, _) = exchange(stream, &format!("GET {path} HTTP/1.1\r\nhost: edge\r\n\r\n")).await;
        assert_eq!(code, expected, "{path}");
    }
    served.end();
}

#[tokio::test]
async fn who_only_reads_cannot_reload() {
    let (publish, _commands, handle) = channels(World::empty("edge-1", SystemTime::now()));
    let revisions = Folder::new(Path::new("/nowhere"));
    let witness = Arc::new(Witnessed::new(publish.subscribe()));
    let api = Api { handle, metrics: Arc::new(|_: &mut Text| {}), revisions, fleet: None, witness };
    let (client, server) = UnixStream::pair().unwrap();
    let connection = tokio::spawn(async move {
        let service = service_fn(move |request| {
            let api = api.clone();
            let caller = pages::Caller { access: pages::Access::Read, user: None };
            async move { Ok::<_, Infallible>(pages::answer(&api, caller, request).await) }
        });
        http1::Builder::new().serve_connection(TokioIo::new(server), service).await
    });
    let (mut send, io) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    let driver = tokio::spawn(io);
    let request = Request::post("/v1/reload").body(Full::<Bytes>::default()).unwrap();
    let answer = send.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 403);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("root"));
    drop(send);
    driver.await.unwrap().unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn oversized_and_broken_heads_are_refused() {
    let served = Served::new();
    let long = "x".repeat(32 << 10);
    assert!(matches!(served.get(&format!("/{long}")).await.0, 414 | 431));
    assert_eq!(served.ask("GET / HTTP/1.1\r\nbad header\r\n\r\n").await.0, 400);
    assert_eq!(served.get("/healthz").await.0, 200);
    served.end();
}

#[test]
fn the_socket_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edged.sock");
    let first = Sockets::bind(&path, None).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(Sockets::bind(&path, None), Err(ApiError::Taken(_))));
    drop(first);
    // The file is still there, but nobody listens: a stale one is replaced.
    assert!(path.exists());
    let second = Sockets::bind(&path, None).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary is left");
    // An edged that ends late does not take away the socket of its successor.
    drop(second);
    let owner = Sockets::bind(&path, None).unwrap().owner;
    let third = Sockets::bind(&path, None).unwrap();
    if third.owner != owner {
        socket::remove(&path, owner);
        assert!(path.exists());
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Sockets::bind(&file, None), Err(ApiError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
}
