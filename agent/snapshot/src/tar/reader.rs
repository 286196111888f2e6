//! A streaming reader of tar archives that trusts nothing: every length is bounded before it is used.
//!
//! Reads V7, USTAR, PAX and GNU (long names, base-256 numbers). Sparse files are refused by name.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::{BLOCK, Kind, PAX_XATTR, TarTime};

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream couldn't be read or ended early.
    #[error("failed to read the archive")]
    Read(#[from] io::Error),
    /// A header block that isn't one.
    #[error("damaged tar header at entry {entry}: {what}")]
    Header {
        /// Counted from 0.
        entry: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A kind of entry that isn't supported.
    #[error("{name:?}: entries of type {flag:?} aren't supported")]
    Unsupported {
        /// Its path.
        name: String,
        /// Its type flag.
        flag: char,
    },
    /// More of something than the limits allow.
    #[error("the archive has more {what} than the {limit} allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: u64,
    },
}

/// Bounds on what an archive may contain.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of a path or a link target.
    pub path: usize,
    /// Bytes of one entry's PAX records.
    pub pax: usize,
    /// Bytes of data of all entries.
    pub data: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 10_000_000,
            path: 4096,
            pax: 1 << 20,
            data: 1 << 44,
        }
    }
}

impl Limits {
    /// Limits for a blob of `compressed` bytes, which bound how much it may inflate.
    pub fn for_blob(compressed: u64) -> Self {
        Self {
            data: compressed.saturating_mul(2000).saturating_add(4 << 30),
            ..Self::default()
        }
    }
}

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path as the archive has it.
    pub name: Vec<u8>,
    /// Target of a link.
    pub linkname: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Name of the owner.
    pub uname: Vec<u8>,
    /// Name of the group.
    pub gname: Vec<u8>,
    /// Bytes of data.
    pub size: u64,
    /// Of the last change.
    pub mtime: TarTime,
    /// Of a device.
    pub devmajor: u32,
    /// Of a device.
    pub devminor: u32,
    /// All PAX records of it, global ones included.
    pub pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// Its extended attributes.
    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pax.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(PAX_XATTR.as_bytes())?;
            Some((name, value.as_slice()))
        })
    }
}

