//! Text inside of a Dockerfile: `<<EOF`.

use super::ParseError;
use super::lines::{Lines, Reader, decode, trim_newline};
use crate::shell::{Lexer, NoVariables};

/// A heredoc.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Whether variables in it are expanded: the word isn't quoted.
    pub expand: bool,
    /// Whether tabs at the start of lines are dropped: `<<-`.
    pub chomp: bool,
    /// The text, with the ends of its lines.
    pub content: String,
}

impl Heredoc {
    /// Reads the text. Errors without lines are about the whole statement.
    pub(super) fn read(
        &mut self,
        reader: &mut Reader<'_>,
    ) -> Result<(), (ParseError, Option<Lines>)> {
        loop {
            let line = reader.next_line().map_err(|(e, at)| (e, Some(at)))?;
            let Some(line) = line else {
                return Err((ParseError::UnterminatedHeredoc, None));
            };
            let mut end = trim_newline(line);
            if self.chomp {
                let tabs = end.iter().take_while(|b| **b == b'\t').count();
                end = &end[tabs..];
            }
            if end == self.name.as_bytes() {
                return Ok(());
            }
            let text = decode(line, reader.line()).map_err(|(e, at)| (e, Some(at)))?;
            self.content.push_str(text);
        }
    }
}

/// The heredocs that a line announces.
pub(super) fn of_line(line: &str) -> Vec<Heredoc> {
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let words = lexer.expand(line, &NoVariables).unwrap_or_default().words;
    words
        .iter()
        .filter_map(|word| heredoc_of_word(word))
        .collect()
}

/// The heredoc that a word announces: digits, `<<`, `-`, blanks, a word.
pub(crate) fn heredoc_of_word(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\u{c}', '\r']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Lexer {
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let raw = Lexer {
        raw_quotes: true,
        ..lexer
    };
    let words = lexer.expand(rest, &NoVariables).ok()?.words;
    let raw_words = raw.expand(rest, &NoVariables).ok()?.words;
    let ([name], [raw_name]) = (words.as_slice(), raw_words.as_slice()) else {
        return None;
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Heredoc {
        name: name.clone(),
        expand: quotes(name) == quotes(raw_name),
        chomp,
        content: String::new(),
    })
}

/// The text without tabs at the start of its lines.
pub(crate) fn chomp(content: &str) -> String {
    content
        .split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}
