//! The progress of a pull or a push: one line on a terminal, milestones elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use kiln_client::BlobProgress;

use crate::console::{self, short_digest};
use crate::progress::sizes::bytes;

const PAUSE: Duration = Duration::from_millis(100);

/// A pull or a push that goes on.
#[derive(Debug)]
pub(crate) struct Transfer {
    title: String,
    quiet: bool,
    terminal: bool,
    blobs: BTreeMap<String, BlobProgress>,
    drawn: Option<Instant>,
}

impl Transfer {
    pub(crate) fn new(verb: &str, name: &str, quiet: bool) -> Self {
        let transfer = Self {
            title: format!("{verb} {name}"),
            quiet,
            terminal: std::io::stderr().is_terminal(),
            blobs: BTreeMap::new(),
            drawn: None,
        };
        if !quiet && !transfer.terminal {
            console::note(&transfer.title);
        }
        transfer
    }

    pub(crate) fn update(&mut self, blob: &BlobProgress) {
        let ended = matches!(blob.status.as_str(), "done" | "exists");
        self.blobs.insert(blob.digest.clone(), blob.clone());
        if self.quiet {
            return;
        }
        if !self.terminal {
            if ended {
                console::note(&format!(
                    "{} {}: {} ({})",
                    blob.description,
                    short_digest(&blob.digest),
                    blob.status,
                    bytes(blob.total)
                ));
            }
            return;
        }
        if ended || self.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE) {
            self.drawn = Some(Instant::now());
            self.draw();
        }
    }

    fn draw(&self) {
        let ended = |blob: &&BlobProgress| matches!(blob.status.as_str(), "done" | "exists");
        let count = self.blobs.values().filter(ended).count();
        let current: i64 = self.blobs.values().map(|blob| blob.current).sum();
        let total: i64 = self.blobs.values().map(|blob| blob.total).sum();
        let line = format!(
            "{}: {count}/{} blobs, {} / {}",
            self.title,
            self.blobs.len(),
            bytes(current),
            bytes(total)
        );
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
    }

    /// Ends the line.
    pub(crate) fn finish(self) {
        if self.terminal && !self.quiet && self.drawn.is_some() {
            console::note("");
        }
    }
}
