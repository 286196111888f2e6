//! The live form: a region at the end of the terminal that is drawn again and again.
//!
//! ```text
//! [+] Building 1.8s (3/5)                                      kiln:default
//!  => [internal] load build definition                                 0.0s
//!  => [2/2] RUN make                                                   1.6s
//!  => => # cc -c main.c
//! ```
//!
//! Invariants: a frame never has more lines than the terminal; no line is wider; what a step printed, or is
//! called, can't act on the terminal; on a narrow terminal the state outlives the builder's name.

use std::fmt::Write as _;

use super::columns::{align, clean, cut, cut_start, width};
use super::screen::HEIGHT;
use super::sizes::bytes;
use super::trace::{Moment, Outcome, Trace, Vertex, seconds};

/// Steps that took less are shown as 0.0.
const NOTHING: f64 = 0.05;
/// Narrower and there is no room for names.
const LEAST_NAME: usize = 8;
/// Of a builder's name less says nothing.
const LEAST_LABEL: usize = 8;

/// The terminal's size and what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) colors: bool,
    /// When it gets narrower it breaks the lines that are on it, as nearly all do today.
    pub(crate) breaks_lines: bool,
}

/// Draws frames.
#[derive(Debug, Default)]
pub(crate) struct Tty {
    /// The widths of the last frame's lines.
    drawn: Vec<usize>,
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
        let above = self.height(terminal);
        // What erases the rest of a line would erase the last column, too, once something is in it.
        let terminal = Terminal {
            width: terminal.width.saturating_sub(1),
            ..terminal
        };
        let mut lines = vec![heading(trace, now, terminal, label, last)];
        let room = (!last).then(|| terminal.height.saturating_sub(2));
        lines.extend(fit(jobs(trace, now, terminal, room), room));
        let mut out = String::from("\x1b[?25l");
        if above > 0 {
            let _ = write!(out, "\x1b[{above}A");
        }
        out.push('\r');
        self.drawn = lines.iter().map(|line| width(&line.text)).collect();
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

    /// How many lines of the terminal the last frame takes.
    fn height(&self, terminal: Terminal) -> usize {
        if !terminal.breaks_lines {
            return self.drawn.len();
        }
        let wide = terminal.width.max(1);
        let height = |width: &usize| width.div_ceil(wide).max(1);
        self.drawn.iter().map(height).sum()
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
    let count = format!("({ended}/{all})");
    let forms = [
        format!("[+] Building {elapsed:.1}s {count}{state}"),
        format!("[+] {elapsed:.1}s {count}{state}"),
        format!("{count}{state}"),
    ];
    let fits = forms.iter().find(|form| width(form) <= terminal.width);
    let text = fits.unwrap_or(&forms[2]);
    // The end of an address tells more than its beginning.
    let room = terminal.width.saturating_sub(width(text) + 1);
    let label = match room {
        LEAST_LABEL.. => cut_start(&clean(label), room),
        _ => String::new(),
    };
    Line {
        text: align(text, &label, terminal.width),
        look: Look::Plain,
        working: true,
    }
}

fn jobs(trace: &Trace, now: Moment, terminal: Terminal, room: Option<usize>) -> Vec<Line> {
    let daemons = trace.daemons(now);
    let mut lines = Vec::new();
    let mut heads = Vec::new();
    for (_, vertex) in trace.shown() {
        let head = job(vertex, daemons, terminal.width, room.is_none());
        heads.push((vertex, head));
    }
    // Output is shown of as many steps as there is room for beside what works; some room is for what ended.
    let is_talking = |vertex: &Vertex| vertex.ended().is_none() && !vertex.screen.is_empty();
    let talking = heads
        .iter()
        .filter(|(vertex, _)| is_talking(vertex))
        .count();
    let all = heads.iter().flat_map(|(_, head)| head);
    let working = all.filter(|line| line.working).count();
    let mut free = (room.map_or(0, |room| room.saturating_sub(working)) * 2).div_ceil(3);
    let share = (free / talking.max(1)).clamp(1, HEIGHT);
    for (vertex, head) in heads {
        lines.extend(head);
        let most = share.min(free);
        if most == 0 || !is_talking(vertex) {
            continue;
        }
        free -= most;
        for text in vertex.screen.tail(most) {
            lines.push(Line {
                text: cut(&format!(" => => # {text}"), terminal.width),
                look: Look::Faint,
                working: true,
            });
        }
    }
    lines
}

/// A step's own lines. When all is over, what hasn't ended never will.
fn job(vertex: &Vertex, now: Moment, width: usize, is_over: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    let is_open = vertex.ended().is_none();
    let working = is_open && !is_over;
    let outcome = match vertex.outcome() {
        Outcome::Done if is_open && is_over => Outcome::Canceled,
        outcome => outcome,
    };
    let name = clean(&vertex.name);
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
            &format!("=> {}", clean(&part.id)),
            &amounts,
            seconds(taken),
            if open { Look::Plain } else { Look::Ended },
            open && working,
            width,
        ));
    }
    for warning in &vertex.warnings {
        let text = format!("WARN: {}", String::from_utf8_lossy(&warning.short));
        lines.extend(line(&clean(&text), "", 0.0, Look::Warning, false, width));
    }
    lines
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
