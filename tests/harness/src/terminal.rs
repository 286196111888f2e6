//! A client on a terminal: a pseudo-terminal with the client as its session's leader, and an emulator that
//! draws what comes out.
//!
//! Invariant: an expectation that doesn't hold shows the screen.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kiln_test_tools::on_path;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wait::until;

/// Lines above the screen that are kept.
const SCROLLED: usize = 2000;
/// A client that takes longer hangs.
const LONGEST_RUN: Duration = Duration::from_mins(3);

/// Columns and lines.
pub type Size = (u16, u16);

/// A client that runs on a terminal.
pub struct Terminal {
    child: Child,
    control: File,
    shown: Arc<Mutex<Shown>>,
    reader: Option<JoinHandle<()>>,
}

struct Shown {
    emulator: vt100::Parser,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal")
            .field("child", &self.child.id())
            .finish_non_exhaustive()
    }
}

fn window((columns, rows): Size) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn whole(number: u16) -> Result<NonZero<u16>> {
    NonZero::new(number).context("a terminal has lines and columns")
}

impl Terminal {
    /// Starts a command on a terminal of this size, whose Ctrl-C and changes of size reach it.
    pub fn start(command: &Command, size: Size) -> Result<Self> {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&control)?;
        unlockpt(&control)?;
        tcsetwinsize(&control, window(size))?;
        let name = ptsname(&control, Vec::new())?;
        let far = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str()?)?;
        // It makes the terminal its session's, and becomes the command.
        let mut leader = Command::new(on_path("setsid")?);
        leader
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color")
            .stdin(far.try_clone()?)
            .stdout(far.try_clone()?)
            .stderr(far);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            leader.current_dir(directory);
        }
        let child = leader.spawn().context("setsid doesn't start")?;
        let shown = Arc::new(Mutex::new(Shown {
            emulator: vt100::Parser::new(whole(size.1)?, whole(size.0)?, SCROLLED),
        }));
        let control = File::from(control);
        let (mut output, draws) = (control.try_clone()?, Arc::clone(&shown));
        let reader = thread::spawn(move || {
            let mut piece = vec![0; 16 << 10];
            // The end of the last one who has the terminal open is an error here.
            while let Ok(read @ 1..) = output.read(&mut piece) {
                let mut shown = draws.lock().unwrap_or_else(PoisonError::into_inner);
                shown.emulator.process(&piece[..read]);
            }
        });
        Ok(Self {
            child,
            control,
            shown,
            reader: Some(reader),
        })
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.shown().emulator.screen().contents()
    }

    /// Everything that was drawn and is on the screen or above it, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut shown = self.shown();
        let screen = shown.emulator.screen_mut();
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        let mut lines = Vec::new();
        screen.set_scrollback(SCROLLED);
        for above in (1..=screen.scrollback()).rev() {
            screen.set_scrollback(above);
            lines.extend(screen.rows(0, columns).next());
        }
        screen.set_scrollback(0);
        lines.extend(screen.rows(0, columns).take(rows.into()));
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Whether the cursor can be seen.
    pub fn has_cursor(&self) -> bool {
        !self.shown().emulator.screen().hide_cursor()
    }

    /// Waits until the screen is as wanted; the screen.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let found = until(what, limit, || {
            let screen = self.screen();
            if is_so(&screen) {
                return Some(Some(screen));
            }
            // What it drew last may still be on its way.
            let is_over = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
            (is_over && !is_so(&self.screen())).then_some(None)
        });
        match found {
            Ok(Some(screen)) => Ok(screen),
            Ok(None) => bail!("ended before {what}:\n{}", self.lines().join("\n")),
            Err(error) => bail!("{error}:\n{}", self.screen()),
        }
    }

    /// Waits until the screen has this text.
    pub fn shows(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("{text:?} is shown");
        self.until(&what, limit, |screen| screen.contains(text))
    }

    /// Types.
    pub fn types(&mut self, keys: &str) -> Result<()> {
        Ok(self.control.write_all(keys.as_bytes())?)
    }

    /// Makes the terminal larger or smaller. Lines aren't broken anew; what is too high leaves at the top.
    pub fn resize(&mut self, size: Size) -> Result<()> {
        // The cursor is hidden while a frame is drawn.
        let mut shown = until("a whole frame", LONGEST_RUN, || {
            let shown = self.shown();
            (!shown.emulator.screen().hide_cursor()).then_some(shown)
        })?;
        let (row, column) = shown.emulator.screen().cursor_position();
        let above = (row + 1).saturating_sub(size.1);
        if above > 0 {
            let up = "\n".repeat(above.into());
            let back = format!("\x1b[{};{}H", row - above + 1, column + 1);
            let moves = format!("\x1b[999;1H{up}{back}");
            shown.emulator.process(moves.as_bytes());
        }
        let (rows, columns) = (whole(size.1)?, whole(size.0)?);
        shown.emulator.screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.control, window(size))?;
        Ok(())
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> Result<i32> {
        let child = &mut self.child;
        let ended = until("the client ends", LONGEST_RUN, || {
            child.try_wait().ok().flatten()
        });
        let status = ended.with_context(|| self.screen())?;
        if let Some(reader) = self.reader.take() {
            until("the terminal is closed", LONGEST_RUN, || {
                reader.is_finished().then_some(())
            })?;
        }
        if std::env::var_os("KILN_SHOW").is_some() {
            eprintln!("{}\n({status})", self.lines().join("\n"));
        }
        let code = status.code();
        code.with_context(|| format!("ended by signal {:?}", status.signal()))
    }

    /// Waits for the end, which must have this code, and a cursor.
    pub fn ends_with(&mut self, code: i32) -> Result<()> {
        let ended = self.wait()?;
        let lines = self.lines().join("\n");
        ensure!(ended == code, "exit code {ended}, not {code}:\n{lines}");
        ensure!(self.has_cursor(), "the cursor is hidden:\n{lines}");
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