/// Reads entry after entry; between two, the data of the first can be read from it.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    limits: Limits,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Data of the current entry that wasn't read yet.
    left: u64,
    /// Padding after it.
    padding: u64,
    entries: u64,
    data: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads `input`, which should be buffered.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            global: BTreeMap::new(),
            left: 0,
            padding: 0,
            entries: 0,
            data: 0,
            ended: false,
        }
    }

    /// The next entry. `None` at the end, which is two zero blocks or the end of the stream.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(block) = self.block()? else {
                self.ended = true;
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(limit("entries", self.limits.entries));
            }
            let size = self.number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let body = self.body(size)?;
                    self.records(&body, &mut pax)?;
                }
                b'g' => {
                    let body = self.body(size)?;
                    let mut global = std::mem::take(&mut self.global);
                    self.records(&body, &mut global)?;
                    pax.extend(global.clone());
                    self.global = global;
                }
                b'L' => long_name = Some(until_nul(&self.body(size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.body(size)?).to_vec()),
                _ => {
                    return self
                        .entry(&block, size, pax, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    /// Reads what is behind the end of the archive, so that a digest over the stream is whole.
    pub fn drain(&mut self) -> Result<(), TarError> {
        let mut buffer = vec![0; 64 << 10];
        let mut drained = 0;
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => drained += n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            if drained > self.limits.data {
                return Err(limit("bytes of padding", self.limits.data));
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        pax: BTreeMap<Vec<u8>, Vec<u8>>,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let magic = &block[257..265];
        let ustar = magic == b"ustar\x0000";
        let mut name = until_nul(&block[..100]).to_vec();
        if ustar {
            let prefix = until_nul(&block[345..500]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let mut entry = Entry {
            name: long_name.unwrap_or(name),
            linkname: long_link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            kind: Kind::Regular,
            mode: (self.number(&block[100..108])? & 0o7777) as u32,
            uid: self.number(&block[108..116])?,
            gid: self.number(&block[116..124])?,
            uname: Vec::new(),
            gname: Vec::new(),
            size,
            mtime: TarTime {
                seconds: self.signed(&block[136..148])?,
                nanoseconds: 0,
            },
            devmajor: 0,
            devminor: 0,
            pax,
        };
        if magic.starts_with(b"ustar") {
            entry.uname = until_nul(&block[265..297]).to_vec();
            entry.gname = until_nul(&block[297..329]).to_vec();
            entry.devmajor = self.number(&block[329..337])? as u32;
            entry.devminor = self.number(&block[337..345])? as u32;
        }
        self.apply_records(&mut entry)?;
        entry.kind = match block[156] {
            b'0' | 0 | b'7' if entry.name.ends_with(b"/") && block[156] == 0 => Kind::Directory,
            b'0' | 0 | b'7' => Kind::Regular,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => {
                return Err(TarError::Unsupported {
                    name: String::from_utf8_lossy(&entry.name).into_owned(),
                    flag: char::from(flag),
                });
            }
        };
        if entry.pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
            return Err(TarError::Unsupported {
                name: String::from_utf8_lossy(&entry.name).into_owned(),
                flag: 'S',
            });
        }
        if entry.name.is_empty() || entry.name.contains(&0) || entry.linkname.contains(&0) {
            return Err(self.damaged("empty name, or a NUL in a name"));
        }
        if entry.name.len() > self.limits.path || entry.linkname.len() > self.limits.path {
            return Err(limit("bytes in a path", self.limits.path as u64));
        }
        // Only regular files have data, whatever the size field of others says.
        if entry.kind != Kind::Regular {
            entry.size = 0;
        }
        self.data = self.data.saturating_add(entry.size);
        if self.data > self.limits.data {
            return Err(limit("bytes", self.limits.data));
        }
        self.left = entry.size;
        self.padding = entry.size.wrapping_neg() % BLOCK as u64;
        Ok(entry)
    }

    fn apply_records(&self, entry: &mut Entry) -> Result<(), TarError> {
        let text = |key: &[u8]| entry.pax.get(key).filter(|value| !value.is_empty());
        let number = |key: &[u8]| {
            text(key)
                .map(|value| {
                    std::str::from_utf8(value)
                        .ok()
                        .and_then(|value| value.parse::<u64>().ok())
                        .ok_or_else(|| self.damaged("a PAX record that should be a number"))
                })
                .transpose()
        };
        let (path, linkpath) = (text(b"path").cloned(), text(b"linkpath").cloned());
        let (uname, gname) = (text(b"uname").cloned(), text(b"gname").cloned());
        let (uid, gid, size) = (number(b"uid")?, number(b"gid")?, number(b"size")?);
        let mtime = text(b"mtime")
            .map(|value| {
                parse_time(value).ok_or_else(|| self.damaged("a PAX time that isn't a number"))
            })
            .transpose()?;
        entry.name = path.unwrap_or_else(|| std::mem::take(&mut entry.name));
        entry.linkname = linkpath.unwrap_or_else(|| std::mem::take(&mut entry.linkname));
        entry.uname = uname.unwrap_or_else(|| std::mem::take(&mut entry.uname));
        entry.gname = gname.unwrap_or_else(|| std::mem::take(&mut entry.gname));
        entry.uid = uid.unwrap_or(entry.uid);
        entry.gid = gid.unwrap_or(entry.gid);
        entry.size = size.unwrap_or(entry.size);
        entry.mtime = mtime.unwrap_or(entry.mtime);
        Ok(())
    }

    /// The next header block, checksum verified; `None` at the end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut zeros = 0;
        loop {
            let mut block = [0; BLOCK];
            if !self.fill(&mut block, zeros == 0)? {
                return Ok(None);
            }
            if block.iter().all(|&b| b == 0) {
                zeros += 1;
                if zeros == 2 {
                    return Ok(None);
                }
                continue;
            }
            if zeros == 1 {
                return Err(self.damaged("a zero block in the middle"));
            }
            let stored = self.number(&block[148..156])?;
            let mut summed = block;
            summed[148..156].fill(b' ');
            let unsigned: u64 = summed.iter().map(|&b| u64::from(b)).sum();
            let signed: i64 = summed.iter().map(|&b| i64::from(b.cast_signed())).sum();
            if stored != unsigned && i64::try_from(stored).ok() != Some(signed) {
                return Err(self.damaged("the checksum is wrong"));
            }
            return Ok(Some(block));
        }
    }

    /// Fills the buffer; `false` at the end of the stream before its first byte, if that is allowed.
    fn fill(&mut self, buffer: &mut [u8], strict: bool) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                // An archive may lack its trailer, but a block is there whole or not at all.
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) if !strict => return Ok(false),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    fn body(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > self.limits.pax {
            return Err(limit("bytes in an extended header", self.limits.pax as u64));
        }
        let mut body = vec![0; length];
        self.input.read_exact(&mut body)?;
        self.skip(size.wrapping_neg() % BLOCK as u64)?;
        Ok(body)
    }

    fn records(
        &self,
        mut body: &[u8],
        into: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), TarError> {
        let damaged = || self.damaged("PAX records that can't be read");
        while !body.is_empty() {
            let space = body.iter().position(|&b| b == b' ').ok_or_else(damaged)?;
            let length: usize = std::str::from_utf8(&body[..space])
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(damaged)?;
            if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
                return Err(damaged());
            }
            let record = &body[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(damaged)?;
            let (key, value) = (record[..equals].to_vec(), record[equals + 1..].to_vec());
            if value.is_empty() && !key.starts_with(PAX_XATTR.as_bytes()) {
                into.remove(&key);
            } else {
                into.insert(key, value);
            }
            body = &body[length..];
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut (&mut self.input).take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    fn number(&self, field: &[u8]) -> Result<u64, TarError> {
        u64::try_from(self.signed(field)?).map_err(|_| self.damaged("a negative number"))
    }

    /// Octal digits between spaces and NULs, or GNU's base 256.
    fn signed(&self, field: &[u8]) -> Result<i64, TarError> {
        let damaged = || self.damaged("a field that isn't a number");
        if field[0] & 0x80 != 0 {
            let negative = field[0] & 0x40 != 0;
            let mut value: i128 = if negative { -1 } else { 0 };
            for (i, &byte) in field.iter().enumerate() {
                let byte = match (i, negative) {
                    (0, false) => byte & 0x7f,
                    _ => byte,
                };
                value = (value << 8) | i128::from(byte);
                if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                    return Err(damaged());
                }
            }
            return i64::try_from(value).map_err(|_| damaged());
        }
        let text = field
            .iter()
            .copied()
            .skip_while(|&b| b == b' ' || b == 0)
            .take_while(|&b| b != b' ' && b != 0);
        let mut value: i64 = 0;
        for digit in text {
            if !(b'0'..=b'7').contains(&digit) {
                return Err(damaged());
            }
            value = value * 8 + i64::from(digit - b'0');
        }
        Ok(value)
    }

    fn damaged(&self, what: &'static str) -> TarError {
        TarError::Header {
            entry: self.entries,
            what,
        }
    }
}

impl<R: Read> Read for TarReader<R> {
    /// Reads data of the current entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn limit(what: &'static str, limit: u64) -> TarError {
    TarError::Limit { what, limit }
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Decimal seconds with an optional fraction, cut at nanoseconds.
pub(super) fn parse_time(text: &[u8]) -> Option<TarTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(TarTime {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(TarTime {
        seconds,
        nanoseconds,
    })
}
