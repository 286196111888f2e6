//! Reading gzip: any number of members, ours in parallel, others as a stream.
//!
//! A member that carries its length in the extra field `KN` is read whole and inflated by a worker
//! while the next ones are read. All others go through a streaming decoder. Zeros after the last
//! member are padding; anything else there is an error, as it is for Go's reader.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::Receiver;

use zlib_rs::{Inflate, InflateFlush, Status};

use super::deflate::{CHUNK, EXTRA, EXTRA_NAME, HEADER, TRAILER, inflate_body};
use super::pool::Pool;

const INPUT: usize = 128 << 10;
/// A member of ours holds at most a chunk that was stored, with five bytes per block.
const MAX_MEMBER: usize = CHUNK + CHUNK / 65535 * 5 + 1024;

/// What a worker gives back: the body that it read, and what was in it.
type Piece = (Vec<u8>, Vec<u8>, io::Result<()>);

pub(super) struct GzipReader<R> {
    input: Buffered<R>,
    pool: Pool,
    phase: Phase,
    pending: VecDeque<Receiver<Piece>>,
    /// What the last finished piece left to be read.
    ready: Vec<u8>,
    position: usize,
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    inflate: Box<Inflate>,
    crc: libdeflater::Crc,
    length: u32,
    members: u64,
}

enum Phase {
    Header,
    Stream,
    End,
}

impl<R: Read> GzipReader<R> {
    pub(super) fn new(input: R, pool: &Pool) -> Self {
        Self {
            input: Buffered::new(input),
            pool: pool.clone(),
            phase: Phase::Header,
            pending: VecDeque::new(),
            ready: Vec::new(),
            position: 0,
            spare: Vec::new(),
            inflate: Box::new(Inflate::new(false, 15)),
            crc: libdeflater::Crc::new(),
            length: 0,
            members: 0,
        }
    }

    /// Reads the next header. A member of ours goes to a worker; another one leaves the phase at `Stream`.
    fn begin_member(&mut self) -> io::Result<()> {
        if self.members > 0 && self.only_padding_follows()? {
            self.phase = Phase::End;
            return Ok(());
        }
        let Header { flags, ours } = self.read_header()?;
        self.members += 1;
        match ours {
            Some(length) if flags == 4 => {
                let body = (length as usize)
                    .checked_sub(HEADER + EXTRA)
                    .filter(|body| (TRAILER..=MAX_MEMBER).contains(body))
                    .ok_or_else(|| corrupt("gzip member has an impossible length"))?;
                let (mut bytes, mut out) = self.spare.pop().unwrap_or_default();
                // Without clearing it first: only what grows is filled with zeros.
                bytes.resize(body, 0);
                self.input.read_exact(&mut bytes)?;
                self.pending.push_back(self.pool.run(move || {
                    let result = inflate_body(&bytes, &mut out);
                    (bytes, out, result)
                }));
            }
            _ => {
                self.inflate.reset(false);
                self.crc = libdeflater::Crc::new();
                self.length = 0;
                self.phase = Phase::Stream;
            }
        }
        Ok(())
    }

    fn only_padding_follows(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes[0] != 0 {
                return Ok(false);
            }
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let all = zeros == bytes.len();
            self.input.consume(zeros);
            if !all {
                return Err(corrupt("data after the end of the gzip stream"));
            }
        }
    }

    fn read_header(&mut self) -> io::Result<Header> {
        let mut fixed = [0; HEADER];
        self.input.read_exact(&mut fixed)?;
        let [0x1f, 0x8b, 8, flags, ..] = fixed else {
            return Err(corrupt("not a gzip stream"));
        };
        let mut ours = None;
        if flags & 4 != 0 {
            let mut length = [0; 2];
            self.input.read_exact(&mut length)?;
            let mut extra = vec![0; usize::from(u16::from_le_bytes(length))];
            self.input.read_exact(&mut extra)?;
            if let [k, n, 4, 0, a, b, c, d] = extra[..]
                && [k, n] == EXTRA_NAME
            {
                ours = Some(u32::from_le_bytes([a, b, c, d]));
            }
        }
        for text in [8, 16] {
            // File name and comment, each ended by a zero.
            let mut byte = [u8::from(flags & text != 0)];
            while byte[0] != 0 {
                self.input.read_exact(&mut byte)?;
            }
        }
        if flags & 2 != 0 {
            self.input.read_exact(&mut [0; 2])?;
        }
        if flags & 0xe0 != 0 {
            return Err(corrupt("gzip header has unknown flags"));
        }
        Ok(Header { flags, ours })
    }

    /// Inflates from the stream; 0 at the member's end.
    fn stream(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.input.fill()?;
            let at_end = bytes.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(bytes, buffer, InflateFlush::NoFlush)
                .map_err(|_| corrupt("corrupt deflate stream"))?;
            let consumed = (self.inflate.total_in() - before_in) as usize;
            let count = (self.inflate.total_out() - before_out) as usize;
            self.input.consume(consumed);
            self.crc.update(&buffer[..count]);
            self.length = self.length.wrapping_add(count as u32);
            if status == Status::StreamEnd {
                self.end_member()?;
                return Ok(count);
            }
            if count > 0 {
                return Ok(count);
            }
            if at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if consumed == 0 {
                return Err(corrupt("corrupt deflate stream"));
            }
        }
    }

    fn end_member(&mut self) -> io::Result<()> {
        let mut trailer = [0; TRAILER];
        self.input.read_exact(&mut trailer)?;
        let [c0, c1, c2, c3, s0, s1, s2, s3] = trailer;
        if self.crc.sum() != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(corrupt("gzip member has a wrong checksum"));
        }
        if self.length != u32::from_le_bytes([s0, s1, s2, s3]) {
            return Err(corrupt("gzip member has another length than it says"));
        }
        self.phase = Phase::Header;
        Ok(())
    }

    /// Takes the next finished piece.
    fn next_piece(&mut self) -> io::Result<()> {
        if let Some(piece) = self.pending.pop_front() {
            let (body, out, result) = piece
                .recv()
                .map_err(|_| io::Error::other("a decompressing thread panicked"))?;
            result?;
            let old = std::mem::replace(&mut self.ready, out);
            self.position = 0;
            self.spare.push((body, old));
        }
        Ok(())
    }
}

struct Header {
    flags: u8,
    ours: Option<u32>,
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.position < self.ready.len() {
                let count = buffer.len().min(self.ready.len() - self.position);
                buffer[..count].copy_from_slice(&self.ready[self.position..self.position + count]);
                self.position += count;
                return Ok(count);
            }
            let want_more = self.pending.len() <= self.pool.workers();
            match self.phase {
                Phase::Header if want_more => self.begin_member()?,
                // Members before the stream come first.
                _ if !self.pending.is_empty() => self.next_piece()?,
                Phase::Stream => match self.stream(buffer)? {
                    0 => {}
                    count => return Ok(count),
                },
                Phase::End => return Ok(0),
                Phase::Header => {}
            }
        }
    }
}

fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A buffered reader whose buffer can be looked at.
struct Buffered<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Buffered<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            buffer: vec![0; INPUT],
            start: 0,
            end: 0,
        }
    }

    /// What is in the buffer, read anew if that is nothing. Empty at the end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end {
            match self.input.read(&mut self.buffer) {
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
    }

    fn read_exact(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let bytes = self.fill()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = bytes.len().min(out.len());
            out[..count].copy_from_slice(&bytes[..count]);
            out = &mut out[count..];
            self.consume(count);
        }
        Ok(())
    }
}
