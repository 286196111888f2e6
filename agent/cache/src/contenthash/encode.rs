//! A tree as bytes: entries in order, each key as what it adds to the key before it.
//!
//! ```text
//! 1, then per entry: shared length, own length, own bytes, kind and flag, [digest], [link length, link]
//! ```

use kiln_oci::Digest;

use super::tree::{Entry, Kind, Tree};

const VERSION: u8 = 1;
const HAS_DIGEST: u8 = 0x10;

impl Tree {
    /// The tree as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 * self.entries.len() + 1);
        out.push(VERSION);
        let mut before: &[u8] = &[];
        for (key, entry) in &self.entries {
            let shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
            number(&mut out, shared);
            number(&mut out, key.len() - shared);
            out.extend_from_slice(&key[shared..]);
            let kind = match entry.kind {
                Kind::File => 0,
                Kind::Dir => 1,
                Kind::DirHeader => 2,
                Kind::Symlink => 3,
            };
            match entry.digest {
                Some(digest) => {
                    out.push(kind | HAS_DIGEST);
                    out.extend_from_slice(digest.as_bytes());
                }
                None => out.push(kind),
            }
            if entry.kind == Kind::Symlink {
                number(&mut out, entry.linkname.len());
                out.extend_from_slice(&entry.linkname);
            }
            before = key;
        }
        out
    }

    /// The tree that bytes describe; `None` if they are of another version or damaged, which only means
    /// that everything is hashed again.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut tree = Self::new();
        let (&version, mut rest) = bytes.split_first()?;
        if version != VERSION {
            return None;
        }
        let mut before = Vec::new();
        while !rest.is_empty() {
            let shared = take_number(&mut rest)?;
            let own = take_number(&mut rest)?;
            let mut key: Vec<u8> = before.get(..shared)?.to_vec();
            key.extend_from_slice(take(&mut rest, own)?);
            let flags = *take(&mut rest, 1)?.first()?;
            let kind = match flags & 0x0f {
                0 => Kind::File,
                1 => Kind::Dir,
                2 => Kind::DirHeader,
                3 => Kind::Symlink,
                _ => return None,
            };
            let digest = if flags & HAS_DIGEST == 0 {
                None
            } else {
                Some(Digest::from_bytes(take(&mut rest, 32)?.try_into().ok()?))
            };
            let linkname = if kind == Kind::Symlink {
                let length = take_number(&mut rest)?;
                take(&mut rest, length)?.into()
            } else {
                Box::default()
            };
            before.clone_from(&key);
            let entry = Entry {
                kind,
                digest,
                linkname,
            };
            tree.entries.insert(key, entry);
        }
        Some(tree)
    }
}

fn number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}
