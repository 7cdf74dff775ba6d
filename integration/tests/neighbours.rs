//! What Edge accepts, its neighbours read as it does: the fuzz corpus, hostile cases and good ones, sent through chains of
//! Edge and nginx, and of Edge and HAProxy, to a recorder. It must see exactly the requests that the client's bytes mean by
//! the reference reader, each once, with the same method, target and body; or fewer, where somebody refused.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub)] // it is shared with the fuzz targets
#[path = "../../edge/src/proxy/fuzzing/reference.rs"]
mod reference;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge_integration::acme::party::nobody;
use edge_integration::edged::{LIMIT, until, workspace};
use edge_integration::lab::{HTTP, Lab};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};

/// Method, target, body.
type Request = (String, String, Vec<u8>);

/// Answers every whole request, and remembers it.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Request>>>);

impl Recorder {
    fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Self::default();
        let all = recorder.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let one = all.clone();
                std::thread::spawn(move || one.serve(stream));
            }
        });
        (recorder, address)
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 16384]);
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            let found = reference::requests(&bytes);
            if let reference::Stop::Malformed(what) = found.stop {
                self.0.lock().unwrap().push((format!("malformed: {what}"), String::new(), bytes));
                return;
            }
            bytes.drain(..found.used);
            for request in found.complete {
                let body = if request.method == b"HEAD" { "" } else { "ok" };
                self.0.lock().unwrap().push(known(&request));
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}").as_bytes());
            }
        }
    }

    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn known(request: &reference::Request) -> Request {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&request.method), text(&request.target), request.body.clone())
}

/// A neighbour that runs in the foreground.
struct Neighbour(Child);

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[&str], address: SocketAddr) -> Neighbour {
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{program} ({error}) is installed by `make packages`"));
    let neighbour = Neighbour(child);
    until(program, || TcpStream::connect(address).ok());
    neighbour
}

fn nginx(lab: &Lab, behind: SocketAddr) -> (Neighbour, SocketAddr) {
    let (address, dir) = (nobody(), lab.dir().display());
    let text = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
         events {{}}
         http {{
           access_log off; keepalive_requests 100000;
           client_body_temp_path {dir}/n1; proxy_temp_path {dir}/n2; fastcgi_temp_path {dir}/n3;
           uwsgi_temp_path {dir}/n4; scgi_temp_path {dir}/n5;
           upstream recorder {{ server {behind}; keepalive 4; }}
           server {{
             listen {address};
             location / {{
               proxy_pass http://recorder; proxy_http_version 1.1; proxy_set_header Connection \"\";
               proxy_set_header Host $http_host;
             }}
           }}
         }}"
    );
    lab.write_file("nginx.conf", &text);
    let config = lab.path("nginx.conf");
    (start("nginx", &["-c", config.to_str().unwrap(), "-e", lab.path("nginx.log").to_str().unwrap()], address), address)
}

fn haproxy(lab: &Lab, behind: SocketAddr) -> (Neighbour, SocketAddr) {
    let address = nobody();
    let text = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend edge\n  bind {address}\n  default_backend recorder\n\
         backend recorder\n  server recorder {behind}\n"
    );
    lab.write_file("haproxy.cfg", &text);
    (start("haproxy", &["-q", "-db", "-f", lab.path("haproxy.cfg").to_str().unwrap()], address), address)
}

/// Sends bytes as they are, and gives all that comes.
fn converse(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // A refusal may come, and the end with it, before all is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = workspace().join("edge/fuzz/corpus/requests");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

fn chain(neighbour: impl FnOnce(&Lab, SocketAddr) -> (Neighbour, SocketAddr)) {
    let mut lab = Lab::new();
    let (recorder, behind) = Recorder::start();
    let (_neighbour, address) = neighbour(&lab, behind);
    let listener = "    - {name: http, port: 8080, protocol: HTTP}\n";
    let text = [
        CLASS,
        &gateway("web", listener),
        &service("default", "n", 80, &[address]),
        &http_route("all", &[], &to("n", 80)),
    ];
    lab.manifest("all.yaml", &text.concat());
    lab.start(&[HTTP]);
    let corpus = corpus();
    let (mut through, mut refused) = (0, Vec::new());
    for (name, bytes) in &corpus {
        let meant: Vec<Request> = reference::requests(bytes).complete.iter().map(known).collect();
        let answer = String::from_utf8_lossy(&converse(lab.at(HTTP), bytes)).into_owned();
        let seen = recorder.take();
        let mut rest = meant.iter();
        assert!(
            seen.iter().all(|request| rest.any(|other| other == request)),
            "{name}: seen behind the neighbour: {seen:?}, meant: {meant:?}, the client got {answer:?}"
        );
        let answered = answer.matches("HTTP/1.1 200 ").count();
        assert_eq!(answered, seen.len(), "{name}: {answer:?}");
        through += seen.len();
        if name.starts_with("good-") && seen.len() < meant.len() {
            refused.push((name, answer.lines().next().unwrap_or_default().to_owned()));
        }
        assert!(seen.is_empty() || !name.starts_with("bad-"), "{name} went through: {seen:?}");
    }
    // Nothing was left behind in a connection between the two.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(recorder.take(), []);
    eprintln!("{} inputs, {through} requests through, refused though good: {refused:?}", corpus.len());
    assert!(through > 20, "{through}");
    assert!(refused.len() <= 3, "the neighbour is odd, or Edge: {refused:?}");
}

#[test]
fn nginx_reads_what_edge_accepts_as_edge_does() {
    chain(nginx);
}

#[test]
fn haproxy_reads_what_edge_accepts_as_edge_does() {
    chain(haproxy);
}
