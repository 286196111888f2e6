//! Go's `path.Match`, and the part of a pattern before its first wildcard.

use crate::Error;

/// Whether the whole name matches the pattern: `*` and `?` don't match slashes, `[a-z]` is a class,
/// `[^a-z]` what isn't in it, a backslash takes the next character as it is.
pub(super) fn go_match(pattern: &str, name: &str) -> Result<bool, Error> {
    let bad = || Error::Pattern {
        pattern: pattern.to_owned(),
        reason: "syntax error in pattern".into(),
    };
    let (mut pattern, mut name) = (pattern, name);
    'pattern: while !pattern.is_empty() {
        let (star, chunk, rest) = scan_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            // A trailing star takes the rest, unless a slash is in it.
            return Ok(!name.contains('/'));
        }
        // A last chunk must use up the name, or a star before it may still find a better place.
        if let Some(left) = match_chunk(chunk, name).map_err(|Malformed| bad())?
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
                if let Some(left) = match_chunk(chunk, &name[at..]).map_err(|Malformed| bad())? {
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
            match_chunk(chunk, "").map_err(|Malformed| bad())?;
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

/// The pattern can't be read.
#[derive(Debug)]
struct Malformed;

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

/// The cleaned part of a pattern before its first component with a wildcard, and whether there is more.
pub(super) fn split_wildcards(pattern: &str) -> (String, bool) {
    let mut plain = String::new();
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if contains_wildcards(part) {
            return (if plain.is_empty() { "/".into() } else { plain }, true);
        }
        plain.push('/');
        plain.push_str(part);
    }
    (if plain.is_empty() { "/".into() } else { plain }, false)
}

fn contains_wildcards(part: &str) -> bool {
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_go_matches_them() {
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
        ] {
            assert_eq!(go_match(pattern, name).unwrap(), want, "{pattern} {name}");
        }
        for pattern in ["[", "[]a]", "[a", "a\\", "[-]", "[a-"] {
            assert!(go_match(pattern, "a").is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_split_before_the_first_wildcard() {
        for (pattern, want) in [
            ("/a/b/*.txt", ("/a/b", true)),
            ("/*", ("/", true)),
            ("/a/b", ("/a/b", false)),
            ("/a\\*/b", ("/a\\*/b", false)),
        ] {
            assert_eq!(split_wildcards(pattern), (want.0.to_owned(), want.1));
        }
    }
}
