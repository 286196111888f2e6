//! Slash-separated paths.

/// `path.Clean`: no empty, `.` or needless `..` components, no trailing slash; `.` of nothing.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None if !absolute => parts.push(".."),
                _ => {
                    parts.pop();
                }
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `path.Join("/", path)`: the path as seen from the root, which `..` doesn't leave.
pub fn rooted(path: &str) -> String {
    clean(&format!("/{path}"))
}

/// `path.Join`: empty parts are skipped, and the result is cleaned.
pub fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        return String::new();
    }
    clean(&parts.join("/"))
}

/// `path.Base`: the last component; `.` of nothing, `/` of slashes.
pub fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("/../a", "/a"),
            ("a/../..", ".."),
            ("../../x", "../../x"),
            ("a//b/./c/..", "a/b"),
            ("/a/b/../../..", "/"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
        for (path, want) in [
            ("", "/"),
            ("a/b", "/a/b"),
            ("/a//b/./c/", "/a/b/c"),
            ("../../x", "/x"),
            ("/a/../b", "/b"),
        ] {
            assert_eq!(rooted(path), want, "{path}");
        }
        assert_eq!(join(&["/", "../x"]), "/x");
        assert_eq!(join(&["", ""]), "");
    }

    #[test]
    fn the_base_is_the_last_component() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("/a/b/", "b"),
            ("a", "a"),
            ("/a/.", "."),
        ] {
            assert_eq!(base(path), want, "{path}");
        }
    }
}
