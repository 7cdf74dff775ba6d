//! With small programs in the place of gobgpd.

use super::*;

fn program(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("engine");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn start(text: &str) -> (Result<Child, Error>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), text);
    let run = directory.path().join("run");
    (block_on(Child::start(&Parent::Own, &program, &run)), directory)
}

const VERSION: &str = r#"if [ "$1" = --version ]; then echo "gobgpd version 3.10.0"; exit; fi"#;

#[test]
fn what_is_no_gobgpd_is_said_in_one_line() {
    let missing =
        block_on(Child::start(&Parent::Own, Path::new("/nonexistent/gobgpd"), Path::new("/nonexistent"))).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/gobgpd: "), "{missing}");
    assert!(missing.to_string().ends_with("expected the program gobgpd, version 3 or 4"), "{missing}");
    for (said, expected) in
        [("gobgpd version 2.34.0", "version \"gobgpd version 2.34.0\"; expected 3 or 4"), ("", "version \"\"")]
    {
        let (outcome, _directory) = start(&format!("echo '{said}'"));
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = prepare(directory.path()).unwrap_err().to_string();
    assert!(error.contains("mode 777; expected ours, writable by nobody else"), "{error}");
    let long = directory.path().join("x".repeat(LONGEST_PATH));
    assert!(prepare(&long).unwrap_err().to_string().contains("too long"));
}

#[test]
fn a_socket_of_a_run_before_is_not_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let socket = prepare(&run).unwrap();
    std::fs::write(&socket, "stale").unwrap();
    assert_eq!(prepare(&run).unwrap(), socket);
    assert!(!socket.exists());
    assert_eq!(std::fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn its_log_is_read_line_by_line_and_its_end_is_told() {
    let long = LONGEST_LINE as usize;
    let text =
        format!("{VERSION}\nhead -c {} /dev/zero | tr '\\0' x\necho\necho \"$*\" >&2\nprintf end\nexit 7", 3 * long);
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &text);
    let run = directory.path().join("run");
    block_on(async {
        let mut child = Child::start(&Parent::Own, &program, &run).await.unwrap();
        assert_eq!(child.version, "3.10.0");
        let mut lines = Vec::new();
        let how = loop {
            match child.event().await {
                Event::Line(line) => lines.push(line),
                Event::Ended(how) => break how,
            }
        };
        assert_eq!(lines[0].len(), long);
        assert!(lines[1].starts_with("--api-hosts unix:///"), "{lines:?}");
        assert_eq!((lines[2].as_str(), lines.len()), ("end", 3));
        assert_eq!((how.as_str(), child.ended().await.as_str()), ("exit status: 7", "exit status: 7"));
    });
}

#[test]
fn one_that_does_not_want_to_end_is_killed() {
    let (outcome, _directory) = {
        let directory = tempfile::tempdir().unwrap();
        let program =
            program(directory.path(), &format!("{VERSION}\ntrap '' TERM\necho up\nwhile :; do sleep 0.05; done"));
        let run = directory.path().join("run");
        let outcome = block_on(async {
            let mut child = Child::start(&Parent::Own, &program, &run).await.unwrap();
            assert_eq!(child.event().await, Event::Line("up".to_owned()));
            let pid = Pid::from_raw(child.pid.cast_signed()).unwrap();
            child.stop(Duration::from_millis(200)).await;
            rustix::process::test_kill_process(pid)
        });
        (outcome, directory)
    };
    assert!(outcome.is_err(), "still there");
}

/// Between its start and the taking up of it there is a moment in which it is nobody's.
#[test]
fn one_that_nobody_waits_for_any_more_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path(), &format!("{VERSION}\necho $$ > up\nexec sleep 600"));
    let run = directory.path().join("run");
    let pid = block_on(async {
        let mut start = Box::pin(Child::start(&Parent::Own, &program, &run));
        loop {
            // Asked once, and not before it has had the time to send what nobody takes.
            let asked = std::future::poll_fn(|context| std::task::Poll::Ready(start.as_mut().poll(context))).await;
            if let std::task::Poll::Ready(taken) = asked {
                // A slow machine: this is what dropping the child itself does.
                return taken.unwrap().pid.to_string();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            std::thread::sleep(Duration::from_millis(100));
            match std::fs::read_to_string(run.join("up")) {
                Ok(pid) if pid.ends_with('\n') => return pid.trim().to_owned(),
                _ => {}
            }
        }
    });
    let is_running = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let begun = std::time::Instant::now();
    while is_running() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}
