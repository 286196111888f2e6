//! The report: a line for the terminal and `docs/performance.md`.
//!
//! Invariant: only what lies between the two markers is written; the words around it are people's.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::alone::Figure;
use crate::lab::Lab;
use crate::measure::{Footprint, Measured};
use crate::rows::Row;

const BEGIN: &str = "<!-- measured: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of measured -->\n";

/// One result for the terminal.
pub(crate) fn line(row: &Row, result: &Result<Measured>) -> String {
    match result {
        Ok(measured) => format!(
            "{:<12} kilnd {:>8}  BuildKit {:>8}  ×{:.2}",
            row.name,
            seconds(measured.kilnd),
            seconds(measured.moby),
            measured.ratio
        ),
        Err(error) => format!("{:<12} failed: {error:#}", row.name),
    }
}

/// One figure of kilnd's own for the terminal.
pub(crate) fn figure_line(figure: &Figure, result: &Result<Duration>) -> String {
    match result {
        Ok(time) => format!("{:<12} kilnd {:>8}", figure.name, seconds(*time)),
        Err(error) => format!("{:<12} failed: {error:#}", figure.name),
    }
}

/// Writes the measured part of the report, if all rows were measured; else prints it only.
pub(crate) fn write(
    lab: &Lab,
    results: &[(Row, Result<Measured>)],
    alone: &[(Figure, Result<Duration>)],
    floor: Duration,
    footprint: &Footprint,
    complete: bool,
) -> Result<()> {
    let table = render(lab, results, alone, floor, footprint)?;
    if !complete {
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("docs/performance.md has lost its first marker")?;
    let (_, after) = rest
        .split_once(END)
        .context("docs/performance.md has lost its last marker")?;
    fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

fn render(
    lab: &Lab,
    results: &[(Row, Result<Measured>)],
    alone: &[(Figure, Result<Duration>)],
    floor: Duration,
    footprint: &Footprint,
) -> Result<String> {
    let mut text = String::new();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(
        text,
        "
Against {} with {} (Debian), {cores} cores, load {load} at the end of the runs. The client alone, on a daemon \
         that does nothing: {:.1} ms.
",
        lab.tools.version("dockerd"),
        lab.tools.version("containerd"),
        floor.as_secs_f64() * 1e3,
    )?;
    writeln!(
        text,
        "| row | what | kilnd | BuildKit | times as fast | aim | pairs |"
    )?;
    writeln!(text, "|---|---|--:|--:|--:|--:|--:|")?;
    for (row, result) in results {
        match result {
            Ok(measured) => writeln!(
                text,
                "| {} | {} | {} | {} | **{:.2}** | {} | {} |",
                row.name,
                row.what,
                seconds(measured.kilnd),
                seconds(measured.moby),
                measured.ratio,
                row.aim,
                measured.pairs
            )?,
            Err(error) => writeln!(
                text,
                "| {} | {} | failed: {} | | | {} | |",
                row.name,
                row.what,
                reason(error),
                row.aim
            )?,
        }
    }
    writeln!(text, "\n| kilnd alone | what | |\n|---|---|--:|")?;
    for (figure, result) in alone {
        let found = match result {
            Ok(time) => seconds(*time),
            Err(error) => format!("failed: {}", reason(error)),
        };
        writeln!(text, "| {} | {} | {found} |", figure.name, figure.what)?;
    }
    writeln!(
        text,
        "\n| | kilnd | dockerd, containerd, shim and runc, which hold the BuildKit |"
    )?;
    writeln!(text, "|---|--:|--:|")?;
    writeln!(
        text,
        "| start until the socket accepts | {} | – |",
        seconds(lab.start_of_kilnd)
    )?;
    writeln!(
        text,
        "| binaries | {} | {} |",
        megabytes(footprint.kilnd_binary),
        megabytes(footprint.moby_binaries)
    )?;
    writeln!(
        text,
        "| memory after the runs (PSS with children) | {} | {} |\n",
        megabytes(footprint.kilnd_resident),
        megabytes(footprint.moby_resident)
    )?;
    Ok(text)
}

/// An error's first line, for a cell of a table.
fn reason(error: &anyhow::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().replace('|', "/")
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
