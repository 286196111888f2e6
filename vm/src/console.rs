//! What the machine prints: a file that is kept and rotated, and whoever follows it.
//!
//! Invariants: the files together stay below twice [`LIMIT`]; no control character but newline and tab gets in, since
//! terminals will show it and a machine is not trusted.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::broadcast;

/// At this size the file becomes `console.log.1`.
const LIMIT: u64 = 1 << 20;
/// How many of the last bytes are at hand for messages.
const RECENT: usize = 16 << 10;

/// The log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Console {
    inner: Arc<Mutex<Inner>>,
    live: broadcast::Sender<Bytes>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    length: u64,
    recent: VecDeque<u8>,
    /// The byte that was kept last.
    last: u8,
}

impl Console {
    /// Goes on with the file at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, length) = open(path)?;
        let (live, _) = broadcast::channel(256);
        let inner = Inner {
            path: path.to_owned(),
            file,
            length,
            recent: VecDeque::with_capacity(RECENT),
            last: 0,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            live,
        })
    }

    /// A line of the owner's own among what the machine prints.
    pub fn note(&self, text: &str) {
        self.add(format!("--- {text}\n").as_bytes());
    }

    /// Takes what `source` gives until its end.
    pub(crate) async fn pump(&self, source: Option<impl AsyncRead + Unpin>) {
        let Some(mut source) = source else { return };
        let mut buffer = vec![0; 8 << 10];
        while let Ok(length @ 1..) = source.read(&mut buffer).await {
            self.add(&buffer[..length]);
        }
    }

    fn add(&self, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        let mut clean = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            // In UTF-8 the controls above 0x80 are two bytes, the first of which is no other character's start.
            let is_high_control = inner.last == 0xc2 && (0x80..0xa0).contains(&byte);
            if !is_high_control && matches!(byte, b'\n' | b'\t' | 0x20..=0x7e | 0x80..) {
                inner.last = byte;
                clean.push(byte);
            }
        }
        if clean.is_empty() {
            return;
        }
        inner.recent.extend(&clean);
        let surplus = inner.recent.len().saturating_sub(RECENT);
        inner.recent.drain(..surplus);
        if inner.length >= LIMIT {
            inner.rotate();
        }
        // A full disk must not stop the machine; what is recent is in memory.
        if inner.file.write_all(&clean).is_ok() {
            inner.length += clean.len() as u64;
        }
        // Nobody may follow.
        let _ = self.live.send(Bytes::from(clean));
    }

    /// The last `lines` lines at hand.
    pub fn last_words(&self, lines: usize) -> String {
        let recent: Vec<u8> = self.inner.lock().recent.iter().copied().collect();
        let text = String::from_utf8_lossy(&recent).into_owned();
        let all: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// What is kept, at most the last `tail` lines (0: all), and what comes after it.
    pub(crate) fn read(&self, tail: usize) -> (Vec<u8>, broadcast::Receiver<Bytes>) {
        let inner = self.inner.lock();
        let live = self.live.subscribe();
        let mut kept = fs::read(older(&inner.path)).unwrap_or_default();
        kept.extend(fs::read(&inner.path).unwrap_or_default());
        drop(inner);
        if tail > 0 {
            let ends = kept.iter().enumerate().rev();
            let body = kept.len().saturating_sub(1);
            let start = ends
                .filter(|(index, byte)| **byte == b'\n' && *index != body)
                .nth(tail - 1)
                .map_or(0, |(index, _)| index + 1);
            kept.drain(..start);
        }
        (kept, live)
    }
}

impl Inner {
    fn rotate(&mut self) {
        if fs::rename(&self.path, older(&self.path)).is_err() {
            return;
        }
        if let Ok((file, length)) = open(&self.path) {
            self.file = file;
            self.length = length;
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_kept_followed_and_bounded() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("console.log");
        let console = Console::open(&path).unwrap();
        console
            .pump(Some(
                &b"one\n\x1b]52;c;evil\x07two\r\n\tthree\xc3\xa4\n"[..],
            ))
            .await;
        assert_eq!(console.last_words(2), "]52;c;eviltwo\n\tthree\u{e4}");
        // A control of two bytes, in two pieces, and one that others hide.
        console.pump(Some(&b"\xc2"[..])).await;
        console
            .pump(Some(&b"\x9b31m\xc2\x1b\x9b\x9bred\n"[..]))
            .await;
        let red = console.last_words(1);
        assert!(!red.chars().any(char::is_control), "{red:?}");
        assert!(red.ends_with("red"), "{red:?}");
        let (all, mut live) = console.read(0);
        assert!(all.starts_with(b"one\n"), "{all:?}");
        let two = console.read(2).0;
        assert!(two.starts_with("\tthreeä\n".as_bytes()), "{two:?}");
        console.note("more");
        assert_eq!(live.recv().await.unwrap(), "--- more\n");
        let line = vec![b'x'; 64 << 10];
        for _ in 0..64 {
            console.pump(Some(&line[..])).await;
        }
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&path) + size(&older(&path)) <= 2 * LIMIT + line.len() as u64 * 2);
        drop(console);
        let again = Console::open(&path).unwrap();
        assert!(!again.read(0).0.is_empty());
    }
}
