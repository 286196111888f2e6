//! What is built again and what isn't; what the daemon keeps and gives back.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kiln_client::{Attachments, SolveOptions};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Run, Stage};
use kiln_llb::{Edge, VertexOptions};
use kiln_proto::pb;
use pb::op::Op;

use crate::client::{connect, run};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("nothing_changed_is_cached", nothing_changed_is_cached),
    Scenario::new(
        "a_change_runs_what_depends_on_it",
        a_change_runs_what_depends_on_it,
    ),
    Scenario::new("only_what_changed_is_sent", only_what_changed_is_sent),
    Scenario::new("times_of_files_do_not_matter", times_of_files_do_not_matter),
    Scenario::new(
        "same_contents_elsewhere_are_cached",
        same_contents_elsewhere_are_cached,
    ),
    Scenario::new("no_cache_and_its_filter", no_cache_and_its_filter),
    Scenario::new(
        "a_step_that_ignores_the_cache",
        a_step_that_ignores_the_cache,
    ),
    Scenario::new("a_failed_step_is_not_cached", a_failed_step_is_not_cached),
    Scenario::new("cached_after_restart", cached_after_restart)
        .kilnd_only("the real one is shared and stays up"),
    Scenario::new("cached_after_crash", cached_after_crash)
        .kilnd_only("the real one is shared and stays up"),
    Scenario::new("usage_and_prune", usage_and_prune),
];

fn sample(word: &str) -> Result<Context> {
    let context = Context::new(&format!(
        "FROM busybox\nRUN echo base-{word}\nCOPY a /a\nRUN cat /a && echo {word}\nCOPY b /b\nRUN cat /b && echo {word}\n"
    ))?;
    context.put("a", "a1\n")?.put("b", "b1\n")?;
    Ok(context)
}

fn nothing_changed_is_cached(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("noop")?;
    let first = stage.build(&context, &[])?.succeeds()?;
    first.is_run("RUN echo base-noop")?.is_run("RUN cat /b")?;
    let second = stage.build(&context, &[])?.succeeds()?;
    for step in [
        "RUN echo base-noop",
        "COPY a /a",
        "RUN cat /a",
        "COPY b /b",
        "RUN cat /b",
    ] {
        second.is_cached(step)?;
    }
    ensure!(second.cached_steps() == 5, "{}", second.transcript());
    Ok(())
}

fn only_what_changed_is_sent(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY . /\n")?;
    context
        .put("large", "x".repeat(2_000_000))?
        .put("small", "1")?;
    let sent_megabytes = |run: &Run| {
        let transcript = run.transcript();
        let mut lines = transcript.lines();
        lines.any(|line| line.contains("transferring context: ") && line.contains("MB"))
    };
    let first = stage.build(&context, &[])?.succeeds()?;
    ensure!(sent_megabytes(&first), "{}", first.transcript());
    for word in ["2", "3"] {
        context.put("small", word)?;
        let run = stage.build(&context, &[])?.succeeds()?;
        run.is_run("COPY . /")?;
        ensure!(!sent_megabytes(&run), "{}", run.transcript());
    }
    Ok(())
}

fn a_change_runs_what_depends_on_it(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("change")?;
    stage.build(&context, &[])?.succeeds()?;
    context.put("b", "b2\n")?;
    let run = stage.build(&context, &[])?.succeeds()?;
    run.is_cached("COPY a /a")?
        .is_cached("RUN cat /a")?
        .is_run("COPY b /b")?
        .is_run("RUN cat /b")?
        .says(&["b2"])?;
    // Back to the old contents: everything is known again.
    context.put("b", "b1\n")?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_cached("RUN cat /b")?;
    Ok(())
}

fn times_of_files_do_not_matter(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("times")?;
    stage.build(&context, &[])?.succeeds()?;
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(24);
    std::fs::File::options()
        .write(true)
        .open(context.path().join("a"))?
        .set_modified(past)?;
    context.put("not-copied", "new file")?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_cached("RUN cat /a")?
        .is_cached("RUN cat /b")?;
    context.mode("a", 0o755)?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_run("RUN cat /a")?;
    Ok(())
}

fn same_contents_elsewhere_are_cached(stage: &mut Stage<'_>) -> Result<()> {
    stage.build(&sample("elsewhere")?, &[])?.succeeds()?;
    stage
        .build(&sample("elsewhere")?, &[])?
        .succeeds()?
        .is_cached("RUN cat /b")?;
    Ok(())
}

fn no_cache_and_its_filter(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS one\nRUN echo no-cache-one > /1\nFROM busybox AS two\nRUN echo no-cache-two > /2\nFROM scratch\n\
         COPY --from=one /1 /\nCOPY --from=two /2 /\n",
    )?;
    stage.build(&context, &[])?.succeeds()?;
    let run = stage
        .build(&context, &["--no-cache-filter", "two"])?
        .succeeds()?;
    run.is_cached("RUN echo no-cache-one")?
        .is_run("RUN echo no-cache-two")?;
    let run = stage.build(&context, &["--no-cache"])?.succeeds()?;
    run.is_run("RUN echo no-cache-one")?
        .is_run("RUN echo no-cache-two")?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_cached("RUN echo no-cache-two")?;
    Ok(())
}

