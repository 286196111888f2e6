//! What people see when something is wrong: where, why, and what was printed before.

use anyhow::{Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Stage};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("syntax_errors_show_the_line", syntax_errors_show_the_line),
    Scenario::new(
        "a_failing_run_shows_code_log_and_line",
        a_failing_run_shows_code_log_and_line,
    ),
    Scenario::new("a_missing_source_is_named", a_missing_source_is_named),
    Scenario::new("an_ignored_source_says_so", an_ignored_source_says_so),
    Scenario::new("an_unknown_image_is_named", an_unknown_image_is_named),
    Scenario::new("unknown_stages_and_commands", unknown_stages_and_commands),
    Scenario::new("checks_warn", checks_warn).new_buildx_only("0.13 doesn't know --call"),
    Scenario::new("one_failure_ends_the_others", one_failure_ends_the_others),
    Scenario::new("no_entitlement_no_privilege", no_entitlement_no_privilege)
        .kilnd_only("the frontend that is built into the real one doesn\'t know --security"),
    Scenario::new("missing_dockerfile", missing_dockerfile),
];

fn syntax_errors_show_the_line(stage: &mut Stage<'_>) -> Result<()> {
    let cases = [
        (
            "FROM scratch\nCOPPY a /\n",
            &[
                "Dockerfile:2",
                "   2 | >>> COPPY a /",
                "unknown instruction: COPPY (did you mean COPY?)",
            ][..],
        ),
        (
            "RUN echo\n",
            &["Dockerfile:1", "no build stage in current context"],
        ),
        (
            "FROM scratch\nENV\n",
            &["Dockerfile:2", "ENV requires at least one argument"],
        ),
        (
            "FROM busybox\nRUN <<EOF\necho\n",
            &["Dockerfile:2", "unterminated heredoc"],
        ),
        (
            "FROM busybox\nRUN --mount=type=nothing true\n",
            &["Dockerfile:2", "unsupported mount type \"nothing\""],
        ),
        (
            "FROM busybox\nCOPY --nothing a /\n",
            &["Dockerfile:2", "unknown flag: --nothing"],
        ),
        ("", &["the Dockerfile cannot be empty"]),
    ];
    for (dockerfile, texts) in cases {
        stage
            .build(&Context::new(dockerfile)?, &[])?
            .fails()?
            .says(texts)?;
    }
    Ok(())
}

fn a_failing_run_shows_code_log_and_line(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\n\nRUN echo to-stdout; echo to-stderr >&2; \\\n    exit 42\nRUN echo unreachable\n",
    )?;
    let run = stage.build(&context, &[])?.fails()?;
    run.says(&[
        "to-stdout",
        "to-stderr",
        "ERROR: process \"/bin/sh -c echo to-stdout; echo to-stderr >&2;     exit 42\" did not complete successfully: \
         exit code: 42",
        "Dockerfile:3",
        ">>> RUN echo to-stdout; echo to-stderr >&2; \\",
    ])?;
    run.never_says(&["[3/3] RUN"])?;
    let missing = Context::new("FROM busybox\nRUN [\"/no/such/program\"]\n")?;
    stage
        .build(&missing, &[])?
        .fails()?
        .says(&["/no/such/program", "Dockerfile:2"])?;
    let killed = Context::new("FROM busybox\nRUN sh -c 'kill -9 $$' || exit $?\n")?;
    stage
        .build(&killed, &[])?
        .fails()?
        .says(&["exit code: 137"])?;
    Ok(())
}

fn a_missing_source_is_named(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS a\nFROM scratch\nCOPY there /\nCOPY some/where/missing.txt /\n",
    )?;
    context.put("there", "x")?;
    stage.build(&context, &[])?.fails()?.says(&[
        "/some/where/missing.txt",
        "not found",
        "Dockerfile:4",
    ])?;
    let stages =
        Context::new("FROM busybox AS a\nFROM scratch\nCOPY --from=a /missing-in-stage /\n")?;
    stage.build(&stages, &[])?.fails()?.says(&[
        "/missing-in-stage",
        "not found",
        "Dockerfile:3",
    ])?;
    // A wildcard that matches nothing is an error too, and says so.
    let wildcard = Context::new("FROM scratch\nCOPY *.nothing /\n")?;
    let run = stage.build(&wildcard, &[])?;
    ensure!(
        run.code != Some(0) || run.stderr.contains("COPY *.nothing"),
        "{}",
        run.transcript()
    );
    Ok(())
}

