//! What a process tree spends: CPU time, memory, open files; and on which CPUs who runs.
//!
//! Flows in: a process id. Flows out: numbers from `/proc`. CPU time is the scheduler's own, in nanoseconds for every
//! thread of the tree; where the kernel keeps none (`schedstat`), it is the 10 ms ticks of `stat`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPU time so far of every thread of a tree, and of one CPU by anybody.
#[derive(Debug, Clone)]
pub struct Sample {
    threads: BTreeMap<u32, Duration>,
    /// Busy and stolen time of the proxy's CPU.
    core: Duration,
    taken: Instant,
}

/// Between two samples.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    pub wall: Duration,
    /// Share of the CPU that others had, 0 to 1.
    pub others: f64,
}

/// Takes samples of one tree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub pid: u32,
    pub core: usize,
}

impl Clock {
    pub fn now(self) -> Sample {
        let mut threads = BTreeMap::new();
        for pid in tree(self.pid) {
            for task in numbers(&format!("/proc/{pid}/task")) {
                threads.insert(task, thread_time(pid, task).unwrap_or_default());
            }
        }
        Sample { threads, core: core_time(self.core), taken: Instant::now() }
    }
}

/// A thread that began in between counts whole; one that ended is lost, which none of the peers does under load.
pub fn spent(before: &Sample, after: &Sample) -> Usage {
    let since = |(thread, time): (&u32, &Duration)| {
        time.saturating_sub(before.threads.get(thread).copied().unwrap_or_default())
    };
    let cpu: Duration = after.threads.iter().map(since).sum();
    let wall = after.taken - before.taken;
    let busy = after.core.saturating_sub(before.core);
    let others = busy.saturating_sub(cpu).as_secs_f64() / wall.as_secs_f64().max(1e-9);
    Usage { cpu, wall, others }
}

/// A process and everything below it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for task in numbers(&format!("/proc/{pid}/task")) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    let distinct: BTreeSet<u32> = found.iter().copied().collect();
    distinct.into_iter().collect()
}

fn numbers(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn thread_time(pid: u32, task: u32) -> Option<Duration> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")) {
        return text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{task}/stat")).ok()?;
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some(ticks(fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()))
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Everything but idle and I/O wait.
fn core_time(core: usize) -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let prefix = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default();
    let fields = line.split_whitespace().take(8).enumerate().filter(|(index, _)| *index != 3 && *index != 4);
    ticks(fields.filter_map(|(_, field)| field.parse::<u64>().ok()).sum())
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Proportional memory of the tree, in kB: pages that its processes share count once.
pub fn pss(root: u32) -> u64 {
    tree(root).iter().map(|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss")).sum()
}

/// Resident memory of one process, in kB; `VmRSS` now or `VmHWM` at most.
pub fn resident(pid: u32, name: &str) -> u64 {
    field(&format!("/proc/{pid}/status"), name)
}

/// Who traces a process, if anybody.
pub fn tracer(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "TracerPid")
}

/// Open files of one process.
pub fn open_files(pid: u32) -> usize {
    numbers(&format!("/proc/{pid}/fd")).len()
}

pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// The calling thread and all that it starts from here on.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}
