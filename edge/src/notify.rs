//! Tells systemd how edged is doing (sd_notify(3)), without a library.
//!
//! In: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID of the environment. Out: datagrams. Without that environment every
//! call does nothing; a failed send is not worth more than a line, because systemd notices silence by itself.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where to send, and how often systemd wants to hear of us.
#[derive(Debug)]
pub struct Notifier {
    target: Option<Target>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
}

/// Why the environment names no place that can be notified.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("NOTIFY_SOCKET {0:?}: neither an absolute path nor an abstract name")]
    Form(OsString),
    #[error("NOTIFY_SOCKET {name:?}: {source}")]
    Address { name: OsString, source: io::Error },
    #[error("socket for notifications: {0}")]
    Socket(io::Error),
}

impl Notifier {
    /// Reads the environment of the process.
    pub fn from_environment() -> Result<Self, NotifyError> {
        let text = |name| std::env::var(name).ok();
        let watchdog = watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        let target = std::env::var_os("NOTIFY_SOCKET").map(Target::open).transpose()?;
        Ok(Self { target, watchdog })
    }

    /// One that tells nobody.
    pub fn silent() -> Self {
        Self { target: None, watchdog: None }
    }

    /// How often to call [`alive`](Self::alive): half of what systemd waits. `None`: never.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 2)
    }

    /// The first generation serves, or a reload is over.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// A reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) -> io::Result<()> {
        self.send("RELOADING=1\nSTATUS=reading the configuration again")
    }

    /// Another process is the service's main one from now on, and the only one that systemd listens to. This one falls
    /// silent.
    pub fn hand_over(&mut self, process: u32) -> io::Result<()> {
        let told = self.send(&format!("MAINPID={process}"));
        *self = Self::silent();
        told
    }

    /// The drain begins. `EXTEND_TIMEOUT_USEC` keeps systemd from cutting it short.
    pub fn stopping(&self, drain: Duration) -> io::Result<()> {
        self.send(&format!("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}", drain.as_micros()))
    }

    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// The watchdog's ping. Call it from the place whose standstill is to be noticed.
    pub fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    fn send(&self, message: &str) -> io::Result<()> {
        let Some(target) = &self.target else { return Ok(()) };
        target.socket.send_to_addr(message.as_bytes(), &target.address).map(drop)
    }
}

impl Target {
    fn open(name: OsString) -> Result<Self, NotifyError> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(&name),
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            _ => return Err(NotifyError::Form(name)),
        };
        let address = address.map_err(|source| NotifyError::Address { name, source })?;
        let socket = UnixDatagram::unbound().map_err(NotifyError::Socket)?;
        // A full queue at systemd must not stop the supervisor.
        socket.set_nonblocking(true).map_err(NotifyError::Socket)?;
        Ok(Self { socket, address })
    }
}

/// sd_watchdog_enabled(3): on when the time is a positive number and the PID, if any, is ours.
fn watchdog(microseconds: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let microseconds: u64 = microseconds?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

/// A line break would begin a new assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn notifier(name: impl Into<OsString>) -> Notifier {
        Notifier { target: Some(Target::open(name.into()).unwrap()), watchdog: None }
    }

    #[test]
    fn tells_a_path_and_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let on_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("edge-notify-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let on_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (socket, target) in [(on_path, path.into_os_string()), (on_name, format!("@{name}").into())] {
            let notifier = notifier(target);
            notifier.ready("serving\nMAINPID=1").unwrap();
            assert_eq!(received(&socket), "READY=1\nSTATUS=serving MAINPID=1");
            notifier.reloading().unwrap();
            assert!(received(&socket).starts_with("RELOADING=1\n"));
            notifier.alive().unwrap();
            assert_eq!(received(&socket), "WATCHDOG=1");
            notifier.stopping(Duration::from_secs(30)).unwrap();
            assert!(received(&socket).ends_with("EXTEND_TIMEOUT_USEC=30000000"));
        }
    }

    #[test]
    fn a_full_or_missing_listener_is_an_error_not_a_standstill() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        assert!(notifier(path.clone()).alive().is_err());
        let _nobody_reads = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(path);
        let errors = (0..10_000).filter(|_| notifier.alive().is_err()).count();
        assert!(errors > 0);
        Notifier::silent().alive().unwrap();
    }

    #[test]
    fn names_that_are_none() {
        assert!(matches!(Target::open("relative".into()), Err(NotifyError::Form(_))));
        assert!(matches!(Target::open("".into()), Err(NotifyError::Form(_))));
        assert!(matches!(Target::open(format!("/{}", "x".repeat(200)).into()), Err(NotifyError::Address { .. })));
    }

    #[test]
    fn watchdog_only_for_this_process() {
        let own = 42;
        for (time, pid, expected) in [
            (Some("30000000"), None, Some(30)),
            (Some("30000000"), Some("42"), Some(30)),
            (Some("30000000"), Some("43"), None),
            (Some("30000000"), Some("x"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (None, Some("42"), None),
        ] {
            let found = watchdog(time.map(str::to_owned), pid.map(str::to_owned), own);
            assert_eq!(found, expected.map(Duration::from_secs), "{time:?} {pid:?}");
        }
    }
}
