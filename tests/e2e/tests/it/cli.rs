//! The `kiln` command, on both daemons.
//!
//! | file | scenarios |
//! |---|---|
//! | `build.rs` | displays, errors, outputs, secrets, frontends, cancellation |
//! | `contexts.rs` | where the files of a build come from; keys and proxies |
//! | `docker.rs` | a real Docker to load into |
//! | `images.rs` | named images and archives |
//! | `logins.rs` | credentials: a helper, a real keyring, text |
//! | `records.rs` | the cache, its mounts, and the records of builds |
//! | `terminal.rs` | what a build draws on a terminal |

use std::io::{Seek as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::{OnBed, Scenario};
use kiln_harness::{Run, Stage};
use serde_json::Value;

mod build;
mod contexts;
mod docker;
mod images;
mod logins;
mod records;
mod terminal;

const ONE_CLIENT: &str = "the client isn't buildx";
const NOT_HERE: &str = "whom the client asks for passwords is no business of the daemon";
const NO_NAMES: &str = "a BuildKit keeps no named images";
const NOT_ALONE: &str = "the shared daemon's cache is of other scenarios too";

type Test = fn(&mut Stage<'_>) -> Result<()>;

const fn both(name: &'static str, test: Test) -> Scenario {
    Scenario::new(name, test).new_buildx_only(ONE_CLIENT)
}

const fn ours(name: &'static str, test: Test, reason: &'static str) -> Scenario {
    both(name, test).kilnd_only(reason)
}

pub(crate) const ALL: &[Scenario] = &[
    both("cli_builds", build::builds),
    both("cli_shows_errors", build::shows_errors),
    both("cli_writes_outputs", build::writes_outputs),
    both(
        "cli_gives_secrets_and_contexts",
        build::gives_secrets_and_contexts,
    ),
    both("cli_keeps_local_caches", build::keeps_local_caches),
    both("cli_asks_frontends", build::asks_frontends),
    both("cli_cancels", build::cancels),
    both("cli_obeys_source_policies", build::obeys_source_policies),
    both("cli_draws_at_each_size", terminal::draws_at_each_size),
    both("cli_draws_failures", terminal::draws_failures),
    both("cli_is_interrupted", terminal::is_interrupted),
    both("cli_follows_the_size", terminal::follows_the_size),
    both("cli_looks_like_buildx", terminal::looks_like_buildx),
    both("cli_takes_contexts", contexts::takes_contexts),
    both("cli_takes_remote_contexts", contexts::takes_remote_contexts),
    both("cli_serves_ssh_keys", contexts::serves_ssh_keys),
    both("cli_gives_proxies", contexts::gives_proxies),
    ours(
        "cli_keeps_logins_in_a_keyring",
        logins::keeps_logins_in_a_keyring,
        NOT_HERE,
    ),
    ours(
        "cli_keeps_logins_with_a_helper",
        logins::keeps_logins_with_a_helper,
        NOT_HERE,
    ),
    ours("cli_keeps_images", images::keeps_images, NO_NAMES),
    ours("cli_moves_archives", images::moves_archives, NO_NAMES),
    ours(
        "cli_shows_cache_and_builds",
        records::shows_cache_and_builds,
        NOT_ALONE,
    ),
    ours(
        "cli_looks_after_cache_mounts",
        records::looks_after_cache_mounts,
        NOT_ALONE,
    ),
    ours("cli_plans_and_prunes", records::plans_and_prunes, NOT_ALONE),
    ours("cli_explains_builds", records::explains_builds, NOT_ALONE),
    ours(
        "cli_cancels_anybodys_build",
        records::cancels_anybodys_build,
        NOT_ALONE,
    ),
    ours(
        "cli_installs_a_builder",
        docker::installs_a_builder,
        "one daemon is enough for a file of buildx",
    ),
];

pub(crate) const ON_BED: &[(&str, OnBed)] = &[
    ("cli_loads_into_docker", docker::loads_into_docker),
    (
        "cli_loads_into_docker_over_tls",
        docker::loads_into_docker_over_tls,
    ),
];

/// A command, the exit code that it should have, and what it should say.
type Row<'a> = (&'a [&'a str], i32, &'a [&'a str]);

/// Runs them one after the other.
fn rows(stage: &Stage<'_>, rows: &[Row<'_>]) -> Result<()> {
    for (arguments, code, words) in rows {
        let ended = run(&mut stage.kiln(arguments)?)?;
        ensure!(
            ended.code == Some(*code),
            "{arguments:?}: want {code}\n{}",
            ended.transcript()
        );
        ended.says(words)?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<Run> {
    Run::of(command)
}

/// Runs a command with this on its standard input: its exit code and all that it says.
fn piped(command: &mut Command, input: &[u8]) -> Result<(Option<i32>, String)> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input)?;
    file.rewind()?;
    let output = command.stdin(Stdio::from(file)).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn piped_says(command: &mut Command, input: &[u8], code: i32, words: &str) -> Result<()> {
    let (ended, said) = piped(command, input)?;
    ensure!(
        ended == Some(code) && said.contains(words),
        "{ended:?}: {said}"
    );
    Ok(())
}

fn json(stage: &Stage<'_>, arguments: &[&str]) -> Result<Value> {
    let run = run(&mut stage.kiln(arguments)?)?.succeeds()?;
    serde_json::from_str(&run.stdout).with_context(|| run.stdout.clone())
}
