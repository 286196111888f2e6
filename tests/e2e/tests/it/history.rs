//! What is kept of builds, and what Kiln's own API does with them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kiln_client::{Address, Cause, Client, Explanation};
use kiln_e2e::Scenario;
use kiln_harness::{Buildx, Context, Stage, processes_with_argument, within};
use kiln_ids::BuildRef;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new(
        "directories_are_announced_once",
        directories_are_announced_once,
    )
    .kilnd_only("the real one announces them again now and then"),
    Scenario::new("any_client_cancels_any_build", any_client_cancels_any_build)
        .kilnd_only("kiln.agent.v1"),
    Scenario::new("commands_read_records", commands_read_records)
        .new_buildx_only("0.13 has no history command")
        // The history of other scenarios would be in the way.
        .fresh_moby(),
    Scenario::new(
        "a_killed_daemon_keeps_the_log",
        a_killed_daemon_keeps_the_log,
    )
    .new_buildx_only("0.13 has no history command")
    .kilnd_only("the real one forgets builds that it dies with"),
    Scenario::new("a_missed_step_is_explained", a_missed_step_is_explained)
        .kilnd_only("kiln.agent.v1"),
];

const STARTS_WITHIN: Duration = Duration::from_secs(20);
const GONE_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}

pub(crate) async fn connect(stage: &Stage<'_>) -> Result<Client> {
    let socket = stage.engine.socket().to_path_buf();
    Ok(Client::connect(&Address::Unix(socket)).await?)
}

/// Names of builds, those that run and those that were.
pub(crate) async fn references(client: &Client, active_only: bool) -> Result<Vec<String>> {
    use futures::TryStreamExt as _;
    let request = kiln_proto::moby::buildkit::v1::BuildHistoryRequest {
        active_only,
        early_exit: true,
        ..Default::default()
    };
    let events: Vec<_> = client.history(request).await?.try_collect().await?;
    Ok(events
        .into_iter()
        .filter_map(|event| Some(event.record?.r#ref))
        .collect())
}

fn directories_are_announced_once(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY f /\n")?;
    for round in 0..4 {
        context.put("f", round.to_string())?;
        let built = stage.build(&context, &[])?.succeeds()?;
        for step in [
            "load build definition from Dockerfile",
            "load build context",
        ] {
            let heads = built
                .transcript()
                .lines()
                .filter(|line| line.ends_with(step))
                .count();
            ensure!(
                heads == 1,
                "{step} in round {round}:\n{}",
                built.transcript()
            );
        }
    }
    Ok(())
}

fn any_client_cancels_any_build(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.seconds(1000);
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo be''gun; exec sleep {seconds}\n"
    ))?;
    let mut running = stage.start_build(&context, &[])?;
    running.wait_for(" begun", STARTS_WITHIN)?;
    within("the step runs", STARTS_WITHIN, || {
        !processes_with_argument(&seconds).is_empty()
    })?;
    let asked = run(async {
        let client = connect(stage).await?;
        let active = references(&client, true).await?;
        let build = active.first().context("a build runs")?;
        let build = BuildRef::new(build.as_str());
        client.builds().cancel(&build).await?;
        let again = client.builds().cancel(&BuildRef::new("nobody")).await;
        ensure!(again.is_err(), "a build that doesn't exist was cancelled");
        Ok(Instant::now())
    })?;
    within("the step is gone", GONE_WITHIN, || {
        processes_with_argument(&seconds).is_empty()
    })?;
    let ended = running.wait()?.fails()?;
    ensure!(
        asked.elapsed() < GONE_WITHIN + Duration::from_secs(1),
        "the client was told after {:?}",
        asked.elapsed()
    );
    ended.says(&["ancel"])?;
    stage.engine.check_idle()?;
    if stage.client.version() == Buildx::New {
        let record = stage.client.buildx(["history", "inspect"])?;
        record.succeeds()?.says(&["Canceled"])?;
    }
    Ok(())
}

/// `docker buildx history ARGUMENTS`.
fn history(stage: &Stage<'_>, arguments: &[&str]) -> Result<String> {
    let all = ["history"].iter().chain(arguments);
    Ok(stage.client.buildx(all)?.succeeds()?.stdout)
}

