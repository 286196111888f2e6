//! The fields of a header block: texts, numbers, the checksum.

use super::BLOCK;

/// Bytes of the name field.
pub(super) const NAME_SIZE: usize = 100;
const PREFIX_SIZE: usize = 155;

/// What a text field holds.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Copies what fits. A name cut at a slash loses the slash, so that no reader takes it for a directory.
pub(super) fn put_text(field: &mut [u8], text: &[u8]) {
    let n = field.len().min(text.len());
    field[..n].copy_from_slice(&text[..n]);
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let end = field.iter().rposition(|&b| b != b'/').map_or(0, |i| i + 1);
        field[end] = 0;
    }
}

/// Octal digits between spaces and NULs, or GNU's base 256. `None` where the field isn't a number.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        return base_256(field);
    }
    let digits = field
        .iter()
        .copied()
        .skip_while(|&b| b == b' ' || b == 0)
        .take_while(|&b| b != b' ' && b != 0);
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value * 8 + i64::from(digit - b'0');
    }
    Some(value)
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, &byte) in field.iter().enumerate() {
        let byte = match (i, negative) {
            (0, false) => byte & 0x7f,
            _ => byte,
        };
        value = (value << 8) | i128::from(byte);
        if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
            return None;
        }
    }
    i64::try_from(value).ok()
}

/// Zero-filled octal digits and a NUL; a number that doesn't fit is written as 0 (a PAX record has it).
pub(super) fn put_octal(field: &mut [u8], number: u64) {
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

/// Whether the block's checksum is right; old programs summed signed bytes.
pub(super) fn is_sealed(block: &[u8; BLOCK]) -> bool {
    let stored = number(&block[148..156]);
    let mut summed = *block;
    summed[148..156].fill(b' ');
    let unsigned: i64 = summed.iter().map(|&b| i64::from(b)).sum();
    let signed: i64 = summed.iter().map(|&b| i64::from(b.cast_signed())).sum();
    stored == Some(unsigned) || stored == Some(signed)
}

/// Writes the magic and the checksum.
pub(super) fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    put_octal(&mut block[148..155], u64::from(sum));
    block[155] = b' ';
}

/// Without what only a PAX record can hold.
pub(super) fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|&b| b != 0 && b < 0x80)
        .collect()
}

/// Splits a long ASCII path at a slash into what the prefix and the name field hold.
pub(super) fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn numbers_of_all_forms_are_read() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"0x1\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), want, "{field:?}");
        }
    }

    #[test]
    fn what_is_sealed_is_seen_to_be() {
        let mut block = [0; BLOCK];
        put_text(&mut block[..100], b"name");
        put_octal(&mut block[124..136], u64::MAX);
        assert_eq!(number(&block[124..136]), Some(0));
        seal(&mut block);
        assert!(is_sealed(&block));
        block[3] = b'f';
        assert!(!is_sealed(&block));
    }
}
