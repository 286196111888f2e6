//! A step's output on its way to clients.
//!
//! Output is cut at a size and a speed, as BuildKit cuts it, with a notice in its place; if the step
//! fails, the end of what was cut is shown after all. The build's record gets what is cut, too: a step whose
//! output comes faster than the record is written is slowed down. Values of secrets are masked.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiln_progress::{Audience, Stream, VertexProgress};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::AsyncWrite;

use super::mask::Mask;

/// How much of the end is kept for a failure.
const TAIL: usize = 256 << 10;

/// How long a step waits before it is seen whether its output can be taken again.
const WAIT: Duration = Duration::from_millis(5);

/// How much output of a step clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of each stream in all.
    pub size: Option<u64>,
    /// Bytes of each stream per second.
    pub speed: Option<u64>,
    /// Also write output to the daemon's own streams.
    pub echo: bool,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            size: Some(2 << 20),
            speed: Some(200 << 10),
            echo: false,
        }
    }
}

impl LogLimits {
    /// Applies BuildKit's variables `BUILDKIT_STEP_LOG_MAX_SIZE` and `_SPEED` (−1 is no limit) and
    /// `BUILDKIT_DEBUG_EXEC_OUTPUT`.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let limit = |name: &str, default| match variable(name).and_then(|v| v.parse::<i32>().ok()) {
            Some(value) => u64::try_from(value).ok(),
            None => default,
        };
        let default = Self::default();
        Self {
            size: limit("BUILDKIT_STEP_LOG_MAX_SIZE", default.size),
            speed: limit("BUILDKIT_STEP_LOG_MAX_SPEED", default.speed),
            echo: variable("BUILDKIT_DEBUG_EXEC_OUTPUT").as_deref() == Some("1"),
        }
    }

    /// Bytes that may have been shown after `elapsed`, and the words for the limit.
    fn allowed(&self, elapsed: Duration) -> Option<(u64, String)> {
        let seconds = elapsed.as_secs() + u64::from(elapsed.subsec_nanos() > 0);
        let by_speed = self
            .speed
            .map(|speed| (seconds.max(1) * speed, format!("{}/s", size(speed))));
        let by_size = self.size.map(|limit| (limit, size(limit)));
        match (by_speed, by_size) {
            (Some(speed), Some(whole)) => Some(if speed.0 > whole.0 { whole } else { speed }),
            (speed, whole) => speed.or(whole),
        }
    }
}

/// A size in the largest unit that it reaches.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let power = (0..units.len())
        .rev()
        .find(|power| bytes >= 1 << (10 * power))
        .unwrap_or(0);
    format!(
        "{}{}",
        bytes as f64 / f64::from(1_u32 << (10 * power)),
        units[power]
    )
}

/// One stream of a step.
#[derive(Debug)]
struct Log {
    progress: VertexProgress,
    stream: Stream,
    limits: LogLimits,
    begin: Instant,
    seen: u64,
    clipping: bool,
    tail: Option<VecDeque<u8>>,
    mask: Mask,
}

impl Log {
    fn write(&mut self, bytes: &[u8]) {
        let masked = self.mask.feed(bytes);
        self.pass(&masked, self.begin.elapsed());
    }

    fn pass(&mut self, bytes: &[u8], elapsed: Duration) {
        if bytes.is_empty() {
            return;
        }
        let before = self.seen;
        self.seen += bytes.len() as u64;
        let allowed = self.limits.allowed(elapsed);
        let shown = allowed.as_ref().map_or(bytes.len(), |(allowed, _)| {
            (allowed.saturating_sub(before) as usize).min(bytes.len())
        });
        if shown < bytes.len() || self.tail.is_some() {
            let tail = self.tail.get_or_insert_default();
            tail.extend(bytes);
            let excess = tail.len().saturating_sub(TAIL);
            tail.drain(..excess);
        }
        let whole = shown == bytes.len();
        self.send(Audience::Everybody, bytes[..shown].to_vec());
        if !whole && !self.clipping {
            let words = allowed.map(|(_, words)| words).unwrap_or_default();
            let notice = format!("\n[output clipped, log limit {words} reached]\n");
            self.send(Audience::Clients, notice.into_bytes());
        }
        self.clipping = !whole;
        self.send(Audience::Record, bytes[shown..].to_vec());
    }

    fn send(&self, audience: Audience, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if self.limits.echo && audience != Audience::Record {
            use std::io::Write;
            // The daemon's streams are for debugging; that they are closed is nobody's concern.
            let _ = match self.stream {
                Stream::Stdout => io::stdout().write_all(&bytes),
                Stream::Stderr => io::stderr().write_all(&bytes),
            };
        }
        self.progress.log_for(audience, self.stream, bytes);
    }