fn commands_read_records(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nARG WORD\nRUN echo remembered-$WORD\nCOPY f /\nRUN cat /f; exit 3\n",
    )?;
    context.put("f", "x")?;
    stage
        .build(&context, &["--build-arg", "WORD=words"])?
        .fails()?;
    context.put(
        "Dockerfile",
        "FROM busybox\nARG WORD\nRUN echo remembered-$WORD\nCOPY f /\n",
    )?;
    let archive = stage.path("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    stage
        .build(&context, &["--build-arg", "WORD=words", "-o", &output])?
        .succeeds()?;
    let list = history(stage, &["ls", "--format", "{{.Ref}} {{.Status}}"])?;
    let lines: Vec<Vec<&str>> = list
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(lines.len() == 2, "{list}");
    ensure!(
        lines[0][1] == "Completed" && lines[1][1] == "Error",
        "{list}"
    );
    let name = |line: &[&str]| line[0].rsplit('/').next().unwrap_or_default().to_owned();
    let (good, bad) = (name(&lines[0]), name(&lines[1]));

    let inspected = history(stage, &["inspect", "--format", "json", &good])?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    for (field, want) in [
        ("/Status", serde_json::json!("completed")),
        ("/BuildArgs/0/Name", serde_json::json!("WORD")),
        ("/Config/NoCache", serde_json::Value::Null),
    ] {
        let found = inspected.pointer(field).unwrap_or(&serde_json::Value::Null);
        ensure!(*found == want, "{field} in {inspected:#}");
    }
    ensure!(
        inspected["Materials"]
            .to_string()
            .contains("pkg:docker/busybox"),
        "{inspected:#}"
    );
    let number = |field: &str| inspected[field].as_i64().unwrap_or_default();
    ensure!(number("NumCompletedSteps") >= 5, "{inspected:#}");
    ensure!(
        number("NumCompletedSteps") == number("NumTotalSteps"),
        "{inspected:#}"
    );
    ensure!(number("NumCachedSteps") >= 1, "{inspected:#}");

    let failed = history(stage, &["inspect", &bad])?;
    ensure!(
        failed.contains("exit code: 3") && failed.contains("Dockerfile:5"),
        "{failed}"
    );
    let logs = stage
        .client
        .buildx(["history", "logs", "--progress", "plain", &bad])?
        .succeeds()?;
    logs.says(&["remembered-words", "exit code: 3"])?;

    let provenance = history(
        stage,
        &["inspect", "attachment", "--type", "provenance", &good],
    )?;
    let provenance: serde_json::Value = serde_json::from_str(&provenance)?;
    ensure!(
        provenance["buildDefinition"]["resolvedDependencies"]
            .to_string()
            .contains("pkg:docker/busybox")
            || provenance["materials"]
                .to_string()
                .contains("pkg:docker/busybox"),
        "{provenance:#}"
    );

    // The graph, the Dockerfile and the layers, in the form of either version.
    let one = |new: &str, old: &str| {
        let found = provenance.pointer(new).or_else(|| provenance.pointer(old));
        found.cloned().unwrap_or_default()
    };
    let steps = one(
        "/buildDefinition/internalParameters/buildConfig/llbDefinition",
        "/buildConfig/llbDefinition",
    );
    let runs = |step: &serde_json::Value| step.pointer("/op/Op/exec/meta/args").is_some();
    let steps = steps.as_array().context("the graph")?;
    ensure!(steps.iter().any(runs), "{provenance:#}");
    ensure!(
        steps.iter().any(|step| step
            .pointer("/op/Op/file/actions/0/Action/copy/src")
            .is_some()),
        "{provenance:#}"
    );
    let metadata = one(
        "/runDetails/metadata/buildkit_metadata",
        "/metadata/https:~1~1mobyproject.org~1buildkit@v1#metadata",
    );
    ensure!(
        metadata["source"]["infos"][0]["filename"] == "Dockerfile",
        "{metadata:#}"
    );
    ensure!(
        metadata["source"]["infos"][0]["llbDefinition"][0]["id"] == "step0",
        "{metadata:#}"
    );
    ensure!(
        metadata["source"]["locations"]["step0"]["locations"].is_array(),
        "{metadata:#}"
    );
    let layers = metadata["layers"].as_object().context("layers")?;
    let longest = layers
        .values()
        .filter_map(|one| one[0].as_array())
        .map(Vec::len)
        .max();
    ensure!(longest >= Some(2), "{metadata:#}");

    let bundle = stage.path("good.dockerbuild");
    let to = bundle.display().to_string();
    history(stage, &["export", "--finalize", "-o", &to, &good])?;
    let spans = bundled_spans(&bundle)?;
    ensure!(
        spans.iter().any(|name| name.contains("COPY f /")),
        "no span of a step in {spans:?}"
    );
    // Those that the client sent.
    ensure!(spans.iter().any(|name| name == "build"), "{spans:?}");

    // There is no desktop here; that the record was found shows in what is to be opened.
    let opened = stage.client.buildx(["history", "open", &good])?;
    ensure!(
        opened
            .transcript()
            .contains(&format!("dashboard/build/scenario/scenario0/{good}")),
        "{}",
        opened.transcript()
    );
    history(stage, &["rm", &bad])?;
    let gone = stage.client.buildx(["history", "inspect", &bad])?;
    gone.fails()?;
    Ok(())
}

