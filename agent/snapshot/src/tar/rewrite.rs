//! Rewrites an archive so that no time in it is later than an epoch (`rewrite-timestamp`).

use std::io::{Read, Write};

use super::pax::parse_time;
use super::{Limits, TarError, TarReader, TarTime, TarWriter};

/// Copies the archive; times after `epoch` (seconds since 1970) become `epoch`. The output is what a
/// Go program gets that reads headers and writes them again, except that GNU forms come out as PAX.
pub fn rewrite_timestamps<W: Write>(
    input: impl Read,
    output: W,
    epoch: i64,
    limits: Limits,
) -> Result<W, TarError> {
    let clamp = |time: TarTime| {
        time.min(TarTime {
            seconds: epoch,
            nanoseconds: 0,
        })
    };
    let mut reader = TarReader::new(input, limits);
    let mut writer = TarWriter::new(output);
    while let Some(mut header) = reader.next_entry()? {
        header.mtime = clamp(header.mtime);
        for key in [&b"atime"[..], b"ctime"] {
            if let Some(time) = header.pax.get(key).and_then(|value| parse_time(value))
                && clamp(time) != time
            {
                header
                    .pax
                    .insert(key.to_vec(), epoch.to_string().into_bytes());
            }
        }
        writer.entry(&header, &mut reader)?;
    }
    reader.drain()?;
    Ok(writer.finish()?)
}
