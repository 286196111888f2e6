//! Logs of builds: what clients are shown of much output, and what the records keep.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Stage};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("logs_are_kept_whole", logs_are_kept_whole)
        .new_buildx_only("0.13 has no history command")
        .kilnd_only("the real one keeps what its clients were shown"),
    Scenario::new(
        "a_late_build_keeps_what_it_saw",
        a_late_build_keeps_what_it_saw,
    )
    .new_buildx_only("0.13 has no history command")
    // The history of other scenarios would be in the way.
    .fresh_moby(),
];

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// The numbers in lines of steps' output.
fn numbers(run: &kiln_harness::Run) -> Vec<u32> {
    let words = run.transcript();
    let last = |line: &str| {
        line.split(' ')
            .next_back()?
            .strip_prefix("n-")?
            .parse()
            .ok()
    };
    let of_steps = words.lines().filter(|line| line.starts_with('#'));
    of_steps.filter_map(last).collect()
}

fn logs_are_kept_whole(stage: &mut Stage<'_>) -> Result<()> {
    // 4.6 MB: more than the limit of a step and the speed that clients get.
    const LINES: u32 = 400_000;
    let context = Context::new(&format!(
        "FROM busybox\nRUN seq 1 {LINES} | sed 's/^/n-/'; exit 7\n"
    ))?;
    let shown = stage.build(&context, &[])?.fails()?;
    shown.says(&["[output clipped, log limit "])?;
    let shown = numbers(&shown);
    // Those of the beginning, and those of the end since the step failed.
    ensure!(
        shown.len() < LINES as usize / 2 && shown.contains(&1) && shown.contains(&LINES),
        "{} lines",
        shown.len()
    );
    let kept = ["history", "logs", "--progress", "plain"];
    let kept = stage.client.buildx(kept)?.succeeds()?;
    kept.never_says(&["[output clipped"])?;
    let kept = numbers(&kept);
    ensure!(kept.len() == LINES as usize, "{} lines", kept.len());
    ensure!(kept.into_iter().eq(1..=LINES), "the lines are in order");
    Ok(())
}

/// References of builds, the newest first.
fn references(stage: &Stage<'_>) -> Result<Vec<String>> {
    let list = ["history", "ls", "--format", "{{.Ref}}"];
    let list = stage.client.buildx(list)?.succeeds()?.stdout;
    let name = |line: &str| {
        line.rsplit('/')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Ok(list.lines().map(name).collect())
}

/// A build that joins a step which has said more than is shown: its record has what it was shown, and what came
/// after it joined.
fn a_late_build_keeps_what_it_saw(stage: &mut Stage<'_>) -> Result<()> {
    const LINES: u32 = 400_000;
    const AFTER: u32 = 100;
    let context = Context::new(&format!(
        "FROM busybox\nRUN seq 1 {LINES} | sed 's/^/n-/'; sleep 5; seq {} {} | sed 's/^/n-/'\n",
        LINES + 1,
        LINES + AFTER
    ))?;
    let mut first = stage.start_build(&context, &[])?;
    first.wait_for("[output clipped", STARTS_WITHIN)?;
    let late = stage.build(&context, &[])?.succeeds()?;
    first.wait()?.succeeds()?;
    let shown = numbers(&late);
    ensure!(shown.contains(&1), "{} lines", shown.len());
    let newest = references(stage)?.into_iter().next().context("a record")?;
    let kept = ["history", "logs", "--progress", "plain", &newest];
    let kept = numbers(&stage.client.buildx(kept)?.succeeds()?);
    // Lines are cut where output is clipped.
    let lost = shown.iter().filter(|one| !kept.contains(one)).count();
    ensure!(lost <= 1, "{lost} of {} lines are lost", shown.len());
    if stage.engine.is_kilnd() {
        let all_after = (LINES + 1..=LINES + AFTER).all(|one| kept.contains(&one));
        ensure!(all_after, "{} lines", kept.len());
    }
    Ok(())
}
