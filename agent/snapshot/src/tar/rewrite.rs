//! Rewrites an archive so that no time in it is later than an epoch (`rewrite-timestamp`).

use std::io::{Read, Write};

use super::reader::parse_time;
use super::{Header, Limits, TarError, TarReader, TarTime, TarWriter};

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
    while let Some(entry) = reader.next_entry()? {
        let mut pax = entry.pax;
        for key in [&b"atime"[..], b"ctime"] {
            if let Some(time) = pax.get(key).and_then(|value| parse_time(value))
                && clamp(time) != time
            {
                pax.insert(key.to_vec(), epoch.to_string().into_bytes());
            }
        }
        let header = Header {
            name: entry.name,
            linkname: entry.linkname,
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            uname: entry.uname,
            gname: entry.gname,
            size: entry.size,
            mtime: clamp(entry.mtime),
            devmajor: entry.devmajor,
            devminor: entry.devminor,
            pax,
        };
        writer.entry(&header, &mut reader)?;
    }
    reader.drain()?;
    Ok(writer.finish()?)
}
