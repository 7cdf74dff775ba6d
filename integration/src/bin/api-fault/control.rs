//! The control socket: a command per line, an answer per line.
//!
//! Flows in: lines. Flows out: changed rules, struck watches, `ok`, `error: …` or JSON.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use crate::proxy::Proxy;
use crate::rules::{Blow, Command, Scope, Strike};

const LONGEST_LINE: u64 = 4096;
/// Between two lines of one connection.
const IDLE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(100);

/// Carries out one line.
pub fn obey(proxy: &Proxy, line: &str) -> Result<String, String> {
    let strike = |strike| {
        // Without open watches nobody listens, and nothing is struck.
        let _ = proxy.strikes.send(strike);
    };
    match line.parse()? {
        Command::Add(addition) => proxy.rules.borrow_mut().add(*addition)?,
        Command::Watches(wanted) => strike(wanted),
        Command::Refuse => {
            proxy.refusing.send_replace(true);
        }
        Command::Expire => proxy.token.borrow_mut().expire(),
        Command::Renew => proxy.token.borrow_mut().renew().map_err(|error| format!("token file: {error}"))?,
        Command::Clear => {
            proxy.rules.borrow_mut().clear();
            proxy.refusing.send_replace(false);
            strike(Strike { blow: Blow::Wake, scope: Scope::default() });
        }
        Command::Counts => return Ok(proxy.counts.borrow().json().to_string()),
        Command::ResetCounts => proxy.counts.borrow_mut().clear(),
    }
    Ok("ok".to_owned())
}

/// Never returns.
pub async fn serve(proxy: Rc<Proxy>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(connection(Rc::clone(&proxy), stream));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn connection(proxy: Rc<Proxy>, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let mut limited = (&mut reader).take(LONGEST_LINE);
        match timeout(IDLE, limited.read_line(&mut line)).await {
            Ok(Ok(1..)) if line.ends_with('\n') => {}
            _ => return,
        }
        let answer = obey(&proxy, line.trim()).unwrap_or_else(|problem| format!("error: {problem}"));
        if writer.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Says one line to a running proxy and returns its answer.
pub fn tell(socket: &Path, line: &str) -> io::Result<String> {
    use std::io::{BufRead as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    io::BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
