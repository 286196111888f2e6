//! What the app does with an engine: its controller, without a window and without a machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_client::Dockerbuild;
use kiln_config::HostPaths;
use kiln_controller::view::{BuildRequest, BuilderAddress, NameValue, WatchState};
use kiln_controller::{Controller, Failure};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Stage};
use tokio::sync::mpsc;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new(
        "the_app_asks_before_it_builds",
        the_app_asks_before_it_builds,
    ),
    Scenario::new(
        "a_watched_folder_is_built_anew",
        a_watched_folder_is_built_anew,
    ),
    Scenario::new(
        "an_image_is_weighed_against_the_one_before",
        an_image_is_weighed_against_the_one_before,
    )
    .kilnd_only("kiln.agent.v1"),
    Scenario::new("records_go_out_and_come_in", records_go_out_and_come_in)
        .new_buildx_only("0.13 has no history command"),
];

const PATIENCE: Duration = Duration::from_secs(60);

fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async { tokio::time::timeout(PATIENCE, future).await? })
}

/// An app of its own that uses the stage's engine.
fn app(stage: &Stage<'_>, directory: &Path) -> Result<Controller> {
    let controller = Controller::new(HostPaths {
        runtime: directory.join("r"),
        state: directory.join("s"),
        config: directory.join("c"),
    });
    controller.add_builder(BuilderAddress {
        name: "stage".into(),
        address: format!("unix://{}", stage.engine.socket().display()),
        ..BuilderAddress::default()
    })?;
    controller.use_builder("stage")?;
    Ok(controller)
}

fn form(context: &Context) -> BuildRequest {
    BuildRequest {
        context: context.path().display().to_string(),
        output: "cache".into(),
        ..BuildRequest::default()
    }
}

fn the_app_asks_before_it_builds(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS base\n# WORD is said\nARG WORD=fine\nRUN --mount=type=secret,id=token,required=true true\n\
         FROM base as app\nRUN echo $WORD\n",
    )?;
    let directory = tempfile::tempdir()?;
    let app = app(stage, directory.path())?;
    let answers = run(async { Ok(app.ask_dockerfile(form(&context)).await?) })?;
    let targets: Vec<(&str, bool)> = answers
        .targets
        .iter()
        .map(|target| (target.name.as_str(), target.default))
        .collect();
    ensure!(targets == [("base", false), ("app", true)], "{answers:?}");
    let word = answers.args.iter().find(|arg| arg.name == "WORD");
    ensure!(
        word.is_some_and(|arg| arg.value == "fine" && arg.line == 3),
        "{answers:?}"
    );
    ensure!(
        answers.secrets.len() == 1 && answers.secrets[0].required,
        "{answers:?}"
    );
    let casing = answers.findings.iter().find(|f| f.rule == "FromAsCasing");
    ensure!(
        casing.is_some_and(|finding| finding.lines == [(5, 5)]),
        "{answers:?}"
    );
    ensure!(answers.error.is_empty(), "{answers:?}");

    // The base alone takes no less, and another value is told back.
    let narrower = BuildRequest {
        target: "base".into(),
        args: vec![NameValue {
            name: "WORD".into(),
            value: "other".into(),
        }],
        ..form(&context)
    };
    let answers = run(async { Ok(app.ask_dockerfile(narrower).await?) })?;
    ensure!(
        answers.args.iter().any(|arg| arg.value == "other"),
        "{answers:?}"
    );

    context.put("Dockerfile", "FROM busybox\nRUUN x\n")?;
    let answers = run(async { Ok(app.ask_dockerfile(form(&context)).await?) })?;
    ensure!(
        answers.error.contains("unknown instruction") && answers.error_lines == [(2, 2)],
        "{answers:?}"
    );
    Ok(())
}

/// The image of a build, once its record is complete: its digest, its size, and the build before with its size.
async fn weighed(
    app: &Controller,
    reference: &str,
) -> Result<(String, Option<i64>, Option<(String, i64)>)> {
    loop {
        let detail = app.build_detail(reference).await?;
        if detail.summary.status == "running" {
            continue;
        }
        ensure!(detail.summary.status == "done", "{detail:?}");
        let result = detail.results.into_iter().next().context("a result")?;
        let previous = result.previous.map(|before| (before.r#ref, before.bytes));
        return Ok((result.digest, result.bytes, previous));
    }
}

fn an_image_is_weighed_against_the_one_before(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY f /\n")?;
    let directory = tempfile::tempdir()?;
    let app = app(stage, directory.path())?;
    let built = |tag: &str, bytes: usize| {
        // Bytes that can't be compressed: a layer is larger by what its file is.
        let mut word = 1_u64;
        let random = std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 56) as u8
        });
        context.put("f", random.take(bytes).collect::<Vec<u8>>())?;
        let request = BuildRequest {
            output: "store".into(),
            tags: vec![tag.into()],
            ..form(&context)
        };
        run(async {
            let reference = app.start_build(request).await?;
            app.watch_build(&reference, true, |update| !update.end)
                .await?;
            Ok((reference.clone(), weighed(&app, &reference).await?))
        })
    };
    let (first, (digest, small, before)) = built("weighed:1", 100_000)?;
    let small = small.context("a size")?;
    ensure!(before.is_none(), "{before:?}");
    ensure!((100_000..110_000).contains(&small), "{small} bytes");
    let (_, (_, large, before)) = built("weighed:2", 300_000)?;
    let large = large.context("a size")?;
    ensure!(
        (200_000..210_000).contains(&(large - small)),
        "{large} bytes"
    );
    ensure!(before == Some((first, small)), "{before:?}");
    // An image of another name isn't what became of this one.
    let (_, (_, _, before)) = built("something-else:1", 100_000)?;
    ensure!(before.is_none(), "{before:?}");

    // What the engine counts is what is in the image.
    let listed = run(async { Ok(app.images().await?) })?;
    let image = listed.iter().find(|image| image.digest == digest);
    let image = image.context("the image in the list")?;
    ensure!((small..small + 10_000).contains(&image.bytes), "{image:?}");
    Ok(())
}

