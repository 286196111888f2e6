//! Check rules: what is legal in a Dockerfile and still likely wrong.
//!
//! Names, texts and addresses are public: people name rules in `# check=skip=…`, and tools match on
//! what is printed.

mod rule;

use std::sync::{Arc, Mutex, PoisonError};

pub use rule::Rule;

use crate::parse::Lines;
use crate::text::parse_bool;

/// Which rules are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintConfig {
    /// Experimental rules are on.
    pub experimental_all: bool,
    /// These experimental rules are on.
    pub experimental: Vec<String>,
    /// No rule is looked at.
    pub skip_all: bool,
    /// These are not looked at.
    pub skip: Vec<String>,
    /// A broken rule fails the build.
    pub errors: bool,
}

/// Why a text is no configuration of checks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LintOptionError {
    /// A part isn't `key=value`, or the key isn't known.
    #[error("invalid check option {}", crate::text::quote(.0))]
    Option(String),
    /// `error=` without a boolean.
    #[error("failed to parse check option {}", crate::text::quote(.0))]
    Bool(String),
}

impl LintConfig {
    /// Reads `skip=A,B;experimental=all;error=true`.
    pub fn parse(text: &str) -> Result<Self, LintOptionError> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        let names = |value: &str| -> Vec<String> {
            value
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect()
        };
        for part in text.trim().splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(LintOptionError::Option(part.to_owned()));
            };
            let value = value.trim();
            match (key.trim(), value) {
                ("skip", "all") => config.skip_all = true,
                ("skip", names_given) => config.skip = names(names_given),
                ("experimental", "all") => config.experimental_all = true,
                ("experimental", names_given) => config.experimental = names(names_given),
                ("error", value) => {
                    config.errors =
                        parse_bool(value).ok_or_else(|| LintOptionError::Bool(part.to_owned()))?;
                }
                (key, _) => return Err(LintOptionError::Option(key.to_owned())),
            }
        }
        Ok(config)
    }

    fn wants(&self, rule: Rule) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name == rule.name());
        if rule.is_experimental() {
            self.experimental_all || named(&self.experimental)
        } else {
            !self.skip_all && !named(&self.skip)
        }
    }
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub rule: Rule,
    /// How.
    pub message: String,
    /// Where.
    pub lines: Option<Lines>,
}

impl Broken {
    /// The line that clients print.
    pub fn short(&self) -> String {
        match self.lines {
            Some(lines) if lines.start > 0 => {
                format!(
                    "{}: {} (line {})",
                    self.rule.name(),
                    self.message,
                    lines.start
                )
            }
            _ => format!("{}: {}", self.rule.name(), self.message),
        }
    }
}

/// Collects broken rules.
#[derive(Debug, Clone, Default)]
pub struct Linter {
    config: Arc<LintConfig>,
    broken: Arc<Mutex<Vec<Broken>>>,
}

impl Linter {
    /// A linter that has found nothing yet.
    pub fn new(config: LintConfig) -> Self {
        Self {
            config: Arc::new(config),
            broken: Arc::default(),
        }
    }

    /// This linter, with what a `# check=` comment before an instruction says.
    pub(crate) fn with_comments(&self, comments: &[String]) -> Self {
        let value = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            (name.trim().eq_ignore_ascii_case("check")).then(|| value.trim())
        });
        let first = value.and_then(|value| value.split(' ').next());
        let Some(Ok(more)) = first.map(LintConfig::parse) else {
            return self.clone();
        };
        let mut config = (*self.config).clone();
        config.experimental_all |= more.experimental_all;
        config.experimental.extend(more.experimental);
        config.skip_all |= more.skip_all;
        config.skip.extend(more.skip);
        Self {
            config: Arc::new(config),
            broken: Arc::clone(&self.broken),
        }
    }

    /// Reports a broken rule, if it is looked at.
    pub(crate) fn report(&self, rule: Rule, lines: impl Into<Option<Lines>>, message: String) {
        if self.config.wants(rule) {
            let broken = Broken {
                rule,
                message,
                lines: lines.into(),
            };
            self.lock().push(broken);
        }
    }

    /// All that was found, in the order in which it was found.
    pub fn take(&self) -> Vec<Broken> {
        std::mem::take(&mut *self.lock())
    }

    /// Names of broken rules, where they fail the build.
    pub(crate) fn failures(&self) -> Option<String> {
        if !self.config.errors {
            return None;
        }
        let mut names: Vec<&str> = Vec::new();
        for broken in self.lock().iter() {
            if !names.contains(&broken.rule.name()) {
                names.push(broken.rule.name());
            }
        }
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Broken>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let config = LintConfig::parse("skip=A, B;error=true;experimental=all").unwrap();
        assert_eq!(config.skip, ["A", "B"]);
        assert!(config.errors && config.experimental_all);
        assert_eq!(LintConfig::parse(""), Ok(LintConfig::default()));
        for text in ["x", "x=1", "error=maybe"] {
            assert!(LintConfig::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn comments_switch_rules_off_for_one_instruction() {
        let linter = Linter::new(LintConfig::default());
        let quiet = linter.with_comments(&["check=skip=all because".to_owned()]);
        quiet.report(Rule::UndefinedVar, None, "x".into());
        linter.report(Rule::UndefinedVar, Lines::one(2), "y".into());
        linter.report(Rule::InvalidDefinitionDescription, None, "z".into());
        let found = linter.take();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].short(), "UndefinedVar: y (line 2)");
    }
}
