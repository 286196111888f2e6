//! Filters in containerd's syntax, as `docker buildx prune --filter` and `buildctl prune` send them.
//!
//! ```text
//! filter   = selector { "," selector }        all must match
//! selector = field { "." field } [ op value ] without op: the field is there
//! op       = "==" | "!=" | "~="               ~= is a regular expression
//! value    = quoted text, or anything without spaces and commas
//! ```
//! Of several filters one must match; no filter matches all. The fields are `id parents description inuse
//! mutable immutable type shared private`; the flags among them are there or not and have no value.

use kiln_cache::UsageRecord;
use regex::Regex;

use crate::Error;

/// Filters of which one must match.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    filters: Vec<Filter>,
    texts: Vec<String>,
}

/// One filter: all its selectors must match.
#[derive(Debug, Clone)]
pub struct Filter(Vec<Selector>);

#[derive(Debug, Clone)]
struct Selector {
    field: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters; blank ones match all.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, Error> {
        let parsed = filters.iter().map(|filter| Filter::parse(filter.as_ref()));
        Ok(Self {
            filters: parsed.collect::<Result<_, _>>()?,
            texts: filters
                .iter()
                .map(|filter| filter.as_ref().to_owned())
                .collect(),
        })
    }

    /// Whether the record is meant.
    pub fn matches(&self, record: &UsageRecord) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(record))
    }

    /// The filters as they were given.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

impl Filter {
    /// Reads a filter.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parser = Parser { text, rest: text };
        let mut selectors = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self(selectors));
        }
        loop {
            selectors.push(parser.selector()?);
            if parser.rest.is_empty() {
                return Ok(Self(selectors));
            }
            if !parser.take(",") {
                return Err(parser.error("expected a comma"));
            }
        }
    }

    fn matches(&self, record: &UsageRecord) -> bool {
        self.0.iter().all(|selector| selector.matches(record))
    }
}

impl Selector {
    fn matches(&self, record: &UsageRecord) -> bool {
        let value = field(record, &self.field);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(other) => value.unwrap_or_default() != *other,
            Test::Matches(pattern) => pattern.is_match(&value.unwrap_or_default()),
        }
    }
}

/// The value of a field, `None` where it isn't there.
fn field(record: &UsageRecord, name: &str) -> Option<String> {
    let flag = |is_set: bool| is_set.then(String::new);
    let text = |text: String| (!text.is_empty()).then_some(text);
    match name {
        "id" => text(record.id.to_string()),
        // BuildKit's clients say it in either number.
        "parents" | "parent" => {
            let parents: Vec<&str> = record.parents.iter().map(kiln_ids::RefId::as_str).collect();
            text(parents.join(";"))
        }
        "description" => text(record.description.clone()),
        "inuse" => flag(record.in_use),
        "mutable" => flag(record.mutable),
        "immutable" => flag(!record.mutable),
        "type" => Some(record.kind.to_string()),
        "shared" => flag(record.shared),
        "private" => flag(!record.shared),
        _ => None,
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    fn error(&self, reason: &str) -> Error {
        Error::Filter {
            filter: self.text.to_owned(),
            reason: format!("{reason} at {:?}", self.rest),
        }
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn selector(&mut self) -> Result<Selector, Error> {
        let mut name = self.name()?;
        while self.take(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        let test = if self.rest.is_empty() || self.rest.starts_with(',') {
            Test::Present
        } else if self.take("==") {
            Test::Equal(self.value()?)
        } else if self.take("!=") {
            Test::NotEqual(self.value()?)
        } else if self.take("~=") {
            let pattern = self.value()?;
            Test::Matches(Regex::new(&pattern).map_err(|e| Error::Filter {
                filter: self.text.to_owned(),
                reason: e.to_string(),
            })?)
        } else {
            return Err(self.error("expected ==, != or ~="));
        };
        Ok(Selector { field: name, test })
    }

    fn name(&mut self) -> Result<String, Error> {
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.error("expected the name of a field"));
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name.to_owned())
    }

    fn value(&mut self) -> Result<String, Error> {
        for quote in ['"', '/', '|'] {
            if self.rest.starts_with(quote) {
                return self.quoted(quote);
            }
        }
        let end = self
            .rest
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(value.to_owned())
    }

    /// Text between two quotes; a backslash takes a quote or a backslash as it is.
    fn quoted(&mut self, quote: char) -> Result<String, Error> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            if character == quote {
                self.rest = &self.rest[at + character.len_utf8()..];
                return Ok(value);
            }
            if character == '\\' {
                match characters.next() {
                    Some((_, escaped)) if escaped == quote || escaped == '\\' => {
                        value.push(escaped);
                    }
                    Some((_, other)) => {
                        value.push('\\');
                        value.push(other);
                    }
                    None => break,
                }
            } else {
                value.push(character);
            }
        }
        Err(self.error("a quote without its end"))
    }
}
