//! UPDATE messages of BGP as they are on a wire: what a peer was really told, also for a moment.
//!
//! Flows in: an interface. Flows out: each message (RFC 4271 §4.3) with when it was seen, from whom, and what it says, as
//! tcpdump reads it.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::edged::until;

/// Listens until it is dropped.
pub struct Updates {
    listener: Child,
    heard: Arc<Mutex<Vec<Update>>>,
}

#[derive(Debug, Clone)]
pub struct Update {
    pub at: Instant,
    pub from: String,
    /// In the words of tcpdump.
    pub text: String,
}

impl Updates {
    /// At an interface of a namespace; returns when it listens.
    pub fn start(namespace: &str, interface: &str) -> Self {
        let mut listener = Command::new("ip")
            .args(["netns", "exec", namespace, "tcpdump", "-n", "-l", "-v", "--immediate-mode", "-i", interface])
            .args(["tcp", "port", "179"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("tcpdump: {error}"));
        let ready = Arc::new(Mutex::new(false));
        let (errors, is_ready) = (listener.stderr.take().unwrap(), Arc::clone(&ready));
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                *is_ready.lock().unwrap() |= line.contains("listening on");
            }
        });
        let heard = Arc::<Mutex<Vec<Update>>>::default();
        let (output, shared) = (listener.stdout.take().unwrap(), Arc::clone(&heard));
        std::thread::spawn(move || {
            let mut from = String::new();
            let mut is_update = false;
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut heard = shared.lock().unwrap();
                if let Some((source, _)) = line.split_once(" > ") {
                    from = host(source);
                    is_update = false;
                } else if line.trim_start().starts_with("Update Message") {
                    is_update = true;
                    heard.push(Update { at: Instant::now(), from: from.clone(), text: String::new() });
                } else if line.contains(" Message (") {
                    is_update = false;
                } else if let Some(update) = heard.last_mut().filter(|_| is_update) {
                    update.text += &line;
                    update.text.push('\n');
                }
            }
        });
        until("tcpdump listens", || ready.lock().unwrap().then_some(()));
        Self { listener, heard }
    }

    /// What was heard from a speaker since then.
    pub fn since(&self, then: Instant, from: &str) -> Vec<Update> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|update| update.at >= then && update.from == from).cloned().collect()
    }

    /// The first message since then that tells of a prefix, and does not withdraw it.
    pub fn announcement(&self, then: Instant, from: &str, prefix: &str) -> Option<Update> {
        self.since(then, from).into_iter().find(|update| update.announces(prefix))
    }
}

impl Update {
    /// It tells of the prefix, or withdraws it.
    pub fn names(&self, prefix: &str) -> bool {
        self.text.lines().any(|line| line.split([' ', ',', '\t']).any(|word| word == prefix))
    }

    pub fn announces(&self, prefix: &str) -> bool {
        let text = self.text.as_str();
        // Withdrawn ones come first, in a list or attribute of their own.
        let is_told = |part: &str| part.lines().any(|line| line.split([' ', ',', '\t']).any(|word| word == prefix));
        let later = text.find("Updated routes:").or_else(|| text.find("Multi-Protocol Reach NLRI"));
        later.is_some_and(|at| is_told(&text[at..]))
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

/// The address in `    10.1.1.1.179`.
fn host(source: &str) -> String {
    let word = source.split_whitespace().last().unwrap_or_default();
    word.rsplit_once('.').map_or(word, |(address, _)| address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_says() {
        let update = |text: &str| Update { at: Instant::now(), from: host("    10.1.1.1.179"), text: text.to_owned() };
        let told = update("\t  Origin (1), length: 1\n\t  Updated routes:\n\t    198.51.100.1/32\n");
        assert!(told.announces("198.51.100.1/32") && !told.announces("198.51.100.10/32"));
        assert_eq!(told.from, "10.1.1.1");
        assert!(!update("\t  Withdrawn routes:\n\t    198.51.100.1/32\n").announces("198.51.100.1/32"));
        assert_eq!(host("    fd00:1:1::1.179"), "fd00:1:1::1");
    }
}
