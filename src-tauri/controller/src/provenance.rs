//! What an attestation of provenance tells about a build: dependencies, ids of secrets, the Dockerfile.
//!
//! Invariant: a predicate that isn't understood tells nothing; a build is shown without it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kiln_client::Client;
use kiln_proto::moby::buildkit::v1 as control;

use crate::view::{Material, SourceFile};

/// What an attestation tells.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) materials: Vec<Material>,
    pub(crate) secrets: Vec<String>,
    pub(crate) ssh: Vec<String>,
    pub(crate) source: Option<SourceFile>,
}

/// What an attestation of provenance tells, in either version of the predicate.
pub(crate) fn facts(json: &[u8]) -> Facts {
    let Ok(statement) = serde_json::from_slice::<serde_json::Value>(json) else {
        return Facts::default();
    };
    let predicate = statement.get("predicate").unwrap_or(&statement);
    let at = |paths: [&str; 2]| paths.iter().find_map(|path| predicate.pointer(path));
    let list = |value: Option<&serde_json::Value>| {
        value
            .and_then(serde_json::Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let text = |value: &serde_json::Value, key: &str| {
        value
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let materials = list(at(["/buildDefinition/resolvedDependencies", "/materials"]))
        .iter()
        .map(|material| Material {
            uri: text(material, "uri"),
            digest: material
                .get("digest")
                .and_then(serde_json::Value::as_object)
                .and_then(|digests| digests.iter().next())
                .map(|(kind, hash)| format!("{kind}:{}", hash.as_str().unwrap_or_default()))
                .unwrap_or_default(),
        })
        .collect();
    let ids = |key: &str| {
        let v1 = format!("/buildDefinition/externalParameters/request/{key}");
        let v02 = format!("/invocation/parameters/{key}");
        list(at([&v1, &v02]))
            .iter()
            .map(|entry| text(entry, "id"))
            .collect()
    };
    let infos = list(at([
        "/runDetails/metadata/buildkit_metadata/source/infos",
        "/metadata/https:~1~1mobyproject.org~1buildkit@v1#metadata/source/infos",
    ]));
    let source = infos.first().and_then(|info| {
        Some(SourceFile {
            filename: text(info, "filename"),
            text: String::from_utf8_lossy(&BASE64.decode(text(info, "data")).ok()?).into_owned(),
        })
    });
    Facts {
        materials,
        secrets: ids("secrets"),
        ssh: ids("ssh"),
        source,
    }
}

/// The attestation of provenance of a build's result, if it has one.
pub(crate) async fn of(client: &Client, record: &control::BuildHistoryRecord) -> Option<Vec<u8>> {
    client.builds().attachment(&digest(record)?).await.ok()
}

/// Its digest.
pub(crate) fn digest(record: &control::BuildHistoryRecord) -> Option<String> {
    let mut attestations = record
        .results
        .values()
        .chain(&record.result)
        .flat_map(|info| &info.attestations);
    let found = attestations.find(|attestation| {
        attestation
            .annotations
            .get("in-toto.io/predicate-type")
            .is_some_and(|kind| kind.contains("slsa.dev/provenance"))
    });
    found.map(|attestation| attestation.digest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_of_both_versions_is_read() {
        let v1 = r#"{"predicate":{"buildDefinition":{"resolvedDependencies":[{"uri":"pkg:docker/a","digest":{"sha256":"00"}}],
            "externalParameters":{"request":{"secrets":[{"id":"token"}]}}},
            "runDetails":{"metadata":{"buildkit_metadata":{"source":{"infos":[{"filename":"Dockerfile","data":"RlJPTSBh"}]}}}}}}"#;
        let told = facts(v1.as_bytes());
        assert_eq!(told.materials[0].digest, "sha256:00");
        assert_eq!(told.secrets, ["token"]);
        assert_eq!(told.source.unwrap().text, "FROM a");
        let v02 = r#"{"predicate":{"materials":[{"uri":"u","digest":{"sha256":"11"}}],"invocation":{"parameters":{"ssh":[{"id":"default"}]}}}}"#;
        let told = facts(v02.as_bytes());
        assert_eq!(
            (told.materials[0].uri.as_str(), told.ssh.as_slice()),
            ("u", &["default".to_owned()][..])
        );
        assert!(facts(b"{").materials.is_empty());
    }
}