/// Names of the spans of the trace in a bundle.
fn bundled_spans(bundle: &std::path::Path) -> Result<Vec<String>> {
    use std::io::Read as _;
    let mut plain = Vec::new();
    let output = std::process::Command::new("gzip")
        .args(["-dc"])
        .arg(bundle)
        .output()?;
    plain.extend(output.stdout);
    let mut names = Vec::new();
    for entry in tar::Archive::new(plain.as_slice()).entries()? {
        let mut bytes = Vec::new();
        entry?.read_to_end(&mut bytes)?;
        let spans: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .filter_map(Result::ok)
            .collect();
        names.extend(
            spans
                .iter()
                .filter(|span| span["SpanContext"]["TraceID"].is_string())
                .filter_map(|span| Some(span["Name"].as_str()?.to_owned())),
        );
    }
    Ok(names)
}

fn a_killed_daemon_keeps_the_log(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.seconds(1000);
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo last-wor''ds; exec sleep {seconds}\n"
    ))?;
    let mut running = stage.start_build(&context, &[])?;
    running.wait_for("last-words", STARTS_WITHIN)?;
    let spool = stage.kilnd()?.root().join("history");
    within("the log is on disk", STARTS_WITHIN, || {
        std::fs::read_dir(&spool)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|build| std::fs::read(build.path().join("log")).ok())
            .any(|log| log.windows(10).any(|words| words == b"last-words"))
    })?;
    stage.kilnd()?.crash_and_restart()?;
    running.wait()?.fails()?;
    within("no spool is left", STARTS_WITHIN, || {
        std::fs::read_dir(&spool).is_ok_and(|mut builds| builds.next().is_none())
    })?;
    history(stage, &["inspect"]).and_then(|record| {
        ensure!(
            record.contains("the daemon stopped while the build was running"),
            "{record}"
        );
        Ok(())
    })?;
    let logs = stage
        .client
        .buildx(["history", "logs", "--progress", "plain"])?;
    logs.succeeds()?.says(&["last-words"])?;
    Ok(())
}

/// Builds with buildx and asks why the step whose name has `step` ran.
fn explained(
    stage: &Stage<'_>,
    context: &Context,
    arguments: &[&str],
    step: &str,
) -> Result<Explanation> {
    let before = run(async { references(&connect(stage).await?, false).await })?;
    stage.build(context, arguments)?.succeeds()?;
    run(async {
        let client = connect(stage).await?;
        let all = references(&client, false).await?;
        let new = all
            .iter()
            .find(|build| !before.contains(build))
            .context("a record")?;
        let explained = client
            .builds()
            .explain(&BuildRef::new(new.as_str()), None, None)
            .await?;
        let all = explained.explanations;
        let found = all.iter().find(|one| one.name.contains(step)).cloned();
        found.with_context(|| format!("{step} in {all:?}"))
    })
}

