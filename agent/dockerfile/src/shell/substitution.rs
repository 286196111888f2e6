//! `$name` and all forms of `${…}`.

use super::{ExpandError, Run, pattern};

impl Run<'_> {
    pub(super) fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                Some(value) => value,
                None if self.lexer.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let Some(modifier) = self.next() else {
            return Err(ExpandError::MissingBrace);
        };
        match modifier {
            '}' => Ok(match self.value(&name) {
                Some(value) => value,
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => match self.next() {
                Some(after @ ('-' | '+' | '?')) => self.conditional(&name, after, true),
                Some(after) => Err(ExpandError::Modifier(format!(":{after}"))),
                None => Err(ExpandError::MissingBrace),
            },
            '-' | '+' | '?' => self.conditional(&name, modifier, false),
            '#' | '%' => self.trimmed(&name, modifier),
            '/' => self.replaced(&name),
            other => Err(ExpandError::Modifier(other.to_string())),
        }
    }

    fn conditional(
        &mut self,
        name: &str,
        modifier: char,
        null_is_unset: bool,
    ) -> Result<String, ExpandError> {
        let (word, _) = self.until(Some('}'), false)?;
        let value = self.value(name);
        if value.is_none() && self.lexer.keep_unset {
            let colon = if null_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let was_set = value.is_some();
        let value = value.filter(|value| !null_is_unset || !value.is_empty());
        match (modifier, value) {
            ('+', Some(_)) | ('-', None) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let message = match (word.is_empty(), was_set) {
                    (false, _) => word,
                    (true, false) => "is not allowed to be unset".to_owned(),
                    (true, true) => "is not allowed to be empty".to_owned(),
                };
                Err(ExpandError::Required {
                    name: name.to_owned(),
                    message,
                })
            }
        }
    }

    fn trimmed(&mut self, name: &str, side: char) -> Result<String, ExpandError> {
        let (word, _) = self.until(Some('}'), true)?;
        let Some(value) = self.value(name) else {
            return Ok(if self.lexer.keep_unset {
                format!("${{{name}{side}{word}}}")
            } else {
                String::new()
            });
        };
        let (pattern, greedy) = match word.strip_prefix(side) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        if side == '%' {
            pattern::without_suffix(pattern, &value, greedy)
        } else {
            pattern::without_prefix(pattern, &value, greedy)
        }
    }

    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let Some(value) = self.value(name) else {
            return Ok(if self.lexer.keep_unset {
                format!("${{{name}/{pattern}/{replacement}}}")
            } else {
                String::new()
            });
        };
        pattern::replace(&pattern, &value, &replacement, all, self.limit)
    }

    /// Letters, digits and `_`; a leading digit takes digits only; special parameters are one sign.
    fn name(&mut self) -> String {
        let Some(first) = self.peek() else {
            return String::new();
        };
        let end = if first.is_numeric() {
            self.rest.find(|c: char| !c.is_numeric())
        } else if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            Some(1).filter(|end| *end < self.rest.len())
        } else {
            self.rest
                .find(|c: char| !c.is_alphabetic() && !c.is_numeric() && c != '_')
        };
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_owned()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name).map(str::to_owned);
        let seen = if value.is_some() {
            &mut self.matched
        } else {
            &mut self.unmatched
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }
}