    fn end(&mut self, failed: bool) {
        let rest = self.mask.finish();
        self.pass(&rest, self.begin.elapsed());
        if failed && let Some(tail) = self.tail.take() {
            self.send(Audience::Clients, tail.into());
        }
    }
}

/// Both streams of a step.
#[derive(Debug)]
pub(super) struct Logs {
    stdout: Arc<Mutex<Log>>,
    stderr: Arc<Mutex<Log>>,
}

impl Logs {
    pub(super) fn new(progress: &VertexProgress, limits: LogLimits, secrets: &[Bytes]) -> Self {
        let log = |stream| {
            Arc::new(Mutex::new(Log {
                progress: progress.clone(),
                stream,
                limits,
                begin: Instant::now(),
                seen: 0,
                clipping: false,
                tail: None,
                mask: Mask::new(secrets),
            }))
        };
        Self {
            stdout: log(Stream::Stdout),
            stderr: log(Stream::Stderr),
        }
    }

    pub(super) fn stdout(&self) -> Box<dyn AsyncWrite + Send + Unpin> {
        Box::new(Writer::new(&self.stdout))
    }

    pub(super) fn stderr(&self) -> Box<dyn AsyncWrite + Send + Unpin> {
        Box::new(Writer::new(&self.stderr))
    }

    /// Sends what is held back; after a failure also the end of what was cut.
    pub(super) fn end(&self, failed: bool) {
        self.stdout.lock().end(failed);
        self.stderr.lock().end(failed);
    }
}

struct Writer {
    log: Arc<Mutex<Log>>,
    wait: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Writer {
    fn new(log: &Arc<Mutex<Log>>) -> Self {
        Self {
            log: Arc::clone(log),
            wait: None,
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(wait) = &mut self.wait {
                std::task::ready!(wait.as_mut().poll(context));
                self.wait = None;
            }
            let mut log = self.log.lock();
            if !log.progress.is_behind() {
                log.write(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            drop(log);
            self.wait = Some(Box::pin(tokio::time::sleep(WAIT)));
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_progress::{Receiver, Status, Warning};

    /// What clients got, and what the record got.
    #[derive(Default)]
    struct Seen(Mutex<Vec<u8>>, Mutex<Vec<u8>>);

    impl Receiver for Seen {
        fn status(&self, _: Status) {}
        fn log(&self, _: Stream, audience: Audience, bytes: Bytes) {
            if audience != Audience::Record {
                self.0.lock().extend(&bytes);
            }
            if audience != Audience::Clients {
                self.1.lock().extend(&bytes);
            }
        }
        fn warn(&self, _: Warning) {}
    }

    fn log(limits: LogLimits) -> (Log, Arc<Seen>) {
        let seen = Arc::new(Seen::default());
        let progress = VertexProgress::new(Arc::clone(&seen) as Arc<dyn Receiver>);
        let log = Log {
            progress,
            stream: Stream::Stdout,
            limits,
            begin: Instant::now(),
            seen: 0,
            clipping: false,
            tail: None,
            mask: Mask::new(&[]),
        };
        (log, seen)
    }

    #[test]
    fn limits_cut_with_one_notice_and_a_failure_shows_the_end() {
        let limits = LogLimits {
            size: Some(12),
            speed: Some(5),
            echo: false,
        };
        let (mut log, seen) = log(limits);
        let second = Duration::from_secs(1);
        log.pass(b"abc", Duration::from_millis(1));
        log.pass(b"defgh", second / 2);
        log.pass(b"ij", second);
        log.pass(b"klmno", second * 4);
        log.pass(b"p", second * 5);
        log.end(true);
        let text = String::from_utf8(seen.0.lock().clone()).unwrap();
        assert_eq!(
            text,
            "abcde\n[output clipped, log limit 5B/s reached]\nkldefghijklmnop"
        );
        assert_eq!(seen.1.lock().as_slice(), b"abcdefghijklmnop");
    }

    #[test]
    fn limits_come_from_variables() {
        let none = |_: &str| None;
        assert_eq!(LogLimits::from_variables(none), LogLimits::default());
        let all = |name: &str| {
            Some(match name {
                "BUILDKIT_STEP_LOG_MAX_SIZE" => "-1".to_owned(),
                "BUILDKIT_STEP_LOG_MAX_SPEED" => "100".to_owned(),
                _ => "1".to_owned(),
            })
        };
        let expected = LogLimits {
            size: None,
            speed: Some(100),
            echo: true,
        };
        assert_eq!(LogLimits::from_variables(all), expected);
    }

    #[test]
    fn sizes_are_in_the_largest_unit() {
        for (bytes, expected) in [
            (2 << 20, "2MiB"),
            (200 << 10, "200KiB"),
            (100, "100B"),
            (1536, "1.5KiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