fn a_missed_step_is_explained(stage: &mut Stage<'_>) -> Result<()> {
    let registry = stage.bed.registry.host();
    let image = format!("{registry}/explained-{}:latest", stage.seconds(0));
    let base = |word: &str| -> Result<()> {
        let context = Context::new(&format!("FROM busybox\nRUN echo {word} > /word\n"))?;
        let output = format!("type=image,name={image},push=true");
        stage.build(&context, &["-o", &output])?.succeeds()?;
        Ok(())
    };
    base("one")?;
    let dockerfile = |run: &str| {
        format!(
            "FROM {image}\nARG WORD\nRUN {run} && env | grep -q WORD\nCOPY src /src\nCOPY other /\nRUN cat /src/a\n"
        )
    };
    let context = Context::new(&dockerfile("echo"))?;
    context
        .put("src/a", "1")?
        .put("src/b", "1")?
        .put("other", "1")?;
    let check = |arguments: &[&str], step: &str, cause: Cause, difference: &str| -> Result<()> {
        let found = explained(stage, &context, arguments, step)?;
        ensure!(found.cause() == cause, "{found:?}");
        let named = found
            .differences
            .first()
            .map_or("", |one| one.name.as_str());
        ensure!(named.contains(difference), "{difference:?} in {found:?}");
        let shown = format!("{found:?}");
        ensure!(!shown.contains("hush"), "a value is told: {shown}");
        Ok(())
    };
    let word = ["--build-arg", "WORD=hush1"];
    check(&word, "RUN echo", Cause::FirstBuild, "")?;
    context.put("src/a", "2")?;
    check(&word, "COPY src", Cause::Files, "src/a")?;
    context.put("src/b", "2")?;
    check(&word, "RUN cat /src/a", Cause::Parent, "COPY src /src")?;
    let other = ["--build-arg", "WORD=hush2"];
    let found = explained(stage, &context, &other, "RUN echo")?;
    ensure!(found.cause() == Cause::Argument, "{found:?}");
    ensure!(found.differences[0].name == "WORD", "{found:?}");
    context.put("Dockerfile", dockerfile("echo changed"))?;
    check(
        &other,
        "RUN echo changed",
        Cause::Instruction,
        "RUN echo changed",
    )?;
    base("two")?;
    check(&other, "RUN echo changed", Cause::Base, "explained-")?;
    let anew = ["--build-arg", "WORD=hush2", "--no-cache"];
    check(&anew, "RUN echo changed", Cause::NoCache, "")?;
    stage.client.buildx(["prune", "-af"])?.succeeds()?;
    check(&other, "RUN echo changed", Cause::Evicted, "")?;
    run(async {
        let client = connect(stage).await?;
        let projects = client.builds().projects().await?;
        let mine = projects
            .iter()
            .find(|project| project.refs.len() == 8)
            .with_context(|| format!("{projects:?}"))?;
        let directory = context.path().file_name().unwrap_or_default();
        ensure!(mine.name == directory.to_string_lossy(), "{mine:?}");
        // What is named of a record can be read, and nothing else.
        let request = kiln_proto::moby::buildkit::v1::BuildHistoryRequest {
            r#ref: mine.refs[0].clone(),
            early_exit: true,
            ..Default::default()
        };
        use futures::TryStreamExt as _;
        let events: Vec<_> = client.history(request).await?.try_collect().await?;
        let record = events.into_iter().find_map(|event| event.record);
        let logs = record.and_then(|record| record.logs).context("a log")?;
        let log = client.builds().attachment(&logs.digest).await?;
        ensure!(log.len() as i64 == logs.size);
        let other = kiln_proto::moby::buildkit::v1::UpdateBuildHistoryRequest {
            r#ref: mine.refs[0].clone(),
            delete: true,
            ..Default::default()
        };
        client.update_history(other).await?;
        ensure!(client.builds().attachment(&logs.digest).await.is_err());
        Ok(())
    })
}
