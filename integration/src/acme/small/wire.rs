//! HTTP/1.1 by hand, so that it can be broken anywhere.
//!
//! Flows in: a connection. Flows out: requests; answers whole, in part, or without an end.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Reply;

/// Of a request.
const LONGEST: usize = 1 << 20;

pub struct Request {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

pub struct Stream {
    inner: BufReader<TcpStream>,
}

impl Stream {
    pub fn new(stream: TcpStream) -> Self {
        Self { inner: BufReader::new(stream) }
    }

    /// `None`: the client is gone, or says nothing that is understood.
    pub async fn request(&mut self) -> Option<Request> {
        let mut line = String::new();
        self.inner.read_line(&mut line).await.ok()?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            line.clear();
            if self.inner.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        if length > LONGEST {
            return None;
        }
        let mut body = vec![0; length];
        self.inner.read_exact(&mut body).await.ok()?;
        Some(Request { method, path, body })
    }

    pub async fn answer(&mut self, reply: &Reply, is_head: bool) -> io::Result<()> {
        let mut bytes = head(reply);
        if !is_head {
            bytes.extend_from_slice(&reply.body);
        }
        self.inner.get_mut().write_all(&bytes).await
    }

    /// The head and half of the body.
    pub async fn half(&mut self, reply: &Reply) {
        let mut bytes = head(reply);
        bytes.extend_from_slice(&reply.body[..reply.body.len() / 2]);
        if reply.body.is_empty() {
            bytes.truncate(bytes.len() / 2);
        }
        let _ = self.inner.get_mut().write_all(&bytes).await;
    }

    pub async fn dribble(&mut self, reply: &Reply, gap: Duration) -> io::Result<()> {
        let mut bytes = head(reply);
        bytes.extend_from_slice(&reply.body);
        for byte in bytes {
            self.inner.get_mut().write_all(&[byte]).await?;
            tokio::time::sleep(gap).await;
        }
        Ok(())
    }

    pub async fn endless(&mut self) {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n[";
        if self.inner.get_mut().write_all(head).await.is_err() {
            return;
        }
        let more = [b' '; 16 << 10];
        while self.inner.get_mut().write_all(&more).await.is_ok() {}
    }

    pub async fn until_gone(&mut self) {
        let mut rest = Vec::new();
        let _ = self.inner.read_to_end(&mut rest).await;
    }
}

fn head(reply: &Reply) -> Vec<u8> {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let mut text =
        format!("HTTP/1.1 {} Said\r\ndate: {date}\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}
