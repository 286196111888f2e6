//! The image config: what the frontend made, completed with what only the exporter knows.
//!
//! A frontend gives a config without layers. The layers' digests go in; its history is matched with the
//! layers; missing times are filled in; members that nobody here knows are kept as they are.

use base64::Engine as _;
use bytes::Bytes;
use kiln_cache::LayerBlob;
use kiln_oci::go_json::RawObject;
use kiln_oci::{
    ContainerConfig, Digest, HistoryEntry, ImageConfig, Platform, RootFs, Timestamp, go_json,
};
use serde::Deserialize;

use crate::Error;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// What the exporter adds to a config.
pub(super) struct Additions<'a> {
    pub(super) layers: &'a [LayerBlob],
    pub(super) epoch: Option<Timestamp>,
    /// The config of the image that the result is based on: its history keeps its times.
    pub(super) base: Option<&'a ImageConfig>,
    pub(super) inline_cache: Option<&'a Bytes>,
}

/// A config for a result of a frontend that gave none.
pub(super) fn default_config() -> Result<Vec<u8>, Error> {
    let platform = Platform::host();
    let env = if platform.os == "windows" {
        Vec::new()
    } else {
        vec![DEFAULT_PATH.to_owned()]
    };
    let config = ImageConfig {
        platform,
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: Vec::new(),
        },
        config: ContainerConfig {
            env,
            working_dir: "/".into(),
            ..ContainerConfig::default()
        },
        ..ImageConfig::default()
    };
    config.to_vec().map_err(json("the image config"))
}

/// The config of an attestation manifest that isn't an OCI artifact.
pub(super) fn attestation_config(statements: &[Digest]) -> Result<Vec<u8>, Error> {
    let config = ImageConfig {
        platform: Platform::new("unknown", "unknown", ""),
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: statements.to_vec(),
        },
        ..ImageConfig::default()
    };
    config.to_vec().map_err(json("the attestation config"))
}

pub(super) fn json(what: &'static str) -> impl Fn(serde_json::Error) -> Error {
    move |source| Error::Json { what, source }
}

/// The members that are looked at.
#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, deserialize_with = "go_json::null_default")]
    history: Vec<HistoryEntry>,
    #[serde(default)]
    created: Option<Timestamp>,
}

/// The finished config.
pub(super) fn complete(config: &[u8], additions: &Additions<'_>) -> Result<Vec<u8>, Error> {
    let mut object = RawObject::parse(config).map_err(json("the image config"))?;
    let known: Known = serde_json::from_slice(config).map_err(json("the image config"))?;
    for (member, value) in [("os", &known.os), ("architecture", &known.architecture)] {
        if value.is_empty() {
            return Err(Error::Result(format!(
                "invalid image config for export: missing {member}"
            )));
        }
    }
    let mut history = match_layers(known.history, additions.layers);
    if let Some(epoch) = additions.epoch {
        clamp(&mut history, epoch, additions.base);
    }
    let rootfs = RootFs {
        kind: "layers".into(),
        diff_ids: additions.layers.iter().map(|layer| layer.diff_id).collect(),
    };
    let mut set = |name, value: &dyn erased::Value| {
        value
            .put(&mut object, name)
            .map_err(json("the image config"))
    };
    set("rootfs", &rootfs)?;
    // Go writes a list that isn't there as null.
    set("history", &(!history.is_empty()).then_some(&history))?;
    match (known.created, additions.epoch) {
        (Some(created), Some(epoch)) if created > epoch => set("created", &epoch)?,
        (Some(_), _) => {}
        (None, _) => {
            let last = history.iter().rev().find_map(|entry| entry.created);
            set("created", &last)?;
        }
    }
    if let Some(cache) = additions.inline_cache {
        let text = base64::engine::general_purpose::STANDARD.encode(cache);
        set(INLINE_CACHE, &text)?;
    }
    object.to_vec().map_err(json("the image config"))
}

/// Lets one closure set values of several types.
mod erased {
    use kiln_oci::go_json::RawObject;
    use serde::Serialize;

    pub(super) trait Value {
        fn put(&self, object: &mut RawObject, name: &str) -> serde_json::Result<()>;
    }

    impl<T: Serialize> Value for T {
        fn put(&self, object: &mut RawObject, name: &str) -> serde_json::Result<()> {
            object.set(name, self)
        }
    }
}

/// Makes the history account for each layer, and gives each entry a time.
fn match_layers(mut history: Vec<HistoryEntry>, layers: &[LayerBlob]) -> Vec<HistoryEntry> {
    let accounted = history.iter().filter(|entry| !entry.empty_layer).count();
    if accounted > layers.len() {
        tracing::warn!(
            accounted,
            layers = layers.len(),
            "history has more layers than the image"
        );
        let mut seen = 0;
        for entry in &mut history {
            entry.empty_layer |= seen >= layers.len();
            seen += usize::from(!entry.empty_layer);
        }
    }
    for layer in layers.iter().skip(accounted) {
        let by = if layer.description.is_empty() {
            "created by buildkit"
        } else {
            &layer.description
        };
        history.push(HistoryEntry {
            created: layer.created.map(Timestamp::from),
            created_by: by.to_owned(),
            comment: "buildkit.exporter.image.v0".into(),
            ..HistoryEntry::default()
        });
    }
    let mut made = layers.iter();
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        let layer = made.next();
        if entry.created.is_none() {
            entry.created = layer.and_then(|layer| layer.created).map(Timestamp::from);
        }
    }
    fill_times(&mut history);
    history
}

