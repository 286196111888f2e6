//! The image config: OCI's fields and Docker's additions (health check, `ONBUILD`, `SHELL`).
//!
//! Bytes and field order are those of the Go type that frontends marshal: the OCI fields, then
//! `config` last. Fields that this type doesn't know are dropped when a config is read into it, as
//! BuildKit's frontend does; who must keep them patches the JSON through [`go_json::RawObject`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use crate::go_json::null_default;
use crate::{Digest, Digester, Platform, Timestamp, go_json};

/// An image config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who made it.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// The layers.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
    /// How each layer was made.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<HistoryEntry>,
    /// How a container of it runs.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ContainerConfig,
}

impl ImageConfig {
    /// Reads a config.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// The bytes that Go's `json.Marshal` gives for it.
    pub fn to_vec(&self) -> serde_json::Result<Vec<u8>> {
        go_json::to_vec(self)
    }
}

/// The layers as uncompressed digests, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_default")]
    pub kind: String,
    /// Digests of the uncompressed tars. Written as `null` when there are none, as Go does.
    #[serde(
        default,
        deserialize_with = "null_default",
        serialize_with = "null_if_empty"
    )]
    pub diff_ids: Vec<Digest>,
}

fn null_if_empty<S: Serializer>(ids: &[Digest], serializer: S) -> Result<S::Ok, S::Error> {
    if ids.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_seq(ids)
    }
}

/// One entry of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// By which instruction.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// A note, such as `buildkit.dockerfile.v0`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// It made no layer.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_false"
    )]
    pub empty_layer: bool,
}

/// How a container of the image runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `EXPOSE`: `80/tcp`.
    #[serde(default, with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `ENV`: `NAME=value`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// `VOLUME`.
    #[serde(default, with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// `WORKDIR`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// For Windows images of old.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_false"
    )]
    pub args_escaped: bool,
    /// `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub shell: Vec<String>,
}

/// A health check. Durations are nanoseconds; 0 means to inherit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Between checks.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_zero"
    )]
    pub interval: i64,
    /// For one check.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_zero"
    )]
    pub timeout: i64,
    /// Before failures count.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_zero"
    )]
    pub start_period: i64,
    /// Between checks in the start period.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_zero"
    )]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_zero"
    )]
    pub retries: i64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// A set as Go's `map[string]struct{}` is written: `{"80/tcp":{}}`.
mod key_set {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::de::IgnoredAny;
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(set.len()))?;
        for key in set {
            map.serialize_entry(key, &Empty {})?;
        }
        map.end()
    }

    #[expect(clippy::zero_sized_map_values, reason = "it is a map on the wire")]
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, IgnoredAny>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

/// The chain id of layers given by diff id, oldest first. `None` for no layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    chain_ids(diff_ids).pop()
}

/// The chain id after each layer: the first is its diff id, each next is
/// `sha256("<chain before> <diff id>")`.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for id in diff_ids {
        let next = match chain.last() {
            None => *id,
            Some(parent) => {
                let mut digester = Digester::new();
                digester.update(format!("{parent} {id}"));
                digester.finish()
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_config_has_gos_bytes() {
        let text = concat!(
            r#"{"created":"1970-01-01T00:00:01Z","author":"me","architecture":"arm","os":"linux","variant":"v7","#,
            r#""rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"#,
            r#""history":[{"created":"1970-01-01T00:00:01Z","created_by":"RUN a \u0026\u0026 b","comment":"c"},{"created_by":"CMD","empty_layer":true}],"#,
            r#""config":{"User":"u","ExposedPorts":{"80/tcp":{}},"Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/w","#,
            r#""Labels":{"a":"b"},"StopSignal":"SIGINT","ArgsEscaped":true,"Healthcheck":{"Test":["CMD","x"],"Interval":1000000000,"Retries":3},"OnBuild":["RUN x"],"Shell":["/bin/sh"]}}"#,
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(config.to_vec().unwrap()).unwrap(), text);
        assert_eq!(config.platform.to_string(), "linux/arm/v7");
    }

    #[test]
    fn an_empty_config_has_gos_bytes() {
        let text =
            r#"{"architecture":"","os":"","rootfs":{"type":"","diff_ids":null},"config":{}}"#;
        assert_eq!(
            String::from_utf8(ImageConfig::default().to_vec().unwrap()).unwrap(),
            text
        );
    }

    #[test]
    fn nulls_and_unknown_fields_of_old_images_are_taken() {
        let text = r#"{"architecture":"amd64","config":{"Hostname":"x","Env":null,"Cmd":["sh"],"Volumes":null,"WorkingDir":"",
            "Entrypoint":null,"OnBuild":null,"Labels":null,"AttachStdin":false,"ExposedPorts":{"1/tcp":null}},"container":"abc",
            "created":"2024-05-18T01:28:04.5Z","docker_version":"20.10","history":null,"os":"linux",
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.exposed_ports.contains("1/tcp"));
        assert!(config.history.is_empty());
    }

    #[test]
    fn chains_follow_the_specification() {
        let ids = [Digest::of("a"), Digest::of("b")];
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&ids[..1]), Some(ids[0]));
        let want = Digest::of(format!("{} {}", ids[0], ids[1]));
        assert_eq!(chain_ids(&ids), vec![ids[0], want]);
    }
}
