//! A build's life: cancelled, shared, remembered, driven by bake.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Buildx, Context, Running, Stage, processes_with_argument, within};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("ctrl_c_ends_the_step", ctrl_c_ends_the_step),
    Scenario::new(
        "a_killed_client_ends_the_step",
        a_killed_client_ends_the_step,
    ),
    Scenario::new("a_cancelled_step_runs_again", a_cancelled_step_runs_again),
    Scenario::new("equal_work_runs_once", equal_work_runs_once),
    Scenario::new(
        "one_cancelled_client_spares_the_other",
        one_cancelled_client_spares_the_other,
    ),
    Scenario::new("stages_run_at_once", stages_run_at_once),
    Scenario::new("builds_are_remembered", builds_are_remembered)
        .new_buildx_only("0.13 has no history command")
        // The history of other scenarios would be in the way.
        .fresh_moby(),
    Scenario::new("bake_builds_targets", bake_builds_targets),
    Scenario::new("inspect_shows_the_worker", inspect_shows_the_worker),
    Scenario::new("stop_ends_running_builds", stop_ends_running_builds)
        .kilnd_only("the real one is shared"),
    Scenario::new("big_contexts_and_outputs", big_contexts_and_outputs),
];

const STARTS_WITHIN: Duration = Duration::from_secs(20);
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// A build whose step sleeps, with the argument by which the sleeping process is known.
fn sleeper(stage: &Stage<'_>) -> Result<(Context, Running, String)> {
    let seconds = stage.seconds(1000);
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo be''gun; exec sleep {seconds}\n"
    ))?;
    let mut running = stage.start_build(&context, &[])?;
    running.wait_for("begun", STARTS_WITHIN)?;
    within("the step runs", STARTS_WITHIN, || {
        !processes_with_argument(&seconds).is_empty()
    })?;
    Ok((context, running, seconds))
}

fn ends_within_bound(stage: &Stage<'_>, seconds: &str) -> Result<()> {
    within("the step is gone", GONE_WITHIN, || {
        processes_with_argument(seconds).is_empty()
    })?;
    stage.engine.check_idle()
}

fn ctrl_c_ends_the_step(stage: &mut Stage<'_>) -> Result<()> {
    let (_context, running, seconds) = sleeper(stage)?;
    running.interrupt()?;
    ends_within_bound(stage, &seconds)?;
    running.wait()?.fails()?;
    Ok(())
}

fn a_killed_client_ends_the_step(stage: &mut Stage<'_>) -> Result<()> {
    let (_context, running, seconds) = sleeper(stage)?;
    running.kill()?;
    ends_within_bound(stage, &seconds)
}

fn a_cancelled_step_runs_again(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let seconds = stage.seconds(1000);
    let context = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=cache,id={id},target=/c if [ -e /c/again ]; then echo second'' time; else touch \
         /c/again; echo be''gun; sleep {seconds}; fi\n"
    ))?;
    let mut running = stage.start_build(&context, &[])?;
    running.wait_for("begun", STARTS_WITHIN)?;
    running.interrupt()?;
    running.wait()?.fails()?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .says(&["second time"])?;
    ends_within_bound(stage, &seconds)
}

fn equal_work_runs_once(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=cache,id={id},target=/c echo be''gun; sleep 2; echo run >> /c/log; wc -l < /c/log\n"
    );
    // Two contexts, so that what differs between the builds is everything but the work.
    let (one, two) = (Context::new(&dockerfile)?, Context::new(&dockerfile)?);
    let mut first = stage.start_build(&one, &[])?;
    first.wait_for("begun", STARTS_WITHIN)?;
    let second = stage.build(&two, &[])?.succeeds()?;
    let first = first.wait()?.succeeds()?;
    ensure!(
        first.step_output("RUN --mount")? == "begun\n1",
        "{}",
        first.transcript()
    );
    // The second build saw the same run, or its result.
    second.never_says(&[" 2\n"])?;
    let counted = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=cache,id={id},target=/c cat /c/log | wc -l\n"
    ))?;
    let run = stage.build(&counted, &[])?.succeeds()?;
    ensure!(
        run.step_output("RUN --mount")? == "1",
        "{}",
        run.transcript()
    );
    Ok(())
}

fn one_cancelled_client_spares_the_other(stage: &mut Stage<'_>) -> Result<()> {
    let dockerfile = "FROM busybox\nRUN echo be''gun; sleep 8; echo spared''-to-the-end\n";
    let (one, two) = (Context::new(dockerfile)?, Context::new(dockerfile)?);
    let mut first = stage.start_build(&one, &[])?;
    first.wait_for("begun", STARTS_WITHIN)?;
    let mut second = stage.start_build(&two, &[])?;
    second.wait_for("RUN echo be''gun", STARTS_WITHIN)?;
    first.interrupt()?;
    first.wait()?.fails()?;
    second.wait()?.succeeds()?.says(&["spared-to-the-end"])?;
    Ok(())
}

