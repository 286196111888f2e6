//! Compression and decompression of layers.
//!
//! A **profile** freezes everything that the bytes depend on under a name, because layer digests are
//! users' API: another chunk size, level or library is another profile. The number of cores never
//! shows in the bytes.
//!
//! | profile | form |
//! |---|---|
//! | `gzip-v1` | members of 1 MiB of input, libdeflate level 1 unless a level is asked for; incompressible members stored; each member has its length in an extra field `KN` |
//! | `zstd-v1` | one frame with checksum, zstd level 1 unless a level is asked for, jobs of 2 MiB |

mod ahead;
mod deflate;
mod gzip;
mod inflate;
mod limits;
mod pool;

use std::io::{self, Read, Write};

use zstd::zstd_safe::CParameter;

pub use ahead::ReadAhead;
pub use limits::Limits;

use crate::{Compression, CompressionSpec};

/// The level of `zstd-v1` where none is asked for.
const ZSTD_LEVEL: i32 = 1;
/// Input per job of `zstd-v1`, and how much of the job before it may refer to (in zstd's terms: an eighth of the window).
const ZSTD_JOB: u32 = 2 << 20;
const ZSTD_OVERLAP: u32 = 6;
/// Frames that want a larger window than 128 MiB are refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Compresses what is written to it. Nothing is complete before [`finish`](Self::finish).
pub struct Compressor<W: Write>(Form<W>);

enum Form<W: Write> {
    Plain(W),
    Gzip(gzip::GzipWriter<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// Compresses into `out` on all cores.
    pub fn new(spec: &CompressionSpec, out: W) -> io::Result<Self> {
        Self::with_workers(spec, out, pool::Pool::shared())
    }

    fn with_workers(spec: &CompressionSpec, out: W, pool: &pool::Pool) -> io::Result<Self> {
        Ok(Self(match spec.kind {
            Compression::Uncompressed => Form::Plain(out),
            Compression::Gzip => Form::Gzip(gzip::GzipWriter::new(out, spec.level, pool)),
            Compression::Zstd => Form::Zstd(zstd_v1(out, spec.level, pool.workers())?),
        }))
    }

    /// Writes what is left and gives the output back.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Form::Plain(mut out) => {
                out.flush()?;
                Ok(out)
            }
            Form::Gzip(writer) => writer.finish(),
            Form::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn zstd_v1<W: Write>(
    out: W,
    level: Option<i32>,
    workers: usize,
) -> io::Result<zstd::stream::write::Encoder<'static, W>> {
    // Level 0 is zstd's own default, which isn't ours to freeze.
    let level = level.filter(|level| *level > 0).unwrap_or(ZSTD_LEVEL);
    let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
    encoder.include_checksum(true)?;
    // With no workers the bytes would differ from those with one or more.
    encoder.multithread(u32::try_from(workers.max(1)).unwrap_or(1))?;
    encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
    encoder.set_parameter(CParameter::OverlapSizeLog(ZSTD_OVERLAP))?;
    Ok(encoder)
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Form::Plain(out) => out.write(bytes),
            Form::Gzip(writer) => writer.write(bytes),
            Form::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Flushes only what is compressed already, so that the bytes don't depend on flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Form::Plain(_) => "Compressor(plain)",
            Form::Gzip(_) => "Compressor(gzip-v1)",
            Form::Zstd(_) => "Compressor(zstd-v1)",
        })
    }
}

/// Decompresses a stream whose compression it finds out from the first bytes.
pub struct Decompressor<R: Read> {
    source: Source<R>,
    gauge: limits::Gauge,
}

type Input<R> = io::Chain<io::Cursor<Vec<u8>>, limits::Counted<R>>;

enum Source<R: Read> {
    Plain(Input<R>),
    Gzip(Box<inflate::GzipReader<Input<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, io::BufReader<Input<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Reads the first bytes of `input`. The limits are those of [`Limits::default`].
    pub fn new(input: R) -> io::Result<Self> {
        Self::with_limits(input, Limits::default())
    }

    /// The same with limits of the caller's.
    pub fn with_limits(input: R, limits: Limits) -> io::Result<Self> {
        let gauge = limits::Gauge::new(limits);
        let mut input = gauge.count(input);
        let mut start = Vec::with_capacity(4);
        input.by_ref().take(4).read_to_end(&mut start)?;
        let kind = Compression::detect(&start);
        let input = io::Cursor::new(start).chain(input);
        let source = match kind {
            Compression::Uncompressed => Source::Plain(input),
            Compression::Gzip => Source::Gzip(Box::new(inflate::GzipReader::new(
                input,
                pool::Pool::shared(),
            ))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Source::Zstd(decoder)
            }
        };
        Ok(Self { source, gauge })
    }

    /// What the stream is compressed with.
    pub const fn kind(&self) -> Compression {
        match self.source {
            Source::Plain(_) => Compression::Uncompressed,
            Source::Gzip(_) => Compression::Gzip,
            Source::Zstd(_) => Compression::Zstd,
        }
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.source {
            Source::Plain(input) => return input.read(buffer),
            Source::Gzip(reader) => reader.read(buffer)?,
            Source::Zstd(decoder) => decoder.read(buffer)?,
        };
        self.gauge.check(count)?;
        Ok(count)
    }
}

impl<R: Read> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decompressor({})", self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_workers_never_shows() {
        let data: Vec<u8> = (0..9_000_000_u32)
            .flat_map(|n| (n / 5).wrapping_mul(2_654_435_761).to_be_bytes())
            .collect();
        for kind in [Compression::Gzip, Compression::Zstd] {
            let spec = CompressionSpec {
                kind,
                ..CompressionSpec::default()
            };
            let packed = |workers| {
                let pool = pool::Pool::new(workers);
                let mut writer = Compressor::with_workers(&spec, Vec::new(), &pool).unwrap();
                // Pieces of uneven sizes, as a tar writer has them.
                for piece in data.chunks(100_003) {
                    writer.write_all(piece).unwrap();
                }
                writer.finish().unwrap()
            };
            let one = packed(1);
            for workers in [2, 3, 8] {
                assert!(packed(workers) == one, "{kind} with {workers} workers");
            }
        }
    }
}
