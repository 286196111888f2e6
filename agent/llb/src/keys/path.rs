//! Paths as Go's `path` package has them.

/// `path.Join("/", path)`: absolute, without `.`, `..`, double or trailing slashes. By letters only.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path.Base`: the last part; `.` of nothing, `/` of slashes.
pub(super) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return "/";
    }
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether `path` has pattern characters that aren't escaped.
pub(super) fn has_wildcards(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_go() {
        for (path, want) in [
            ("", "/"),
            ("a/b", "/a/b"),
            ("/a//b/./c/", "/a/b/c"),
            ("../../x", "/x"),
            ("/a/../b", "/b"),
        ] {
            assert_eq!(clean(path), want);
        }
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("/a/b/", "b"),
            ("a", "a"),
            ("/a/.", "."),
        ] {
            assert_eq!(base(path), want);
        }
        for (path, want) in [
            ("/a*", true),
            ("/a\\*", false),
            ("/[", true),
            ("/a\\\\?", true),
        ] {
            assert_eq!(has_wildcards(path), want, "{path}");
        }
    }
}
