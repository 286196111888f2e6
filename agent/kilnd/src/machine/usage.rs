//! What is used right now, from `/proc`.
//!
//! | place | processors | memory |
//! |---|---|---|
//! | guest | all that isn't idle or waits | all but what a new process could have |
//! | native | this process and its descendants, and those of them that ended | pages that each of them has for itself |
//!
//! Invariant: what ends while it is read counts as nothing; nothing here fails.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_agent_api::Place;

/// Use of a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) cpu: Duration,
    pub(super) memory: u64,
}

/// Reads files: call where that may block.
pub(super) fn of(place: Place) -> Used {
    match place {
        Place::Guest => Used {
            cpu: ticks(busy(&read("/proc/stat"))),
            memory: taken(&read("/proc/meminfo")),
        },
        Place::Native => of_tree(std::process::id()),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Times in `/proc` are counted in these.
fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(count.saturating_mul(1_000_000) / per_second)
}

/// Of the first line of `/proc/stat`: user, nice, system, irq and softirq, but not idle, iowait and steal. What
/// guests within have is part of user.
fn busy(stat: &str) -> u64 {
    let numbers: Vec<u64> = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .unwrap_or_default()
        .split_whitespace()
        .map_while(|number| number.parse().ok())
        .collect();
    [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|at| numbers.get(*at))
        .sum()
}

fn taken(meminfo_text: &str) -> u64 {
    let total = meminfo(meminfo_text, "MemTotal");
    total.saturating_sub(meminfo(meminfo_text, "MemAvailable"))
}

/// Bytes of a line of `/proc/meminfo`.
pub(super) fn meminfo(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

/// A process, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Of itself, and of its children that ended.
    ticks: u64,
}

/// Of `/proc/PID/stat`. The name, in parentheses, may have anything in it.
fn process(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: [11, 12, 13, 14].into_iter().filter_map(number).sum(),
    })
}

fn of_tree(root: u32) -> Used {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse::<u32>();
        if let Ok(pid) = pid
            && let Some(process) = process(&read(&format!("/proc/{pid}/stat")))
        {
            all.insert(pid, process);
        }
    }
    let mut used = Used::default();
    let mut count = 0;
    for pid in tree(&all, root) {
        count += all.get(&pid).map_or(0, |process| process.ticks);
        used.memory += own_pages(&read(&format!("/proc/{pid}/statm")))
            .saturating_mul(rustix::param::page_size() as u64);
    }
    used.cpu = ticks(count);
    used
}

/// The process and its descendants.
fn tree(all: &BTreeMap<u32, Process>, root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, process) in all {
        children.entry(process.parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut rest = vec![root];
    while let Some(pid) = rest.pop() {
        found.push(pid);
        // Each process has one parent, so that it comes once.
        rest.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// Of `/proc/PID/statm`: those that are there, without those of files and shared memory.
fn own_pages(statm: &str) -> u64 {
    let mut numbers = statm.split_whitespace().skip(1);
    let mut next = || numbers.next()?.parse::<u64>().ok();
    let there = next().unwrap_or(0);
    there.saturating_sub(next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_waiting_are_no_work() {
        let stat = "cpu  10 20 30 4000 500 6 7 80 9 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy(stat), 10 + 20 + 30 + 6 + 7);
        assert_eq!(busy(""), 0);
    }

    #[test]
    fn memory_that_caches_hold_is_not_taken() {
        let text = "MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable:  700 kB\n";
        assert_eq!(taken(text), 300 * 1024);
    }

    #[test]
    fn a_name_may_look_like_the_fields_after_it() {
        let stat = "12 (a) R 9 (x) S 7 12 12 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0 0 0 0";
        let read = process(stat).unwrap();
        assert_eq!((read.parent, read.ticks), (7, 127));
        assert_eq!(process("gone"), None);
    }

    #[test]
    fn descendants_are_found_and_nobody_else() {
        let of = |parent| Process { parent, ticks: 1 };
        let all = [(1, of(0)), (2, of(1)), (3, of(2)), (4, of(3)), (5, of(1))].into();
        let mut found = tree(&all, 2);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }

    #[test]
    fn this_process_uses_something() {
        let before = of_tree(std::process::id());
        let held: Vec<u8> = (0..64 << 20).map(|at| (at % 251) as u8).collect();
        let after = of_tree(std::process::id());
        assert!(
            after.memory >= before.memory + (32 << 20),
            "{before:?} {after:?}"
        );
        assert!(after.cpu >= before.cpu);
        assert_eq!(held[252], 1);
    }
}
