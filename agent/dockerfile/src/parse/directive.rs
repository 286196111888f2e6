//! `# name=value` lines at the top of a file.

use super::ParseError;
use super::lines::{self, Lines};

/// A directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub name: String,
    /// All after the equals sign.
    pub value: String,
    /// Where it is.
    pub lines: Lines,
}

impl Directive {
    /// The first word of the value.
    pub fn first_word(&self) -> &str {
        self.value.split(' ').next().unwrap_or("")
    }
}

/// Reads directives line by line until there are no more.
pub(super) struct Directives {
    comment: &'static str,
    line: u32,
    done: bool,
    seen: Vec<String>,
}

impl Directives {
    pub(super) fn new(comment: &'static str) -> Self {
        Self {
            comment,
            line: 0,
            done: false,
            seen: Vec::new(),
        }
    }

    pub(super) fn next(&mut self, line: &[u8]) -> Result<Option<Directive>, ParseError> {
        self.line += 1;
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = self.split(line) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(ParseError::DuplicateDirective(name));
        }
        self.seen.push(name.clone());
        Ok(Some(Directive {
            name,
            value,
            lines: Lines::one(self.line),
        }))
    }

    fn split(&self, line: &[u8]) -> Option<(String, String)> {
        let text = std::str::from_utf8(line).ok()?;
        let text = text.strip_prefix(self.comment)?.trim_start();
        let (name, value) = text.split_once('=')?;
        let name = name.trim_end_matches([' ', '\t', '\u{b}', '\u{c}', '\r']);
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric());
        let name = name.to_ascii_lowercase();
        let value = value.trim_matches([' ', '\t', '\u{b}', '\u{c}', '\r', '\n']);
        let known = matches!(name.as_str(), "syntax" | "escape" | "check");
        (good && known && !value.is_empty()).then(|| (name, value.to_owned()))
    }
}

fn find(name: &str, data: &[u8], comment: &'static str, first_line: u32) -> Option<Directive> {
    let mut directives = Directives::new(comment);
    directives.line = first_line;
    for line in data.split(|b| *b == b'\n') {
        if directives.done || line.len() > super::MAX_LINE {
            break;
        }
        match directives.next(lines::trim_newline(line)) {
            Ok(Some(found)) if found.name == name => return Some(found),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    None
}

/// The data after a byte order mark and a `#!` line, and how many lines were skipped.
fn without_shebang(data: &[u8]) -> (&[u8], u32) {
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    if !data.starts_with(b"#!") {
        return (data, 0);
    }
    let end = data.iter().position(|b| *b == b'\n');
    (&data[end.map_or(data.len(), |at| at + 1)..], 1)
}

/// A directive of a Dockerfile.
pub fn directive(name: &str, data: &[u8]) -> Option<Directive> {
    let (data, skipped) = without_shebang(data);
    find(name, data, "#", skipped)
}

/// The frontend that a file asks for: `# syntax=` as Dockerfiles have it, `// syntax=`, or a member
/// `syntax` of a JSON object.
pub fn detect_syntax(data: &[u8]) -> Option<Directive> {
    let (data, skipped) = without_shebang(data);
    find("syntax", data, "#", skipped)
        .or_else(|| find("syntax", data, "//", skipped))
        .or_else(|| {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(data).ok()?;
            Some(Directive {
                name: "syntax".to_owned(),
                value: object.get("syntax")?.as_str()?.to_owned(),
                lines: Lines::one(skipped),
            })
        })
}
