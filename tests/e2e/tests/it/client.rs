//! Kiln's own client against both daemons.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;

use anyhow::{Context as _, Result, ensure};
use kiln_client::{Address, Attachments, Client, Error, Output, Secret, SolveOptions};
use kiln_e2e::Scenario;
use kiln_harness::{Archive, Context, Engine, Stage, within};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("client_builds_and_watches", client_builds_and_watches),
    Scenario::new("client_takes_outputs", client_takes_outputs),
    Scenario::new("client_gives_secrets", client_gives_secrets),
    Scenario::new("client_shows_typed_errors", client_shows_typed_errors),
    Scenario::new("client_cancels_by_dropping", client_cancels_by_dropping),
];

pub(crate) fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}

pub(crate) async fn connect(stage: &Stage<'_>) -> Result<Client> {
    // On the real one through its own upgrade, which the relay spares other clients.
    let address = match &stage.engine {
        Engine::Kilnd(kilnd) => Address::Unix(kilnd.socket().to_path_buf()),
        Engine::Moby(moby) => Address::Docker(moby.docker_socket().to_path_buf()),
    };
    Ok(Client::connect(&address).await?)
}

/// What a build of a context with the built-in frontend sends.
pub(crate) fn dockerfile_build(
    stage: &Stage<'_>,
    context: &Context,
) -> (SolveOptions, Attachments) {
    let mut options = SolveOptions {
        frontend: "dockerfile.v0".to_owned(),
        ..SolveOptions::default()
    };
    if !stage.engine.is_kilnd() {
        options
            .frontend_attrs
            .insert("force-network-mode".to_owned(), "host".to_owned());
        options.entitlements.push("network.host".to_owned());
    }
    let attachments = Attachments {
        shared_key: context.path().display().to_string(),
        dirs: ["context", "dockerfile"]
            .map(|name| (name.to_owned(), context.path().to_path_buf()))
            .into(),
        ..Attachments::default()
    };
    (options, attachments)
}

fn client_builds_and_watches(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nCOPY f /f\nRUN cat /f\n")?;
    context.put("f", "watched-words")?;
    run(async {
        let client = connect(stage).await?;
        ensure!(!client.workers().await?.is_empty());
        for cached in [false, true] {
            let (mut log, mut steps) = (String::new(), BTreeMap::new());
            let (options, attachments) = dockerfile_build(stage, &context);
            client
                .solve(options, attachments, |status| {
                    for vertex in status.vertexes {
                        steps.insert(vertex.name, vertex.cached);
                    }
                    for line in status.logs {
                        log += &String::from_utf8_lossy(&line.msg);
                    }
                })
                .await?;
            let run = steps
                .iter()
                .find(|(name, _)| name.contains("RUN cat /f"))
                .context("the step")?;
            ensure!(*run.1 == cached, "{steps:?}");
            ensure!(log.contains("watched-words") != cached, "{log}");
        }
        let usage = client.disk_usage(Vec::new()).await?;
        ensure!(
            usage
                .iter()
                .any(|record| record.record_type == "source.local"),
            "{usage:?}"
        );
        Ok(())
    })
}

fn client_takes_outputs(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    context.put("dir/f", "output")?.link("dir/l", "f")?;
    let (archive, directory) = (stage.path("image.tar"), stage.path("out"));
    run(async {
        let client = connect(stage).await?;
        let (mut options, mut attachments) = dockerfile_build(stage, &context);
        options.exporters = ["oci", "local"]
            .map(|kind| (kind.to_owned(), BTreeMap::new()))
            .into();
        attachments.outputs = vec![
            Output::File(archive.clone()),
            Output::Directory {
                path: directory.clone(),
                delete: false,
            },
        ];
        let solved = client.solve(options, attachments, |_| {}).await?;
        ensure!(
            solved.response.contains_key("containerimage.digest"),
            "{solved:?}"
        );
        Ok(())
    })?;
    ensure!(
        Archive::open(&archive)?
            .image()?
            .top_layer()?
            .text("dir/f")?
            == "output"
    );
    ensure!(fs::read_to_string(directory.join("dir/f"))? == "output");
    ensure!(fs::read_link(directory.join("dir/l"))?.as_os_str() == "f");
    Ok(())
}

fn client_gives_secrets(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=secret,id=s,required=true wc -c < /run/secrets/s\n",
    )?;
    run(async {
        let client = connect(stage).await?;
        let (options, mut attachments) = dockerfile_build(stage, &context);
        attachments
            .secrets
            .insert("s".to_owned(), Secret::Bytes("12345678".into()));
        let mut log = String::new();
        client
            .solve(options, attachments, |status| {
                for line in status.logs {
                    log += &String::from_utf8_lossy(&line.msg);
                }
            })
            .await?;
        ensure!(log.trim() == "8", "{log}");
        Ok(())
    })
}

fn client_shows_typed_errors(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo typed-error; exit 7\n")?;
    run(async {
        let client = connect(stage).await?;
        let (options, attachments) = dockerfile_build(stage, &context);
        let error = client
            .solve(options, attachments, |_| {})
            .await
            .err()
            .context("it should fail")?;
        ensure!(error.to_string().contains("exit code: 7"), "{error}");
        let Error::Status(status) = error else {
            anyhow::bail!("not a status: {error:?}")
        };
        let details = format!("{:?}", kiln_errdefs::details_of_status(&status));
        for part in ["filename: \"Dockerfile\"", "line: 2", "Exit { code: 7 }"] {
            ensure!(details.contains(part), "{part} in {details}");
        }
        Ok(())
    })
}

fn client_cancels_by_dropping(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.seconds(1000);
    let context = Context::new(&format!("FROM busybox\nRUN exec sleep {seconds}\n"))?;
    let argument = seconds.clone();
    let runs = move || !kiln_harness::processes_with_argument(&argument).is_empty();
    run(async {
        let client = connect(stage).await?;
        let (options, attachments) = dockerfile_build(stage, &context);
        let build = client.solve(options, attachments, |_| {});
        let started = tokio::task::spawn_blocking(move || {
            within("the step runs", std::time::Duration::from_secs(20), runs)
        });
        tokio::select! {
            built = build => anyhow::bail!("it should not end: {built:?}"),
            started = started => started?,
        }
    })?;
    within(
        "the step is gone",
        std::time::Duration::from_secs(2),
        || kiln_harness::processes_with_argument(&seconds).is_empty(),
    )
}
