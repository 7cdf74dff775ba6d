//! The guard with real processes: an edged of which only the guard is real, its guard from the program `edged`, and a
//! `sleep` in the place of gobgpd.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use edge::pulse::{Pulse, Vitals};
use edge::store::Store;
use edge::vip::Addresses;
use edge::vip::guard::{ChildProcess, Guard, Undo, Untold};
use edge_config::settings::{BindVips, Settings, VipSettings};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing that a test waits for takes longer, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_edged");
/// What the edged of a namespace puts on its loopback interface.
const ADDRESSES: [&str; 2] = ["192.0.2.80", "2001:db8::80"];

/// Not a test: what the tests start as edged. It does what it reads on standard input and says what it sees.
#[test]
#[ignore = "started by the other tests"]
fn act_as_edged() {
    let Some(directory) = std::env::var_os("EDGE_GUARD_TEST").map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        // Whoever is first says it behind what the harness has written of this test.
        write!(out, "\n> {line}\n").unwrap();
        out.flush().unwrap();
    };
    let vitals = Vitals { supervisor: Pulse::default(), workers: vec![Pulse::default()] };
    let hangs = Arc::new(AtomicBool::new(false));
    let (pulses, stop) = (vitals.clone(), Arc::clone(&hangs));
    std::thread::spawn(move || {
        loop {
            pulses.supervisor.beat();
            if !stop.load(Ordering::Relaxed) {
                pulses.workers[0].beat();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let guard = Guard::start(Path::new(PROGRAM), vitals).unwrap();
    let permit = guard.permit();
    std::thread::spawn(move || {
        let mut held = None;
        loop {
            let holds = permit.holds();
            if held.replace(holds) != Some(holds) {
                say(format!("permit {holds}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let mut observed = guard.observed();
    runtime.spawn(async move {
        loop {
            let now = observed.borrow_and_update().clone();
            if let Some(undone) = &now.undone {
                say(format!("undone {} {} {:?}", undone.number, undone.why, undone.failed));
            }
            say(format!("guard {:?} failing {:?} notices {:?}", now.process, now.failing, now.notices));
            if observed.changed().await.is_err() {
                return;
            }
        }
    });
    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            lines.send(line.unwrap()).unwrap();
        }
    });
    runtime.block_on(async {
        let (mut guard, mut undo) = (Some(guard), Undo::default());
        let mut addresses = None;
        let mut children = Vec::new();
        while let Some(command) = commands.recv().await {
            let one = guard.as_ref();
            match command.as_str() {
                "gobgpd" => {
                    let child = Command::new("sleep").arg("600").spawn().unwrap();
                    say(format!("gobgpd {}", child.id()));
                    undo.gobgpd = Some(Arc::new(ChildProcess::of(child.id()).unwrap()));
                    children.push(child);
                }
                "addresses" => {
                    let store = Store::open(&directory.join("state"));
                    let started = Addresses::start(store.store);
                    let settings = VipSettings { bind: BindVips::Auto, ..Settings::default().vips };
                    let wanted: BTreeSet<IpAddr> = ADDRESSES.iter().map(|text| text.parse().unwrap()).collect();
                    started.set(&settings, wanted.clone()).await;
                    addresses = Some(started);
                    let list = directory.join("list");
                    let lines: String = wanted.iter().map(|address| format!("{address} lo\n")).collect();
                    std::fs::write(&list, lines + "127.0.0.1 lo\n").unwrap();
                    undo.address_list = Some(list);
                }
                "tell" => match one.unwrap().tell(undo.clone()).await {
                    Ok(()) => say("told".to_owned()),
                    Err(Untold::Undone) => say("untold undone".to_owned()),
                    Err(error) => say(format!("untold {error}")),
                },
                "acknowledge" => {
                    let undone = one.unwrap().observed().borrow().undone.clone().unwrap();
                    one.unwrap().acknowledge(undone.number);
                }
                "hang" => hangs.store(true, Ordering::Relaxed),
                "go on" => hangs.store(false, Ordering::Relaxed),
                "stop" => {
                    guard.take().unwrap().stop().await;
                    say("stopped".to_owned());
                }
                other => panic!("{other}"),
            }
        }
        drop((addresses, children));
    });
}

struct Edged {
    process: Child,
    input: ChildStdin,
    said: Receiver<String>,
    seen: Vec<String>,
    guards: Vec<u32>,
    /// Of the one that ends without a chance to clean up.
    _directory: TempDir,
}

impl Edged {
    fn start(within: &[&str]) -> Self {
        let own = std::env::current_exe().unwrap();
        let directory = tempfile::Builder::new().prefix("edge-guard-").tempdir().unwrap();
        let mut words: Vec<&str> = within.to_vec();
        words.push(own.to_str().unwrap());
        words.extend(["--exact", "act_as_edged", "--ignored", "--nocapture"]);
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .env("EDGE_GUARD_TEST", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (lines, said) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix("> ") {
                    let _ = lines.send(line.to_owned());
                }
            }
        });
        let input = process.stdin.take().unwrap();
        Self { process, input, said, seen: Vec::new(), guards: Vec::new(), _directory: directory }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    /// The next line that begins like this.
    fn hear(&mut self, start: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.said.recv_timeout(left) else { panic!("no {start:?} after {:#?}", self.seen) };
            if let Some(pid) = line.strip_prefix("guard Some(").and_then(|rest| rest.split(')').next()) {
                self.guards.push(pid.parse().unwrap());
            }
            self.seen.push(line.clone());
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// A gobgpd that the guard has to withdraw, and the number of its process.
    fn announce(&mut self) -> u32 {
        self.tell("gobgpd");
        let pid = self.hear("gobgpd").parse().unwrap();
        self.tell("tell");
        self.hear("told");
        pid
    }

    fn guard(&mut self) -> u32 {
        while self.guards.is_empty() {
            self.hear("guard Some");
        }
        *self.guards.last().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Edged {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Neither running nor asleep: gone, or dead and not yet waited for.
fn is_over(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.rsplit(')').next().is_some_and(|rest| matches!(rest.trim().chars().next(), Some('R' | 'S' | 'D' | 'T')))
}

/// How long that took.
fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

#[test]
fn an_edged_that_dies_is_withdrawn_at_once() {
    let mut edged = Edged::start(&[]);
    let (gobgpd, guard) = (edged.announce(), edged.guard());
    let words = std::fs::read(format!("/proc/{guard}/cmdline")).unwrap();
    assert_eq!(String::from_utf8_lossy(&words), format!("edge-guard\0--edged\0{}\0", edged.process.id()));
    assert_eq!(std::fs::read_to_string(format!("/proc/{guard}/comm")).unwrap().trim(), "edge-guard");
    let status = std::fs::read_to_string(format!("/proc/{guard}/status")).unwrap();
    let size = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    eprintln!("the guard holds {} ({} of its own)", size("VmRSS:"), size("RssAnon:"));
    edged.signal(Signal::KILL);
    let took = until("gobgpd ended", || is_over(gobgpd));
    eprintln!("SIGKILL of edged to the end of gobgpd: {took:?}");
    until("the guard ended", || is_over(guard));
}

#[test]
fn an_edged_that_is_frozen_is_withdrawn_and_knows_when_it_wakes_up() {
    let mut edged = Edged::start(&[]);
    let (gobgpd, guard) = (edged.announce(), edged.guard());
    // Another thread than that of the charge says this.
    if !edged.seen.iter().any(|line| line == "permit true") {
        edged.hear("permit true");
    }
    edged.signal(Signal::STOP);
    let took = until("gobgpd ended", || is_over(gobgpd));
    eprintln!("SIGSTOP of edged to the end of gobgpd: {took:?}");
    assert!(!is_over(guard));
    edged.signal(Signal::CONT);
    let before = edged.seen.len();
    let undone = edged.hear("undone 1");
    assert!(undone.starts_with("it was silent for "), "{undone}");
    // Two threads say these two.
    if !edged.seen.iter().any(|line| line == "permit false") {
        edged.hear("permit false");
    }
    edged.tell("tell");
    edged.hear("untold undone");
    assert!(!edged.seen[before..].iter().any(|line| line == "permit true"), "{:?}", edged.seen);
    edged.tell("acknowledge");
    edged.hear("permit true");
    let again = edged.announce();
    edged.signal(Signal::KILL);
    until("gobgpd ended", || is_over(again));
}

#[test]
fn an_orderly_end_touches_nothing() {
    let mut edged = Edged::start(&[]);
    let (gobgpd, guard) = (edged.announce(), edged.guard());
    edged.tell("stop");
    edged.hear("stopped");
    until("the guard ended", || is_over(guard));
    edged.signal(Signal::KILL);
    edged.process.wait().unwrap();
    assert!(!is_over(gobgpd));
    kill_process(Pid::from_raw(gobgpd.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_guard_that_dies_or_hangs_is_replaced() {
    for signal in [Signal::KILL, Signal::STOP] {
        let mut edged = Edged::start(&[]);
        let (gobgpd, guard) = (edged.announce(), edged.guard());
        kill_process(Pid::from_raw(guard.cast_signed()).unwrap(), signal).unwrap();
        while edged.guard() == guard {
            edged.hear("guard Some");
        }
        let notice = edged.seen.last().unwrap();
        assert!(notice.contains("was started again"), "{notice}");
        assert!(!is_over(gobgpd), "nothing is withdrawn for that");
        // The charge is told to the new one without being asked; until it has been, there is nobody to do it.
        edged.tell("tell");
        edged.hear("told");
        edged.signal(Signal::KILL);
        until("gobgpd ended", || is_over(gobgpd));
        until("the old guard is gone", || is_over(guard));
    }
}

#[test]
fn an_edged_whose_worker_hangs_is_withdrawn_until_it_goes_on() {
    let mut edged = Edged::start(&[]);
    let gobgpd = edged.announce();
    edged.tell("hang");
    let start = Instant::now();
    until("gobgpd ended", || is_over(gobgpd));
    eprintln!("a worker hangs to the end of gobgpd: {:?}", start.elapsed());
    let undone = edged.hear("undone 1");
    assert!(undone.starts_with("worker 0 stands still for "), "{undone}");
    edged.tell("acknowledge");
    edged.tell("tell");
    let untold = edged.hear("untold");
    assert!(untold.starts_with("worker 0 stands still"), "{untold}");
    edged.tell("go on");
    edged.hear("permit true");
    edged.announce();
}

#[test]
fn what_cannot_be_started_is_said_and_announcing_goes_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let guard = Guard::start(Path::new("/nonexistent/edged"), Vitals::default()).unwrap();
        assert_eq!(guard.tell(Undo::default()).await, Ok(()));
        let undo = Undo { address_list: Some("/nonexistent/list".into()), ..Undo::default() };
        let Err(Untold::Unguarded(why)) = guard.tell(undo).await else { panic!() };
        assert!(why.starts_with("/nonexistent/edged: "), "{why}");
        assert!(guard.permit().holds());
        assert!(guard.observed().borrow().notices[0].starts_with("guard: there is none"));
        guard.stop().await;
    });
}

#[test]
fn nobody_else_starts_a_guard() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("edge-guard");
    std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
    let output = Command::new(&link).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by edged, and by nobody else"));
}

#[test]
fn addresses_of_a_dead_edged_are_taken_from_their_interface() {
    let name = format!("edge-guard-{}", std::process::id());
    let ip = |words: &[&str]| Command::new("ip").args(words).output().is_ok_and(|output| output.status.success());
    if !rustix::process::geteuid().is_root() || !ip(&["netns", "add", &name]) {
        eprintln!("\n*** SKIPPED addresses_of_a_dead_edged_are_taken_from_their_interface: no root, no namespaces\n");
        return;
    }
    assert!(ip(&["-n", &name, "link", "set", "lo", "up"]));
    // Not ours, and named in the list: the mark decides.
    let mut edged = Edged::start(&["ip", "netns", "exec", &name]);
    edged.tell("addresses");
    edged.tell("tell");
    edged.hear("told");
    let listed = || {
        let output = Command::new("ip").args(["-n", &name, "-o", "addr", "show", "dev", "lo"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let before = listed();
    assert!(ADDRESSES.iter().all(|address| before.contains(address)), "{before}");
    edged.signal(Signal::KILL);
    let took = until("the addresses are gone", || !ADDRESSES.iter().any(|address| listed().contains(address)));
    eprintln!("SIGKILL of edged to the last address: {took:?}");
    let after = listed();
    drop(edged);
    assert!(ip(&["netns", "del", &name]));
    assert!(after.contains("127.0.0.1/8"), "{after}");
}
