//! One run of a client: what it printed, how it ended, and what its plain progress says about the steps.
//!
//! Invariant: an expectation that doesn't hold shows the whole output.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// A client that takes longer hangs.
const LONGEST_RUN: Duration = Duration::from_mins(5);

/// A finished run.
#[derive(Debug)]
pub struct Run {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error, where progress goes.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
    command: String,
}

impl Run {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Result<Self> {
        Running::start(command)?.wait()
    }

    /// The run, if it succeeded.
    pub fn succeeds(self) -> Result<Self> {
        ensure!(
            self.code == Some(0),
            "it should succeed\n{}",
            self.transcript()
        );
        Ok(self)
    }

    /// The run, if it failed.
    pub fn fails(self) -> Result<Self> {
        ensure!(
            self.code != Some(0),
            "it should fail\n{}",
            self.transcript()
        );
        Ok(self)
    }

    /// Expects each of these texts in the output, in any order.
    pub fn says(&self, texts: &[&str]) -> Result<&Self> {
        for text in texts {
            let found = self.stderr.contains(text) || self.stdout.contains(text);
            ensure!(found, "it should say {text:?}\n{}", self.transcript());
        }
        Ok(self)
    }

    /// Expects none of these texts in the output.
    pub fn never_says(&self, texts: &[&str]) -> Result<&Self> {
        for text in texts {
            let found = self.stderr.contains(text) || self.stdout.contains(text);
            ensure!(!found, "it should not say {text:?}\n{}", self.transcript());
        }
        Ok(self)
    }

    /// Expects that the step whose name contains `step` was taken from the cache.
    pub fn is_cached(&self, step: &str) -> Result<&Self> {
        ensure!(
            self.step_was_cached(step)?,
            "{step:?} should be CACHED\n{}",
            self.transcript()
        );
        Ok(self)
    }

    /// Expects that the step whose name contains `step` was run.
    pub fn is_run(&self, step: &str) -> Result<&Self> {
        ensure!(
            !self.step_was_cached(step)?,
            "{step:?} should run\n{}",
            self.transcript()
        );
        Ok(self)
    }

    /// How many steps were taken from the cache.
    pub fn cached_steps(&self) -> usize {
        self.stderr
            .lines()
            .filter(|line| line.starts_with('#') && line.ends_with(" CACHED"))
            .count()
    }

    /// Expects that every step of the Dockerfile was taken from the cache, but those whose names contain one
    /// of `misses`, which must have run.
    pub fn is_cached_but(&self, misses: &[&str]) -> Result<&Self> {
        let is_miss = |name: &str| misses.iter().any(|miss| name.contains(miss));
        let ran = self.steps_run();
        let too_many: Vec<&String> = ran.iter().filter(|name| !is_miss(name)).collect();
        ensure!(
            too_many.is_empty(),
            "{too_many:?} should be CACHED\n{}",
            self.transcript()
        );
        let too_few = misses
            .iter()
            .find(|miss| !ran.iter().any(|name| name.contains(*miss)));
        ensure!(
            too_few.is_none(),
            "{too_few:?} should run\n{}",
            self.transcript()
        );
        Ok(self)
    }

    /// Names of the Dockerfile's steps that weren't taken from the cache. `FROM` and what clients do
    /// for themselves don't count; a step of several vertices is cached if one of them is; and so is one
    /// whose layers are only fetched, which clients show as work.
    pub fn steps_run(&self) -> Vec<String> {
        let mut names: Vec<&str> = self
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix('#')?.split_once(' '))
            .map(|(_, name)| name)
            .filter(|name| name.starts_with('[') && name.contains("] "))
            .filter(|name| !name.starts_with("[internal]") && !name.contains("] FROM "))
            .filter(|name| !name.starts_with("[auth]"))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter(|name| !self.step_was_cached(name).unwrap_or(true))
            .filter(|name| !self.step_was_fetched(name).unwrap_or(false))
            .map(str::to_owned)
            .collect()
    }

    /// What the step printed while it ran, without times.
    pub fn step_output(&self, step: &str) -> Result<String> {
        let prefixes = self.step_prefixes(step)?;
        let is_time = |word: &str| word.parse::<f64>().is_ok();
        Ok(self
            .stderr
            .lines()
            .filter_map(|line| {
                prefixes
                    .iter()
                    .find_map(|prefix| line.strip_prefix(prefix.as_str()))
            })
            .filter_map(|rest| rest.split_once(' '))
            .filter(|(first, _)| is_time(first))
            .map(|(_, text)| text)
            .collect::<Vec<_>>()
            .join("\n"))
    }

    /// Everything about the run, for messages.
    pub fn transcript(&self) -> String {
        format!(
            "$ {}\n{}{}(exit code {:?} after {:.1?})",
            self.command, self.stdout, self.stderr, self.code, self.elapsed
        )
    }

    fn step_was_cached(&self, step: &str) -> Result<bool> {
        let prefixes = self.step_prefixes(step)?;
        Ok(prefixes.iter().any(|prefix| {
            self.stderr
                .lines()
                .any(|line| line.strip_prefix(prefix.as_str()) == Some("CACHED"))
        }))
    }

    fn step_was_fetched(&self, step: &str) -> Result<bool> {
        let prefixes = self.step_prefixes(step)?;
        Ok(prefixes.iter().any(|prefix| {
            self.stderr
                .lines()
                .filter_map(|line| line.strip_prefix(prefix.as_str()))
                .any(|line| line.starts_with("extracting sha256:"))
        }))
    }

    /// `#N ` of each step whose name contains the text. An `ADD` from the web is two: the download and the copy.
    fn step_prefixes(&self, step: &str) -> Result<Vec<String>> {
        let mut prefixes: Vec<String> = self
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix('#')?.split_once(' '))
            .filter(|(_, name)| name.starts_with('[') && name.contains(step))
            .map(|(number, _)| format!("#{number} "))
            .collect();
        prefixes.dedup();
        ensure!(
            !prefixes.is_empty(),
            "no step is named {step:?}\n{}",
            self.transcript()
        );
        Ok(prefixes)
    }
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    start: Instant,
    stdout: Reader,
    stderr: Reader,
}

