//! The log form: each line says which step it is of, and steps take turns.
//!
//! ```text
//! #5 [2/2] RUN make
//! #5 0.120 cc -c main.c
//! #5 ...
//!
//! #4 [internal] load build context
//! #4 transferring context: 2.4MB done
//! #4 DONE 0.1s
//! ```
//!
//! A step that ended is printed at once. Of those that work, one has the floor; it loses it when it has
//! nothing to say and others have, or when others have waited for [`PATIENCE`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;

use super::sizes::bytes;
use super::trace::{Moment, Outcome, Part, Trace, Vertex, seconds};

/// How long a working step may keep others from being heard, in nanoseconds.
const PATIENCE: i64 = 5_000_000_000;
/// A part that moves on is printed when it gained this share, or after so long.
const LEAST_SHARE: f64 = 0.05;
const LEAST_TIME: i64 = 5_000_000_000;
/// A failed step shows so many of its last lines again.
const LAST_LINES: usize = 10;

/// What of a vertex was printed.
#[derive(Debug, Default)]
struct Printed {
    number: usize,
    lines: usize,
    /// Characters of the line after those.
    partial: usize,
    warnings: usize,
    parts: HashMap<String, (i64, Moment)>,
    last: VecDeque<String>,
}

/// Prints updates as they come.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    printed: BTreeMap<usize, Printed>,
    current: Option<usize>,
    /// Since when the current one has the floor.
    since: Moment,
    /// Vertices with news, and since when.
    waiting: BTreeMap<usize, Moment>,
    any: bool,
}

impl Plain {
    /// The line above all steps.
    pub(crate) fn heading(text: &str) -> String {
        format!("#0 {text}\n\n")
    }

    /// Notes that these vertices have news.
    pub(crate) fn note(&mut self, touched: Vec<usize>, now: Moment) {
        for index in touched {
            self.waiting.entry(index).or_insert(now);
        }
    }

    /// What is to be printed at `now`.
    pub(crate) fn print(&mut self, trace: &mut Trace, now: Moment) -> String {
        let mut out = String::new();
        let mut ended: Vec<(Moment, usize)> = self
            .waiting
            .keys()
            .filter_map(|&index| Some((trace.get(index).ended()?, index)))
            .collect();
        ended.sort_unstable();
        // The one that has the floor first, so that nobody interrupts its end.
        ended.sort_by_key(|(_, index)| Some(*index) != self.current);
        for (_, index) in ended {
            self.step(&mut out, trace, index, now);
        }
        let longest = self.waiting.iter().min_by_key(|(_, since)| **since);
        let longest = longest.map(|(&index, &since)| (index, since));
        match (self.current, longest) {
            (Some(current), Some((index, since))) => {
                let has_news = self.waiting.contains_key(&current);
                if has_news && (index == current || now - since.max(self.since) < PATIENCE) {
                    self.step(&mut out, trace, current, now);
                } else if has_news || now - since >= PATIENCE {
                    self.step(&mut out, trace, index, now);
                }
            }
            (None, Some((index, _))) => self.step(&mut out, trace, index, now),
            (_, None) => {}
        }
        out
    }

    /// Everything that is left, at the end.
    pub(crate) fn finish(&mut self, trace: &mut Trace, now: Moment) -> String {
        let mut out = self.print(trace, now);
        while let Some((&index, _)) = self.waiting.iter().next() {
            self.step(&mut out, trace, index, now);
        }
        if let Some(current) = self.current
            && trace.get(current).open_line
        {
            out.push('\n');
        }
        for vertex in trace.failures() {
            let number = self.printed.iter().find(|(index, _)| {
                let known = trace.get(**index);
                std::ptr::eq(known, vertex)
            });
            let last: Vec<String> = number
                .map(|(_, printed)| printed.last.iter().cloned().collect())
                .unwrap_or_default();
            out.push_str(&super::failure(vertex, &last));
        }
        out
    }

