//! The live form: a region at the end of the terminal that is drawn again and again.
//!
//! ```text
//! [+] Building 1.8s (3/5)                                      kiln:default
//!  => [internal] load build definition                                 0.0s
//!  => [2/2] RUN make                                                   1.6s
//!  => => # cc -c main.c
//! ```
//!
//! Invariants: a frame never has more lines than the terminal; no line is wider; what a step printed
//! can't act on the terminal.

use std::fmt::Write as _;

use super::screen::HEIGHT;
use super::sizes::bytes;
use super::trace::{Moment, Outcome, Trace, Vertex, seconds};

/// Steps that took less are shown as 0.0.
const NOTHING: f64 = 0.05;
/// Narrower and there is no room for names.
const LEAST_NAME: usize = 12;

/// The terminal's size and what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) colors: bool,
}

/// Draws frames.
#[derive(Debug, Default)]
pub(crate) struct Tty {
    drawn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Ended,
    Warning,
    Failed,
    Faint,
}

struct Line {
    text: String,
    look: Look,
    working: bool,
}

impl Tty {
    /// The sequence that draws the state at `now` in place of the last frame.
    pub(crate) fn frame(
        &mut self,
        trace: &Trace,
        now: Moment,
        terminal: Terminal,
        label: &str,
        last: bool,
    ) -> String {
        let mut lines = vec![heading(trace, now, terminal, label, last)];
        let room = (!last).then(|| terminal.height.saturating_sub(2));
        lines.extend(fit(jobs(trace, now, terminal, room), room));
        let mut out = String::from("\x1b[?25l");
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        out.push('\r');
        self.drawn = lines.len();
        for line in lines {
            let code = match line.look {
                Look::Ended => "36",
                Look::Warning => "33",
                Look::Failed => "31",
                Look::Faint => "2",
                Look::Plain => "",
            };
            if terminal.colors && !code.is_empty() {
                let _ = writeln!(out, "\x1b[{code}m{}\x1b[0m\x1b[K", line.text);
            } else {
                let _ = writeln!(out, "{}\x1b[K", line.text);
            }
        }
        out.push_str("\x1b[J\x1b[?25h");
        out
    }
}

fn heading(trace: &Trace, now: Moment, terminal: Terminal, label: &str, last: bool) -> Line {
    let (all, ended) = trace.counts();
    let state = if last && ended == all && ended > 0 {
        " FINISHED"
    } else {
        ""
    };
    let elapsed = seconds(trace.elapsed(now));
    let text = format!("[+] Building {elapsed:.1}s ({ended}/{all}){state}");
    Line {
        text: align(&text, label, terminal.width),
        look: Look::Plain,
        working: true,
    }
}

fn jobs(trace: &Trace, now: Moment, terminal: Terminal, room: Option<usize>) -> Vec<Line> {
    let daemons = trace.daemons(now);
    let working = trace
        .shown()
        .filter(|(_, vertex)| vertex.ended().is_none())
        .count();
    // Output is shown of as many steps as there is room for, those that wrote last.
    let mut screens = room.map_or(0, |room| room.saturating_sub(working) / (HEIGHT + 1));
    let mut with_screen: Vec<usize> = Vec::new();
    let talkative = |vertex: &Vertex| vertex.ended().is_none() && !vertex.screen.is_empty();
    for (index, vertex) in trace.shown() {
        if screens > 0 && talkative(vertex) {
            with_screen.push(index);
            screens -= 1;
        }
    }
    let mut lines = Vec::new();
    for (index, vertex) in trace.shown() {
        job(&mut lines, vertex, daemons, terminal.width);
        if with_screen.contains(&index) {
            for text in vertex.screen.tail() {
                lines.push(Line {
                    text: cut(&format!(" => => # {text}"), terminal.width),
                    look: Look::Faint,
                    working: true,
                });
            }
        }
    }
    lines
}

fn job(lines: &mut Vec<Line>, vertex: &Vertex, now: Moment, width: usize) {
    let (outcome, working) = (vertex.outcome(), vertex.ended().is_none());
    let name = vertex.name.replace(['\t', '\n'], " ");
    let (prefix, look) = match outcome {
        Outcome::Canceled => ("CANCELED ", Look::Warning),
        Outcome::Failed => ("ERROR ", Look::Failed),
        Outcome::Cached => ("CACHED ", Look::Ended),
        Outcome::Done => ("", Look::Ended),
    };
    lines.extend(line(
        &format!("{prefix}{name}"),
        "",
        seconds(vertex.duration(now)),
        if working { Look::Plain } else { look },
        working,
        width,
    ));
    for part in vertex.parts.iter().filter(|part| part.started.is_some()) {
        let amounts = match (part.current, part.total) {
            (0, 0) => String::new(),
            (current, 0) => bytes(current),
            (current, total) => format!("{} / {}", bytes(current), bytes(total)),
        };
        let taken = part.completed.unwrap_or(now) - part.started.unwrap_or(now);
        let open = part.completed.is_none();
        lines.extend(line(
            &format!("=> {}", part.id),
            &amounts,
            seconds(taken),
            if open { Look::Plain } else { Look::Ended },
            open && working,
            width,
        ));
    }
    for warning in &vertex.warnings {
        let text = format!("WARN: {}", String::from_utf8_lossy(&warning.short));
        lines.extend(line(&text, "", 0.0, Look::Warning, false, width));
    }
}

fn line(
    name: &str,
    amounts: &str,
    taken: f64,
    look: Look,
    working: bool,
    width: usize,
) -> Option<Line> {
    let taken = if taken < NOTHING { 0.0 } else { taken };
    let timer = format!("{taken:.1}s");
    let room = width.checked_sub(4 + timer.len() + 1)?;
    if room < LEAST_NAME {
        return None;
    }
    let shown = if amounts.is_empty() || amounts.len() + 20 > room {
        cut(name, room)
    } else {
        format!("{} {amounts}", cut(name, room - amounts.len() - 1))
    };
    Some(Line {
        text: align(&format!(" => {shown}"), &timer, width),
        look,
        working,
    })
}

/// Keeps what fits: the newest lines, but those of work that goes on before those that ended.
fn fit(lines: Vec<Line>, room: Option<usize>) -> Vec<Line> {
    let Some(room) = room.filter(|room| lines.len() > *room) else {
        return lines;
    };
    let mut excess = lines.len() - room;
    let mut kept: Vec<Line> = lines
        .into_iter()
        .filter(|line| {
            let drop = excess > 0 && !line.working;
            excess -= usize::from(drop);
            !drop
        })
        .collect();
    kept.drain(..excess);
    kept
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((end, _)) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

fn align(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(right.chars().count() + 1);
    let left = cut(left, room);
    let gap = room.saturating_sub(left.chars().count()) + 1;
    cut(&format!("{left}{:gap$}{right}", ""), width)
        .trim_end()
        .to_owned()
}