impl Running {
    /// Starts a command with its output in pipes.
    pub fn start(command: &mut Command) -> Result<Self> {
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let words = words.join(" ");
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{words} doesn't start"))?;
        let stdout = Reader::start(child.stdout.take().context("stdout is a pipe")?);
        let stderr = Reader::start(child.stderr.take().context("stderr is a pipe")?);
        Ok(Self {
            child,
            command: words,
            start,
            stdout,
            stderr,
        })
    }

    /// Waits until the progress contains `text`.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let child = &mut self.child;
        let stderr = &self.stderr;
        let ended = until(text, limit, || {
            if stderr.text().contains(text) {
                return Some(None);
            }
            child.try_wait().ok().flatten().map(Some)
        });
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!(
                "ended ({status}) before it said {text:?}:\n{}",
                self.stderr.text()
            ),
            Err(error) => bail!("{error}:\n{}", self.stderr.text()),
        }
    }

    /// What a terminal sends on Ctrl-C.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Ends the client without giving it a chance to say goodbye.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Waits for the end, which must come before `LONGEST_RUN`.
    pub fn wait(self) -> Result<Run> {
        self.wait_within(LONGEST_RUN)
    }

    /// Waits for the end, which must come this soon.
    pub fn wait_within(mut self, limit: Duration) -> Result<Run> {
        let child = &mut self.child;
        let ended = until("the client ends", limit, || child.try_wait().ok().flatten());
        let status: ExitStatus =
            ended.with_context(|| format!("$ {}\n{}", self.command, self.stderr.text()))?;
        let elapsed = self.start.elapsed();
        let run = Run {
            code: status.code(),
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            elapsed,
            command: std::mem::take(&mut self.command),
        };
        if std::env::var_os("KILN_SHOW").is_some() {
            eprintln!("{}", run.transcript());
        }
        Ok(run)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a pid")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects a pipe's lines while others look at them.
#[derive(Debug)]
struct Reader {
    text: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let thread = thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self {
            text,
            thread: Some(thread),
        }
    }

    fn text(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn finish(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stderr: &str) -> Run {
        Run {
            code: Some(0),
            stdout: String::new(),
            stderr: stderr.to_owned(),
            elapsed: Duration::ZERO,
            command: "x".to_owned(),
        }
    }

    #[test]
    fn steps_are_found_in_plain_progress() {
        let run = run(
            "#1 [internal] load build definition from Dockerfile\n#1 DONE 0.0s\n\n#4 [1/2] RUN a\n#4 CACHED\n\
                       \n#5 [2/2] RUN b\n#5 0.12 out\n#5 0.13 two words\n#5 DONE 0.2s\n\n#6 [2/3] RUN c\n#6 \
                       extracting sha256:00\n#6 DONE 0.1s\n",
        );
        run.is_cached("RUN a").unwrap().is_run("RUN b").unwrap();
        assert!(run.is_cached("RUN b").is_err());
        assert!(run.is_run("RUN d").is_err());
        assert_eq!(run.step_output("RUN b").unwrap(), "out\ntwo words");
        assert_eq!(run.cached_steps(), 1);
        assert_eq!(run.steps_run(), ["[2/2] RUN b"]);
        run.is_cached_but(&["RUN b"]).unwrap();
        assert!(run.is_cached_but(&[]).is_err());
        assert!(run.is_cached_but(&["RUN a", "RUN b"]).is_err());
    }
}
