//! Limits that a hostile stream runs into before the disk does.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much a stream may decompress to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub max_bytes: u64,
    /// Bytes out for each byte in, once more than `free_bytes` came out. gzip can't do more than 1032.
    pub max_ratio: u64,
    /// Output to which no ratio applies: a layer of a few zeros is no bomb.
    pub free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 40,
            max_ratio: 2000,
            free_bytes: 4 << 30,
        }
    }
}

pub(super) struct Gauge {
    limits: Limits,
    consumed: Arc<AtomicU64>,
    produced: u64,
}

impl Gauge {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            consumed: Arc::default(),
            produced: 0,
        }
    }

    pub(super) fn count<R: Read>(&self, input: R) -> Counted<R> {
        Counted {
            input,
            consumed: Arc::clone(&self.consumed),
        }
    }

    pub(super) fn check(&mut self, produced: usize) -> io::Result<()> {
        self.produced += produced as u64;
        let consumed = self.consumed.load(Ordering::Relaxed);
        let too_dense = self.produced > self.limits.free_bytes
            && self.produced / self.limits.max_ratio > consumed;
        if self.produced > self.limits.max_bytes || too_dense {
            let message = format!(
                "the data decompresses to more than {} bytes from {consumed}, which is not believable for a layer",
                self.produced
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(())
    }
}

pub(super) struct Counted<R> {
    input: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
