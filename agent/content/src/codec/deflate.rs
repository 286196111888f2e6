//! One gzip member of at most [`CHUNK`] bytes of input: made and read as a whole.
//!
//! ```text
//! 1f 8b 08 04 | mtime 0 | 0 | 255 | extra: len 8, 'K' 'N', len 4, length of the member | deflate | crc32 | size
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use libdeflater::{CompressionLvl, Compressor, Decompressor};

/// Input per member of `gzip-v1`.
pub(super) const CHUNK: usize = 1 << 20;
/// The level of `gzip-v1` where none is asked for.
pub(super) const LEVEL: i32 = 1;

pub(super) const HEADER: usize = 10;
/// Two bytes of length, two of name, two of length, four of value.
pub(super) const EXTRA: usize = 10;
pub(super) const TRAILER: usize = 8;
pub(super) const EXTRA_NAME: [u8; 2] = *b"KN";

/// Sampled pieces of a chunk that tell whether it is worth compressing.
const SAMPLES: usize = 3;
const SAMPLE: usize = 16 << 10;
const STORED_MAX: usize = 65535;

thread_local! {
    static COMPRESSORS: RefCell<HashMap<i32, Compressor>> = RefCell::default();
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// Compresses `input` into one member, which is appended to the empty `out`.
pub(super) fn member(input: &[u8], level: i32, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255]);
    out.extend_from_slice(&[8, 0, EXTRA_NAME[0], EXTRA_NAME[1], 4, 0, 0, 0, 0, 0]);
    let level = CompressionLvl::new(level).unwrap_or_default();
    let compressed = COMPRESSORS.with_borrow_mut(|compressors| {
        let compressor = compressors
            .entry(i32::from(level))
            .or_insert_with(|| Compressor::new(level));
        is_compressible(compressor, input) && deflate(compressor, input, out)
    });
    if !compressed {
        store(input, out);
    }
    out.extend_from_slice(&libdeflater::crc32(input).to_le_bytes());
    out.extend_from_slice(&(input.len() as u32).to_le_bytes());
    let length = (out.len() as u32).to_le_bytes();
    out[HEADER + EXTRA - 4..HEADER + EXTRA].copy_from_slice(&length);
}

/// Whether pieces of the input get smaller; small inputs are taken to.
fn is_compressible(compressor: &mut Compressor, input: &[u8]) -> bool {
    if input.len() < SAMPLES * SAMPLE {
        return true;
    }
    let mut scratch = vec![0; compressor.deflate_compress_bound(SAMPLE)];
    let step = (input.len() - SAMPLE) / (SAMPLES - 1);
    (0..SAMPLES).any(|at| {
        let sample = &input[at * step..at * step + SAMPLE];
        let length = compressor.deflate_compress(sample, &mut scratch);
        length.is_ok_and(|length| length < SAMPLE / 100 * 98)
    })
}

/// False, with `out` as it was, if the result isn't smaller than the input.
fn deflate(compressor: &mut Compressor, input: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let room = compressor.deflate_compress_bound(input.len());
    out.resize(start + room, 0);
    match compressor.deflate_compress(input, &mut out[start..]) {
        Ok(length) if length < input.len() || input.len() < 64 => {
            out.truncate(start + length);
            true
        }
        _ => {
            out.truncate(start);
            false
        }
    }
}

fn store(input: &[u8], out: &mut Vec<u8>) {
    if input.is_empty() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    let mut blocks = input.chunks(STORED_MAX).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Decompresses the body of a member, deflate and trailer, of at most [`CHUNK`] bytes of output.
pub(super) fn inflate_body(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let (deflated, trailer) = body
        .split_last_chunk::<TRAILER>()
        .ok_or_else(|| bad("gzip member is too short"))?;
    let [c0, c1, c2, c3, s0, s1, s2, s3] = *trailer;
    let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
    if size > CHUNK {
        return Err(bad("gzip member is longer than it may be"));
    }
    out.resize(size, 0);
    let length = DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.deflate_decompress(deflated, out))
        .map_err(|_| bad("corrupt deflate stream"))?;
    if length != size {
        return Err(bad("gzip member has another length than it says"));
    }
    if libdeflater::crc32(out) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(bad("gzip member has a wrong checksum"));
    }
    Ok(())
}