/// The first state of that phase after so many builds.
async fn until(
    states: &mut mpsc::UnboundedReceiver<WatchState>,
    phase: &str,
    builds: u32,
) -> Result<WatchState> {
    loop {
        let state = states.recv().await.context("the watch goes on")?;
        if state.phase == phase && state.builds == builds {
            return Ok(state);
        }
    }
}

fn a_watched_folder_is_built_anew(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY f /\n")?;
    context.put("f", "1")?;
    context.put(".dockerignore", "*.log\n")?;
    let directory = tempfile::tempdir()?;
    let app = app(stage, directory.path())?;
    run(async {
        let (sender, mut states) = mpsc::unbounded_channel();
        let watching = app.watch_folder(form(&context), |state| sender.send(state).is_ok());
        let script = async {
            let first = until(&mut states, "waiting", 1).await?;
            context.put("noise.log", "1")?;
            context.put("f", "2")?;
            let second = until(&mut states, "waiting", 2).await?;
            ensure!(second.changed == ["f"], "{second:?}");
            ensure!(second.reference != first.reference, "{second:?}");
            for state in [first, second] {
                let detail = app.build_detail(&state.reference).await?;
                ensure!(detail.summary.status == "done", "{detail:?}");
            }
            Ok(())
        };
        tokio::select! {
            done = script => done,
            ended = watching => Err(ended.err().map_or_else(|| anyhow::anyhow!("it ended"), Failure::into)),
        }
    })
}

fn records_go_out_and_come_in(stage: &mut Stage<'_>) -> Result<()> {
    let context =
        Context::new("FROM busybox\nARG WORD\nRUN --network=none echo said-$WORD && exit 3\n")?;
    let directory = tempfile::tempdir()?;
    let app = app(stage, directory.path())?;
    let (ours, theirs) = (
        stage.path("ours.dockerbuild"),
        stage.path("theirs.dockerbuild"),
    );
    let reference = run(async {
        let request = BuildRequest {
            args: vec![NameValue {
                name: "WORD".into(),
                value: "this".into(),
            }],
            ..form(&context)
        };
        let reference = app.start_build(request).await?;
        app.watch_build(&reference, true, |update| !update.end)
            .await?;
        // The record is complete a moment after the last of its progress.
        while app.build_detail(&reference).await?.summary.status == "running" {}
        app.export_build(&reference, ours.display().to_string())
            .await?;
        Ok(reference)
    })?;
    let path = theirs.to_str().context("a path")?;
    stage
        .client
        .buildx(["history", "export", "-o", path, &reference])?
        .succeeds()?;
    let read =
        |path: &Path| -> Result<Dockerbuild> { Ok(Dockerbuild::read(&std::fs::read(path)?)?) };
    let (mut our, mut their) = (read(&ours)?.record, read(&theirs)?.record);
    // Each masks secrets in its own way.
    ensure!(our.trace.is_some() == their.trace.is_some(), "{our:?}");
    (our.trace, their.trace) = (None, None);
    ensure!(our == their, "\n{our:?}\n{their:?}");

    // Somebody else takes in what buildx wrote.
    let elsewhere = tempfile::tempdir()?;
    let other = Controller::new(HostPaths {
        runtime: elsewhere.path().join("r"),
        state: elsewhere.path().join("s"),
        config: elsewhere.path().join("c"),
    });
    run(async {
        ensure!(other.import_build(theirs.display().to_string()).await? == reference);
        let detail = other.build_detail(&reference).await?;
        ensure!(
            detail.summary.imported && detail.summary.status == "failed",
            "{detail:?}"
        );
        let failure = detail.failure.as_ref().context("a failure")?;
        ensure!(
            failure.exit_code == Some(3) && failure.lines == [(3, 3)],
            "{detail:?}"
        );
        let mut log = String::new();
        let read = |update: kiln_controller::view::BuildUpdate| {
            log.extend(update.logs.into_iter().map(|chunk| chunk.text));
            true
        };
        other.watch_build(&reference, true, read).await?;
        ensure!(log.contains("said-this"), "{log}");
        Ok(())
    })
}
