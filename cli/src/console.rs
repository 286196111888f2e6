//! Standard output and standard error: data here, words there.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::ValueEnum;
use serde_json::Value;

use crate::failure::Outcome;

/// The form of data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one JSON document
    Json,
}

/// A line for people, on standard error.
pub(crate) fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    // Nobody is left to be told that nobody listens.
    let _ = writeln!(err, "{text}");
}

/// Data, on standard output. A reader that went away is no failure.
pub(crate) fn print(text: &str) -> Outcome<()> {
    write(format!("{text}\n").as_bytes())
}

/// Bytes, on standard output.
pub(crate) fn write(bytes: &[u8]) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// A document, on standard output.
pub(crate) fn json(value: &Value) -> Outcome<()> {
    print(&format!("{value:#}"))
}

/// Columns as wide as their cells.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned).to_vec()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.map(|cell| cell.replace(['\n', '\t'], " ")).to_vec());
    }

    pub(crate) fn print(&self) -> Outcome<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}   ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        write(text.as_bytes())
    }
}

/// Cuts a text for a table.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The first digits of a digest, without its algorithm.
pub(crate) fn short_digest(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

/// Asks a question that a `y` answers; without a terminal the answer is no.
pub(crate) fn confirm(question: &str) -> Outcome<bool> {
    use std::io::{BufRead as _, IsTerminal as _};
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    drop(err);
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
