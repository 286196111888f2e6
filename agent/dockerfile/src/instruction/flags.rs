//! `--name=value` before the arguments of an instruction.

use super::InstructionError;
use crate::suggest::Suggestion;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, `true` or `false`.
    Bool,
    /// A value, once.
    Text,
    /// A value each time.
    List,
}

/// The flags that were given.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    pub(super) fn parse(
        given: &[String],
        known: &[(&'static str, Kind)],
    ) -> Result<Self, InstructionError> {
        let mut flags = Self::default();
        for text in given {
            let (flag, value) = match text.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (text.as_str(), None),
            };
            let name = flag.strip_prefix("--").unwrap_or(flag);
            let Some((known_name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                return Err(InstructionError::UnknownFlag {
                    flag: flag.to_owned(),
                    suggestion: Suggestion::of(name, known.iter().map(|(name, _)| *name)),
                });
            };
            if *kind != Kind::List && flags.is_given(known_name) {
                return Err(InstructionError::DuplicateFlag(flag.to_owned()));
            }
            let value = match (kind, value) {
                (Kind::Bool, Some("")) | (Kind::Text | Kind::List, None) => {
                    return Err(InstructionError::FlagValue(flag.to_owned()));
                }
                (Kind::Bool, value) => match value.unwrap_or("true").to_lowercase().as_str() {
                    "true" => "true",
                    "false" => "false",
                    _ => {
                        return Err(InstructionError::FlagBool {
                            flag: flag.to_owned(),
                            value: value.unwrap_or("").to_owned(),
                        });
                    }
                },
                (_, Some(value)) => value,
            };
            flags.0.push((known_name, value.to_owned()));
        }
        Ok(flags)
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// The value, or an empty text.
    pub(super) fn text(&self, name: &str) -> String {
        self.list(name).pop().unwrap_or_default()
    }

    /// Whether a flag is given, and not as `false`.
    pub(super) fn bool(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// `None` where the flag isn't given.
    pub(super) fn maybe_bool(&self, name: &str) -> Option<bool> {
        self.is_given(name).then(|| self.bool(name))
    }

    /// All values.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(given, _)| *given == name);
        values.map(|(_, value)| value.clone()).collect()
    }
}