/// What a client says in the metadata of an operation, without a Dockerfile.
fn a_step_that_ignores_the_cache(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage.path("").display().to_string();
    let image = pb::SourceOp {
        identifier: "docker-image://docker.io/library/busybox:latest".to_owned(),
        ..pb::SourceOp::default()
    };
    let platform = || {
        Some(pb::Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            ..pb::Platform::default()
        })
    };
    let options = VertexOptions::default;
    let image = Edge {
        vertex: kiln_llb::vertex(Op::Source(image), Vec::new(), platform(), options()),
        index: 0,
    };
    let step = |command: &str, input: &Edge, options: VertexOptions| {
        let exec = pb::ExecOp {
            meta: Some(pb::Meta {
                args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
                env: vec!["PATH=/bin:/usr/bin".to_owned()],
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            mounts: vec![pb::Mount {
                dest: "/".to_owned(),
                ..pb::Mount::default()
            }],
            network: pb::NetMode::Host as i32,
            ..pb::ExecOp::default()
        };
        let inputs = vec![input.clone()];
        Edge {
            vertex: kiln_llb::vertex(Op::Exec(exec), inputs, platform(), options),
            index: 0,
        }
    };
    let graph = |ignore_cache: bool| {
        let first = step(&format!("echo first {id}"), &image, options());
        let ignoring = VertexOptions {
            ignore_cache,
            ..options()
        };
        let second = step("cat /proc/sys/kernel/random/uuid > /r", &first, ignoring);
        step("echo third; cat /r", &second, options())
    };
    let names = ["first", "uuid", "third"];
    let build = |ignore_cache: bool| {
        run(async {
            let client = connect(stage).await?;
            let options = SolveOptions {
                definition: Some(kiln_llb::definition(Some(&graph(ignore_cache)))),
                entitlements: vec!["network.host".to_owned()],
                ..SolveOptions::default()
            };
            let mut steps = BTreeMap::new();
            let attachments = Attachments::default();
            client
                .solve(options, attachments, |status| {
                    for vertex in status.vertexes {
                        steps.insert(vertex.name, vertex.cached);
                    }
                })
                .await?;
            let cached = |word: &str| steps.iter().any(|(name, hit)| name.contains(word) && *hit);
            Ok(names.map(cached))
        })
    };
    for (ignore_cache, want) in [
        (false, [false, false, false]),
        (false, [true, true, true]),
        // What is made of it is made of something new.
        (true, [true, false, false]),
        (true, [true, false, false]),
        (false, [true, true, true]),
    ] {
        let found = build(ignore_cache)?;
        ensure!(found == want, "ignored: {ignore_cache}: {found:?}");
    }
    Ok(())
}

fn a_failed_step_is_not_cached(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let context = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=cache,id={id},target=/c [ -e /c/second ] || {{ touch /c/second; exit 3; }}\n"
    ))?;
    stage
        .build(&context, &[])?
        .fails()?
        .says(&["exit code: 3"])?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_run("RUN --mount")?;
    Ok(())
}

fn cached_after_restart(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("restart")?;
    stage.build(&context, &[])?.succeeds()?;
    stage.kilnd()?.restart()?;
    let run = stage.build(&context, &[])?.succeeds()?;
    ensure!(run.cached_steps() == 5, "{}", run.transcript());
    // The layers are still there too, not only their names.
    stage.build_oci(&context, &[])?;
    Ok(())
}

fn cached_after_crash(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("crash")?;
    // An export forces a barrier: what it names survives whatever comes.
    stage.build_oci(&context, &[])?;
    stage.kilnd()?.crash_and_restart()?;
    let run = stage.build(&context, &[])?.succeeds()?;
    ensure!(run.cached_steps() == 5, "{}", run.transcript());
    stage.build_oci(&context, &[])?;
    Ok(())
}

fn usage_and_prune(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("prune")?;
    stage.build(&context, &[])?.succeeds()?;
    let du = stage.client.buildx(["du"])?.succeeds()?;
    du.says(&["RECLAIMABLE", "Reclaimable:", "Total:"])?;
    let verbose = stage.client.buildx(["du", "--verbose"])?.succeeds()?;
    verbose.says(&[
        "source.local",
        "regular",
        "mount / from exec /bin/sh -c cat /b && echo prune",
        "Usage count:",
    ])?;
    let filtered = stage
        .client
        .buildx(["du", "--verbose", "--filter", "type=source.local"])?
        .succeeds()?;
    filtered
        .says(&["source.local"])?
        .never_says(&["mount / from exec"])?;
    stage
        .client
        .buildx(["prune", "--force", "--all"])?
        .succeeds()?
        .says(&["Total:"])?;
    let du = stage.client.buildx(["du"])?.succeeds()?;
    du.says(&["Total:\t\t0B"])?;
    stage
        .build(&context, &[])?
        .succeeds()?
        .is_run("RUN cat /b")?;
    Ok(())
}
