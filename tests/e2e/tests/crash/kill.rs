//! A daemon that is killed again and again in the middle of its work.
//!
//! After each restart its state must be sound, nothing may be mounted or running, the same work must succeed, and a
//! build on what was left must have the right bytes.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Bed, Kilnd, KilndOptions};

use crate::random::Random;
use crate::work::{Job, Site, Work};
use crate::{number_from, verify};

const SEED: u64 = 20_261_124;
const POINTS: u64 = 100;

/// Everything that isn't in use is garbage, so that each collection has something to do.
const COLLECTS_ALL: &str = "[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = \"1KB\"\n";

/// Collection starts a second after a build.
const COLLECTS_AFTER: Duration = Duration::from_millis(850);
const COLLECTS_FOR: Duration = Duration::from_millis(500);

pub(crate) fn killed_at_random_points(bed: &Bed) -> Result<()> {
    let seed = number_from("KILN_CRASH_SEED", SEED)?;
    let points = number_from("KILN_CRASH_POINTS", POINTS)?;
    let mut random = Random::new(seed);
    let options = KilndOptions {
        config: COLLECTS_ALL.to_owned(),
        ..KilndOptions::default()
    };
    let mut kilnd = Kilnd::start(&bed.registry, options)?;
    let site = Site::new(&kilnd, &bed.registry)?;
    site.push_base()?;
    let usual = usual_durations(&site, &mut random)?;
    let start = Instant::now();
    let mut finished = 0;
    for point in 0..points {
        let work = Work::ALL[random.below(Work::ALL.len() as u64) as usize];
        let usual = usual.get(&(work as u8)).copied().unwrap_or_default();
        finished += u64::from(
            one_point(&mut kilnd, &site, work, usual, &mut random).with_context(|| {
                let log = kilnd.log_tail();
                format!("seed {seed}, point {point}, killed in {work:?}; kilnd's log ends:\n{log}")
            })?,
        );
    }
    eprintln!(
        "{points} points in {:.0?}; at {finished} of them the client had its answer already",
        start.elapsed()
    );
    kilnd.finish()
}

/// How long each kind of work takes when nobody disturbs it.
fn usual_durations(site: &Site<'_>, random: &mut Random) -> Result<BTreeMap<u8, Duration>> {
    let mut usual = BTreeMap::new();
    for work in Work::ALL {
        let job = Job::prepare(site, work, random)?;
        let start = Instant::now();
        site.thin.wait(job.start(site))?;
        usual.insert(work as u8, start.elapsed());
    }
    Ok(usual)
}

/// Says whether the client had its answer before the end.
fn one_point(
    kilnd: &mut Kilnd,
    site: &Site<'_>,
    work: Work,
    usual: Duration,
    random: &mut Random,
) -> Result<bool> {
    let job = Job::prepare(site, work, random)?;
    let running = job.start(site);
    let part = |whole: Duration, random: &mut Random| whole * random.below(1000) as u32 / 1000;
    // The one place where a test waits for no condition: the instant is what is tried.
    sleep(match work {
        Work::Collect => usual + COLLECTS_AFTER + part(COLLECTS_FOR, random),
        _ => part(usual * 11 / 10, random),
    });
    kilnd.kill()?;
    let finished = site.thin.wait(running).is_ok();
    kilnd.start_again()?;
    site.thin.is_answered()?;
    verify::settled(&kilnd.root())?;
    kilnd.check_idle()?;
    site.thin
        .wait(job.start(site))
        .context("the same work, after the restart")?;
    job.check(site).context("a build on what was left")?;
    ensure!(kilnd.id().is_some());
    Ok(finished)
}
