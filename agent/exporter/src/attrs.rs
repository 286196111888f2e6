//! Options of exporters, as clients write them.

use std::collections::BTreeMap;

use kiln_oci::Timestamp;

use crate::{Error, ExportInput};

/// An exporter's options by name.
pub type Attributes = BTreeMap<String, String>;

/// Option and metadata keys for the time that output is clamped to.
const EPOCH_OPTION: &str = "source-date-epoch";
const EPOCH_METADATA: &str = "source.date.epoch";

/// Go's `strconv.ParseBool`; an empty value is `true` where `empty_is_true`.
pub(crate) fn boolean(key: &str, value: &str, empty_is_true: bool) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        "" if empty_is_true => Ok(true),
        _ => Err(Error::Option {
            key: key.to_owned(),
            value: value.to_owned(),
            reason: "non-bool",
        }),
    }
}

/// What times are clamped to. An option that is set but empty overrides the frontend with "not".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Epoch {
    /// The frontend decides.
    #[default]
    FromResult,
    /// The client decided.
    Given(Option<Timestamp>),
}

impl Epoch {
    /// Takes the option, if it is there.
    pub(crate) fn take(attributes: &mut Attributes) -> Result<Self, Error> {
        match attributes.remove(EPOCH_OPTION) {
            None => Ok(Self::FromResult),
            Some(value) => Ok(Self::Given(seconds(EPOCH_OPTION, &value)?)),
        }
    }

    /// The epoch for a platform of the result.
    pub(crate) fn resolve(
        self,
        input: &ExportInput,
        platform: Option<&str>,
    ) -> Result<Option<Timestamp>, Error> {
        match self {
            Self::Given(epoch) => Ok(epoch),
            Self::FromResult => match input.key(EPOCH_METADATA, platform) {
                None => Ok(None),
                Some(value) => seconds(EPOCH_METADATA, &String::from_utf8_lossy(value)),
            },
        }
    }
}

fn seconds(key: &str, value: &str) -> Result<Option<Timestamp>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    value
        .parse()
        .ok()
        .and_then(Timestamp::from_unix)
        .map(Some)
        .ok_or_else(|| Error::Option {
            key: key.to_owned(),
            value: value.to_owned(),
            reason: "invalid",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_gos() {
        for (text, want) in [
            ("1", Some(true)),
            ("F", Some(false)),
            ("yes", None),
            ("", None),
        ] {
            assert_eq!(boolean("push", text, false).ok(), want, "{text}");
        }
        assert!(boolean("push", "", true).unwrap());
    }

    #[test]
    fn epochs_are_seconds() {
        for (text, want) in [
            (Some("1"), Some(Epoch::Given(Timestamp::from_unix(1)))),
            (Some(""), Some(Epoch::Given(None))),
            (None, Some(Epoch::FromResult)),
            (Some("soon"), None),
            (Some("99999999999999"), None),
        ] {
            let mut attributes = Attributes::new();
            if let Some(text) = text {
                attributes.insert(EPOCH_OPTION.into(), text.into());
            }
            assert_eq!(Epoch::take(&mut attributes).ok(), want, "{text:?}");
            assert!(want.is_none() || attributes.is_empty());
        }
    }
}
