//! Engines that are not there, do not answer, or are none: the caller is never held up, and is told why.

use std::collections::BTreeSet;
use std::path::Path;

use edge_config::announce::Asn;
use tokio::net::UnixListener;

use super::*;
use crate::observed::EngineState;
use crate::wanted::Wanted;

fn wanted(engine: Engine) -> Wanted {
    Wanted {
        engine,
        asn: Asn::new(65101).unwrap(),
        router_id: "10.0.0.1".parse().unwrap(),
        listen: None,
        peers: Vec::new(),
        prefixes: Vec::new(),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("within a minute") })
}

/// A program that calls itself gobgpd.
fn program(directory: &Path, text: &str) -> std::path::PathBuf {
    let path = directory.join("engine");
    let version = r#"[ "$1" = --version ] && { echo 'gobgpd version 3.10.0'; exit; }"#;
    std::fs::write(&path, format!("#!/bin/sh\n{version}\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

async fn error(speaker: &Speaker) -> String {
    let mut observed = speaker.observed();
    let seen = observed.wait_for(|seen| seen.engine.error.is_some()).await.unwrap();
    assert_eq!(seen.engine.state, EngineState::Down);
    seen.engine.error.clone().unwrap()
}

#[test]
fn a_missing_program_is_one_line_and_tried_again() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let speaker = Speaker::start(Household::own(directory.path().join("run")), Permit::unconditional());
        assert_eq!(speaker.set(Some(wanted(Engine::Child { program: "/nonexistent/gobgpd".into() }))), 1);
        let said = error(&speaker).await;
        assert!(said.starts_with("/nonexistent/gobgpd: ") && !said.contains('\n'), "{said}");
        assert_eq!(speaker.set(None), 2);
        let mut observed = speaker.observed();
        let seen = observed.wait_for(|seen| seen.generation == 2).await.unwrap().clone();
        assert_eq!((seen.engine.state, seen.engine.error.as_deref()), (EngineState::Idle, None));
        assert_eq!(speaker.stop(Duration::from_secs(5)).await, Stopped::Withdrawn);
    });
}

#[test]
fn a_socket_without_anybody_is_one_line() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let speaker = Speaker::start(Household::own(directory.path().join("run")), Permit::unconditional());
        let path = directory.path().join("none.sock");
        speaker.set(Some(wanted(Engine::Unix { path: path.clone() })));
        let said = error(&speaker).await;
        assert!(said.contains(&*path.to_string_lossy()) && said.contains("No such file"), "{said}");
        // Nobody can confirm that nothing is announced.
        assert!(matches!(speaker.stop(Duration::from_secs(1)).await, Stopped::Unconfirmed(_)));
    });
}

#[test]
fn an_engine_that_never_answers_holds_up_nobody() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mute.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mute = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
            }
        });
        let speaker = Speaker::start(Household::own(directory.path().join("run")), Permit::unconditional());
        let begun = Instant::now();
        for generation in 1..100 {
            assert_eq!(speaker.set(Some(wanted(Engine::Unix { path: path.clone() }))), generation);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "set waits");
        assert!(error(&speaker).await.contains("mute.sock"));
        speaker.set(Some(wanted(Engine::Unix { path: directory.path().join("other.sock") })));
        let mut observed = speaker.observed();
        let is_other = |seen: &Arc<Observed>| seen.engine.error.as_deref().is_some_and(|e| e.contains("other.sock"));
        observed.wait_for(is_other).await.unwrap();
        mute.abort();
    });
}

#[test]
fn waiting_times_grow_and_differ() {
    let mut backoff = Backoff::new();
    let waits: Vec<Duration> = (0..10).map(|_| backoff.next()).collect();
    assert!(waits[0] >= Duration::from_millis(100) && waits[0] <= Duration::from_millis(200), "{waits:?}");
    assert!(waits[9] >= Duration::from_secs(5) && waits[9] <= Duration::from_secs(10), "{waits:?}");
    let firsts: BTreeSet<Duration> = (0..32).map(|_| Backoff::new().next()).collect();
    assert!(firsts.len() > 1, "{firsts:?}");
}

#[test]
fn dropping_it_ends_the_child() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("engine");
    let text =
        "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'gobgpd version 3.10.0'; exit; }\ntouch up\nexec sleep 600\n";
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = directory.path().join("run");
    let running = |directory: &Path| {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == *directory))
    };
    block_on(async {
        let speaker = Speaker::start(Household::own(run.clone()), Permit::unconditional());
        speaker.set(Some(wanted(Engine::Child { program })));
        while !run.join("up").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(running(&run));
        drop(speaker);
        while running(&run) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "run by a_killed_process_takes_its_child_with_it"]
fn process_with_a_child() {
    let Some(place) = std::env::args().find_map(|word| word.strip_prefix("--skip=place:").map(str::to_owned)) else {
        return;
    };
    let place = std::path::PathBuf::from(place);
    block_on(async {
        let speaker = Speaker::start(Household::own(place.join("run")), Permit::unconditional());
        speaker.set(Some(wanted(Engine::Child { program: place.join("engine") })));
        std::future::pending::<()>().await;
    });
}

#[test]
fn a_killed_process_takes_its_child_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let engine =
        program(directory.path(), "trap 'echo > ../said-goodbye; exit' TERM\ntouch up\nwhile :; do sleep 0.02; done");
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    process.args(["--ignored", "--exact", "speaker::tests::process_with_a_child"]);
    process.arg(format!("--skip=place:{}", directory.path().display()));
    let mut process = process.stdout(std::process::Stdio::null()).spawn().unwrap();
    let is_there = |name: &str| directory.path().join(name).exists();
    block_on(async {
        while !is_there("run/up") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        while !is_there("said-goodbye") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    drop(engine);
}
