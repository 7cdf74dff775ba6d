//! A power loss at any moment loses nothing that was acknowledged, and what is left always opens.
//!
//! Needs strace (Debian package `strace`).

use std::io::Read as _;
use std::process::{Command, Stdio};

use edge::store::Store;

use super::replay::{Call, Disk, Mode, read_traces};
use super::{Dice, child, skip};

const RECORDS: u64 = 40;
/// All calls that change what is on a disk, as far as the store makes them.
const CALLS: &str = "trace=openat,close,write,pwrite64,lseek,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,\
                     unlinkat,mkdir,mkdirat";
/// Moments at which the power goes, spread over the whole run.
const MOMENTS: usize = 60;

#[test]
fn nothing_acknowledged_is_lost_by_power_loss() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return skip("nothing_acknowledged_is_lost_by_power_loss", "no strace (apt-get install strace)");
    }
    let scratch = tempfile::tempdir().unwrap();
    let (directory, traces) = (scratch.path().join("store"), scratch.path().join("trace"));
    let writer = child::command(&directory, 0, RECORDS);
    let mut strace = Command::new("strace");
    strace.args(["-ff", "-ttt", "-T", "-xx", "-s", "4194304", "-o"]).arg(&traces);
    strace.args(["-e", "signal=none", "-e", CALLS]);
    strace.arg(writer.get_program()).args(writer.get_args());
    strace.envs(writer.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut process = strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    process.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    let status = process.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&status.stderr);
    if !status.status.success() && errors.contains("ptrace") {
        return skip("nothing_acknowledged_is_lost_by_power_loss", &format!("strace may not trace here: {errors}"));
    }
    assert!(status.status.success(), "{errors}");
    assert_eq!(output.lines().filter_map(child::acknowledged).max(), Some(RECORDS - 1));

    let calls = read_traces(&traces);
    let acknowledgements = calls.iter().filter(|call| acknowledgement(call).is_some()).count();
    assert_eq!(acknowledgements as u64, RECORDS, "the trace is not complete");
    let mut disk = Disk::new(&directory);
    let mut dice = Dice::new(7);
    let (mut done, mut last, mut moved_aside) = (0, None, 0);
    for (at, call) in calls.iter().enumerate() {
        disk.apply(call);
        last = acknowledgement(call).or(last);
        // Around an acknowledgement, and evenly over the rest.
        let next_is_write = acknowledgement(call).is_some() && dice.below(2) == 0;
        if !next_is_write && at % (calls.len() / MOMENTS + 1) != 0 && at + 1 != calls.len() {
            continue;
        }
        for mode in [Mode::Kill, Mode::Drop, Mode::Torn, Mode::Torn, Mode::NamesOnly] {
            let remains = scratch.path().join("remains");
            disk.crash(&remains, mode, &mut dice);
            let opened = Store::open(&remains);
            assert!(opened.store.is_durable(), "call {at}, {mode:?}: {:?}", opened.notices);
            if let Some(last) = last {
                child::check(&opened.store, last, last + 1).unwrap_or_else(|error| {
                    panic!("call {at}, {mode:?}, {last} acknowledged: {error}; {:?}", opened.notices)
                });
            }
            // It also still takes writes, and finds them again.
            let version = last.map_or(0, |last| last + 2);
            child::write(&opened.store, version).unwrap();
            moved_aside += usize::from(opened.notices.iter().any(|notice| notice.contains("moved to")));
            drop(opened);
            std::fs::remove_dir_all(&remains).unwrap();
            done += 1;
        }
    }
    eprintln!("power loss: {done} replays of {} calls, {moved_aside} databases moved aside", calls.len());
    assert!(done >= 200, "only {done} replays");
}

fn acknowledgement(call: &Call) -> Option<u64> {
    match call {
        Call::Write { fd: 1, bytes, .. } => std::str::from_utf8(bytes).ok()?.lines().find_map(child::acknowledged),
        _ => None,
    }
}
