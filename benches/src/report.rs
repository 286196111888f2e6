//! The report: a line for the terminal and `docs/performance.md`.
//!
//! Invariant: only what lies between the two markers is written; the words around it are people's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::alone::Figure;
use crate::lab::Lab;
use crate::measure::{Footprint, Measured, load};
use crate::rows::Row;

const BEGIN: &str = "<!-- measured: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of measured -->\n";

/// One result for the terminal.
pub(crate) fn line(row: &Row, result: &Result<Measured>) -> String {
    match result {
        Ok(measured) => format!(
            "{:<16} kilnd {:>8}  BuildKit {:>8}  ×{:.2}  ({})",
            row.name,
            seconds(measured.kilnd),
            seconds(measured.moby),
            measured.ratio,
            measured
                .times
                .iter()
                .map(|time| seconds(*time))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Err(error) => format!("{:<16} failed: {error:#}", row.name),
    }
}

/// One figure of kilnd's own for the terminal.
pub(crate) fn figure_line(figure: &Figure, result: &Result<Duration>) -> String {
    match result {
        Ok(time) => format!("{:<16} kilnd {:>8}", figure.name, seconds(*time)),
        Err(error) => format!("{:<16} failed: {error:#}", figure.name),
    }
}

/// What the daemons hold after the rows, for the terminal.
pub(crate) fn weight_line(footprint: &Footprint) -> String {
    format!(
        "{:<16} kilnd {:>8}, idle {:>8}  BuildKit {:>8}, idle {:>8}",
        "memory",
        megabytes(footprint.resident[0]),
        megabytes(footprint.idle[0]),
        megabytes(footprint.resident[1]),
        megabytes(footprint.idle[1])
    )
}

/// Writes the measured part of the report. Rows that weren't measured keep what the report says of them, and so do
/// the words above and the weights below them if not all were measured.
pub(crate) fn write(
    lab: &Lab,
    results: &[(Row, Result<Measured>)],
    alone: &[(Figure, Result<Duration>)],
    floor: Duration,
    footprint: &Footprint,
    complete: bool,
) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("docs/performance.md has lost its first marker")?;
    let (old, after) = rest
        .split_once(END)
        .context("docs/performance.md has lost its last marker")?;
    let old = Old(old);
    let (head, foot) = if complete {
        (render_head(lab, floor), render_foot(lab, footprint))
    } else {
        (old.head().to_owned(), old.foot().to_owned())
    };
    let table = render_rows(results, &old);
    let figures = render_figures(alone, &old);
    fs::write(
        &path,
        format!("{before}{BEGIN}{head}{table}\n{figures}\n{foot}{END}{after}"),
    )?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// What the report says now.
struct Old<'a>(&'a str);

impl<'a> Old<'a> {
    fn head(&self) -> &'a str {
        self.0.split(ROWS).next().unwrap_or_default()
    }

    fn foot(&self) -> &'a str {
        self.0.find(WEIGHTS).map_or("", |at| &self.0[at..])
    }

    /// The line of a row or a figure, with its end.
    fn line(&self, name: &str) -> Option<&'a str> {
        let mut lines = self.0.split_inclusive('\n');
        lines.find(|line| line.split('|').nth(1).map(str::trim) == Some(name))
    }
}

const ROWS: &str = "| row | what | kilnd | BuildKit | times as fast | aim | pairs | load |\n";
const FIGURES: &str = "| kilnd alone | what | | load |\n";
const WEIGHTS: &str = "| | kilnd | dockerd, containerd, shim and runc, which hold the BuildKit |\n";

fn render_head(lab: &Lab, floor: Duration) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "\nAgainst {} with {} (Debian), {cores} cores; the load is the average of a minute at a row's end. The client \
         alone, on a daemon that does nothing: {:.1} ms.\n\n",
        lab.tools.version("dockerd"),
        lab.tools.version("containerd"),
        floor.as_secs_f64() * 1e3,
    )
}

fn render_rows(results: &[(Row, Result<Measured>)], old: &Old<'_>) -> String {
    let mut text = format!("{ROWS}|---|---|--:|--:|--:|--:|--:|--:|\n");
    for row in crate::rows::all() {
        let measured = results.iter().find(|(other, _)| other.name == row.name);
        let line = match measured {
            Some((_, Ok(measured))) => format!(
                "| {} | {} | {} | {} | **{:.2}** | {} | {} | {} |\n",
                row.name,
                row.what,
                seconds(measured.kilnd),
                seconds(measured.moby),
                measured.ratio,
                row.aim,
                measured.pairs,
                measured.load
            ),
            Some((_, Err(error))) => format!(
                "| {} | {} | failed: {} | | | {} | | |\n",
                row.name,
                row.what,
                reason(error),
                row.aim
            ),
            None => old.line(row.name).unwrap_or_default().to_owned(),
        };
        text.push_str(&line);
    }
    text
}

fn render_figures(alone: &[(Figure, Result<Duration>)], old: &Old<'_>) -> String {
    let mut text = format!("{FIGURES}|---|---|--:|--:|\n");
    for figure in crate::alone::ALL {
        let taken = alone.iter().find(|(other, _)| other.name == figure.name);
        let found = match taken {
            Some((_, Ok(time))) => seconds(*time),
            Some((_, Err(error))) => format!("failed: {}", reason(error)),
            None => {
                text += old.line(figure.name).unwrap_or_default();
                continue;
            }
        };
        let line = format!(
            "| {} | {} | {found} | {} |\n",
            figure.name,
            figure.what,
            load()
        );
        text.push_str(&line);
    }
    text
}

fn render_foot(lab: &Lab, footprint: &Footprint) -> String {
    format!(
        "{WEIGHTS}|---|--:|--:|\n| start until the socket accepts | {} | – |\n| binaries | {} | {} |\n\
         | memory right after the runs (PSS with children) | {} | {} |\n\
         | the same when idle for 15 s | {} | {} |\n\n",
        seconds(lab.start_of_kilnd),
        megabytes(footprint.kilnd_binary),
        megabytes(footprint.moby_binaries),
        megabytes(footprint.resident[0]),
        megabytes(footprint.resident[1]),
        megabytes(footprint.idle[0]),
        megabytes(footprint.idle[1])
    )
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