/// Entries without a time get that of the first layer made after the base image, or of the entry
/// before them once there was one.
fn fill_times(history: &mut [HistoryEntry]) {
    let mut time = None;
    let mut gap = false;
    for entry in history.iter() {
        match entry.created {
            Some(created) => {
                time = Some(created);
                if gap {
                    break;
                }
            }
            None => gap = true,
        }
    }
    let mut gap = false;
    for entry in history.iter_mut() {
        match entry.created {
            Some(created) if gap => time = Some(created),
            Some(_) => {}
            None => {
                gap = true;
                entry.created = time;
            }
        }
    }
}

/// No entry is later than the epoch, but for those that came with the base image.
fn clamp(history: &mut [HistoryEntry], epoch: Timestamp, base: Option<&ImageConfig>) {
    let base = base.map_or(&[][..], |config| config.history.as_slice());
    let kept = history
        .iter()
        .zip(base)
        .take_while(|(entry, base)| entry == base)
        .count();
    for entry in &mut history[kept..] {
        if entry.created.is_none_or(|created| created > epoch) {
            entry.created = Some(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use kiln_oci::{Descriptor, media_type};

    use super::*;

    fn layer(number: u8, seconds: u64) -> LayerBlob {
        let digest = Digest::of([number]);
        let descriptor = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, 1);
        LayerBlob {
            created: Some(UNIX_EPOCH + Duration::from_secs(seconds)),
            description: format!("step {number}"),
            ..LayerBlob::local(descriptor, digest)
        }
    }

    fn done(config: &str, layers: &[LayerBlob], epoch: Option<i64>, base: Option<&str>) -> String {
        let base = base.map(|text| ImageConfig::parse(text.as_bytes()).unwrap());
        let additions = Additions {
            layers,
            epoch: epoch.and_then(Timestamp::from_unix),
            base: base.as_ref(),
            inline_cache: None,
        };
        String::from_utf8(complete(config.as_bytes(), &additions).unwrap()).unwrap()
    }

    fn history(json: &str) -> Vec<String> {
        let config = ImageConfig::parse(json.as_bytes()).unwrap();
        config
            .history
            .iter()
            .map(|entry| {
                let time = entry.created.map_or(-1, |time| time.unix_seconds());
                format!("{} {time}", entry.created_by)
            })
            .collect()
    }

    const HEAD: &str = r#""architecture":"amd64","os":"linux""#;

    #[test]
    fn layers_without_history_get_theirs() {
        let json = done(
            &format!("{{{HEAD}}}"),
            &[layer(1, 10), layer(2, 20)],
            None,
            None,
        );
        assert_eq!(history(&json), ["step 1 10", "step 2 20"]);
        assert!(
            json.contains(r#""created":"1970-01-01T00:00:20Z""#),
            "{json}"
        );
        let ids = [Digest::of([1]), Digest::of([2])];
        let config = ImageConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(config.rootfs.diff_ids, ids);
    }

    #[test]
    fn entries_without_a_time_get_one() {
        let config = format!(
            r#"{{{HEAD},"history":[{{"created":"1970-01-01T00:00:01Z","created_by":"base"}},
            {{"created_by":"env","empty_layer":true}},{{"created_by":"run"}},
            {{"created_by":"cmd","empty_layer":true}}]}}"#
        );
        let json = done(&config, &[layer(1, 10), layer(2, 20)], None, None);
        assert_eq!(history(&json), ["base 1", "env 20", "run 20", "cmd 20"]);
    }

    #[test]
    fn the_epoch_spares_the_base_image() {
        let base = r#"{"created":"1970-01-01T00:00:50Z","created_by":"base"}"#;
        let config = format!(
            r#"{{{HEAD},"created":"1970-01-01T00:02:00Z","history":[{base},{{"created_by":"run"}}]}}"#
        );
        let base = format!(r#"{{{HEAD},"history":[{base}]}}"#);
        let layers = [layer(1, 10), layer(2, 20)];
        let json = done(&config, &layers, Some(5), Some(&base));
        assert_eq!(history(&json), ["base 50", "run 5"]);
        assert!(
            json.contains(r#""created":"1970-01-01T00:00:05Z""#),
            "{json}"
        );
        let json = done(&config, &layers, Some(5), None);
        assert_eq!(history(&json), ["base 5", "run 5"]);
    }

    #[test]
    fn unknown_members_stay_and_no_layers_are_null() {
        let json = done(
            &format!("{{{HEAD},\"x\":{{\"b\":1,\"a\":\"<\"}}}}"),
            &[],
            None,
            None,
        );
        assert_eq!(
            json,
            r#"{"architecture":"amd64","created":null,"history":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null},"x":{"b":1,"a":"\u003c"}}"#
        );
        for bad in [r#"{"os":"linux"}"#, "null", "[]", r#"{"architecture":"x"}"#] {
            let additions = Additions {
                layers: &[],
                epoch: None,
                base: None,
                inline_cache: None,
            };
            assert!(complete(bad.as_bytes(), &additions).is_err(), "{bad}");
        }
    }
}
