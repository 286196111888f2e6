//! What only kilnd has, or only kilnd can be brought to in the time that there is.

use std::time::Duration;

use anyhow::{Result, ensure};
use kiln_client::agent::Policy;

use crate::durability;
use crate::lab::Lab;
use crate::records::{disk_usage, fill, prune};

/// A figure without a rival.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) take: fn(&Lab) -> Result<Duration>,
}

/// In this order: those that need many records come before the one that removes them.
pub(crate) const ALL: &[Figure] = &[
    Figure {
        name: "du-10000",
        what: "`du` of 10,000 records",
        take: |lab| {
            fill(lab, &lab.kilnd, MANY)?;
            disk_usage(&lab.kilnd)
        },
    },
    Figure {
        name: "plan-10000",
        what: "the plan of a collection that removes 10,000 records, by cost",
        take: |lab| {
            fill(lab, &lab.kilnd, MANY)?;
            plan(lab)
        },
    },
    Figure {
        name: "prune-10000",
        what: "`prune --all` of 10,000 records",
        take: |lab| {
            fill(lab, &lab.kilnd, MANY)?;
            prune(&lab.kilnd)
        },
    },
    Figure {
        name: "unsynced",
        what: "100 layers of 10 files committed to the store, nothing waits for the disk",
        take: |lab| durability::commits(lab, durability::Waits::Never),
    },
    Figure {
        name: "epochs",
        what: "the same with one barrier at the end, as a build that is named makes it",
        take: |lab| durability::commits(lab, durability::Waits::AtTheEnd),
    },
    Figure {
        name: "fsync-each",
        what: "the same with a barrier after each layer, as without epochs",
        take: |lab| durability::commits(lab, durability::Waits::EachTime),
    },
];

const MANY: usize = 10_000;

fn plan(lab: &Lab) -> Result<Duration> {
    let everything = Policy {
        all: true,
        ..Policy::default()
    };
    let (plan, time) = lab
        .kilnd
        .client
        .call(async |client| client.cache().plan(vec![everything], true).await)?;
    ensure!(plan.removals.len() >= 9000, "{}", plan.removals.len());
    Ok(time)
}
