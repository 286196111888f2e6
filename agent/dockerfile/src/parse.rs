//! From bytes to statements: lines, comments, directives, heredocs, and the words of each
//! instruction, which are not yet interpreted.
//!
//! The rules are those of the Dockerfile reference and of BuildKit's parser, quirks included where
//! people's files depend on them: comments between continued lines vanish, empty continued lines are
//! a warning, flags end at the first word that isn't one.

mod directive;
mod heredoc;
mod lines;
mod statement;
mod words;

pub use directive::{Directive, detect_syntax, directive};
pub use heredoc::Heredoc;
pub(crate) use heredoc::{chomp, heredoc_of_word};
pub use lines::Lines;
pub use statement::Statement;

use directive::Directives;
use lines::{Reader, decode};

/// The longest line that is accepted, in bytes.
pub const MAX_LINE: usize = 65_535;

/// Why a file is no Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line is longer than [`MAX_LINE`].
    #[error("dockerfile line greater than max allowed size of {MAX_LINE}")]
    LineTooLong,
    /// A line that isn't a comment has bytes that aren't UTF-8.
    #[error("line {0} is not valid UTF-8")]
    NotUtf8(u32),
    /// There is nothing but comments.
    #[error("file with no instructions")]
    NoInstructions,
    /// A directive is given twice.
    #[error("only one {0} parser directive can be used")]
    DuplicateDirective(String),
    /// `# escape=` with something else than a backslash or a backquote.
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    /// The end of a heredoc is missing.
    #[error("unterminated heredoc")]
    UnterminatedHeredoc,
    /// A JSON list has something else than strings in it.
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStrings,
    /// `ENV name` or `LABEL name` without a value.
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// A word of `ENV` or `LABEL` isn't `name=value`.
    #[error("Syntax error - can't find = in {word}. Must be of the form: name=value", word = crate::text::quote(.0))]
    NoEquals(String),
}

/// A parsed Dockerfile.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// In the order of the file.
    pub statements: Vec<Statement>,
    /// `\` unless a directive says otherwise.
    pub escape: char,
    /// Lines after which an empty continued line was seen.
    pub empty_continuations: Vec<Lines>,
}

/// A [`ParseError`] with the lines that it is about.
pub(crate) type Located = (ParseError, Lines);

/// Parses a Dockerfile.
pub fn parse(data: &[u8]) -> Result<Parsed, Located> {
    let mut reader = Reader::new(data);
    let mut directives = Directives::new("#");
    let mut escape = '\\';
    let mut parsed = Parsed {
        statements: Vec::new(),
        escape,
        empty_continuations: Vec::new(),
    };
    let mut comments: Vec<String> = Vec::new();
    while let Some(raw) = reader.next_line()? {
        let before = reader.line() - 1;
        if lines::is_comment(raw) {
            let comment = lines::comment_text(raw);
            if comment.is_empty() {
                comments.clear();
            } else {
                comments.push(comment);
            }
        }
        let text = lines::trim_start(lines::trim_newline(raw));
        let found = directives
            .next(text)
            .map_err(|error| (error, Lines::one(before)))?;
        if let Some(found) = found {
            comments.pop();
            if found.name == "escape" {
                escape = match found.value.as_str() {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        let error = ParseError::EscapeToken(found.value);
                        return Err((error, Lines::one(before)));
                    }
                };
                parsed.escape = escape;
            }
        }
        if lines::is_comment(text) {
            continue;
        }
        let start = reader.line();
        let (text, mut ended) = lines::continuation(text, escape);
        if ended && text.is_empty() {
            continue;
        }
        let mut line = decode(text, start)?.to_owned();
        let mut empty_continuation = false;
        while !ended {
            let Some(raw) = reader.next_line()? else {
                break;
            };
            if lines::is_comment(raw) {
                continue;
            }
            let text = lines::trim_newline(raw);
            if lines::trim_start(text).is_empty() {
                empty_continuation = true;
                continue;
            }
            let (text, last) = lines::continuation(text, escape);
            ended = last;
            line.push_str(decode(text, reader.line())?);
        }
        if empty_continuation {
            parsed.empty_continuations.push(Lines::one(reader.line()));
        }
        let here = |reader: &Reader<'_>| Lines::new(start, reader.line());
        let mut statement = Statement::parse(&line, escape, std::mem::take(&mut comments))
            .map_err(|error| (error, here(&reader)))?;
        if statement.takes_heredocs() && line.contains("<<") {
            for mut heredoc in heredoc::of_line(&line) {
                heredoc
                    .read(&mut reader)
                    .map_err(|(error, at)| (error, at.unwrap_or(here(&reader))))?;
                statement.heredocs.push(heredoc);
            }
        }
        statement.lines = here(&reader);
        parsed.statements.push(statement);
    }
    if parsed.statements.is_empty() {
        return Err((ParseError::NoInstructions, Lines::one(reader.line())));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests;
