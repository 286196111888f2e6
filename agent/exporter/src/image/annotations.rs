//! Annotations that a client or a frontend asks for: `annotation[-where][\[platform\]].<key>`.

use std::collections::BTreeMap;

use kiln_oci::Platform;

use crate::Error;

/// Annotations of an image, by the document that they go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    /// By platform; `None` for all.
    groups: BTreeMap<Option<String>, Group>,
}

/// Annotations for one platform, or those that hold for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) index: BTreeMap<String, String>,
    pub(super) index_descriptor: BTreeMap<String, String>,
    pub(super) manifest: BTreeMap<String, String>,
    pub(super) manifest_descriptor: BTreeMap<String, String>,
}

/// What a key says beside the annotation's own key.
struct Parsed<'a> {
    place: &'a str,
    platform: Option<&'a str>,
    key: &'a str,
}

/// Takes a key apart; `None` if it isn't one of an annotation.
fn parse(key: &str) -> Option<Parsed<'_>> {
    let rest = key.strip_prefix("annotation")?;
    let (place, rest) = match rest.strip_prefix('-') {
        None => ("", rest),
        Some(rest) => {
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'))?;
            (&rest[..end], &rest[end..])
        }
    };
    if rest.is_empty() || (place.is_empty() && key.starts_with("annotation-")) {
        return None;
    }
    let (platform, rest) = match rest.strip_prefix('[') {
        None => (None, rest),
        Some(rest) => {
            let (platform, rest) = rest.split_once(']')?;
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '-');
            if platform.is_empty() || !platform.chars().all(valid) {
                return None;
            }
            (Some(platform), rest)
        }
    };
    let key = rest.strip_prefix('.')?;
    if key.is_empty() || key.chars().any(char::is_whitespace) {
        return None;
    }
    Some(Parsed {
        place,
        platform,
        key,
    })
}

impl Annotations {
    /// Takes one option or one key of a result's metadata. `false` if it is something else.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        let Some(parsed) = parse(key) else {
            return Ok(false);
        };
        let invalid = |reason| Error::Option {
            key: key.to_owned(),
            value: value.to_owned(),
            reason,
        };
        let platform = match parsed.platform {
            None => None,
            Some(text) => {
                let platform: Platform = text.parse().map_err(|_| invalid("platform of a"))?;
                Some(platform.format_all())
            }
        };
        let group = self.groups.entry(platform).or_default();
        let map = match parsed.place {
            "" | "manifest" => &mut group.manifest,
            "manifest-descriptor" => &mut group.manifest_descriptor,
            "index" => &mut group.index,
            "index-descriptor" => &mut group.index_descriptor,
            _ => return Err(invalid("unrecognized annotation type of")),
        };
        map.insert(parsed.key.to_owned(), value.to_owned());
        Ok(true)
    }

    /// Those for a platform, or those for none in particular. Annotations of an index hold for all.
    pub(super) fn of(&self, platform: Option<&Platform>) -> Group {
        let mut out = Group::default();
        for group in self.groups.values() {
            out.index.extend(group.index.clone());
            out.index_descriptor.extend(group.index_descriptor.clone());
        }
        let keys = [None, platform.map(Platform::format_all)];
        for key in keys.iter().take(1 + usize::from(platform.is_some())) {
            if let Some(group) = self.groups.get(key) {
                out.manifest.extend(group.manifest.clone());
                out.manifest_descriptor
                    .extend(group.manifest_descriptor.clone());
            }
        }
        out
    }

    /// Platforms that are named.
    pub(super) fn platforms(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().filter_map(Option::as_deref)
    }

    /// Whether any of them goes where Docker's documents have no place for it.
    pub(super) fn needs_oci(&self) -> bool {
        self.groups.values().any(|group| {
            !group.index.is_empty()
                || !group.index_descriptor.is_empty()
                || !group.manifest_descriptor.is_empty()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_where_annotations_go() {
        let mut all = Annotations::default();
        for (key, taken) in [
            ("annotation.a", true),
            ("annotation-manifest[linux/amd64].a", true),
            ("annotation-index.i", true),
            ("annotation-index-descriptor.d", true),
            ("annotation[linux/arm64].org.x/y", true),
            ("annotation-manifest-descriptor.m", true),
            ("annotation", false),
            ("annotation.", false),
            ("annotationx.a", false),
            ("annotation[].a", false),
            ("name", false),
        ] {
            assert_eq!(all.take(key, key).unwrap(), taken, "{key}");
        }
        assert!(all.take("annotation-nowhere.a", "").is_err());
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let group = all.of(Some(&amd64));
        assert_eq!(group.manifest["a"], "annotation-manifest[linux/amd64].a");
        assert_eq!(all.of(None).manifest["a"], "annotation.a");
        assert_eq!(group.index.len() + group.index_descriptor.len(), 2);
        assert_eq!(group.manifest_descriptor.len(), 1);
        assert!(all.needs_oci());
    }
}
