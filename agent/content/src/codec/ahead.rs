//! A reader that runs ahead on a thread of its own, so that decompression and the use of its output
//! overlap.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Pieces of this size are read ahead, and as many of them.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;

/// Reads from another reader's thread. Dropping it ends the thread after its current read.
pub struct ReadAhead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

impl ReadAhead {
    /// Starts reading `input`.
    pub fn new(mut input: impl Read + Send + 'static) -> io::Result<Self> {
        let (filled, full) = sync_channel(PIECES);
        let (empty, to_fill) = sync_channel::<Vec<u8>>(PIECES + 2);
        for _ in 0..PIECES {
            let _ = empty.send(Vec::new());
        }
        std::thread::Builder::new()
            .name("kiln-ahead".into())
            .spawn(move || {
                while let Ok(mut piece) = to_fill.recv() {
                    piece.clear();
                    let result = input.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                    // A clean end is told from a panic by an empty piece.
                    let is_last = !matches!(result, Ok(count) if count > 0);
                    if filled.send(result.map(|_| piece)).is_err() || is_last {
                        return;
                    }
                }
            })?;
        Ok(Self {
            full,
            empty,
            current: Vec::new(),
            position: 0,
        })
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() {
            let next = match self.full.recv() {
                Ok(next) => next?,
                Err(_) => return Err(io::Error::other("the reading thread panicked")),
            };
            if next.is_empty() {
                // Stays at the end for further reads.
                let (sender, receiver) = sync_channel(1);
                let _ = sender.send(Ok(Vec::new()));
                self.full = receiver;
                return Ok(0);
            }
            let old = std::mem::replace(&mut self.current, next);
            self.position = 0;
            let _ = self.empty.send(old);
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadAhead")
    }
}
