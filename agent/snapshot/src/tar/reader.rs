//! A streaming reader of tar archives that trusts nothing: every length is bounded before it is used.
//!
//! Reads V7, USTAR, PAX and GNU (long names, base-256 numbers). Sparse files are refused by name.

use std::io::{self, Read};

use super::pax::{self, Records};
use super::{BLOCK, Header, Kind, TarTime, fields};

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
    /// Limits for a blob of `compressed` bytes, which bound how much it may inflate: more than any real data
    /// does, and enough for a large file of zeros, of which zstd leaves almost nothing.
    pub fn for_blob(compressed: u64) -> Self {
        Self {
            data: compressed.saturating_mul(2000).saturating_add(64 << 30),
            ..Self::default()
        }
    }
}

/// Reads entry after entry; between two, the data of the first can be read from it.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    limits: Limits,
    global: Records,
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
            global: Records::new(),
            left: 0,
            padding: 0,
            entries: 0,
            data: 0,
            ended: false,
        }
    }

    /// The next entry. `None` at the end, which is two zero blocks or the end of the stream.
    pub fn next_entry(&mut self) -> Result<Option<Header>, TarError> {
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
                    self.records(size, &mut pax)?;
                }
                b'g' => {
                    let mut global = std::mem::take(&mut self.global);
                    self.records(size, &mut global)?;
                    pax.extend(global.clone());
                    self.check_records(&pax)?;
                    self.global = global;
                }
                b'L' => long_name = Some(fields::text(&self.body(size)?).to_vec()),
                b'K' => long_link = Some(fields::text(&self.body(size)?).to_vec()),
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
        pax: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Header, TarError> {
        let magic = &block[257..265];
        let ustar = magic == b"ustar\x0000";
        let mut name = fields::text(&block[..100]).to_vec();
        if ustar {
            let prefix = fields::text(&block[345..500]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let mut entry = Header {
            name: long_name.unwrap_or(name),
            linkname: long_link.unwrap_or_else(|| fields::text(&block[157..257]).to_vec()),
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
            entry.uname = fields::text(&block[265..297]).to_vec();
            entry.gname = fields::text(&block[297..329]).to_vec();
            entry.devmajor = self.number(&block[329..337])? as u32;
            entry.devminor = self.number(&block[337..345])? as u32;
        }
        pax::apply(&mut entry).map_err(|what| self.damaged(what))?;
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
            if !fields::is_sealed(&block) {
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

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut (&mut self.input).take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    /// Reads an extended header of so many bytes.
    fn records(&mut self, size: u64, into: &mut Records) -> Result<(), TarError> {
        let body = self.body(size)?;
        pax::read(&body, into).map_err(|what| self.damaged(what))?;
        self.check_records(into)
    }

    /// Many extended headers may not hold more than one large one.
    fn check_records(&self, records: &Records) -> Result<(), TarError> {
        let held: usize = records.iter().map(|(k, v)| k.len() + v.len()).sum();
        if held > self.limits.pax {
            return Err(limit("bytes of PAX records", self.limits.pax as u64));
        }
        Ok(())
    }

    fn number(&self, field: &[u8]) -> Result<u64, TarError> {
        u64::try_from(self.signed(field)?).map_err(|_| self.damaged("a negative number"))
    }

    fn signed(&self, field: &[u8]) -> Result<i64, TarError> {
        fields::number(field).ok_or_else(|| self.damaged("a field that isn't a number"))
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
