//! `kiln build`: displays, errors, outputs, secrets, frontends, cancellation.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Archive, Context, Running, Stage, processes_with_argument, within};
use serde_json::Value;

use super::run;

pub(super) fn builds(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nCOPY f /f\nRUN cat /f && echo to-stderr >&2\n")?;
    context.put("f", "cli-words\n")?;
    let first = run(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
    first.says(&[
        "#0 building with unix://",
        "cli-words",
        "to-stderr",
        "build cache only",
        "-t NAME",
    ])?;
    ensure!(first.stdout.is_empty(), "{}", first.stdout);
    let second = run(&mut stage.kiln_build(&context, &["--progress", "plain"])?)?.succeeds()?;
    second.is_cached("RUN cat /f")?.is_cached("COPY f /f")?;
    let (ids, metadata) = (stage.path("iid"), stage.path("metadata"));
    let quiet = [
        "-q",
        "-t",
        "kiln/cli:1",
        "--iidfile",
        ids.to_str().context("a path")?,
        "--metadata-file",
        metadata.to_str().context("a path")?,
    ];
    let quiet = run(&mut stage.kiln_build(&context, &quiet)?)?.succeeds()?;
    ensure!(quiet.stderr.is_empty(), "{}", quiet.stderr);
    ensure!(
        quiet.stdout.trim() == fs::read_to_string(&ids)?,
        "{}",
        quiet.stdout
    );
    ensure!(quiet.stdout.starts_with("sha256:"), "{}", quiet.stdout);
    let metadata: Value = serde_json::from_slice(&fs::read(&metadata)?)?;
    ensure!(
        metadata["containerimage.descriptor"]["digest"].is_string(),
        "{metadata}"
    );
    ensure!(
        metadata["image.name"] == "docker.io/kiln/cli:1",
        "{metadata}"
    );
    let raw = run(&mut stage.kiln_build(&context, &["--progress", "rawjson"])?)?.succeeds()?;
    for line in raw.stderr.lines() {
        let update: Value = serde_json::from_str(line).context("a line that isn't JSON")?;
        ensure!(update.is_object(), "{update}");
    }
    ensure!(raw.stderr.contains("\"vertexes\""), "{}", raw.stderr);
    Ok(())
}

pub(super) fn shows_errors(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo before the end\nRUN exit 7\n")?;
    let failed = run(&mut stage.kiln_build(&context, &[])?)?;
    ensure!(failed.code == Some(1), "{failed:?}");
    failed.says(&[
        "------\n > [3/3] RUN exit 7:",
        "Dockerfile:3\n--------------------",
        "   3 | >>> RUN exit 7",
        "did not complete successfully: exit code: 7",
    ])?;
    let context = Context::new("FROM busybox\nRUUN x\n")?;
    let failed = run(&mut stage.kiln_build(&context, &[])?)?;
    ensure!(
        failed.code == Some(1) || failed.code == Some(2),
        "{failed:?}"
    );
    failed.says(&["unknown instruction: RUUN", "   2 | >>> RUUN x"])?;
    for (arguments, code, words) in [
        (
            vec!["build", "no-such-directory"],
            2,
            "there is no build context",
        ),
        (
            vec!["build", "-f", "no-such-file", "."],
            2,
            "there is no Dockerfile",
        ),
        (
            vec!["build", "--progress", "tty", "."],
            2,
            "needs a terminal",
        ),
        (
            vec!["--builder", "ssh://x", "build", "."],
            2,
            "invalid address",
        ),
        (vec!["build", "--push", "."], 2, "needs a name"),
        (
            vec!["build", "--secret", "id=x,src=none", "."],
            2,
            "there is no file none",
        ),
        (vec!["build", "--load", "."], 4, "no Docker answers"),
        (
            vec!["--builder", "unix:///no.sock", "build", "."],
            4,
            "failed to connect",
        ),
    ] {
        let failed = run(stage.kiln(&arguments)?.current_dir(context.path()))?;
        ensure!(failed.code == Some(code), "{arguments:?}: {failed:?}");
        failed.says(&[words, "ERROR:"])?;
    }
    Ok(())
}

pub(super) fn writes_outputs(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY f /f\n")?;
    context.put("f", "out\n")?;
    let (files, archive, layout) = (
        stage.path("files"),
        stage.path("x.tar"),
        stage.path("layout"),
    );
    let outputs = [
        format!("-o={}", files.display()),
        format!("-o=type=oci,dest={}", archive.display()),
        format!("-o=type=oci,tar=false,dest={}", layout.display()),
    ];
    let mut arguments: Vec<&str> = outputs.iter().map(String::as_str).collect();
    arguments.extend(["-t", "kiln/outputs:2"]);
    run(&mut stage.kiln_build(&context, &arguments)?)?
        .succeeds()?
        .says(&["The result is in"])?;
    ensure!(fs::read_to_string(files.join("f"))? == "out\n");
    let opened = Archive::open(&archive)?;
    let image = opened.image()?;
    ensure!(image.top_layer()?.text("f")? == "out\n");
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    ensure!(name == "2", "{index}");
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .context("a digest")?;
    let blob = digest.replace(':', "/");
    ensure!(layout.join("blobs").join(blob).is_file(), "{index}");
    let streamed = run(&mut stage.kiln_build(&context, &["-o", "-"])?)?.succeeds()?;
    ensure!(streamed.stdout.contains("ustar"), "not a tar");
    let image = stage.bed.registry.image("cli/pushed:1");
    run(&mut stage.kiln_build(&context, &["--push", "-t", &image])?)?
        .succeeds()?
        .says(&[&format!("Pushed {image}")])?;
    let again = Context::new(&format!("FROM {image}\nCOPY f /g\n"))?;
    again.put("f", "more")?;
    run(&mut stage.kiln_build(&again, &["--pull"])?)?.succeeds()?;
    Ok(())
}

pub(super) fn gives_secrets_and_contexts(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nARG WHO\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s\n\
         RUN --mount=type=bind,from=other,target=/o echo $WHO-$(cat /o/f)\n",
    )?;
    let other = Context::new("")?;
    other.put("f", "from-other")?;
    let named = format!("other={}", other.path().display());
    let arguments = [
        "--secret=id=s,env=TOKEN",
        "--build-context",
        &named,
        "--build-arg=WHO=me",
    ];
    let mut command = stage.kiln_build(&context, &arguments)?;
    let gave = run(command.env("TOKEN", "1234567"))?.succeeds()?;
    gave.says(&["me-from-other"])?.never_says(&["1234567"])?;
    // The image of a layout that the session serves.
    let layout = stage.path("base");
    let base = Context::new("FROM busybox\nRUN echo base > /base\n")?;
    let output = format!("-o=type=oci,tar=false,dest={}", layout.display());
    run(&mut stage.kiln_build(&base, &[&output])?)?.succeeds()?;
    let context = Context::new("FROM lay\nRUN echo read-$(cat /base)\n")?;
    let named = format!("lay=oci-layout://{}", layout.display());
    run(&mut stage.kiln_build(&context, &["--build-context", &named])?)?
        .succeeds()?
        .says(&["read-base"])?;
    Ok(())
}