fn stages_run_at_once(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let names = ["a", "b", "c", "d"];
    // Each stage waits for all others, and gives up after half a minute.
    let stages = names.map(|name| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,id={id},target=/r touch /r/{name}; for n in a b c d; do i=0; while \
             [ ! -e /r/$n ]; do i=$((i+1)); [ $i -lt 300 ] || exit 7; sleep 0.1; done; done; touch /{name}\n"
        )
    });
    let copies = names.map(|name| format!("COPY --from={name} /{name} /\n"));
    let dockerfile = format!("{}FROM scratch\n{}", stages.concat(), copies.concat());
    stage.build(&Context::new(&dockerfile)?, &[])?.succeeds()?;
    Ok(())
}

fn builds_are_remembered(stage: &mut Stage<'_>) -> Result<()> {
    let good = Context::new("FROM busybox\nRUN echo remembered''-words\n")?;
    stage.build(&good, &[])?.succeeds()?;
    let bad = Context::new("FROM busybox\nRUN echo failing-words; exit 5\n")?;
    stage.build(&bad, &[])?.fails()?;
    let list = stage.client.buildx(["history", "ls"])?.succeeds()?;
    list.says(&["Completed", "Error"])?;
    let references: Vec<&str> = list
        .stdout
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    ensure!(references.len() >= 2, "{}", list.stdout);
    let logs = stage
        .client
        .buildx(["history", "logs", "--progress", "plain", references[1]])?
        .succeeds()?;
    logs.says(&["remembered-words"])?;
    let inspected = stage
        .client
        .buildx(["history", "inspect", references[0]])?
        .succeeds()?;
    inspected.says(&["exit code: 5", "Dockerfile"])?;
    stage
        .client
        .buildx(["history", "inspect", references[1]])?
        .succeeds()?
        .says(&["Build Steps:", "pkg:docker/busybox"])?;
    stage
        .client
        .buildx(["history", "rm", references[1]])?
        .succeeds()?;
    // The real one (of Docker 28.5) panics when it lists records after one was removed.
    if stage.engine.is_kilnd() {
        let list = stage.client.buildx(["history", "ls"])?.succeeds()?;
        ensure!(!list.stdout.contains(references[1]), "{}", list.stdout);
    }
    Ok(())
}

fn bake_builds_targets(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS base\nARG WORD\nRUN echo $WORD > /w\nFROM scratch\nCOPY --from=base /w /\n",
    )?;
    let out = |name: &str| stage.path(name).display().to_string();
    let network = if stage.engine.is_kilnd() {
        "default"
    } else {
        "host"
    };
    context.put(
        "docker-bake.hcl",
        format!(
            "group \"default\" {{ targets = [\"one\", \"two\"] }}\ntarget \"one\" {{\n  network = \"{network}\"\n  args = {{ WORD = \"first\" }}\n  \
             output = [\"type=local,dest={}\"]\n}}\ntarget \"two\" {{\n  inherits = [\"one\"]\n  args = {{ WORD = \
             \"second\" }}\n  output = [\"type=local,dest={}\"]\n}}\n",
            out("one"),
            out("two")
        ),
    )?;
    let mut arguments = vec!["bake", "--progress", "plain"];
    let allow = format!("fs.write={}", stage.directory().display());
    if stage.client.version() == Buildx::New {
        arguments.extend(["--allow", &allow]);
    }
    if !stage.engine.is_kilnd() {
        arguments.extend(["--allow", "network.host"]);
    }
    let mut command = stage.client.command(arguments);
    command.current_dir(context.path());
    kiln_harness::Run::of(&mut command)?.succeeds()?;
    ensure!(fs::read_to_string(stage.path("one/w"))? == "first\n");
    ensure!(fs::read_to_string(stage.path("two/w"))? == "second\n");
    Ok(())
}

fn inspect_shows_the_worker(stage: &mut Stage<'_>) -> Result<()> {
    let run = stage.client.buildx(["inspect"])?.succeeds()?;
    run.says(&["Status:", "running", "linux/amd64"])?;
    if stage.engine.is_kilnd() {
        run.says(&[
            "org.mobyproject.buildkit.worker.executor",
            "GC Policy rule#0",
        ])?;
    }
    Ok(())
}

fn stop_ends_running_builds(stage: &mut Stage<'_>) -> Result<()> {
    let (_context, running, seconds) = sleeper(stage)?;
    stage.kilnd()?.restart()?;
    running.wait()?.fails()?;
    ends_within_bound(stage, &seconds)
}

fn big_contexts_and_outputs(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    for number in 0..1500 {
        context.put(
            &format!("many/{}/{number}", number % 37),
            number.to_string(),
        )?;
    }
    // Not compressible, and bigger than any window or buffer on the way.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(20 << 20)
    .collect();
    context.put("noise", &noise)?;
    let files = stage.build_files(&context, &[])?;
    ensure!(fs::read(files.join("noise"))? == noise);
    ensure!(fs::read_to_string(files.join("many/19/1499"))? == "1499");
    // Only what changed is sent again.
    context.put("many/0/0", "changed")?;
    let files = stage.build_files(&context, &[])?;
    ensure!(fs::read_to_string(files.join("many/0/0"))? == "changed");
    Ok(())
}
