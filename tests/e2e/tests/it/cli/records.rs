//! The cache, its mounts, and the records of builds.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Context, Running, Stage, processes_with_argument, within};
use serde_json::Value;

use super::{json, piped_says, rows, run};

pub(super) fn shows_cache_and_builds(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo for-the-log\n")?;
    run(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
    let usage = json(stage, &["du", "--format", "json"])?;
    ensure!(usage["totalBytes"].as_i64() > Some(0), "{usage}");
    run(&mut stage.kiln(&["du"])?)?
        .succeeds()?
        .says(&["Reclaimable:"])?;
    let builds = json(stage, &["builds", "ls", "--format", "json"])?;
    ensure!(builds[0]["state"] == "done", "{builds}");
    run(&mut stage.kiln(&["builds", "logs"])?)?
        .succeeds()?
        .says(&["for-the-log", "DONE"])?;
    run(&mut stage.kiln(&["builds", "inspect"])?)?
        .succeeds()?
        .says(&["State     done"])?;
    let id = builds[0]["ref"].as_str().context("a ref")?;
    run(&mut stage.kiln(&["builds", "rm", &id[..6]])?)?.succeeds()?;
    ensure!(json(stage, &["builds", "ls", "--format", "json"])? == serde_json::json!([]));
    let refused = run(&mut stage.kiln(&["prune"])?)?;
    ensure!(refused.code == Some(2), "{refused:?}");
    let pruned = json(stage, &["prune", "--all", "--force", "--format", "json"])?;
    ensure!(pruned["freedBytes"].as_i64() > Some(0), "{pruned}");
    let missing = run(&mut stage.kiln(&["builds", "logs", "nothing"])?)?;
    ensure!(missing.code == Some(1), "{missing:?}");
    Ok(())
}

/// Looked into, written out, emptied and filled again; the next step sees what was put there.
pub(super) fn looks_after_cache_mounts(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,id=deps,target=/c mkdir -p /c/d && echo ke''pt > /c/d/file\n",
    )?;
    run(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
    let mounts = json(stage, &["cache", "mounts", "ls", "--format", "json"])?;
    ensure!(mounts[0]["mountId"] == "/deps", "{mounts}");
    let record = mounts[0]["recordId"]
        .as_str()
        .context("a record")?
        .to_owned();
    let tar = stage.path("mount.tar").display().to_string();
    rows(
        stage,
        &[
            (&["cache", "mounts", "ls"], 0, &["deps", "shared"]),
            (&["cache", "mounts", "browse", "deps"], 0, &["d/"]),
            (&["cache", "mounts", "browse", &record, "/d"], 0, &["file"]),
            (
                &["cache", "mounts", "browse", "deps", "/nothing"],
                1,
                &["/nothing"],
            ),
            (
                &["cache", "mounts", "browse", "deps", "../../.."],
                0,
                &["d/"],
            ),
            (&["cache", "mounts", "export", "deps", "-o", &tar], 0, &[]),
            (&["cache", "mounts", "clear", "deps"], 0, &["Freed"]),
            // It is gone as a whole; a build or an import makes it anew.
            (
                &["cache", "mounts", "browse", "deps"],
                1,
                &["there is no cache mount deps"],
            ),
            (
                &["cache", "mounts", "import", "deps", "-i", &tar],
                0,
                &["The mount has"],
            ),
            (
                &["cache", "mounts", "import", "fresh", "-i", &tar],
                0,
                &["The mount has"],
            ),
            (&["cache", "mounts", "browse", "fresh", "/d"], 0, &["file"]),
            (
                &["cache", "mounts", "export", "nothing"],
                1,
                &["there is no cache mount nothing", "kiln cache mounts ls"],
            ),
            (
                &["cache", "mounts", "import", "deps", "-i", "/no/file"],
                2,
                &["read /no/file"],
            ),
            (
                &["cache", "mounts", "clear", "nothing"],
                1,
                &["there is no cache mount"],
            ),
        ],
    )?;
    let mut entries = tar::Archive::new(fs::File::open(&tar)?);
    let names = entries
        .entries()?
        .map(|entry| Ok(entry?.path()?.display().to_string()));
    let names = names.collect::<Result<Vec<_>>>()?;
    ensure!(
        names.iter().any(|name| name.ends_with("d/file")),
        "{names:?}"
    );
    let mut import = stage.kiln(&["cache", "mounts", "import", "deps"])?;
    piped_says(
        &mut import,
        b"no archive at all, whatever it is",
        2,
        "archive",
    )?;
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,id=fresh,target=/c echo it-is-$(cat /c/d/file)\n",
    )?;
    run(&mut stage.kiln_build(&context, &[])?)?
        .succeeds()?
        .says(&["it-is-kept"])?;
    Ok(())
}

