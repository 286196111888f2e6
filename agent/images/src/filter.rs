//! Docker's filters of images.

use kiln_oci::Reference;

use crate::{Error, Image, Result};

/// Filters: one of each key must hold.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    references: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    dangling: Option<bool>,
    before: Option<String>,
    since: Option<String>,
}

impl Filters {
    /// Reads `key=value`s.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let mut all = Self::default();
        for text in texts {
            let text = text.as_ref();
            let unknown = || Error::Filter {
                filter: text.to_owned(),
            };
            let (key, value) = text.split_once('=').ok_or_else(unknown)?;
            match key {
                "reference" => all.references.push(value.to_owned()),
                "label" => all.labels.push(match value.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (value.to_owned(), None),
                }),
                "dangling" => {
                    all.dangling = Some(match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(unknown()),
                    });
                }
                "before" => all.before = Some(value.to_owned()),
                "since" => all.since = Some(value.to_owned()),
                _ => return Err(unknown()),
            }
        }
        Ok(all)
    }

    /// The names whose images bound the time.
    pub(crate) fn bounds(&self) -> [Option<&str>; 2] {
        [self.before.as_deref(), self.since.as_deref()]
    }

    /// Whether an image is wanted; only the names that are stay.
    pub(crate) fn matches(&self, image: &mut Image) -> bool {
        if !self.references.is_empty() {
            image.names.retain(|name| {
                let patterns = &mut self.references.iter();
                patterns.any(|pattern| is_meant(pattern, name))
            });
            if image.names.is_empty() {
                return false;
            }
        }
        let dangling = image.names.iter().all(|name| name.contains('@'));
        let labels = self.labels.iter().all(|(key, value)| {
            let found = image.labels.get(key);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        });
        labels && self.dangling.is_none_or(|wanted| wanted == dangling)
    }
}

/// Whether a pattern with `*` and `?` means a name, in its full or its short form, with a tag or without.
fn is_meant(pattern: &str, name: &str) -> bool {
    let Ok(reference) = name.parse::<Reference>() else {
        return false;
    };
    [
        reference.to_string(),
        reference.familiar(),
        reference.name(),
        reference.familiar_name(),
    ]
    .iter()
    .any(|form| glob(pattern.as_bytes(), form.as_bytes()))
}

/// `*` stands for anything but a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let end = text
                .iter()
                .position(|byte| *byte == b'/')
                .unwrap_or(text.len());
            (0..=end).any(|skip| glob(rest, &text[skip..]))
        }
        (Some((b'?', pattern)), Some((byte, text))) => *byte != b'/' && glob(pattern, text),
        (Some((wanted, pattern)), Some((byte, text))) => wanted == byte && glob(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_matched_in_all_their_forms() {
        for (pattern, name, want) in [
            ("alpine", "docker.io/library/alpine:3", true),
            ("alpine:3", "docker.io/library/alpine:3", true),
            ("alp*:*", "docker.io/library/alpine:3", true),
            ("me/*", "docker.io/me/app:1", true),
            ("*", "docker.io/me/app:1", false),
            ("localhost:5000/*/app", "localhost:5000/me/app:1", true),
            ("app", "docker.io/library/apple:1", false),
        ] {
            assert_eq!(is_meant(pattern, name), want, "{pattern} {name}");
        }
        assert!(Filters::parse(&["x=y"]).is_err());
        assert!(Filters::parse(&["dangling=maybe"]).is_err());
        assert!(Filters::parse(&["label=a", "label=a=b", "dangling=true"]).is_ok());
    }
}
