//! The program on disk, beside the one that runs.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::ARGUMENT;
use crate::line::Line;

/// What this process was started from.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// To be called at the start, before anybody can have replaced it.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        // As it was called: behind it may be a link that points elsewhere by now.
        let called = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = called.map_or_else(std::env::current_exe, Ok)?;
        let argument = OsString::from(format!("--{ARGUMENT}"));
        Ok(Self { path, arguments: arguments.filter(|given| *given != argument).collect() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another program is there now than the one that runs.
    pub fn is_another(&self) -> io::Result<bool> {
        let file = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        Ok(file(&self.path)? != file(Path::new("/proc/self/exe"))?)
    }

    /// Starts it as a successor, with the same arguments and surroundings.
    pub(super) fn start(&self) -> io::Result<(Child, Line)> {
        let (line, far) = Line::pair()?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg(format!("--{ARGUMENT}")).stdin(far);
        // These are about this process; what comes by the line counts.
        for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        Ok((command.spawn()?, line))
    }
}
