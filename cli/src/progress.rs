//! What people and programs see of a build while it runs.
//!
//! ```text
//!  statuses ──► Progress (a task) ──► Trace ──► plain | tty ──► standard error
//!                      └──────────────────────► rawjson ──────► standard error
//! ```
//!
//! The forms are pure functions of the state and the time, so that tests replay recorded streams. The
//! task draws at most every [`TICK`], and once more when the build has ended.

pub(crate) mod columns;
pub(crate) mod plain;
pub(crate) mod raw;
pub(crate) mod screen;
pub(crate) mod sizes;
pub(crate) mod trace;
pub(crate) mod tty;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use kiln_proto::moby::buildkit::v1 as wire;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use plain::Plain;
use trace::{Moment, Trace, Vertex};
use tty::{Terminal, Tty};

const TICK: Duration = Duration::from_millis(100);

/// The form of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A live region on a terminal, lines elsewhere
    Auto,
    /// Lines that a log can hold
    Plain,
    /// A live region; an error where there is no terminal
    Tty,
    /// Updates as lines of JSON
    Rawjson,
    /// Nothing but the result
    Quiet,
    /// Nothing
    None,
}

/// The form that is really used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Tty,
    Raw,
    Quiet,
}

impl Mode {
    /// The form for standard error; `None` where a terminal is wanted and there is none.
    pub(crate) fn form(self) -> Option<Form> {
        let terminal = std::io::stderr().is_terminal();
        match self {
            Self::Auto | Self::Tty if terminal => Some(Form::Tty),
            Self::Tty => None,
            Self::Auto | Self::Plain => Some(Form::Plain),
            Self::Rawjson => Some(Form::Raw),
            Self::Quiet | Self::None => Some(Form::Quiet),
        }
    }
}

/// Where statuses go.
pub(crate) type Sender = mpsc::UnboundedSender<wire::StatusResponse>;

/// The display of one build.
#[derive(Debug)]
pub(crate) struct Progress(JoinHandle<Trace>);

impl Progress {
    /// Begins to show. The display ends when the sender is dropped.
    pub(crate) fn start(form: Form, label: String) -> (Sender, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(tokio::spawn(show(form, label, receiver))))
    }

    /// Waits for the last frame; the whole state.
    pub(crate) async fn finish(self) -> Trace {
        self.0.await.unwrap_or_default()
    }
}

pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

fn terminal() -> Terminal {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let (width, height) = size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
    Terminal {
        width,
        height,
        colors: colors(),
        breaks_lines: breaks_lines(),
    }
}

/// Whether the terminal breaks the lines on it when it gets narrower. Those that don't say who they are: xterm,
/// screen and the kernel's own.
fn breaks_lines() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_console = std::env::var_os("TERM").is_some_and(|term| term == "linux");
    !is_set("XTERM_VERSION") && !is_set("STY") && !is_console
}

/// Whether standard error may be coloured.
pub(crate) fn colors() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        && std::io::stderr().is_terminal()
}

fn emit(text: &str) {
    // A closed standard error is no reason to stop a build.
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

async fn show(
    form: Form,
    label: String,
    mut statuses: mpsc::UnboundedReceiver<wire::StatusResponse>,
) -> Trace {
    let (mut trace, mut plain, mut tty) = (Trace::default(), Plain::default(), Tty::default());
    if form == Form::Plain {
        emit(&Plain::heading(&format!("building with {label}")));
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            status = statuses.recv() => match status {
                Some(status) => {
                    if form == Form::Raw {
                        emit(&raw::line(&status));
                    }
                    let touched = trace.update(&status, now());
                    plain.note(touched, now());
                }
                None => break,
            },
            _ = tick.tick() => match form {
                Form::Plain => emit(&plain.print(&mut trace, now())),
                Form::Tty => emit(&tty.frame(&trace, now(), terminal(), &label, false)),
                Form::Raw | Form::Quiet => {}
            },
        }
    }
    match form {
        Form::Plain => emit(&plain.finish(&mut trace, now())),
        Form::Tty => {
            let mut last = tty.frame(&trace, now(), terminal(), &label, true);
            for vertex in trace.failures() {
                last.push_str(&failure(vertex, &vertex.lines));
            }
            emit(&last);
        }
        Form::Raw | Form::Quiet => {}
    }
    trace
}

/// What a failed step printed.
fn failure(vertex: &Vertex, lines: &[String]) -> String {
    let mut text = format!("------\n > {}:\n", vertex.name);
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text.push_str("------\n");
    text
}

/// The warnings of a build, for people; with details if asked for.
pub(crate) fn warnings(trace: &Trace, details: bool) -> String {
    let all: Vec<&wire::VertexWarning> = trace.warnings().collect();
    let mut text = match all.len() {
        0 => return String::new(),
        1 => "\n 1 warning found".to_owned(),
        count => format!("\n {count} warnings found"),
    };
    if !details {
        text.push_str(" (--debug shows more)");
    }
    text.push_str(":\n");
    for warning in all {
        let _ = writeln!(text, " - {}", String::from_utf8_lossy(&warning.short));
        if !details {
            continue;
        }
        for detail in &warning.detail {
            let _ = writeln!(text, "{}", String::from_utf8_lossy(detail));
        }
        if !warning.url.is_empty() {
            let _ = writeln!(text, "More info: {}", warning.url);
        }
        let excerpt = warning
            .info
            .as_ref()
            .and_then(|info| kiln_client::excerpt(info, &warning.ranges));
        text.push_str(&excerpt.unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests;
