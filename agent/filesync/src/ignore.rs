//! `.dockerignore`: its lines as patterns.

use crate::path::clean;

/// The patterns of an ignore file, as `docker build` reads them.
pub fn ignore_patterns(data: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(data);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| pattern(line.trim())).collect()
}

fn pattern(line: &str) -> Option<String> {
    if line.is_empty() {
        return None;
    }
    let (sign, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if rest.is_empty() {
        return Some(sign.to_owned());
    }
    let cleaned = clean(rest);
    let relative = match cleaned.strip_prefix('/') {
        Some(relative) if !relative.is_empty() => relative,
        _ => &cleaned,
    };
    Some(format!("{sign}{relative}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_patterns() {
        let data = b"\xef\xbb\xbf# c\n\n *.md \n/a/../b/\n! c/./d\n#x\n/\n";
        assert_eq!(ignore_patterns(data), ["*.md", "b", "!c/d", "/"]);
    }
}
