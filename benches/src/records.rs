//! `du` and `prune` of many records.
//!
//! The real daemon takes long to make records, so both are compared at a thousand, and kilnd alone at ten thousand.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::TryStreamExt as _;
use kiln_harness::Context;
use kiln_proto::moby::buildkit::v1::PruneRequest;

use crate::lab::{Lab, Side};
use crate::rows::Row;
use crate::thin::Fate;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "du-1000",
        what: "`du` of 1,000 records",
        pairs: 5,
        aim: 2.0,
        run: |lab, side| {
            fill(lab, side, 1000)?;
            disk_usage(side)
        },
    },
    Row {
        name: "prune-1000",
        what: "`prune --all` of 1,000 records",
        pairs: 1,
        aim: 2.0,
        run: |lab, side| {
            fill(lab, side, 1000)?;
            prune(side)
        },
    },
];

/// Instructions of one build that fills the cache, each on the one before. A layer is made of at most so many.
const CHAIN: usize = 50;

/// Adds records until there are so many. They hold a small file each, and no step runs for them.
pub(crate) fn fill(lab: &Lab, side: &Side, wanted: usize) -> Result<()> {
    let mut there = count(side)?;
    while there < wanted {
        let nonce = lab.nonce();
        let mut dockerfile = "FROM scratch\n".to_owned();
        for number in 0..CHAIN.min((wanted - there).div_ceil(2)) {
            write!(dockerfile, "COPY <<EOF /f{number}\n{nonce} {number}\nEOF\n")?;
        }
        side.build(&Context::new(&dockerfile)?, Fate::Cached)?;
        let now = count(side)?;
        ensure!(now > there, "{now} records, {there} before");
        there = now;
    }
    Ok(())
}

fn count(side: &Side) -> Result<usize> {
    let (records, _) = side
        .client
        .call(async |client| client.disk_usage(Vec::new()).await)?;
    Ok(records.len())
}

pub(crate) fn disk_usage(side: &Side) -> Result<Duration> {
    let (records, time) = side
        .client
        .call(async |client| client.disk_usage(Vec::new()).await)?;
    ensure!(records.len() >= 1000, "{} records", records.len());
    Ok(time)
}

pub(crate) fn prune(side: &Side) -> Result<Duration> {
    let (gone, time) = side.client.call(async |client| {
        let request = PruneRequest {
            all: true,
            ..PruneRequest::default()
        };
        client.prune(request).await?.try_collect::<Vec<_>>().await
    })?;
    ensure!(gone.len() >= 900, "{} records were pruned", gone.len());
    Ok(time)
}