fn an_ignored_source_says_so(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY hidden.txt /\n")?;
    context
        .put("hidden.txt", "x")?
        .put(".dockerignore", "*.txt\n")?;
    let run = stage.build(&context, &[])?.fails()?;
    run.says(&["/hidden.txt", "not found", "Dockerfile:2"])?;
    if stage.engine.is_kilnd() {
        run.says(&[".dockerignore"])?;
    }
    Ok(())
}

fn an_unknown_image_is_named(stage: &mut Stage<'_>) -> Result<()> {
    let reference = stage.bed.registry.image("no/such:image");
    let context = Context::new(&format!("FROM {reference}\nRUN true\n"))?;
    let run = stage.build(&context, &[])?.fails()?;
    run.says(&[
        "Dockerfile:1",
        "failed to resolve source metadata for",
        &reference,
        "not found",
    ])?;
    let nobody = Context::new("FROM 127.0.0.1:9/nobody/listens\n")?;
    stage
        .build(&nobody, &[])?
        .fails()?
        .says(&["127.0.0.1:9/nobody/listens", "refused"])?;
    let invalid = Context::new("FROM UPPER/Case\n")?;
    stage
        .build(&invalid, &[])?
        .fails()?
        .says(&["must be lowercase"])?;
    Ok(())
}

fn unknown_stages_and_commands(stage: &mut Stage<'_>) -> Result<()> {
    let cycle = Context::new(
        "FROM busybox AS a\nCOPY --from=b /x /\nFROM busybox AS b\nCOPY --from=a /x /\n",
    )?;
    stage
        .build(&cycle, &[])?
        .fails()?
        .says(&["circular dependency detected on stage"])?;
    let own = Context::new("FROM busybox AS a\nCOPY --from=a /x /\n")?;
    stage
        .build(&own, &[])?
        .fails()?
        .says(&["circular dependency detected on stage: a"])?;
    Ok(())
}

fn checks_warn(stage: &mut Stage<'_>) -> Result<()> {
    let context =
        Context::new("FROM scratch as base\nFROM base\nMAINTAINER me\nWORKDIR relative\n")?;
    let run = stage.build(&context, &[])?.succeeds()?;
    run.says(&[
        "FromAsCasing",
        "MaintainerDeprecated",
        "WorkdirRelativePath",
    ])?;
    let run = stage.build(&context, &["--call", "check"])?.fails()?;
    run.says(&[
        "FromAsCasing",
        "Dockerfile:1",
        "MaintainerDeprecated",
        "Dockerfile:3",
    ])?;
    Ok(())
}

fn one_failure_ends_the_others(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.seconds(30);
    let context = Context::new(&format!(
        "FROM busybox AS slow\nRUN sleep {seconds}\nFROM busybox AS bad\nRUN sleep 0.3; exit 9\nFROM scratch\nCOPY --from=slow \
         /x /\nCOPY --from=bad /x /\n"
    ))?;
    let run = stage.build(&context, &[])?.fails()?;
    run.says(&["exit code: 9"])?;
    ensure!(run.elapsed.as_secs() < 10, "{}", run.transcript());
    let gone = || kiln_harness::processes_with_argument(&seconds).is_empty();
    kiln_harness::within(
        "the slow step ends",
        std::time::Duration::from_secs(2),
        gone,
    )
}

fn no_entitlement_no_privilege(stage: &mut Stage<'_>) -> Result<()> {
    let context =
        Context::new("FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status\n")?;
    stage
        .build(&context, &[])?
        .fails()?
        .says(&["security.insecure is not allowed"])?;
    Ok(())
}

fn missing_dockerfile(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\n")?;
    stage
        .build(&context, &["-f", "No.Dockerfile"])?
        .fails()?
        .says(&["No.Dockerfile", "no such file"])?;
    Ok(())
}
