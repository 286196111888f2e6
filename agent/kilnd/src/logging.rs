//! Log lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::settings::Settings;

/// Names one level for all crates, or a list of targets with levels.
const FILTER: &str = "KILN_LOG";

/// The word on the kernel's command line that makes a guest say more.
const DEBUG_WORD: &str = "kiln.debug";

/// Starts logging on a guest's console. Called once.
pub(crate) fn start_guest() -> anyhow::Result<()> {
    let words = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let debug = words.split_whitespace().any(|word| word == DEBUG_WORD);
    let level = if debug {
        "kiln=debug,kilnd=debug,info"
    } else {
        "info"
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(expand(level))?)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// Starts logging. Called once.
pub(crate) fn start(settings: &Settings) -> anyhow::Result<()> {
    let level = if settings.trace {
        "kiln=trace,kilnd=trace,info"
    } else if settings.debug {
        "kiln=debug,kilnd=debug,info"
    } else {
        "info"
    };
    let filter = match std::env::var(FILTER) {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter)?,
        _ => EnvFilter::try_new(expand(level))?,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if settings.json_log {
        lines.json().try_init()
    } else {
        lines.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// `kiln=LEVEL` for every crate of Kiln's: filters go by crate, and have no wildcards.
fn expand(level: &str) -> String {
    let Some(level_of_kiln) = level.split(',').find_map(|part| part.strip_prefix("kiln=")) else {
        return level.to_owned();
    };
    let crates = [
        "cache",
        "content",
        "control",
        "dockerfile",
        "engine",
        "executor",
        "exporter",
        "filesync",
        "gateway",
        "gc",
        "history",
        "link",
        "llb",
        "mounts",
        "ops",
        "progress",
        "registry",
        "remotecache",
        "session",
        "snapshot",
        "solver",
        "source",
        "store",
        "sys",
        "telemetry",
    ];
    let all: Vec<String> = crates
        .iter()
        .map(|name| format!("kiln_{name}={level_of_kiln}"))
        .chain([format!("kilnd={level_of_kiln}"), "info".to_owned()])
        .collect();
    all.join(",")
}