    fn step(&mut self, out: &mut String, trace: &mut Trace, index: usize, now: Moment) {
        self.waiting.remove(&index);
        let next = self.printed.len() + 1;
        if self.current != Some(index) {
            if let Some(before) = self.current {
                let vertex = trace.get(before);
                let printed = self.printed.entry(before).or_default();
                if vertex.open_line && printed.partial > 0 {
                    out.push('\n');
                }
                // An open line begins anew when it goes on.
                printed.partial = 0;
                let _ = writeln!(out, "#{} ...", printed.number);
            }
            if std::mem::replace(&mut self.any, true) {
                out.push('\n');
            }
            self.since = now;
        }
        let printed = self.printed.entry(index).or_default();
        if printed.number == 0 {
            printed.number = next;
        }
        let vertex = trace.get_mut(index);
        if self.current != Some(index) {
            let _ = writeln!(out, "#{} {}", printed.number, vertex.name);
        }
        self.current = Some(index);
        let open = parts(out, printed, vertex);
        for warning in &vertex.warnings[printed.warnings..] {
            let text = String::from_utf8_lossy(&warning.short);
            let _ = writeln!(out, "#{} WARN: {text}", printed.number);
        }
        printed.warnings = vertex.warnings.len();
        lines(out, printed, vertex);
        if vertex.ended().is_some() && !open {
            self.current = None;
            end(out, printed, vertex, now);
        }
        printed.lines = printed.lines.saturating_sub(vertex.trim());
    }
}

/// Prints the parts that have news worth printing; whether one is open.
fn parts(out: &mut String, printed: &mut Printed, vertex: &mut Vertex) -> bool {
    let mut open = false;
    for part in vertex.parts.iter_mut().filter(|part| part.news) {
        if part.completed.is_none()
            && let Some((current, at)) = printed.parts.get(&part.id)
        {
            let share = if part.total > 0 {
                (part.current - current) as f64 / part.total as f64
            } else {
                0.0
            };
            if share < LEAST_SHARE && part.at - at < LEAST_TIME {
                continue;
            }
        }
        part.news = false;
        printed
            .parts
            .insert(part.id.clone(), (part.current, part.at));
        open |= part.completed.is_none();
        let _ = writeln!(out, "#{} {}{}", printed.number, part.id, amounts(part));
    }
    open
}

fn amounts(part: &Part) -> String {
    let mut text = String::new();
    if part.total != 0 {
        let _ = write!(text, " {} / {}", bytes(part.current), bytes(part.total));
    } else if part.current != 0 {
        let _ = write!(text, " {}", bytes(part.current));
    }
    if let Some(started) = part.started {
        let taken = seconds(part.completed.unwrap_or(part.at) - started);
        if taken > 0.01 {
            let _ = write!(text, " {taken:.1}s");
        }
    }
    if part.completed.is_some() {
        text.push_str(" done");
    }
    text
}

fn lines(out: &mut String, printed: &mut Printed, vertex: &Vertex) {
    let count = vertex.lines.len();
    for at in printed.lines..count {
        let line = &vertex.lines[at];
        let is_open = at + 1 == count && vertex.open_line;
        if printed.partial == 0 {
            let _ = write!(out, "#{} ", printed.number);
        }
        out.push_str(line.get(printed.partial..).unwrap_or_default());
        if is_open {
            printed.partial = line.len();
            printed.lines = at;
            return;
        }
        out.push('\n');
        printed.partial = 0;
        printed.lines = at + 1;
        printed.last.push_back(line.clone());
        if printed.last.len() > LAST_LINES {
            printed.last.pop_front();
        }
    }
}

fn end(out: &mut String, printed: &mut Printed, vertex: &Vertex, now: Moment) {
    if vertex.open_line && printed.partial > 0 {
        out.push('\n');
        printed.partial = 0;
        printed.lines = vertex.lines.len();
        printed.last.extend(vertex.lines.last().cloned());
    }
    let number = printed.number;
    let _ = match vertex.outcome() {
        Outcome::Canceled => writeln!(out, "#{number} CANCELED"),
        Outcome::Failed => writeln!(out, "#{number} ERROR: {}", vertex.error),
        Outcome::Cached => writeln!(out, "#{number} CACHED"),
        Outcome::Done => writeln!(out, "#{number} DONE {:.1}s", seconds(vertex.duration(now))),
    };
}
