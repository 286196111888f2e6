//! One instruction: its keyword, flags and arguments as words.

use super::heredoc::Heredoc;
use super::lines::Lines;
use super::{ParseError, words};

/// An instruction that is not yet interpreted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// As it was written.
    pub keyword: String,
    /// `--name=value`
    pub flags: Vec<String>,
    /// The words after the flags. `ENV` and `LABEL` have triples of name, value and the sign between
    /// them; `ONBUILD` has the keyword of its trigger first.
    pub args: Vec<String>,
    /// The arguments were a JSON list.
    pub json: bool,
    /// Texts that follow the line.
    pub heredocs: Vec<Heredoc>,
    /// The line, continued lines joined.
    pub original: String,
    /// Where it is, heredocs included.
    pub lines: Lines,
    /// The comment lines right before it.
    pub comments: Vec<String>,
    /// `ONBUILD`: keyword of the trigger, and whether its arguments were JSON.
    trigger: Option<(String, bool)>,
}

fn takes_heredocs(keyword: &str) -> bool {
    ["add", "copy", "run"]
        .iter()
        .any(|name| keyword.eq_ignore_ascii_case(name))
}

impl Statement {
    pub(super) fn parse(
        line: &str,
        escape: char,
        comments: Vec<String>,
    ) -> Result<Self, ParseError> {
        let (keyword, rest) = words::split_once(line.trim());
        let (flags, rest) = words::flags(rest.unwrap_or(""), escape);
        let mut statement = Self {
            keyword: keyword.to_owned(),
            flags,
            original: line.to_owned(),
            comments,
            ..Self::default()
        };
        statement.parse_args(rest.trim(), escape)?;
        Ok(statement)
    }

    fn parse_args(&mut self, rest: &str, escape: char) -> Result<(), ParseError> {
        let keyword = self.keyword.to_ascii_lowercase();
        match keyword.as_str() {
            "add" | "copy" | "volume" => match words::json(rest)? {
                Some(list) => self.set_json(list),
                None if rest.is_empty() => {}
                None => self.args = words::split(rest),
            },
            "arg" => self.args = words::quoted(rest, escape),
            "cmd" | "entrypoint" | "run" | "shell" => self.maybe_json(rest)?,
            "env" => self.args = words::pairs(rest, "ENV", escape)?,
            "label" => self.args = words::pairs(rest, "LABEL", escape)?,
            "expose" | "from" if !rest.is_empty() => self.args = words::split(rest),
            "maintainer" | "stopsignal" | "user" | "workdir" if !rest.is_empty() => {
                self.args = vec![rest.to_owned()];
            }
            "healthcheck" if !rest.is_empty() => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (kind, command) = rest.split_at(end);
                self.maybe_json(command.trim_start())?;
                self.args.insert(0, kind.to_owned());
            }
            "onbuild" if !rest.is_empty() => {
                // A trigger of a trigger is refused later; it must not be parsed here, or a line of
                // ten thousand ONBUILDs would be ten thousand calls deep.
                let (inner, _) = words::split_once(rest);
                if inner.eq_ignore_ascii_case("onbuild") {
                    self.args = vec![inner.to_owned()];
                    return Ok(());
                }
                let trigger = Self::parse(rest, escape, Vec::new())?;
                self.args = vec![trigger.keyword.clone()];
                self.args.extend(trigger.args);
                self.trigger = Some((trigger.keyword, trigger.json));
            }
            _ => {}
        }
        Ok(())
    }

    fn maybe_json(&mut self, rest: &str) -> Result<(), ParseError> {
        match words::json(rest)? {
            Some(list) => self.set_json(list),
            None if rest.is_empty() => {}
            None => self.args = vec![rest.to_owned()],
        }
        Ok(())
    }

    fn set_json(&mut self, list: Vec<String>) {
        self.args = list;
        self.json = true;
    }

    pub(super) fn takes_heredocs(&self) -> bool {
        match &self.trigger {
            Some((keyword, json)) => takes_heredocs(keyword) && !json,
            None => takes_heredocs(&self.keyword) && !self.json,
        }
    }
}
