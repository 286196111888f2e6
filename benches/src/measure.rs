//! Pairs of runs, their medians and ratios; and what the daemons weigh.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_harness::on_path;

use crate::lab::Lab;
use crate::rows::Row;
use crate::thin::Fate;

/// What a row came to.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) kilnd: Duration,
    pub(crate) moby: Duration,
    /// Median over the pairs of BuildKit's time divided by kilnd's: above 1 kilnd is faster.
    pub(crate) ratio: f64,
    pub(crate) pairs: usize,
    /// kilnd's times in their order, for the terminal.
    pub(crate) times: Vec<Duration>,
    /// Of the machine, when the last pair was measured.
    pub(crate) load: String,
}

/// How many tasks ran or waited for the disk, on average over the last minute.
pub(crate) fn load() -> String {
    let all = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().unwrap_or("?").to_owned()
}

/// What the client alone costs: a build on a daemon that does nothing.
pub(crate) fn floor(lab: &Lab) -> Result<Duration> {
    const RUNS: usize = 11;
    let context = kiln_harness::Context::new("FROM scratch\n")?;
    let times: Result<Vec<_>> = (0..RUNS)
        .map(|_| lab.null.build(&context, Fate::Cached))
        .collect();
    Ok(median(times?))
}

/// Measures one row.
pub(crate) fn row(lab: &Lab, row: &Row) -> Result<Measured> {
    let mut kilnd = Vec::new();
    let mut moby = Vec::new();
    // The first pair fills caches of the kernel and of the clients; it doesn't count.
    for pair in 0..=row.pairs {
        let sides = if pair % 2 == 0 {
            [&lab.kilnd, &lab.moby]
        } else {
            [&lab.moby, &lab.kilnd]
        };
        for side in sides {
            let time =
                (row.run)(lab, side).with_context(|| format!("{} on {}", row.name, side.name))?;
            if pair > 0 {
                if std::ptr::eq(side, &raw const lab.kilnd) {
                    kilnd.push(time);
                } else {
                    moby.push(time);
                }
            }
        }
    }
    let mut ratios: Vec<f64> = kilnd
        .iter()
        .zip(&moby)
        .map(|(ours, theirs)| theirs.as_secs_f64() / ours.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    Ok(Measured {
        times: kilnd.clone(),
        ratio: ratios[ratios.len() / 2],
        pairs: row.pairs,
        load: load(),
        kilnd: median(kilnd),
        moby: median(moby),
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Sizes and memory. The real daemon is more than a `buildkitd`, so these stand side by side without a ratio.
#[derive(Debug)]
pub(crate) struct Footprint {
    pub(crate) kilnd_binary: u64,
    pub(crate) moby_binaries: u64,
    /// kilnd's and the real one's, right after the rows and when they had nothing to do for [`IDLE`].
    pub(crate) resident: [u64; 2],
    pub(crate) idle: [u64; 2],
}

/// After so long a daemon without work has given back what it doesn't need.
const IDLE: Duration = Duration::from_secs(15);

/// Weighs both daemons after the rows.
pub(crate) fn footprint(lab: &Lab) -> Result<Footprint> {
    let (kilnd, moby) = lab.process_ids();
    let (kilnd, moby) = (kilnd.context("kilnd runs")?, moby.context("dockerd runs")?);
    let size = |path: &std::path::Path| fs::metadata(path).map(|metadata| metadata.len());
    let mut moby_binaries = size(&lab.tools.dockerd())? + size(&on_path("runc")?)?;
    for directory in lab.tools.dockerd_path() {
        for name in ["containerd", "containerd-shim-runc-v2"] {
            moby_binaries += size(&directory.join(name)).unwrap_or(0);
        }
    }
    let weigh = || [kilnd, moby].map(resident_with_children);
    let resident = weigh();
    std::thread::sleep(IDLE);
    Ok(Footprint {
        kilnd_binary: size(std::path::Path::new(&format!("/proc/{kilnd}/exe")))?,
        moby_binaries,
        resident,
        idle: weigh(),
    })
}

/// Memory that a process and its descendants share with nobody else or share among themselves (PSS), in bytes.
fn resident_with_children(process: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let own: u64 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    let mut sum = own * 1024;
    for entry in fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(entry.path().join("children")).unwrap_or_default();
        sum += children
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .map(resident_with_children)
            .sum::<u64>();
    }
    sum
}
