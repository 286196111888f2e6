//! Reading a blob while it arrives.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_oci::Digest;

use super::Shared;
use super::board::Progress;

/// Reads a blob from its beginning; blocks until the bytes are here. For threads, not for async code.
pub struct Follow {
    shared: Arc<Shared>,
    digest: Digest,
    key: String,
    position: u64,
    /// Set once the blob is complete.
    complete: Option<File>,
    /// The generation that earlier bytes were read from.
    generation: Option<u64>,
    stopped: Arc<AtomicBool>,
}

/// Ends the waiting of a [`Follow`] when it is dropped: no more bytes will come.
#[must_use = "dropping it ends the follower"]
pub struct FollowStop {
    shared: Arc<Shared>,
    stopped: Arc<AtomicBool>,
}

impl Follow {
    pub(crate) fn new(shared: &Arc<Shared>, digest: Digest) -> (Self, FollowStop) {
        let stopped = Arc::new(AtomicBool::new(false));
        let follow = Self {
            shared: Arc::clone(shared),
            digest,
            key: digest.to_string(),
            position: 0,
            complete: None,
            generation: None,
            stopped: Arc::clone(&stopped),
        };
        let stop = FollowStop {
            shared: Arc::clone(shared),
            stopped,
        };
        (follow, stop)
    }

    /// Waits until there is something to read; returns the file and how much of it may be read.
    fn wait(&mut self) -> io::Result<(Arc<File>, u64)> {
        let mut state = self.shared.board.state.lock();
        loop {
            if self
                .generation
                .is_some_and(|generation| state.wrong.contains(&generation))
            {
                return Err(wrong_bytes());
            }
            if self.shared.index.read().contains_key(&self.digest) {
                break;
            }
            if let Some(progress) = state.writing.get(&self.key).cloned()
                && progress.written > self.position
            {
                return Self::check(&mut self.generation, progress);
            }
            if self.stopped.load(Ordering::Acquire) {
                let message = format!("{} didn't arrive", self.digest);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            self.shared.board.moved.wait(&mut state);
        }
        drop(state);
        let file = File::open(self.shared.blob_path(&self.digest))?;
        self.complete = Some(file.try_clone()?);
        Ok((Arc::new(file), u64::MAX))
    }

    fn check(generation: &mut Option<u64>, progress: Progress) -> io::Result<(Arc<File>, u64)> {
        match generation {
            Some(seen) if *seen != progress.generation => Err(wrong_bytes()),
            _ => {
                *generation = Some(progress.generation);
                Ok((progress.file, progress.written))
            }
        }
    }
}

fn wrong_bytes() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the content that was being read turned out to be wrong",
    )
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = if let Some(file) = &self.complete {
            file.read_at(buffer, self.position)?
        } else {
            let (file, end) = self.wait()?;
            let room = usize::try_from(end - self.position)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            file.read_at(&mut buffer[..room], self.position)?
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Drop for FollowStop {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.shared.board.notify();
    }
}

impl std::fmt::Debug for FollowStop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FollowStop")
    }
}