pub(super) fn plans_and_prunes(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,target=/c echo > /c/f\nRUN head -c 300000 /dev/urandom > /x\n",
    )?;
    run(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
    let plan = json(stage, &["cache", "plan", "--format", "json"])?;
    ensure!(
        plan["id"].is_string() && plan["removals"].is_array(),
        "{plan}"
    );
    let id = plan["id"].as_str().context("an id")?.to_owned();
    rows(
        stage,
        &[
            (&["cache", "plan"], 0, &["frees", "kiln cache run"]),
            (&["cache", "plan", "--by-cost"], 0, &["frees"]),
            (&["cache", "run", &id], 0, &["Total:"]),
            (&["cache", "run"], 0, &["Total:"]),
            (&["cache", "run", "no-such-plan"], 1, &["no-such-plan"]),
            (
                &["du", "--verbose"],
                0,
                &["head -c 300000 /dev/urandom", "Reclaimable:"],
            ),
            (
                &["du", "--filter", "type=exec.cachemount"],
                0,
                &["exec.cachemount"],
            ),
            (&["prune"], 2, &["nothing was removed", "--force"]),
            (
                &["prune", "--until", "soon"],
                2,
                &["want a number and a unit"],
            ),
            (
                &["prune", "--keep", "5xx"],
                2,
                &["isn't b, kb, mb, gb or tb"],
            ),
            (&["prune", "--force", "--until", "7d"], 0, &["Total: 0"]),
            (
                &["prune", "--force", "--filter", "type=exec.cachemount"],
                0,
                &["Total:"],
            ),
        ],
    )?;
    let of_mounts = json(
        stage,
        &["du", "--filter", "type=exec.cachemount", "--format", "json"],
    )?;
    ensure!(of_mounts["records"] == serde_json::json!([]), "{of_mounts}");
    let left = json(stage, &["du", "--format", "json"])?;
    ensure!(left["totalBytes"].as_i64() > Some(300_000), "{left}");
    let pruned = json(stage, &["prune", "--all", "--force", "--format", "json"])?;
    ensure!(pruned["freedBytes"].as_i64() > Some(300_000), "{pruned}");
    let left = json(stage, &["du", "--format", "json"])?;
    ensure!(left["totalBytes"] == 0, "{left}");
    Ok(())
}

pub(super) fn explains_builds(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nCOPY f /f\nRUN cat /f\n")?;
    context.put("f", "one\n")?;
    run(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
    context.put("f", "two\n")?;
    run(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
    let explained = json(stage, &["builds", "explain", "--format", "json"])?;
    let steps = explained["explanations"].as_array().context("steps")?;
    let copy = steps.iter().find(|step| {
        step["name"]
            .as_str()
            .is_some_and(|name| name.contains("COPY f /f"))
    });
    let copy = copy.with_context(|| explained.to_string())?;
    ensure!(
        copy["summary"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{copy}"
    );
    rows(
        stage,
        &[
            (&["builds", "explain"], 0, &["Compared with", "COPY f /f"]),
            (
                &["builds", "explain", "^0", "--against", "^1"],
                0,
                &["Compared with"],
            ),
            (&["builds", "explain", "^1"], 0, &["no earlier build"]),
            (
                &["builds", "inspect", "^1"],
                0,
                &["State     done", "filename = Dockerfile"],
            ),
            (&["builds", "ls", "--limit", "1"], 0, &["done"]),
            (&["builds", "logs", "^1"], 0, &["RUN cat /f", "one"]),
            (
                &["builds", "logs", "^99"],
                1,
                &["there is no build ^99", "kiln builds ls"],
            ),
            (&["builds", "logs", "^x"], 2, &["want ^0, ^1"]),
            (
                &["builds", "inspect", "nothing"],
                1,
                &["there is no build nothing"],
            ),
            (&["builds", "rm", "^1"], 0, &[]),
            (
                &["builds", "cancel", "nothing"],
                1,
                &["there is no build nothing"],
            ),
        ],
    )?;
    let inspected = json(stage, &["builds", "inspect", "--format", "json"])?;
    ensure!(
        inspected["state"] == "done" && inspected["steps"].as_i64() > Some(1),
        "{inspected}"
    );
    let raw = run(&mut stage.kiln(&["builds", "logs", "--progress", "rawjson"])?)?.succeeds()?;
    for line in raw.stderr.lines() {
        let update: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(update.is_object(), "{update}");
    }
    let left = json(stage, &["builds", "ls", "--format", "json"])?;
    ensure!(left.as_array().map(Vec::len) == Some(1), "{left}");
    Ok(())
}

/// The build of another client is seen while it runs, and ended from here.
pub(super) fn cancels_anybodys_build(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.seconds(300);
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo be''gun; exec sleep {seconds}\n"
    ))?;
    let mut command = stage.client.build_command(&context, &[]);
    let mut running = Running::start(&mut command)?;
    running.wait_for("begun", Duration::from_secs(60))?;
    let active = json(stage, &["builds", "ls", "--active", "--format", "json"])?;
    ensure!(active[0]["state"] == "running", "{active}");
    let listed = run(&mut stage.kiln(&["builds", "ls", "--active"])?)?.succeeds()?;
    listed.says(&["running", "s   "])?.never_says(&["0/0"])?;
    let id = active[0]["ref"].as_str().context("a ref")?.to_owned();
    rows(stage, &[(&["builds", "cancel", &id[..8]], 0, &[])])?;
    let ended = running.wait()?;
    ensure!(ended.code != Some(0), "{}", ended.transcript());
    within("the step is gone", Duration::from_secs(20), || {
        processes_with_argument(&seconds).is_empty()
    })?;
    rows(
        stage,
        &[
            (&["builds", "ls"], 0, &["canceled"]),
            (&["builds", "inspect", &id], 0, &["State     canceled"]),
        ],
    )
}
