//! Patterns of paths, as `path.Match` has them.

/// The pattern can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct Malformed;

/// Whether the path has characters of a pattern (`*`, `?`, `[`) that aren't escaped.
pub fn has_wildcards(path: &str) -> bool {
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

/// `path.Match`: whether the whole name matches the pattern: `*` and `?` don't match slashes, `[a-z]` is a class,
/// `[^a-z]` what isn't in it, a backslash takes the next character as it is.
pub fn matches(pattern: &str, name: &str) -> Result<bool, Malformed> {
    let (mut pattern, mut name) = (pattern, name);
    'pattern: while !pattern.is_empty() {
        let (star, chunk, rest) = scan_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            // A trailing star takes the rest, unless a slash is in it.
            return Ok(!name.contains('/'));
        }
        // A last chunk must use up the name, or a star before it may still find a better place.
        if let Some(left) = match_chunk(chunk, name)?
            && (left.is_empty() || !pattern.is_empty())
        {
            name = left;
            continue;
        }
        if star {
            // The star takes one more character each time, but no slash.
            let mut skipped = name.char_indices().peekable();
            while let Some((_, character)) = skipped.next() {
                if character == '/' {
                    break;
                }
                let at = skipped.peek().map_or(name.len(), |(at, _)| *at);
                if let Some(left) = match_chunk(chunk, &name[at..])? {
                    if pattern.is_empty() && !left.is_empty() {
                        continue;
                    }
                    name = left;
                    continue 'pattern;
                }
            }
        }
        // The rest of the pattern must still be well formed.
        while !pattern.is_empty() {
            let (_, chunk, rest) = scan_chunk(pattern);
            pattern = rest;
            match_chunk(chunk, "")?;
        }
        return Ok(false);
    }
    Ok(name.is_empty())
}

/// Stars at the front, what comes up to the next star, and the rest.
fn scan_chunk(pattern: &str) -> (bool, &str, &str) {
    let stripped = pattern.trim_start_matches('*');
    let star = stripped.len() < pattern.len();
    let (mut escaped, mut class) = (false, false);
    for (at, byte) in stripped.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => class = true,
            b']' => class = false,
            b'*' if !class => return (star, &stripped[..at], &stripped[at..]),
            _ => {}
        }
    }
    (star, stripped, "")
}

/// What is left of the name after the chunk; `None` if it doesn't match.
fn match_chunk<'a>(chunk: &str, name: &'a str) -> Result<Option<&'a str>, Malformed> {
    let (mut chunk, mut name) = (chunk, name);
    let mut failed = false;
    while let Some(first) = chunk.chars().next() {
        // A malformed chunk is one also where the name has failed already.
        failed |= name.is_empty();
        match first {
            '[' => {
                let character = name.chars().next().filter(|_| !failed);
                if let Some(character) = character {
                    name = &name[character.len_utf8()..];
                }
                chunk = &chunk[1..];
                let negated = chunk.starts_with('^');
                if negated {
                    chunk = &chunk[1..];
                }
                let (mut hit, mut ranges) = (false, 0);
                loop {
                    if chunk.starts_with(']') && ranges > 0 {
                        chunk = &chunk[1..];
                        break;
                    }
                    let low = class_end(&mut chunk).ok_or(Malformed)?;
                    let high = if chunk.starts_with('-') {
                        chunk = &chunk[1..];
                        class_end(&mut chunk).ok_or(Malformed)?
                    } else {
                        low
                    };
                    hit |= character.is_some_and(|c| low <= c && c <= high);
                    ranges += 1;
                }
                failed |= hit == negated;
            }
            '?' => {
                match name.chars().next() {
                    Some('/') | None => failed = true,
                    Some(c) if !failed => name = &name[c.len_utf8()..],
                    Some(_) => {}
                }
                chunk = &chunk[1..];
            }
            first => {
                let mut wanted = first;
                if first == '\\' {
                    chunk = &chunk[1..];
                    wanted = chunk.chars().next().ok_or(Malformed)?;
                }
                if !failed {
                    match name.strip_prefix(wanted) {
                        Some(left) => name = left,
                        None => failed = true,
                    }
                }
                chunk = &chunk[wanted.len_utf8()..];
            }
        }
    }
    Ok((!failed).then_some(name))
}

/// One end of a range in a class.
fn class_end(chunk: &mut &str) -> Option<char> {
    let mut first = chunk.chars().next()?;
    if first == '-' || first == ']' {
        return None;
    }
    if first == '\\' {
        *chunk = &chunk[1..];
        first = chunk.chars().next()?;
    }
    *chunk = &chunk[first.len_utf8()..];
    (!chunk.is_empty()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, want) in [
            ("/*.txt", "/a.txt", true),
            ("/*.txt", "/dir/a.txt", false),
            ("/*.txt", "/a.txt.bak", false),
            ("/d*/*", "/dir/a", true),
            ("/a*b*c", "/axxbyyc", true),
            ("/a*b*c", "/axxbyy", false),
            ("/?.txt", "/é.txt", true),
            ("/[a-c].txt", "/b.txt", true),
            ("/[^a-c].txt", "/b.txt", false),
            ("/\\*", "/*", true),
            ("/\\*", "/a", false),
            ("*", "", true),
            ("a*", "a", true),
            ("", "", true),
            ("a", "", false),
            ("*x", "xxx", true),
            ("/*", "/", true),
            ("a?c", "ac", false),
            ("[^a-c]x", "dx", true),
            ("[\\]]", "]", true),
            (
                "*a*a*a*a*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(matches(pattern, name).unwrap(), want, "{pattern} {name}");
        }
        for pattern in ["[", "[]a]", "[a", "a\\", "[-]", "[a-"] {
            assert!(matches(pattern, "a").is_err(), "{pattern}");
        }
    }

    #[test]
    fn wildcards_may_be_escaped() {
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
