//! Caches outside of the daemon: `--cache-from` and `--cache-to`.
//!
//! `type=local` is a directory on this side: an OCI layout that the session serves. Its index says
//! which manifest to import, and gets the manifest that was exported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{BuildError, fields, layout};

/// One cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// `registry`, `inline`, `local`, `gha`, …
    pub kind: String,
    /// Its options.
    pub attributes: BTreeMap<String, String>,
}

impl CacheSpec {
    /// Reads `type=…,…`, or references of images that hold caches.
    pub fn parse(text: &str) -> Result<Vec<Self>, BuildError> {
        const WHAT: &str = "cache";
        if !text.contains('=') {
            let registry = |reference: String| Self {
                kind: "registry".to_owned(),
                attributes: [("ref".to_owned(), reference)].into(),
            };
            let all = fields::split(WHAT, text)?;
            return Ok(all.into_iter().map(registry).collect());
        }
        let mut spec = Self {
            kind: String::new(),
            attributes: BTreeMap::new(),
        };
        for (key, value) in fields::pairs(WHAT, text)? {
            if key == "type" {
                spec.kind = value;
            } else {
                spec.attributes.insert(key, value);
            }
        }
        if spec.kind.is_empty() {
            return Err(BuildError::invalid(WHAT, text, "it has no type="));
        }
        Ok(vec![spec])
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    fn missing(&self, reason: &str) -> BuildError {
        BuildError::invalid("cache", format!("type={}", self.kind), reason)
    }
}

/// A cache to be imported, as the daemon gets it; with the directory that the session serves.
pub(super) type Entry = (String, BTreeMap<String, String>);

/// What to import, and the stores that it is in. A local cache that isn't there (yet) is left out.
pub(super) fn imports(
    specs: Vec<CacheSpec>,
    stores: &mut BTreeMap<String, PathBuf>,
) -> Result<Vec<Entry>, BuildError> {
    let mut entries = Vec::new();
    for mut spec in specs {
        if spec.kind == "registry" && spec.text("ref").is_none_or(str::is_empty) {
            return Err(spec.missing("it needs ref=IMAGE"));
        }
        if spec.kind == "local" {
            let Some(directory) = spec.text("src").map(PathBuf::from) else {
                return Err(spec.missing("it needs src=DIRECTORY"));
            };
            if spec.text("digest").is_none() {
                let tag = spec.text("tag").unwrap_or("latest");
                let found = layout::find(&directory, Some(tag));
                let Ok(Some(descriptor)) = found else {
                    tracing::warn!(directory = %directory.display(), tag, "no local cache is there yet");
                    continue;
                };
                let digest = descriptor.digest.to_string();
                spec.attributes.insert("digest".into(), digest);
            }
            stores.insert(format!("local:{}", directory.display()), directory);
        }
        entries.push((spec.kind, spec.attributes));
    }
    Ok(entries)
}

/// What to export, and the stores that it goes to, with the tags that their indexes get.
pub(super) fn exports(
    specs: Vec<CacheSpec>,
    stores: &mut BTreeMap<String, PathBuf>,
    tags: &mut Vec<(PathBuf, String)>,
) -> Result<Vec<Entry>, BuildError> {
    let mut entries = Vec::new();
    for spec in specs {
        if spec.kind == "registry" && spec.text("ref").is_none_or(str::is_empty) {
            return Err(spec.missing("it needs ref=IMAGE"));
        }
        if spec.kind == "local" {
            let Some(directory) = spec.text("dest").map(PathBuf::from) else {
                return Err(spec.missing("it needs dest=DIRECTORY"));
            };
            make_directory(&directory)?;
            let tag = spec.text("tag").unwrap_or("latest").to_owned();
            tags.push((directory.clone(), tag));
            stores.insert(format!("local:{}", directory.display()), directory);
        }
        entries.push((spec.kind, spec.attributes));
    }
    Ok(entries)
}

fn make_directory(path: &Path) -> Result<(), BuildError> {
    std::fs::create_dir_all(path).map_err(BuildError::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_references_or_fields() {
        for (text, want) in [
            ("user/app:cache", vec!["registry ref=user/app:cache"]),
            ("a,b", vec!["registry ref=a", "registry ref=b"]),
            ("type=local,src=/x", vec!["local src=/x"]),
            (
                "type=registry,ref=a,mode=max",
                vec!["registry mode=max ref=a"],
            ),
            ("type=inline", vec!["inline"]),
        ] {
            let got: Vec<String> = CacheSpec::parse(text)
                .unwrap()
                .into_iter()
                .map(|spec| {
                    let mut shown = spec.kind;
                    for (key, value) in spec.attributes {
                        shown = format!("{shown} {key}={value}");
                    }
                    shown
                })
                .collect();
            assert_eq!(got, want, "{text}");
        }
        assert!(CacheSpec::parse("ref=a").is_err());
        let local = CacheSpec::parse("type=local").unwrap();
        assert!(imports(local.clone(), &mut BTreeMap::new()).is_err());
        assert!(exports(local, &mut BTreeMap::new(), &mut Vec::new()).is_err());
        let absent = CacheSpec::parse("type=local,src=/nowhere/at/all").unwrap();
        assert_eq!(imports(absent, &mut BTreeMap::new()).unwrap(), vec![]);
    }
}
