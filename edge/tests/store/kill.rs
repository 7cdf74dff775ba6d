//! `kill -9` at any moment loses nothing that was acknowledged.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::ChildStdout;
use std::time::Duration;

use edge::store::Store;

use super::{Dice, child};

/// `None` at the end of what the writer says.
fn next_acknowledged(output: &mut Lines<BufReader<ChildStdout>>) -> Option<u64> {
    output.find_map(|line| child::acknowledged(&line.unwrap()))
}

#[test]
fn nothing_acknowledged_is_lost_by_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut dice = Dice::new(1);
    let (mut next, mut last) = (0, None);
    for round in 0..40 {
        let mut writer = child::command(directory.path(), next, 1_000_000).spawn().unwrap();
        let mut output = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Every third one dies while it opens the store, the others while they write, after a few records or many.
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(dice.below(120)));
        } else {
            for _ in 0..=dice.below(20) {
                last = next_acknowledged(&mut output).or(last);
            }
            std::thread::sleep(Duration::from_micros(dice.below(5_000)));
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        while let Some(version) = next_acknowledged(&mut output) {
            last = Some(version);
        }
        let opened = Store::open(directory.path());
        assert!(opened.store.is_durable(), "round {round}: {:?}", opened.notices);
        let Some(last) = last else { continue };
        // The one after the last acknowledged may have been on its way.
        child::check(&opened.store, last, last + 1)
            .unwrap_or_else(|error| panic!("round {round}, {last} acknowledged: {error}; {:?}", opened.notices));
        next = last + 1;
    }
    assert!(next > 40, "only {next} records in 40 rounds: the kills come too early to prove anything");
    let moved = std::fs::read_dir(directory.path()).unwrap();
    let moved = moved.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("broken")).count();
    eprintln!("kill: {next} acknowledged records in 40 rounds, {moved} databases moved aside");
}
