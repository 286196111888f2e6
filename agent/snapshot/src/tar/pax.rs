//! PAX records: what a header's fields are too small for, as texts by name.

use std::collections::BTreeMap;

use super::{Header, PAX_XATTR, TarTime};

/// Records by key.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of records that repeat a field of the header.
pub(super) const FIELD_KEYS: [&[u8]; 8] = [
    b"path",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"uname",
    b"gname",
    b"mtime",
];

/// Reads the records of an extended header. An empty value takes the record away. Fails with what is wrong.
pub(super) fn read(mut body: &[u8], into: &mut Records) -> Result<(), &'static str> {
    let damaged = "PAX records that can't be read";
    while !body.is_empty() {
        let space = body.iter().position(|&b| b == b' ').ok_or(damaged)?;
        let length: usize = std::str::from_utf8(&body[..space])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or(damaged)?;
        if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
            return Err(damaged);
        }
        let record = &body[space + 1..length - 1];
        let equals = record.iter().position(|&b| b == b'=').ok_or(damaged)?;
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

/// `<length> <key>=<value>\n`, where the length counts its own digits.
pub(super) fn write(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
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

/// Puts the header's records in the place of its fields. Fails with what is wrong.
pub(super) fn apply(header: &mut Header) -> Result<(), &'static str> {
    let text = |key: &[u8]| header.pax.get(key).filter(|value| !value.is_empty());
    let number = |key: &[u8]| {
        text(key)
            .map(|value| {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|value| value.parse::<u64>().ok())
                    .ok_or("a PAX record that should be a number")
            })
            .transpose()
    };
    let (path, linkpath) = (text(b"path").cloned(), text(b"linkpath").cloned());
    let (uname, gname) = (text(b"uname").cloned(), text(b"gname").cloned());
    let (uid, gid, size) = (number(b"uid")?, number(b"gid")?, number(b"size")?);
    let mtime = text(b"mtime")
        .map(|value| parse_time(value).ok_or("a PAX time that isn't a number"))
        .transpose()?;
    header.name = path.unwrap_or_else(|| std::mem::take(&mut header.name));
    header.linkname = linkpath.unwrap_or_else(|| std::mem::take(&mut header.linkname));
    header.uname = uname.unwrap_or_else(|| std::mem::take(&mut header.uname));
    header.gname = gname.unwrap_or_else(|| std::mem::take(&mut header.gname));
    header.uid = uid.unwrap_or(header.uid);
    header.gid = gid.unwrap_or(header.gid);
    header.size = size.unwrap_or(header.size);
    header.mtime = mtime.unwrap_or(header.mtime);
    Ok(())
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

/// Decimal seconds, with the fraction where there is one and no trailing zeros.
pub(super) fn format_time(time: TarTime) -> String {
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

/// The name of the extended header of a file: `dir/PaxHeaders.0/file`, cleaned.
pub(super) fn file_name(path: &[u8]) -> Vec<u8> {
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
            write(&mut out, key.as_bytes(), value.as_bytes());
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
            assert_eq!(parse_time(want.as_bytes()), Some(time));
        }
    }
}
