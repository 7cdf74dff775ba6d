//! `demo-backend`: the origin of [`edge_integration::origin`] as a program, for `make run`, `make demo` and scripts.
//!
//! Prints one line when everything is bound, then nothing. Ends with the signal that ends it.

#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::process::ExitCode;

use edge_integration::origin::Origin;
use edge_integration::pki;
use tokio::net::{TcpListener, UdpSocket};

const USAGE: &str = "usage: demo-backend --name NAME --listen ADDR:PORT [--listen ADDR:PORT …]
  [--tls ADDR:PORT --certificate FILE --key FILE]  HTTP over TLS
  [--tcp ADDR:PORT] [--udp ADDR:PORT]              says its name, then echoes";

#[derive(Default)]
struct Options {
    name: String,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{option}: needs a value"))?;
            let address = || value.parse::<SocketAddr>().map_err(|_| format!("{option} {value}: expected ADDR:PORT"));
            match option.as_str() {
                "--name" => options.name = value,
                "--listen" => options.http.push(address()?),
                "--tls" => options.https.push(address()?),
                "--tcp" => options.tcp.push(address()?),
                "--udp" => options.udp.push(address()?),
                "--certificate" => options.certificate = Some(value),
                "--key" => options.key = Some(value),
                _ => return Err(format!("{option}: unknown option")),
            }
        }
        if options.name.is_empty() {
            return Err("--name is missing".to_owned());
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    pki::install_provider();
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("demo-backend: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("demo-backend: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> std::io::Result<()> {
    let origin = Origin::new(&options.name);
    let mut places = Vec::new();
    for address in &options.http {
        let listener = TcpListener::bind(address).await?;
        places.push(format!("http://{}", listener.local_addr()?));
        tokio::spawn(origin.clone().serve_http(listener, None));
    }
    if let [_, ..] = options.https.as_slice() {
        let (Some(certificate), Some(key)) = (&options.certificate, &options.key) else {
            return Err(std::io::Error::other("--tls needs --certificate and --key"));
        };
        let pair = pki::Pair { certificate: std::fs::read_to_string(certificate)?, key: std::fs::read_to_string(key)? };
        let acceptor = pki::acceptor(&pair, None)?;
        for address in &options.https {
            let listener = TcpListener::bind(address).await?;
            places.push(format!("https://{}", listener.local_addr()?));
            tokio::spawn(origin.clone().serve_http(listener, Some(acceptor.clone())));
        }
    }
    for address in &options.tcp {
        let listener = TcpListener::bind(address).await?;
        places.push(format!("tcp://{}", listener.local_addr()?));
        tokio::spawn(origin.clone().serve_tcp(listener));
    }
    for address in &options.udp {
        let socket = UdpSocket::bind(address).await?;
        places.push(format!("udp://{}", socket.local_addr()?));
        tokio::spawn(origin.clone().serve_udp(socket));
    }
    if places.is_empty() {
        return Err(std::io::Error::other("nothing to listen on"));
    }
    println!("{} on {}", origin.name(), places.join(" "));
    std::future::pending().await
}
