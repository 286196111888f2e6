//! Patterns as `.dockerignore` has them, with the semantics of moby's pattern matcher.
//!
//! Each pattern is Go's `filepath.Match` plus `**`; a leading `!` makes it an exception to the
//! patterns before it; a pattern that matches a directory matches everything below. The quirks are
//! part of the contract, since they decide what is in a build context:
//!
//! * a pattern that starts with `**` and has nothing special after it is a plain suffix test, so
//!   that `**.go` and `**/x` match the way they do;
//! * a pattern that ends with `/**` and has nothing special before it is a plain prefix test;
//! * `**` in the middle matches across any number of `/`, and a `/` right after it is eaten.

use regex::bytes::Regex;

use crate::Error;
use crate::path::clean;

/// A list of patterns, the later ones overriding the earlier ones.
#[derive(Debug, Clone, Default)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
}

/// For each pattern of a list, whether it matched a directory. Carried down a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchInfo(Vec<bool>);

/// One pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exception: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Regex(Regex),
}

impl PatternMatcher {
    /// Parses the patterns. Blank ones are dropped.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, Error> {
        let mut matcher = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (exception, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err(bad(pattern, "\"!\" alone")),
                Some(rest) => (true, rest.to_owned()),
                None => (false, cleaned),
            };
            check_syntax(&text)?;
            matcher.has_exceptions |= exception;
            let kind = compile(&text)?;
            matcher.patterns.push(Pattern {
                text,
                exception,
                kind,
            });
        }
        Ok(matcher)
    }

    /// The patterns in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether any pattern starts with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Whether the path, or a directory above it, matches and no later exception does.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            // A pattern that can't change the outcome isn't tried.
            if pattern.exception == matched && pattern.matches_or_parent(path) {
                matched = !pattern.exception;
            }
        }
        matched
    }

    /// The same, given what is known of the directory above.
    pub fn matches_below(&self, path: &str, parent: &MatchInfo) -> (bool, MatchInfo) {
        let known = !parent.0.is_empty();
        let mut info = vec![false; self.patterns.len()];
        let mut matched = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut hit = known && parent.0.get(index).copied().unwrap_or(false);
            if !hit {
                if pattern.exception != matched {
                    continue;
                }
                hit = if known {
                    pattern.matches(path)
                } else {
                    pattern.matches_or_parent(path)
                };
            }
            info[index] = hit;
            if hit {
                matched = !pattern.exception;
            }
        }
        (matched, MatchInfo(info))
    }
}

impl Pattern {
    /// The cleaned pattern, without its `!`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it started with `!`.
    pub fn is_exception(&self) -> bool {
        self.exception
    }

    /// The pattern without a last `/**` and `/*`, and whether what is left is a plain path.
    pub(crate) fn plain_prefix(&self) -> (&str, bool) {
        let text = self.text.strip_suffix("/**").unwrap_or(&self.text);
        let text = text.strip_suffix("/*").unwrap_or(text);
        (text, !text.contains(['*', '[', ']', '?', '^', '\\']))
    }

    fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Kind::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Kind::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }

    fn matches_or_parent(&self, path: &str) -> bool {
        self.matches(path)
            || path
                .match_indices('/')
                .any(|(at, _)| self.matches(&path[..at]))
    }
}

fn bad(pattern: &str, reason: &'static str) -> Error {
    Error::Pattern {
        pattern: pattern.to_owned(),
        reason,
    }
}

