//! What a `local://` source asks for, from its attributes.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_filesync::{Differ, FilterOptions, MetadataOnly, PatternMatcher};
use kiln_ids::SessionId;
use kiln_oci::Digest;

use super::LocalError;

/// A client's directory, or part of it, as a build wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalRequest {
    /// The name under which the client offers it.
    pub name: String,
    /// The session of the client that has it, if not just any of the build's.
    pub session: Option<SessionId>,
    /// Which part of it is wanted.
    pub filter: FilterOptions,
    /// Tells directories of one name apart that are used for different things.
    pub shared_key_hint: String,
    /// How unchanged files are recognised.
    pub differ: Differ,
    /// Only stats are wanted.
    pub metadata_only: bool,
    /// Patterns of files that are wanted whole all the same.
    pub metadata_except: Vec<String>,
}

impl LocalRequest {
    /// From the part of the identifier after `local://` and the op's attributes.
    pub fn parse<'a>(
        name: &str,
        attributes: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, LocalError> {
        let mut request = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        for (key, value) in attributes {
            match key.as_str() {
                "local.session" => request.take_session(value),
                "local.includepattern" => request.filter.includes = list(key, value)?,
                "local.excludepatterns" => request.filter.excludes = list(key, value)?,
                "local.followpaths" => request.filter.follow_paths = list(key, value)?,
                "local.sharedkeyhint" => request.shared_key_hint.clone_from(value),
                "local.differ" => {
                    request.differ = match value.as_str() {
                        "" | "metadata" => Differ::Metadata,
                        "none" => Differ::None,
                        _ => return Err(invalid(key, value)),
                    }
                }
                "local.metadatatransfer" => {
                    request.metadata_only = match value.as_str() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(invalid(key, value)),
                    }
                }
                "local.metadatatransferexclude" => request.metadata_except = list(key, value)?,
                _ => {}
            }
        }
        Ok(request)
    }

    /// A session may be written `prefix:id`; the prefix tells sources of one name apart.
    fn take_session(&mut self, value: &str) {
        if let Some((prefix, id)) = value.split_once(':') {
            self.name = format!("{prefix}-{}", self.name);
            self.session = Some(SessionId::new(id));
        } else if !value.is_empty() {
            self.session = Some(SessionId::new(value));
        }
    }

    /// The key of the source: good within one session only, hence its prefix `session:`.
    pub fn cache_key(&self, sessions: &[SessionId]) -> Result<String, LocalError> {
        let session = self
            .session
            .as_ref()
            .or(sessions.first())
            .ok_or(LocalError::NoSession)?;
        let mut json = BTreeMap::new();
        json.insert("session", serde_json::json!(session.as_str()));
        json.insert("includes", serde_json::json!(self.filter.includes));
        json.insert("excludes", serde_json::json!(self.filter.excludes));
        json.insert("follow", serde_json::json!(self.filter.follow_paths));
        json.insert("metadata", serde_json::json!(self.metadata_only));
        json.insert("except", serde_json::json!(self.metadata_except));
        let text = serde_json::to_vec(&json).map_err(|_| LocalError::NoSession)?;
        Ok(format!("session:{}:{}", self.name, Digest::of(text)))
    }

    /// What tells this directory of this client from all others, build after build.
    pub(super) fn shared_key(&self, client: &str) -> String {
        let suffix = if self.metadata_only { ":metadata" } else { "" };
        format!(
            "local:{}:{}:{client}{suffix}",
            self.name, self.shared_key_hint
        )
    }

    pub(super) fn metadata_options(&self) -> Result<Option<MetadataOnly>, LocalError> {
        if !self.metadata_only {
            return Ok(None);
        }
        let except = if self.metadata_except.is_empty() {
            None
        } else {
            Some(Arc::new(PatternMatcher::new(&self.metadata_except)?))
        };
        Ok(Some(MetadataOnly { except }))
    }
}

fn list(key: &str, value: &str) -> Result<Vec<String>, LocalError> {
    // Go writes a list that isn't there as null.
    serde_json::from_str::<Option<Vec<String>>>(value)
        .map(Option::unwrap_or_default)
        .map_err(|_| invalid(key, value))
}

fn invalid(key: &str, value: &str) -> LocalError {
    LocalError::Attribute {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attributes: &[(&str, &str)]) -> Result<LocalRequest, LocalError> {
        let map: BTreeMap<String, String> = attributes
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        LocalRequest::parse("context", &map)
    }

    #[test]
    fn attributes_are_read() {
        let request = parse(&[
            ("local.session", "s1"),
            ("local.includepattern", r#"["a","b"]"#),
            ("local.excludepatterns", "null"),
            ("local.followpaths", "[]"),
            ("local.sharedkeyhint", "hint"),
            ("local.unique", "whatever"),
            ("local.differ", "none"),
            ("local.metadatatransfer", "true"),
            ("local.metadatatransferexclude", r#"["*.go"]"#),
        ])
        .unwrap();
        assert_eq!(request.session, Some(SessionId::new("s1")));
        assert_eq!(request.filter.includes, ["a", "b"]);
        assert_eq!(request.differ, Differ::None);
        assert_eq!(request.shared_key("key"), "local:context:hint:key:metadata");
        let prefixed = parse(&[("local.session", "input:s2")]).unwrap();
        assert_eq!(prefixed.name, "input-context");
        assert_eq!(prefixed.session, Some(SessionId::new("s2")));
        for bad in [
            ("local.includepattern", "a"),
            ("local.differ", "x"),
            ("local.metadatatransfer", "yes"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_tell_sessions_and_patterns_apart() {
        let request = parse(&[]).unwrap();
        assert!(request.cache_key(&[]).is_err());
        let one = request.cache_key(&[SessionId::new("1")]).unwrap();
        assert!(one.starts_with("session:context:sha256:"));
        assert_ne!(one, request.cache_key(&[SessionId::new("2")]).unwrap());
        let filtered = parse(&[("local.followpaths", r#"["a"]"#)]).unwrap();
        assert_ne!(one, filtered.cache_key(&[SessionId::new("1")]).unwrap());
    }
}
