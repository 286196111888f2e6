//! Words with quotes, escapes and variables, as the Dockerfile reference defines them.
//!
//! All forms of `${}` are here: `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/`, `//`. A
//! Dockerfile may be hostile, so nesting is limited, and so is the size of what an expansion gives:
//! sixty `ARG`s that double each other would otherwise fill the memory.

mod pattern;
mod substitution;

use std::collections::BTreeSet;

/// Where values come from.
pub(crate) trait Variables {
    /// The value of a variable.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variables at all.
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// How deep `${a:-${b:-…}}` may go.
const MAX_NESTING: usize = 64;
/// The least that an expansion may give; it may always give twice what it was given.
const MAX_EXPANSION: usize = 1 << 20;

/// Why a word can't be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `${` without its end.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${a/b` without the second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:…}`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${a=b}` and the like.
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    /// A quote without its end.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    Quote(&'static str),
    /// `${a:?message}` of a variable that isn't set.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the Dockerfile says of it.
        message: String,
    },
    /// The pattern of `#`, `%` or `/` isn't one.
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// `${}` in `${}` in `${}` …
    #[error("variables are nested deeper than {MAX_NESTING} levels")]
    TooDeep,
    /// Variables that contain each other many times.
    #[error("the expansion is larger than {0} bytes")]
    TooLarge(usize),
}

/// An [`ExpandError`] with the word that it was found in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}", crate::text::quote(&shortened(.word)))]
pub struct WordError {
    /// The word.
    pub word: String,
    /// What is wrong with it.
    #[source]
    pub source: ExpandError,
}

fn shortened(word: &str) -> String {
    const LONGEST: usize = 400;
    if word.len() <= LONGEST {
        return word.to_owned();
    }
    format!("{}…", &word[..word.floor_char_boundary(LONGEST)])
}

/// What an expansion gives.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Expanded {
    /// The text.
    pub text: String,
    /// The text split at blanks outside of quotes, after the expansion.
    pub words: Vec<String>,
    /// Variables that were set.
    pub matched: BTreeSet<String>,
    /// Variables that weren't.
    pub unmatched: BTreeSet<String>,
}

/// Expands words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer {
    /// `\` or, where the Dockerfile says so, a backquote.
    pub escape: char,
    /// Keep the quotes.
    pub raw_quotes: bool,
    /// Keep the escapes.
    pub raw_escapes: bool,
    /// Quotes mean nothing: for the text of heredocs.
    pub plain_quotes: bool,
    /// Leave variables that aren't set as they are written.
    pub keep_unset: bool,
}

impl Lexer {
    /// The lexer of instructions.
    pub(crate) const fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keep_unset: false,
        }
    }

    /// Expands a word.
    pub(crate) fn expand(
        self,
        word: &str,
        variables: &dyn Variables,
    ) -> Result<Expanded, WordError> {
        let mut run = Run {
            lexer: self,
            rest: word,
            variables,
            limit: MAX_EXPANSION.max(word.len().saturating_mul(2)),
            depth: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let (text, words) = run
            .until(None, self.raw_escapes)
            .map_err(|source| WordError {
                word: word.to_owned(),
                source,
            })?;
        Ok(Expanded {
            text,
            words,
            matched: run.matched,
            unmatched: run.unmatched,
        })
    }
}

struct Run<'a> {
    lexer: Lexer,
    rest: &'a str,
    variables: &'a dyn Variables,
    limit: usize,
    depth: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// Collects words while text is added.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// Text whose blanks part words.
    fn add(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.current.push(c);
            } else if !self.current.is_empty() {
                self.done.push(std::mem::take(&mut self.current));
            }
        }
    }

    /// Text that is part of the word, blanks and all.
    fn add_raw(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    /// Reads up to `stop`, or all there is. `Ok(None)`-like ends are told by the caller, which knows
    /// what it was looking for.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
    ) -> Result<(String, Vec<String>), ExpandError> {
        if self.depth > MAX_NESTING {
            return Err(ExpandError::TooDeep);
        }
        let before = std::mem::replace(&mut self.lexer.raw_escapes, raw_escapes);
        self.depth += 1;
        let result = self.until_inner(stop);
        self.depth -= 1;
        self.lexer.raw_escapes = before;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.next();
                return Ok((text, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.check_size(text.len() + value.len())?;
                    words.add(&value);
                    text.push_str(&value);
                }
                '<' => {
                    let sign = self.less_than();
                    words.add_raw(&sign);
                    text.push_str(&sign);
                }
                '\'' if !self.lexer.plain_quotes => {
                    let quoted = self.single_quoted()?;
                    words.add_raw(&quoted);
                    text.push_str(&quoted);
                }
                '"' if !self.lexer.plain_quotes => {
                    let quoted = self.double_quoted()?;
                    self.check_size(text.len() + quoted.len())?;
                    words.add_raw(&quoted);
                    text.push_str(&quoted);
                }
                c if c == self.lexer.escape => {
                    self.next();
                    let mut sign = [0; 4];
                    if self.lexer.raw_escapes {
                        words.add_raw(c.encode_utf8(&mut sign));
                        text.push(c);
                    }
                    let Some(escaped) = self.next() else { break };
                    words.add_raw(escaped.encode_utf8(&mut sign));
                    text.push(escaped);
                }
                c => {
                    self.next();
                    words.add(c.encode_utf8(&mut [0; 4]));
                    text.push(c);
                }
            }
        }
        match stop {
            None => Ok((text, words.finish())),
            Some('/') => Err(ExpandError::MissingSlash),
            Some(_) => Err(ExpandError::MissingBrace),
        }
    }

    fn check_size(&self, size: usize) -> Result<(), ExpandError> {
        if size > self.limit {
            return Err(ExpandError::TooLarge(self.limit));
        }
        Ok(())
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let raw = self.lexer.raw_quotes;
        let inside = &self.rest[1..];
        let Some(end) = inside.find('\'') else {
            self.rest = "";
            return Err(ExpandError::Quote("single"));
        };
        let text = if raw {
            self.rest[..end + 2].to_owned()
        } else {
            inside[..end].to_owned()
        };
        self.rest = &inside[end + 1..];
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        self.next();
        if self.lexer.raw_quotes {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandError::Quote("double")),
                Some('"') => {
                    self.next();
                    if self.lexer.raw_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.check_size(text.len() + value.len())?;
                    text.push_str(&value);
                }
                Some(c) if c == self.lexer.escape => {
                    self.next();
                    if self.lexer.raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(special) if matches!(special, '"' | '$') || special == c => {
                            self.next();
                            text.push(special);
                        }
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    /// `<<` with the blanks after it belongs to one word, so that `<< EOF` is a heredoc.
    fn less_than(&mut self) -> String {
        self.next();
        let mut sign = "<".to_owned();
        if self.peek() == Some('<') {
            self.next();
            sign.push('<');
            while let Some(blank @ ('\t' | '\r' | ' ')) = self.peek() {
                self.next();
                sign.push(blank);
            }
        }
        sign
    }
}

#[cfg(test)]
mod tests;