pub(super) fn keeps_local_caches(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo local-cache > /x\n")?;
    let directory = stage.path("cache");
    let (to, from) = (
        format!(
            "--cache-to=type=local,mode=max,dest={}",
            directory.display()
        ),
        format!("--cache-from=type=local,src={}", directory.display()),
    );
    run(&mut stage.kiln_build(&context, &[&to, &from])?)?.succeeds()?;
    let index: Value = serde_json::from_slice(&fs::read(directory.join("index.json"))?)?;
    ensure!(index["manifests"][0]["digest"].is_string(), "{index}");
    run(&mut stage.kiln_build(&context, &[&from])?)?
        .succeeds()?
        .says(&["importing cache manifest from local"])?;
    Ok(())
}

pub(super) fn asks_frontends(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox AS one\nARG A=1\nMAINTAINER me\nFROM one AS two\n")?;
    let checked = run(stage
        .kiln(&["build", "--check", "."])?
        .current_dir(context.path()))?;
    ensure!(checked.code == Some(1), "{checked:?}");
    checked.says(&[
        "Check complete, 1 warning has been found!",
        "MaintainerDeprecated",
    ])?;
    let targets = run(stage
        .kiln(&["build", "--call=targets,format=json", "."])?
        .current_dir(context.path()))?;
    let json: Value = serde_json::from_str(&targets.succeeds()?.stdout)?;
    ensure!(
        json["targets"].as_array().map(Vec::len) == Some(2),
        "{json}"
    );
    run(stage
        .kiln(&["build", "--call=outline", "--target=one", "."])?
        .current_dir(context.path()))?
    .succeeds()?
    .says(&["A"])?;
    let clean = Context::new("FROM busybox\n")?;
    run(stage
        .kiln(&["build", "--check", "."])?
        .current_dir(clean.path()))?
    .succeeds()?
    .says(&["no warnings found"])?;
    Ok(())
}

pub(super) fn cancels(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.seconds(300);
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo be''gun; exec sleep {seconds}\n"
    ))?;
    let mut command = stage.kiln_build(&context, &["--progress", "plain"])?;
    let mut running = Running::start(&mut command)?;
    running.wait_for("begun", Duration::from_secs(60))?;
    running.interrupt()?;
    let ended = running.wait()?;
    ensure!(ended.code == Some(130), "{ended:?}");
    ended.says(&["ERROR: canceled"])?;
    within("the step is gone", Duration::from_secs(20), || {
        processes_with_argument(&seconds).is_empty()
    })
}

/// As buildx does, from the same file.
pub(super) fn obeys_source_policies(stage: &mut Stage<'_>) -> Result<()> {
    const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
    let context = Context::new("FROM other:1\nRUN echo converted\n")?;
    let policy = stage.path("policy.json");
    let rules = |action: &str, updates: &str| {
        let selector = r#""selector":{"identifier":"docker-image://docker.io/library/other:*"}"#;
        let rules = format!(r#"{{"rules":[{{"action":"{action}",{selector}{updates}}}]}}"#);
        fs::write(&policy, rules)
    };
    let build = |stage: &Stage<'_>| {
        let mut ours = stage.kiln_build(&context, &[])?;
        let mut theirs = stage.client.build_command(&context, &[]);
        let ours = run(ours.env(VARIABLE, &policy))?;
        Ok::<_, anyhow::Error>((ours, run(theirs.env(VARIABLE, &policy))?))
    };
    rules(
        "CONVERT",
        r#","updates":{"identifier":"docker-image://docker.io/library/busybox:latest"}"#,
    )?;
    let (ours, theirs) = build(stage)?;
    ours.succeeds()?.says(&["converted"])?;
    theirs.succeeds()?;
    rules("DENY", "")?;
    let (ours, theirs) = build(stage)?;
    for denied in [ours, theirs] {
        denied.fails()?.says(&["denied by policy"])?;
    }
    rules("FORBID", "")?;
    let (ours, theirs) = build(stage)?;
    ours.fails()?.says(&[VARIABLE, "\"FORBID\""])?;
    theirs.fails()?;
    Ok(())
}
