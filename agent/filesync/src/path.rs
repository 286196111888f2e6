//! Paths on the wire: relative, clean, separated by `/`, compared component by component.

use std::cmp::Ordering;

use crate::Error;

pub use kiln_gotext::path::clean;

/// Walk order: byte order in which `/` sorts before everything else, so that a directory's entries
/// follow it at once.
pub fn compare(a: &str, b: &str) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    a.bytes().map(key).cmp(b.bytes().map(key))
}

/// The directory of a relative path; empty for entries of the root.
pub fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

/// The last component.
pub fn base(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// Refuses every path that isn't relative, clean and below the root.
pub fn validate(path: &str) -> Result<(), Error> {
    let refuse = |reason| {
        Err(Error::Path {
            path: path.chars().take(200).collect(),
            reason,
        })
    };
    if path.is_empty() {
        return refuse("empty");
    }
    if path.starts_with('/') {
        return refuse("absolute");
    }
    if path.bytes().any(|byte| byte == 0) {
        return refuse("contains a zero byte");
    }
    for part in path.split('/') {
        match part {
            "" | "." => return refuse("not in canonical form"),
            ".." => return refuse("leaves the root"),
            part if part.len() > 255 => return refuse("a name is longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_follows_go() {
        let table = [
            ("", "."),
            ("a/../..", ".."),
            ("./a//b/", "a/b"),
            ("/../a", "/a"),
            ("a/./b/../c", "a/c"),
            ("../a", "../a"),
            ("/", "/"),
        ];
        for (path, want) in table {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    #[test]
    fn order_puts_a_directorys_entries_right_after_it() {
        let mut paths = vec!["a-b", "a/b", "a", "a/b/c", "a.b", "b", "a/b-c"];
        paths.sort_by(|a, b| compare(a, b));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b", "b"]);
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(256);
        for path in [
            "", "/a", "..", "../a", "a/../b", "a/..", "./a", "a//b", "a/", "a/./b", "a\0b", &long,
        ] {
            assert!(validate(path).is_err(), "{path:?}");
        }
        for path in ["a", "a/b", "..a", "a..", "a/...", "-"] {
            assert!(validate(path).is_ok(), "{path:?}");
        }
    }
}
