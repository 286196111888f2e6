//! Shell patterns (`*`, `?`, escapes) as regular expressions, which run in linear time.

use regex::Regex;

use super::ExpandError;

fn compile(pattern: &str, greedy: bool, anchored: bool) -> Result<Regex, ExpandError> {
    let mut out = String::with_capacity(pattern.len() + 4);
    if anchored {
        out.push('^');
    }
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => out.push('.'),
            // The end of the substitution must be escaped, but the escape isn't in the pattern.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\')) => {
                    out.push('\\');
                    out.push(escaped);
                }
                escaped => {
                    let shown = escaped.map_or_else(String::new, String::from);
                    return Err(error(pattern, format!("invalid escape '\\{shown}'")));
                }
            },
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&out).map_err(|e| error(pattern, e.to_string()))
}

fn error(pattern: &str, reason: String) -> ExpandError {
    ExpandError::Pattern {
        pattern: pattern.to_owned(),
        reason,
    }
}

/// `${name#pattern}`
pub(super) fn without_prefix(
    pattern: &str,
    value: &str,
    greedy: bool,
) -> Result<String, ExpandError> {
    let regex = compile(pattern, greedy, true)?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value[end..].to_owned())
}

/// `${name%pattern}`: both sides are turned round, so that the shortest match from the right is the
/// leftmost one.
pub(super) fn without_suffix(
    pattern: &str,
    value: &str,
    greedy: bool,
) -> Result<String, ExpandError> {
    let value: String = value.chars().rev().collect();
    let left = without_prefix(&reversed(pattern), &value, greedy)?;
    Ok(left.chars().rev().collect())
}

/// The pattern backwards; an escape stays in front of what it escapes.
fn reversed(pattern: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let mut unit = String::from(c);
        if c == '\\' {
            unit.extend(chars.next());
        }
        units.push(unit);
    }
    units.reverse();
    units.concat()
}

/// `${name/pattern/replacement}`
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
    limit: usize,
) -> Result<String, ExpandError> {
    let regex = compile(pattern, true, false)?;
    let matches = if all { usize::MAX } else { 1 };
    let count = regex.find_iter(value).take(matches).count();
    if value.len() + count.saturating_mul(replacement.len()) > limit {
        return Err(ExpandError::TooLarge(limit));
    }
    let limit = usize::from(!all);
    Ok(regex
        .replacen(value, limit, regex::NoExpand(replacement))
        .into_owned())
}
