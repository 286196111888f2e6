//! Splits the text of an instruction into words.

use super::ParseError;

/// What parts words where quotes don't matter.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The text up to the first blanks and the text after them.
pub(super) fn split_once(text: &str) -> (&str, Option<&str>) {
    match text.find(is_blank) {
        Some(at) => {
            let (first, rest) = text.split_at(at);
            (first, Some(rest.trim_start_matches(is_blank)))
        }
        None => (text, None),
    }
}

/// All parts between blanks.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        let (word, after) = split_once(rest);
        words.push(word.to_owned());
        match after {
            Some(after) => rest = after,
            None => return words,
        }
    }
}

/// The flags at the start and what follows them. Quotes and escapes in flags are resolved.
pub(super) fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quoted = false;
        let mut quote = None;
        let mut chars = rest.char_indices();
        let mut after = "";
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    after = &rest[at..];
                    break;
                }
                None if c == '\'' || c == '"' => {
                    quote = Some(c);
                    quoted = true;
                }
                Some(open) if c == open => quote = None,
                _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                _ => word.push(c),
            }
        }
        if word == "--" {
            return (flags, after);
        }
        if quoted || !word.is_empty() {
            flags.push(word);
        }
        rest = after.trim_start();
    }
    (flags, rest)
}

/// Words parted by blanks outside of quotes. Quotes and escapes stay: they are resolved when the
/// words are expanded.
pub(super) fn quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // Nothing can be escaped between single quotes.
        if c == escape && quote != Some('\'') {
            let Some(escaped) = chars.next() else { break };
            word.push(c);
            word.push(escaped);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `name=value …`, or the old `name value`, as triples of name, value and the sign between them.
pub(super) fn pairs(
    text: &str,
    keyword: &'static str,
    escape: char,
) -> Result<Vec<String>, ParseError> {
    let words = quoted(text, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let (name, value) = split_once(text);
        let value = value.ok_or(ParseError::TwoArguments(keyword))?;
        return Ok(vec![name.to_owned(), value.to_owned(), String::new()]);
    }
    let mut out = Vec::with_capacity(words.len() * 3);
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(ParseError::NoEquals(word));
        };
        out.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(out)
}

/// A JSON list of strings; `Ok(None)` where it isn't a JSON list.
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, ParseError> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let strings = list.into_iter().map(|item| match item {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(ParseError::NotStrings),
    });
    strings.collect::<Result<_, _>>().map(Some)
}
