//! Records of builds over the API that desktops use: what is told of them while they come and go, pins, and how long
//! they stay.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kiln_client::Client;
use kiln_e2e::Scenario;
use kiln_harness::{Context, Stage, within};
use kiln_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryEventType as Kind, BuildHistoryRequest,
    UpdateBuildHistoryRequest,
};

use crate::client::{connect, run};

pub(crate) const ALL: &[Scenario] = &[
    // The real one panics when it lists records after one was removed.
    Scenario::new(
        "records_are_told_as_they_change",
        records_are_told_as_they_change,
    )
    .fresh_moby(),
    Scenario::new("old_records_go", old_records_go)
        .config("[history]\nmaxAge = 1\nmaxEntries = 2\n")
        .kilnd_only("it needs settings of its own"),
    Scenario::new("large_records_go", large_records_go)
        .config("[history]\nmaxSize = 350000\n")
        .kilnd_only("it needs settings of its own"),
];

const TOLD_WITHIN: Duration = Duration::from_secs(20);

fn update(reference: &str) -> UpdateBuildHistoryRequest {
    UpdateBuildHistoryRequest {
        r#ref: reference.to_owned(),
        ..UpdateBuildHistoryRequest::default()
    }
}

fn records_are_told_as_they_change(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo told\n")?;
    run(async {
        let client = connect(stage).await?;
        let mut events = client.history(BuildHistoryRequest::default()).await?;
        let mut next = async |kind: Kind, what: &str| -> Result<BuildHistoryEvent> {
            let found = async {
                while let Some(event) = events.next().await {
                    let event = event?;
                    if event.r#type() == kind {
                        return Ok(event);
                    }
                }
                anyhow::bail!("the stream ended")
            };
            let found = tokio::time::timeout(TOLD_WITHIN, found).await;
            found.with_context(|| what.to_owned())?
        };
        stage.build(&context, &[])?.succeeds()?;
        let started = next(Kind::Started, "the start").await?;
        let started = started.record.context("a record")?;
        ensure!(
            started.completed_at.is_none() && started.created_at.is_some(),
            "{started:?}"
        );
        let reference = started.r#ref.as_str();
        let ended = next(Kind::Complete, "the end").await?;
        let ended = ended.record.context("a record")?;
        ensure!(
            ended.r#ref == reference && ended.completed_at.is_some() && ended.logs.is_some(),
            "{ended:?}"
        );
        ensure!(
            ended.num_completed_steps > 0 && ended.num_total_steps == ended.num_completed_steps,
            "{ended:?}"
        );
        client
            .update_history(UpdateBuildHistoryRequest {
                finalize: true,
                ..update(reference)
            })
            .await?;
        client
            .update_history(UpdateBuildHistoryRequest {
                pinned: true,
                ..update(reference)
            })
            .await?;
        loop {
            let changed = next(Kind::Complete, "the pin").await?;
            if changed.record.is_some_and(|record| record.pinned) {
                break;
            }
        }
        client
            .update_history(UpdateBuildHistoryRequest {
                delete: true,
                ..update(reference)
            })
            .await?;
        let deleted = next(Kind::Deleted, "the removal").await?;
        ensure!(
            deleted
                .record
                .is_some_and(|record| record.r#ref == reference)
        );
        Ok(())
    })
}

/// Names of the builds that are remembered, the newest first.
async fn names(client: &Client) -> Result<Vec<String>> {
    let request = BuildHistoryRequest {
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let events: Vec<_> = client.history(request).await?.try_collect().await?;
    let records = events.into_iter().filter_map(|event| event.record);
    let mut records: Vec<_> = records.filter(|one| one.completed_at.is_some()).collect();
    records.sort_by_key(|one| std::cmp::Reverse(one.created_at.map(|at| (at.seconds, at.nanos))));
    Ok(records.into_iter().map(|record| record.r#ref).collect())
}

/// Builds so often; the second is pinned. Waits until so many are remembered, and gives their numbers, the newest
/// first. Records go a moment after a build.
fn remembered(
    stage: &Stage<'_>,
    context: &Context,
    builds: usize,
    left: usize,
) -> Result<Vec<usize>> {
    let list = || run(async { names(&connect(stage).await?).await });
    let mut all = Vec::new();
    for number in 0..builds {
        stage.build(context, &["--no-cache"])?.succeeds()?;
        let newest = list()?.into_iter().next().context("a record")?;
        if number == 1 {
            run(async {
                let request = UpdateBuildHistoryRequest {
                    pinned: true,
                    ..update(&newest)
                };
                Ok(connect(stage).await?.update_history(request).await?)
            })?;
        }
        all.push(newest);
    }
    within("old records go", TOLD_WITHIN, || {
        list().is_ok_and(|found| found.len() == left)
    })?;
    let number = |name: String| all.iter().position(|one| *one == name);
    Ok(list()?.into_iter().filter_map(number).collect())
}

fn old_records_go(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN sleep 0.5; echo old\n")?;
    // The last two are there by their number, the second by its pin.
    let left = remembered(stage, &context, 5, 3)?;
    ensure!(left == [4, 3, 1], "{left:?}");
    Ok(())
}

fn large_records_go(stage: &mut Stage<'_>) -> Result<()> {
    // Each record has a log of some 120 kB: two fit.
    let context = Context::new("FROM busybox\nRUN head -c 90000 /dev/urandom | base64\n")?;
    let left = remembered(stage, &context, 5, 3)?;
    ensure!(left == [4, 3, 1], "{left:?}");
    Ok(())
}
