//! Names of images: `registry/path:tag@digest`, normalised as Docker does.
//!
//! Invariant: a [`Reference`] always has a domain, so `alpine` is `docker.io/library/alpine`; the
//! short form that people type is [`Reference::familiar`].

use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It doesn't have the form of a name.
    #[error("invalid reference format: {text:?}")]
    Format {
        /// What was given.
        text: String,
    },
    /// The path has capital letters.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase {
        /// The path.
        name: String,
    },
    /// 64 hex digits would be taken for an image's id.
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    Identifier {
        /// What was given.
        name: String,
    },
    /// The path is too long.
    #[error("repository name must not be more than {MAX_PATH} characters")]
    TooLong,
    /// What follows the `@` is no digest.
    #[error("invalid reference format: {text:?}")]
    Digest {
        /// What was given.
        text: String,
        /// Why.
        #[source]
        source: DigestError,
    },
}

impl Reference {
    /// A reference to `path` on `domain`. Both must be well-formed.
    pub fn new(domain: &str, path: &str) -> Result<Self, ReferenceError> {
        let text = || format!("{domain}/{path}");
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong);
        }
        if !is_domain(domain) || !is_path(path) {
            return Err(ReferenceError::Format { text: text() });
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: None,
            digest: None,
        })
    }

    /// The registry: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, where there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where there is one.
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn tag_or_digest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The same with tag `latest` where it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same with this tag.
    pub fn with_tag(mut self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format {
                text: format!("{}:{tag}", self.name()),
            });
        }
        self.tag = Some(tag.to_owned());
        Ok(self)
    }

    /// The same with this digest.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The same without tag and digest.
    #[must_use]
    pub fn without_tag_and_digest(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// One name of the image: a tag beside a digest says nothing and is dropped; neither becomes `latest`.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        if self.digest.is_some() {
            self.tag = None;
        }
        self.with_default_tag()
    }

    /// The short form that people type: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// The short form without tag and digest.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Normalises what a person typed: `alpine`, `user/app:1`, `localhost:5000/app@sha256:…`.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier {
                name: text.to_owned(),
            });
        }
        let format = || ReferenceError::Format {
            text: text.to_owned(),
        };
        let (domain, remainder) = split_domain(text);
        let (remainder, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest.to_owned(), Some(digest)),
            None => (remainder, None),
        };
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder.as_str(), None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase {
                name: path.to_owned(),
            });
        }
        let mut reference = Self::new(&domain, path).map_err(|error| match error {
            ReferenceError::Format { .. } => format(),
            other => other,
        })?;
        if let Some(tag) = tag {
            reference = reference.with_tag(tag).map_err(|_| format())?;
        }
        if let Some(digest) = digest {
            let digest = digest.parse().map_err(|source| ReferenceError::Digest {
                text: text.to_owned(),
                source,
            })?;
            reference = reference.with_digest(digest);
        }
        Ok(reference)
    }
}

/// Tells a registry from the first part of a path: it has a dot, a colon or capitals, or is `localhost`.
fn split_domain(name: &str) -> (String, String) {
    let official = |path: &str| {
        if path.contains('/') {
            path.to_owned()
        } else {
            format!("{OFFICIAL_PREFIX}{path}")
        }
    };
    let Some((first, rest)) = name.split_once('/') else {
        return (DEFAULT_DOMAIN.to_owned(), official(name));
    };
    if first == LEGACY_DOMAIN || first == DEFAULT_DOMAIN {
        return (DEFAULT_DOMAIN.to_owned(), official(rest));
    }
    let is_registry =
        first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase);
    if is_registry {
        (first.to_owned(), rest.to_owned())
    } else {
        (DEFAULT_DOMAIN.to_owned(), name.to_owned())
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        // An IPv6 address in brackets.
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let is_address =
            !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        match (is_address, port.strip_prefix(':')) {
            (true, port @ Some(_)) => ("ipv6", port),
            (true, None) if port.is_empty() => ("ipv6", None),
            (false, _) | (true, None) => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let is_component = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.split('.').all(is_component)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Runs of lower-case letters and digits, joined by one dot, one or two underscores, or hyphens.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes
        .split(is_word)
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_and_made_familiar() {
        let pinned = format!("alpine@sha256:{HEX}");
        let pinned_full = format!("docker.io/library/alpine@sha256:{HEX}");
        let both = format!("localhost:5000/a/b:v1@sha256:{HEX}");
        let table = [
            ("alpine", "docker.io/library/alpine", "alpine"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            ("user/app", "docker.io/user/app", "user/app"),
            ("library/alpine", "docker.io/library/alpine", "alpine"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            (
                "index.docker.io/alpine:1",
                "docker.io/library/alpine:1",
                "alpine:1",
            ),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b",
                "library/a/b",
            ),
            ("localhost/app", "localhost/app", "localhost/app"),
            (
                "localhost:5000/app",
                "localhost:5000/app",
                "localhost:5000/app",
            ),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            (
                "127.0.0.1:5000/a/b:t",
                "127.0.0.1:5000/a/b:t",
                "127.0.0.1:5000/a/b:t",
            ),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            (
                "ghcr.io/a_b/c__d/e-f--g.h",
                "ghcr.io/a_b/c__d/e-f--g.h",
                "ghcr.io/a_b/c__d/e-f--g.h",
            ),
            ("Host/app", "Host/app", "Host/app"),
            (&pinned, &pinned_full, &pinned),
            (&both, &both, &both),
        ];
        for (text, full, familiar) in table {
            let reference: Reference = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        let long = format!("a/{}", "b".repeat(255));
        let tag = format!("a:{}", "b".repeat(129));
        for text in [
            "",
            "/",
            "a//b",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:12",
            "a@md5:00",
            "a b",
            "ALPINE",
            "user/App",
            "x.io/",
            "x..io/a",
            "-x.io/a",
            "x.io:/a",
            "x.io:p/a",
            "[::1/a",
            "[]:1/a",
            HEX,
            &long,
            &tag,
            "a:b:c",
            "é",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!(matches!(
            "user/App".parse::<Reference>(),
            Err(ReferenceError::Uppercase { .. })
        ));
        assert!(matches!(
            HEX.parse::<Reference>(),
            Err(ReferenceError::Identifier { .. })
        ));
    }

    #[test]
    fn tags_and_digests_are_chosen() {
        let bare: Reference = "alpine".parse().unwrap();
        assert_eq!(bare.tag_or_digest(), "latest");
        assert_eq!(bare.clone().canonical().familiar(), "alpine:latest");
        let both: Reference = format!("alpine:3@sha256:{HEX}").parse().unwrap();
        assert_eq!(both.tag_or_digest(), format!("sha256:{HEX}"));
        assert_eq!(both.canonical().tag(), None);
        assert!(bare.with_tag("a/b").is_err());
    }
}
