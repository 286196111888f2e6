//! Lines as they are in the file.

use super::{MAX_LINE, ParseError};

/// Lines of a file, counted from 1; both ends belong to it. Line 0 stands before the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lines {
    /// The first.
    pub start: u32,
    /// The last.
    pub end: u32,
}

impl Lines {
    /// From `start` to `end`, or `start` alone where the end is before it.
    pub fn new(start: u32, end: u32) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// One line.
    pub fn one(line: u32) -> Self {
        Self::new(line, line)
    }

    /// One range for each line, as BuildKit's clients get them.
    pub fn to_ranges(self) -> Vec<kiln_proto::pb::Range> {
        let position = |line: u32| kiln_proto::pb::Position {
            line: line as i32,
            character: 0,
        };
        (self.start..=self.end)
            .map(|line| kiln_proto::pb::Range {
                start: Some(position(line)),
                end: Some(position(line)),
            })
            .collect()
    }
}

/// Hands out lines with their ends.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    line: u32,
}

impl<'a> Reader<'a> {
    /// A byte order mark is skipped.
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            rest: data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data),
            line: 0,
        }
    }

    /// The number of the line that was read last.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    pub(super) fn next_line(&mut self) -> Result<Option<&'a [u8]>, super::Located> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.iter().position(|b| *b == b'\n');
        let end = end.map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at(end);
        if line.len() > MAX_LINE {
            return Err((ParseError::LineTooLong, Lines::one(self.line)));
        }
        self.rest = rest;
        self.line += 1;
        Ok(Some(line))
    }
}

pub(super) fn decode(text: &[u8], line: u32) -> Result<&str, super::Located> {
    std::str::from_utf8(text).map_err(|_| (ParseError::NotUtf8(line), Lines::one(line)))
}

pub(super) fn trim_newline(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
    &line[..end.map_or(0, |at| at + 1)]
}

/// Cuts blanks at the start, those of Unicode too.
pub(super) fn trim_start(line: &[u8]) -> &[u8] {
    let valid = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            // What is valid up to the broken byte decides.
            std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or("")
        }
    };
    let blanks = valid.len() - valid.trim_start().len();
    &line[blanks..]
}

pub(super) fn is_comment(line: &[u8]) -> bool {
    trim_start(line).first() == Some(&b'#')
}

/// The text after the sign.
pub(super) fn comment_text(line: &[u8]) -> String {
    let line = if line.first() == Some(&b'#') {
        &line[1..]
    } else {
        // An indented comment keeps its sign: it describes nothing.
        trim_start(line)
    };
    String::from_utf8_lossy(line).trim().to_owned()
}

/// The line without the escape that continues it, and whether it ends here.
pub(super) fn continuation(line: &[u8], escape: char) -> (&[u8], bool) {
    let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t'));
    let Some(last) = end else { return (line, true) };
    let escape = escape as u8;
    if line[last] != escape || last > 0 && line[last - 1] == escape {
        return (line, true);
    }
    (&line[..last], false)
}
