//! The index of an OCI layout in a directory: `index.json` names manifests by annotation.

use std::path::Path;

use kiln_oci::{Descriptor, Index, media_type};

use super::BuildError;

/// A tag, or a full name.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation of full names.
const IMAGE_NAME: &str = "io.containerd.image.name";

fn read(directory: &Path) -> Result<Option<Index>, BuildError> {
    let path = directory.join("index.json");
    match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| BuildError::Layout {
                path: directory.to_owned(),
                reason: format!("index.json: {error}"),
            }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BuildError::Io {
            action: "read",
            path,
            source,
        }),
    }
}

fn has_name(descriptor: &Descriptor, name: &str) -> bool {
    [REFERENCE, IMAGE_NAME].iter().any(|key| {
        let annotations = &descriptor.annotations;
        annotations.get(*key).is_some_and(|value| value == name)
    })
}

/// The manifest of a name; without a name, or if none has it, the only one there is.
pub(super) fn find(directory: &Path, name: Option<&str>) -> Result<Option<Descriptor>, BuildError> {
    let Some(index) = read(directory)? else {
        return Ok(None);
    };
    let named = name.and_then(|name| index.manifests.iter().find(|entry| has_name(entry, name)));
    Ok(match (named, index.manifests.as_slice()) {
        (Some(found), _) => Some(found.clone()),
        (None, [only]) => Some(only.clone()),
        _ => None,
    })
}

/// Sets what names stand for, and makes the directory an OCI layout if it isn't one.
pub(super) fn put(
    directory: &Path,
    descriptor: &Descriptor,
    names: &[String],
) -> Result<(), BuildError> {
    let mut index =
        read(directory)?.unwrap_or_else(|| Index::new(media_type::OCI_INDEX, Vec::new()));
    for name in names {
        index.manifests.retain(|entry| !has_name(entry, name));
        index
            .manifests
            .push(descriptor.clone().annotated(REFERENCE, name));
    }
    if names.is_empty() {
        index
            .manifests
            .retain(|entry| entry.digest != descriptor.digest);
        index.manifests.push(descriptor.clone());
    }
    let json = index.to_vec().map_err(|error| BuildError::Layout {
        path: directory.to_owned(),
        reason: error.to_string(),
    })?;
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        let temporary = directory.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(BuildError::io("write", path))
    };
    write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    write("index.json", &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_set_and_found() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert_eq!(find(at, None).unwrap(), None);
        let one = Descriptor::of(media_type::OCI_MANIFEST, b"one");
        let two = Descriptor::of(media_type::OCI_MANIFEST, b"two");
        put(at, &one, &["latest".to_owned()]).unwrap();
        let digest = |name| find(at, name).unwrap().map(|found| found.digest);
        assert_eq!(digest(Some("other")), Some(one.digest));
        put(at, &two, &["v2".to_owned()]).unwrap();
        assert_eq!(digest(Some("latest")), Some(one.digest));
        assert_eq!(digest(Some("v2")), Some(two.digest));
        assert_eq!(digest(Some("other")), None);
        put(at, &two, &["latest".to_owned()]).unwrap();
        assert_eq!(digest(Some("latest")), Some(two.digest));
        std::fs::write(at.join("index.json"), "{").unwrap();
        assert!(find(at, None).is_err());
    }
}
