//! A machine whose power fails: what the daemon's disk held at that instant is all there is.
//!
//! The state is on a disk of its own ([`kiln_harness::Disk`]), which stops at random instants and at the worst ones:
//! right after the answer to somebody who named an image. Whoever starts on what is left finds it sound, and
//! everything that was named.
//!
//! That the test would notice what is lost is shown on a daemon whose syncs do nothing.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Bed, Disk, Kilnd, KilndOptions};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::random::Random;
use crate::work::{Job, Site, Work};
use crate::{number_from, verify};

const SEED: u64 = 19_700_101;
const CUTS: u64 = 24;
const DISK_MEBIBYTES: u64 = 256;

pub(crate) fn power_cut(bed: &Bed) -> Result<()> {
    let seed = number_from("KILN_CRASH_SEED", SEED)?;
    let cuts = number_from("KILN_CRASH_CUTS", CUTS)?;
    let mut random = Random::new(seed);
    let disk = Disk::new(DISK_MEBIBYTES)?;
    let options = KilndOptions {
        root: Some(disk.path().join("root")),
        ..KilndOptions::default()
    };
    let mut kilnd = Kilnd::start(&bed.registry, options)?;
    let site = Site::new(&kilnd, &bed.registry)?;
    site.push_base()?;
    let start = Instant::now();
    let mut named = Vec::new();
    for cut in 0..cuts {
        let work = Work::ALL[random.below(Work::ALL.len() as u64) as usize];
        one_cut(&mut kilnd, &disk, &site, work, &mut random, &mut named).with_context(|| {
            let log = kilnd.log_tail();
            format!("seed {seed}, cut {cut}, in {work:?}; kilnd's log ends:\n{log}")
        })?;
    }
    eprintln!("{cuts} cuts in {:.0?}", start.elapsed());
    kilnd.finish()?;
    disk.check()
}

/// What was named is lost where syncs do nothing, and that is noticed.
pub(crate) fn power_cut_without_syncs(bed: &Bed) -> Result<()> {
    // The kernel writes by itself now and then, and may just have done so.
    const TRIES: u64 = 5;
    let mut random = Random::new(SEED);
    let disk = Disk::new(DISK_MEBIBYTES)?;
    let options = KilndOptions {
        root: Some(disk.path().join("root")),
        ..KilndOptions::default()
    };
    let mut kilnd = Kilnd::start(&bed.registry, options)?;
    let site = Site::new(&kilnd, &bed.registry)?;
    let synced = Job::prepare(&site, Work::Store, &mut random)?;
    site.thin.wait(synced.start(&site))?;
    for _ in 0..TRIES {
        kilnd.stop()?;
        kilnd.drop_syncs(true);
        kilnd.start_again()?;
        let job = Job::prepare(&site, Work::Store, &mut random)?;
        site.thin.wait(job.start(&site))?;
        disk.cut_power()?;
        kilnd.kill()?;
        disk.power_on()?;
        boot_anew(&kilnd)?;
        kilnd.drop_syncs(false);
        kilnd.start_again()?;
        ensure!(is_named(&kilnd, &synced.name())?, "what was synced is gone");
        let is_lost = !is_named(&kilnd, &job.name())?;
        if is_lost || verify::settled(&kilnd.root()).is_err() {
            kilnd.kill()?;
            return disk.check();
        }
    }
    anyhow::bail!("nothing was lost without syncs: the cut proves nothing")
}

fn one_cut(
    kilnd: &mut Kilnd,
    disk: &Disk,
    site: &Site<'_>,
    work: Work,
    random: &mut Random,
    named: &mut Vec<String>,
) -> Result<()> {
    // Some of what came before is durable, some isn't.
    let before = Job::prepare(site, Work::Build, random)?;
    site.thin.wait(before.start(site))?;
    let job = Job::prepare(site, work, random)?;
    let running = job.start(site);
    let ends_first = work == Work::Store && random.below(2) == 0;
    if ends_first {
        site.thin.wait(running)?;
        named.push(job.name());
        disk.cut_power()?;
        kilnd.kill()?;
    } else {
        sleep(Duration::from_millis(random.below(match work {
            Work::Collect => 2500,
            _ => 500,
        })));
        disk.cut_power()?;
        kilnd.kill()?;
        if site.thin.wait(running).is_ok() && work == Work::Store {
            named.push(job.name());
        }
    }
    disk.power_on()?;
    boot_anew(kilnd)?;
    kilnd.start_again()?;
    site.thin.is_answered()?;
    verify::settled(&kilnd.root())?;
    for name in named.iter() {
        ensure!(is_named(kilnd, name)?, "{name} is gone");
    }
    kilnd.check_idle()?;
    site.thin
        .wait(job.start(site))
        .context("the same work, after the cut")?;
    if work == Work::Store && !named.contains(&job.name()) {
        named.push(job.name());
    }
    job.check(site).context("a build on what was left")?;
    before.check(site).context("the build before")
}

/// The kernel didn't go down with the disk: makes the last start look like one on another boot.
fn boot_anew(kilnd: &Kilnd) -> Result<()> {
    let file = kilnd.root().join("state.db");
    if !fs::exists(&file)? {
        return Ok(());
    }
    let database = Connection::open(file)?;
    // The daemon is to find the journal as it is.
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    database.execute_batch("UPDATE epoch_state SET boot_id = 'another'")?;
    Ok(())
}

fn is_named(kilnd: &Kilnd, name: &str) -> Result<bool> {
    let database = Connection::open(kilnd.root().join("state.db"))?;
    let sql = "SELECT EXISTS (SELECT 1 FROM image_names WHERE name = ?1)";
    Ok(database.query_row(sql, [name], |row| row.get(0))?)
}
