//! Writes tar entries with the bytes that Go's `archive/tar` would choose.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::{BLOCK, Kind, TarTime};

/// What an entry says about a file.
#[derive(Debug, Clone)]
pub struct Header {
    /// Path, without a leading slash; directories end in one.
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
    /// Name of the owner; layers have none.
    pub uname: Vec<u8>,
    /// Name of the group; layers have none.
    pub gname: Vec<u8>,
    /// Bytes of data that follow.
    pub size: u64,
    /// Of the last change.
    pub mtime: TarTime,
    /// Of a device.
    pub devmajor: u32,
    /// Of a device.
    pub devminor: u32,
    /// Further PAX records, keys and values. Those that repeat a field above are left out.
    pub pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Header {
    /// A header of an empty thing at 1970.
    pub fn new(name: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            linkname: Vec::new(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            uname: Vec::new(),
            gname: Vec::new(),
            size: 0,
            mtime: TarTime::default(),
            devmajor: 0,
            devminor: 0,
            pax: BTreeMap::new(),
        }
    }
}

const NAME_SIZE: usize = 100;
const PREFIX_SIZE: usize = 155;

/// The largest PAX body that Go writes (and reads).
const MAX_PAX: usize = 1 << 20;

const FIELD_KEYS: [&[u8]; 8] = [
    b"path",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"uname",
    b"gname",
    b"mtime",
];

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
                pax_record(&mut body, key, value);
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
        let mut name = ascii(&pax_file_name(name));
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

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

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
        records.insert(b"mtime".to_vec(), format_time(header.mtime).into_bytes());
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

/// Writes the magic and the checksum.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    put_octal(&mut block[148..155], u64::from(sum));
    block[155] = b' ';
}

/// Copies what fits. A name cut at a slash loses the slash, so that no reader takes it for a directory.
fn put_text(field: &mut [u8], text: &[u8]) {
    let n = field.len().min(text.len());
    field[..n].copy_from_slice(&text[..n]);
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let end = field.iter().rposition(|&b| b != b'/').map_or(0, |i| i + 1);
        field[end] = 0;
    }
}

/// Zero-filled octal digits and a NUL; a number that doesn't fit is written as 0 (a PAX record has it).
fn put_octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    let number = if number >> (3 * digits).min(63) == 0 {
        number
    } else {
        0
    };
    let text = format!("{number:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|&b| b != 0 && b < 0x80)
        .collect()
}

/// Splits a long ASCII path at a slash into what the prefix and the name field hold.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME_SIZE || !path.iter().all(|&b| b != 0 && b < 0x80) {
        return None;
    }
    let mut end = path.len();
    if end > PREFIX_SIZE + 1 {
        end = PREFIX_SIZE + 1;
    } else if path.ends_with(b"/") {
        end -= 1;
    }
    let slash = path[..end].iter().rposition(|&b| b == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    if prefix.is_empty() || name.is_empty() || name.len() > NAME_SIZE || prefix.len() > PREFIX_SIZE
    {
        return None;
    }
    Some((prefix, name))
}

/// `dir/PaxHeaders.0/file`, cleaned.
fn pax_file_name(path: &[u8]) -> Vec<u8> {
    let (dir, file) = match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..=slash], &path[slash + 1..]),
        None => (&[][..], path),
    };
    let rooted = dir.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    let components = dir
        .split(|&b| b == b'/')
        .chain([&b"PaxHeaders.0"[..], file]);
    for part in components {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let mut name = if rooted { b"/".to_vec() } else { Vec::new() };
    name.extend_from_slice(&parts.join(&b'/'));
    name
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn pax_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Decimal seconds, with the fraction where there is one and no trailing zeros.
fn format_time(time: TarTime) -> String {
    if time.nanoseconds == 0 {
        return time.seconds.to_string();
    }
    let (sign, seconds, nanoseconds) = if time.seconds < 0 {
        ("-", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds)
    } else {
        ("", time.seconds, time.nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for (key, value, want) in [
            ("path", "a", "9 path=a\n".to_owned()),
            ("path", "abc", "12 path=abc\n".to_owned()),
            ("k", &"v".repeat(95), format!("102 k={}\n", "v".repeat(95))),
            ("k", &"v".repeat(92), format!("98 k={}\n", "v".repeat(92))),
        ] {
            let mut out = Vec::new();
            pax_record(&mut out, key.as_bytes(), value.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    #[test]
    fn times_as_pax_writes_them() {
        for (seconds, nanoseconds, want) in [
            (1, 0, "1"),
            (1, 500_000_000, "1.5"),
            (-1, 0, "-1"),
            (-2, 750_000_000, "-1.25"),
        ] {
            let time = TarTime {
                seconds,
                nanoseconds,
            };
            assert_eq!(format_time(time), want);
        }
    }

    #[test]
    fn long_paths_split_where_the_halves_fit() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(90));
        let (prefix, name) = split_path(long.as_bytes()).unwrap();
        assert_eq!((prefix.len(), name.len()), (150, 90));
        for path in ["short/path".to_owned(), "x".repeat(120), "é/".repeat(60)] {
            assert!(split_path(path.as_bytes()).is_none(), "{path}");
        }
        let dir = format!("{}/{}/", "d".repeat(60), "e".repeat(60));
        assert_eq!(split_path(dir.as_bytes()).unwrap().1.len(), 61);
    }
}
