//! `gzip-v1`: members of a fixed length of input, compressed in parallel, written in order.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;

use super::deflate::{CHUNK, LEVEL, member};
use super::pool::Pool;

/// What a worker gives back: the buffer that it compressed and the member.
type Piece = (Vec<u8>, Vec<u8>);

pub(super) struct GzipWriter<W: Write> {
    out: W,
    level: i32,
    pool: Pool,
    input: Vec<u8>,
    pending: VecDeque<Receiver<Piece>>,
    spare: Vec<Piece>,
    members: u64,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(out: W, level: Option<i32>, pool: &Pool) -> Self {
        Self {
            out,
            // −1 is how clients ask for the default.
            level: level.filter(|level| *level >= 0).unwrap_or(LEVEL),
            pool: pool.clone(),
            input: Vec::new(),
            pending: VecDeque::new(),
            spare: Vec::new(),
            members: 0,
        }
    }

    /// Sends the input that was gathered to a worker.
    fn dispatch(&mut self) -> io::Result<()> {
        let (mut next, mut out) = self.spare.pop().unwrap_or_default();
        next.clear();
        next.reserve(CHUNK);
        let input = std::mem::replace(&mut self.input, next);
        let level = self.level;
        self.members += 1;
        self.pending.push_back(self.pool.run(move || {
            member(&input, level, &mut out);
            (input, out)
        }));
        while self.pending.len() > 2 * self.pool.workers() {
            self.write_next()?;
        }
        Ok(())
    }

    fn write_next(&mut self) -> io::Result<()> {
        let Some(piece) = self.pending.pop_front() else {
            return Ok(());
        };
        let (input, out) = piece
            .recv()
            .map_err(|_| io::Error::other("a compressing thread panicked"))?;
        self.out.write_all(&out)?;
        self.spare.push((input, out));
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.members == 0 {
            // A small layer isn't worth waking a thread for.
            let mut out = Vec::new();
            member(&self.input, self.level, &mut out);
            self.out.write_all(&out)?;
        } else if !self.input.is_empty() {
            self.dispatch()?;
        }
        while !self.pending.is_empty() {
            self.write_next()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.input.len() == CHUNK {
            self.dispatch()?;
        }
        let count = bytes.len().min(CHUNK - self.input.len());
        self.input.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
