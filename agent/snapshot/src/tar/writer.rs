//! Writes tar entries with the bytes that Go's `archive/tar` would choose.

use std::io::{self, Read, Write};

use super::fields::{NAME_SIZE, ascii, put_octal, put_text, seal, split_path};
use super::pax::{self, FIELD_KEYS, Records};
use super::{BLOCK, Header, Kind};

/// The largest PAX body that Go writes (and reads).
const MAX_PAX: usize = 1 << 20;

/// Writes entries to `W`. Data of an entry follows its header and must have the announced size.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `out`; a buffered writer is advisable.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: vec![0; 256 << 10],
        }
    }

    /// Writes an entry without data.
    pub fn header(&mut self, header: &Header) -> io::Result<()> {
        self.write_header(header)
    }

    /// Writes an entry and exactly `header.size` bytes of `data`.
    pub fn entry(&mut self, header: &Header, data: &mut impl Read) -> io::Result<()> {
        self.write_header(header)?;
        let mut left = header.size;
        while left > 0 {
            let want = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match data.read(&mut self.buffer[..want]) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the file shrank while it was read: {left} bytes are missing"),
                    ));
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.out.write_all(&self.buffer[..n])?;
            left -= n as u64;
        }
        self.pad(header.size)
    }

    /// Writes the end of the archive and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = (size % BLOCK as u64) as usize;
        if rest > 0 {
            self.out.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    fn write_header(&mut self, header: &Header) -> io::Result<()> {
        let (records, ustar) = choose_format(header)?;
        if ustar {
            let (prefix, name) =
                split_path(&header.name).unwrap_or((&[][..], header.name.as_slice()));
            let mut block = template(header, name, <[u8]>::to_vec);
            put_text(&mut block[345..500], prefix);
            seal(&mut block);
            return self.out.write_all(&block);
        }
        if !records.is_empty() {
            let mut body = Vec::new();
            for (key, value) in &records {
                pax::write(&mut body, key, value);
            }
            if body.len() > MAX_PAX {
                return Err(invalid(header, "its extended header is larger than 1 MiB"));
            }
            self.write_pax_file(&header.name, &body)?;
        }
        let mut block = template(header, &header.name, ascii);
        seal(&mut block);
        self.out.write_all(&block)
    }

    fn write_pax_file(&mut self, name: &[u8], body: &[u8]) -> io::Result<()> {
        let mut block = [0; BLOCK];
        let mut name = ascii(&pax::file_name(name));
        name.truncate(NAME_SIZE);
        while name.last() == Some(&b'/') {
            name.pop();
        }
        put_text(&mut block[..100], &name);
        put_octal(&mut block[100..108], 0);
        put_octal(&mut block[108..116], 0);
        put_octal(&mut block[116..124], 0);
        put_octal(&mut block[124..136], body.len() as u64);
        put_octal(&mut block[136..148], 0);
        block[156] = b'x';
        seal(&mut block);
        self.out.write_all(&block)?;
        self.out.write_all(body)?;
        self.pad(body.len() as u64)
    }
}

/// The PAX records that the header needs, and whether plain USTAR holds it all.
fn choose_format(header: &Header) -> io::Result<(Records, bool)> {
    let mut records = Records::new();
    let mut ustar = true;
    let mut text = |value: &[u8], size: usize, key: &[u8]| {
        if !value.iter().all(|&b| b != 0 && b < 0x80) || value.len() > size {
            if key != b"path" || split_path(value).is_none() {
                ustar = false;
            }
            records.insert(key.to_vec(), value.to_vec());
        }
    };
    text(&header.name, NAME_SIZE, b"path");
    text(&header.linkname, NAME_SIZE, b"linkpath");
    text(&header.uname, 32, b"uname");
    text(&header.gname, 32, b"gname");
    for (value, digits, key) in [
        (header.uid, 7, &b"uid"[..]),
        (header.gid, 7, b"gid"),
        (header.size, 11, b"size"),
    ] {
        if value >> (3 * digits) != 0 {
            ustar = false;
            records.insert(key.to_vec(), value.to_string().into_bytes());
        }
    }
    if header.mtime.nanoseconds != 0
        || u64::try_from(header.mtime.seconds).map_or(true, |seconds| seconds >> 33 != 0)
    {
        ustar = false;
        records.insert(
            b"mtime".to_vec(),
            pax::format_time(header.mtime).into_bytes(),
        );
    }
    for (key, value) in &header.pax {
        let is_field = FIELD_KEYS.contains(&key.as_slice());
        if !is_field && !key.starts_with(b"GNU.sparse.") {
            records.insert(key.clone(), value.clone());
        }
    }
    if !header.pax.is_empty() {
        ustar = false;
    }
    if header.kind != Kind::Directory
        && !matches!(header.kind, Kind::HardLink | Kind::Symlink)
        && header.name.ends_with(b"/")
    {
        return Err(invalid(
            header,
            "only a directory's name may end in a slash",
        ));
    }
    if header.devmajor >> 21 != 0 || header.devminor >> 21 != 0 {
        return Err(invalid(header, "its device number doesn't fit"));
    }
    for (key, value) in &records {
        let named = [&b"path"[..], b"linkpath", b"uname", b"gname"].contains(&key.as_slice());
        let checked = if named { value } else { key };
        if key.is_empty() || key.contains(&b'=') || checked.contains(&0) {
            return Err(invalid(
                header,
                "a PAX record of it holds a NUL or an equals sign",
            ));
        }
    }
    Ok((records, ustar))
}

fn invalid(header: &Header, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{}: {why}", String::from_utf8_lossy(&header.name)),
    )
}

fn template(header: &Header, name: &[u8], text: impl Fn(&[u8]) -> Vec<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put_text(&mut block[..100], &text(name));
    put_octal(&mut block[100..108], u64::from(header.mode));
    put_octal(&mut block[108..116], header.uid);
    put_octal(&mut block[116..124], header.gid);
    put_octal(&mut block[124..136], header.size);
    put_octal(
        &mut block[136..148],
        u64::try_from(header.mtime.seconds).unwrap_or(u64::MAX),
    );
    block[156] = header.kind.flag();
    put_text(&mut block[157..257], &text(&header.linkname));
    put_text(&mut block[265..297], &text(&header.uname));
    put_text(&mut block[297..329], &text(&header.gname));
    put_octal(&mut block[329..337], u64::from(header.devmajor));
    put_octal(&mut block[337..345], u64::from(header.devminor));
    block
}