/// What Go's `filepath.Match` would reject when it is tried on `.`: an unfinished class or escape
/// in the part of the pattern that it gets to look at.
fn check_syntax(text: &str) -> Result<(), Error> {
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' if chars.next().is_none() => return Err(bad(text, "ends with a backslash")),
            '[' => {
                if chars.peek() == Some(&'^') {
                    chars.next();
                }
                let mut ranges = 0;
                loop {
                    match chars.next() {
                        Some(']') if ranges > 0 => break,
                        Some(']' | '-') => return Err(bad(text, "malformed [class]")),
                        Some('\\') => {
                            if chars.next().is_none() {
                                return Err(bad(text, "unfinished [class]"));
                            }
                        }
                        Some(_) => {}
                        None => return Err(bad(text, "unfinished [class]")),
                    }
                    if chars.peek() == Some(&'-') {
                        chars.next();
                        match chars.next() {
                            Some('\\') if chars.next().is_some() => {}
                            Some(']' | '-' | '\\') | None => {
                                return Err(bad(text, "malformed [class]"));
                            }
                            Some(_) => {}
                        }
                    }
                    ranges += 1;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn compile(text: &str) -> Result<Kind, Error> {
    let mut regex = String::from("(?s-u)^");
    let mut kind = Simple::Exact;
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(char) = chars.next() {
        match char {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() {
                    if kind == Simple::Exact {
                        kind = Simple::Prefix;
                    } else {
                        regex.push_str(".*");
                        kind = Simple::No;
                    }
                } else {
                    regex.push_str("(.*/)?");
                    kind = Simple::No;
                }
                if first {
                    kind = Simple::Suffix;
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                kind = Simple::No;
            }
            '?' => {
                // Go's class matches a whole character, not a byte of it.
                regex.push_str("(?u:[^/])");
                kind = Simple::No;
            }
            '\\' => match chars.next() {
                Some(next) => {
                    push_literal(&mut regex, next);
                    kind = Simple::No;
                }
                None => regex.push_str("\\\\"),
            },
            '[' => {
                push_class(&mut regex, &mut chars);
                kind = Simple::No;
            }
            ']' => {
                regex.push_str("\\]");
                kind = Simple::No;
            }
            char => push_literal(&mut regex, char),
        }
        first = false;
    }
    Ok(match kind {
        Simple::Exact => Kind::Exact,
        Simple::Prefix => Kind::Prefix,
        Simple::Suffix => Kind::Suffix,
        Simple::No => {
            regex.push('$');
            Kind::Regex(Regex::new(&regex).map_err(|_| bad(text, "can't be compiled"))?)
        }
    })
}

/// Which plain string test would do in place of a regular expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Simple {
    Exact,
    Prefix,
    Suffix,
    No,
}

fn push_literal(regex: &mut String, char: char) {
    let mut buffer = [0; 4];
    regex.push_str(&regex::escape(char.encode_utf8(&mut buffer)));
}

/// Copies a `[class]`, escaping what the regular expression syntax would read differently.
fn push_class(regex: &mut String, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    regex.push_str("(?u:[");
    if chars.peek() == Some(&'^') {
        chars.next();
        regex.push('^');
    }
    while let Some(char) = chars.next() {
        match char {
            ']' => break,
            '-' => regex.push('-'),
            '\\' => {
                if let Some(next) = chars.next() {
                    push_literal(regex, next);
                }
            }
            '[' | '&' | '~' => {
                regex.push('\\');
                regex.push(char);
            }
            char => push_literal(regex, char),
        }
    }
    regex.push_str("])");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases from the documentation of `.dockerignore` and of the matcher's behaviour.
    #[test]
    fn matching() {
        let table: &[(&[&str], &str, bool)] = &[
            (&["**"], "file", true),
            (&["**"], "dir/file", true),
            (&["**/"], "file", true),
            (&["**/**"], "dir/file", true),
            (&["dir/**"], "dir/file", true),
            (&["dir/**"], "dir/dir2/file", true),
            (&["dir/**"], "dir", false),
            (&["**/dir2/*"], "dir/dir2/file", true),
            (&["**/dir2/*"], "dir2/file", true),
            (&["**/dir2/**"], "dir/dir2/dir2/file", true),
            (&["**file"], "file", true),
            (&["**file"], "dir/file", true),
            (&["**/file"], "dir/dir/file", true),
            (&["**/file"], "dir/file.txt", false),
            (&["**/file*"], "dir/dir/file.txt", true),
            (&["**/file*txt"], "dir/dir/file.txt", true),
            (&["**/file*.txt*"], "dir/dir/file.txt", true),
            (&["**/**/*.txt"], "dir/dir/file.txt", true),
            (&["**/**/*.txt2"], "dir/dir/file.txt", false),
            (&["**/*.txt"], "file.txt", true),
            (&["a**/*.txt"], "a/file.txt", true),
            (&["a**/*.txt"], "a/dir/dir/file.txt", true),
            (&["a/*.txt"], "a/dir/file.txt", false),
            (&["a[b-d]e"], "ae", false),
            (&["a[b-d]e"], "ace", true),
            (&["a[^b-d]e"], "aze", true),
            (&["a[!b]e"], "abe", true),
            (&[".*"], ".foo", true),
            (&[".*"], "foo", false),
            (&["abc.def"], "abcdef", false),
            (&["abc.def"], "abc.def", true),
            (&["abc?def"], "abcZdef", true),
            (&["abc?def"], "abcdef", false),
            (&["a\\*b"], "a*b", true),
            (&["a\\*b"], "axb", false),
            (&["a/b"], "a/b/c", true),
            (&["?"], "é", true),
            (&["*", "!a"], "a", false),
            (&["*", "!a"], "a/b", false),
            (&["*", "!a", "a/b"], "a/b", true),
            (&["!a", "*"], "a", true),
            (&["  dir  "], "dir/x", true),
            (&["/dir"], "dir", false),
            (&["dir/"], "dir", true),
            (&["{a,b}(c)"], "{a,b}(c)", true),
            (&["+x$"], "+x$", true),
            (&["x*|y"], "xz|y", true),
        ];
        for (patterns, path, want) in table {
            let matcher = PatternMatcher::new(patterns).unwrap();
            assert_eq!(matcher.matches(path), *want, "{patterns:?} on {path}");
            let mut info = MatchInfo::default();
            let mut got = false;
            for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
                (got, info) = matcher.matches_below(&path[..at], &info);
            }
            assert_eq!(got, *want, "{patterns:?} on {path}, step by step");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["!", "a[", "[]a]", "[a", "[a-]", "x\\", "[-x]"] {
            assert!(PatternMatcher::new(&[pattern]).is_err(), "{pattern}");
        }
        assert!(
            PatternMatcher::new(&["", "  "])
                .unwrap()
                .patterns()
                .is_empty()
        );
    }
}
