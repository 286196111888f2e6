//! The cache config, version 0 (`application/vnd.buildkit.cacheconfig.v0`), as JSON.
//!
//! ```text
//! layers:  [{blob, parent, annotations}]       a layer names its parent by index; -1: none
//! records: [{digest, inputs, layers, chains}]  a record names its inputs' records by index
//! ```
//! A record is one key of one output: its digest is `sha256("<op digest>@<output>")`, and each input
//! lists every record that the input is known by. `layers` names a result by its top layer; `chains`
//! lists all layers of one whose order isn't the parents' order (inline caches have those).
//!
//! Invariant: what [`CacheConfig::parse`] returns has no index that leads nowhere and no loop.

use kiln_oci::{Timestamp, go_json};
use serde::{Deserialize, Serialize};

/// How many layers and records a config may have. A config of BuildKit's own has a few thousand.
const MAX_ENTRIES: usize = 200_000;

/// The whole config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Layers of the results, each once.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "go_json::null_default"
    )]
    pub layers: Vec<CacheLayer>,
    /// Keys, with links to the keys of their inputs.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "go_json::null_default"
    )]
    pub records: Vec<CacheRecord>,
}

/// One layer on top of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayer {
    /// The blob's digest.
    pub blob: String,
    /// Index of the layer below, or -1. Go leaves 0 out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parent: i64,
    /// Facts of the blob, where no manifest has them (GitHub's cache).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<LayerAnnotations>,
}

/// Facts of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerAnnotations {
    /// Media type of the layer.
    #[serde(
        rename = "mediaType",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// Digest of the uncompressed tar.
    #[serde(rename = "diffID", default, skip_serializing_if = "String::is_empty")]
    pub diff_id: String,
    /// Bytes of the blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: i64,
    /// When the layer was made.
    #[serde(rename = "createdAt")]
    pub created_at: Timestamp,
}

/// One key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// Results by their top layer.
    #[serde(
        rename = "layers",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "go_json::null_default"
    )]
    pub results: Vec<CacheResult>,
    /// Results by all their layers.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "go_json::null_default"
    )]
    pub chains: Vec<ChainedResult>,
    /// The record digest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// For each input of the op, the records that it is known by.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "go_json::null_default"
    )]
    pub inputs: Vec<Vec<CacheInput>>,
}

/// A result whose layers are a layer and its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheResult {
    /// Index of the top layer.
    pub layer: usize,
    /// When it was made.
    #[serde(rename = "createdAt", default = "zero_time")]
    pub created_at: Timestamp,
}

/// A result whose layers are listed, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainedResult {
    /// Indexes of the layers.
    pub layers: Vec<usize>,
    /// When it was made.
    #[serde(rename = "createdAt", default = "zero_time")]
    pub created_at: Timestamp,
}

/// One way to know an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CacheInput {
    /// The part of the input that is read, where it isn't known by content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Index of the record.
    pub link: usize,
}

/// Why a config is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON of this shape.
    #[error("invalid cache config")]
    Json(#[from] serde_json::Error),
    /// More entries than any build has.
    #[error("cache config has {0} {1}: more than {MAX_ENTRIES} are refused")]
    TooMany(usize, &'static str),
    /// An index that leads nowhere.
    #[error("cache config: {what} {from} names {kind} {to}, which doesn't exist")]
    Dangling {
        /// `record` or `layer`.
        what: &'static str,
        /// Its index.
        from: usize,
        /// `record` or `layer`.
        kind: &'static str,
        /// The index that it names.
        to: i64,
    },
    /// A record whose input has no record at all.
    #[error("cache config: an input of record {0} has no records")]
    EmptyInput(usize),
    /// Records or layers that are their own ancestors.
    #[error("cache config: {0} {1} is its own ancestor")]
    Loop(&'static str, usize),
}

impl CacheConfig {
    /// Reads and checks a config.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(json)?;
        config.check()?;
        Ok(config)
    }

    /// The bytes that exporters store.
    pub fn to_vec(&self) -> serde_json::Result<Vec<u8>> {
        go_json::to_vec(self)
    }

    /// Refuses indexes that lead nowhere, and loops.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (count, what) in [
            (self.layers.len(), "layers"),
            (self.records.len(), "records"),
        ] {
            if count > MAX_ENTRIES {
                return Err(ConfigError::TooMany(count, what));
            }
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.parent < -1 || layer.parent >= self.layers.len() as i64 {
                return Err(dangling("layer", index, "layer", layer.parent));
            }
        }
        for (index, record) in self.records.iter().enumerate() {
            if record.inputs.iter().any(Vec::is_empty) {
                return Err(ConfigError::EmptyInput(index));
            }
            let links = record.inputs.iter().flatten().map(|input| input.link);
            if let Some(link) = links.into_iter().find(|link| *link >= self.records.len()) {
                return Err(dangling("record", index, "record", link as i64));
            }
            let tops = record.results.iter().map(|result| result.layer);
            let chained = record
                .chains
                .iter()
                .flat_map(|chain| chain.layers.iter().copied());
            if let Some(layer) = tops
                .chain(chained)
                .find(|layer| *layer >= self.layers.len())
            {
                return Err(dangling("record", index, "layer", layer as i64));
            }
        }
        acyclic("layer", self.layers.len(), |index| {
            let parent = self.layers.get(index).map_or(-1, |layer| layer.parent);
            usize::try_from(parent).ok().into_iter().collect()
        })?;
        acyclic("record", self.records.len(), |index| {
            let record = self.records.get(index);
            let inputs = record.map(|record| record.inputs.iter().flatten());
            inputs
                .into_iter()
                .flatten()
                .map(|input| input.link)
                .collect()
        })
    }

    /// Digests of the layer at `index` and of its parents, the lowest first.
    pub fn chain(&self, index: usize) -> Vec<usize> {
        let mut chain = Vec::new();
        let mut next = Some(index);
        while let Some(layer) = next {
            chain.push(layer);
            next = self
                .layers
                .get(layer)
                .and_then(|layer| usize::try_from(layer.parent).ok());
        }
        chain.reverse();
        chain
    }
}

fn dangling(what: &'static str, from: usize, kind: &'static str, to: i64) -> ConfigError {
    ConfigError::Dangling {
        what,
        from,
        kind,
        to,
    }
}

/// Walks depth first without recursion: a hostile chain may be as long as the config.
fn acyclic(
    what: &'static str,
    count: usize,
    next: impl Fn(usize) -> Vec<usize>,
) -> Result<(), ConfigError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        Open,
        Done,
    }
    let mut seen = vec![Seen::No; count];
    for start in 0..count {
        let mut stack = vec![(start, false)];
        while let Some((index, leaving)) = stack.pop() {
            if leaving {
                seen[index] = Seen::Done;
                continue;
            }
            match seen[index] {
                Seen::Done => continue,
                Seen::Open => return Err(ConfigError::Loop(what, index)),
                Seen::No => seen[index] = Seen::Open,
            }
            stack.push((index, true));
            for target in next(index) {
                match seen[target] {
                    Seen::Open => return Err(ConfigError::Loop(what, target)),
                    Seen::No => stack.push((target, false)),
                    Seen::Done => {}
                }
            }
        }
    }
    Ok(())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go's zero time, which stands where a config has none.
fn zero_time() -> Timestamp {
    Timestamp::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_writes_is_read_and_written_alike() {
        let json = concat!(
            r#"{"layers":[{"blob":"sha256:a","parent":-1},{"blob":"sha256:b"}],"#,
            r#""records":[{"digest":"sha256:r0"},"#,
            r#"{"layers":[{"layer":1,"createdAt":"2026-11-24T13:00:00.5Z"}],"digest":"sha256:r1","#,
            r#""inputs":[[{"selector":"sha256:s","link":0},{"link":0}]]},"#,
            r#"{"chains":[{"layers":[1,0],"createdAt":"0001-01-01T00:00:00Z"}],"digest":"sha256:r2"}]}"#
        );
        let config = CacheConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(config.chain(1), [0, 1]);
        assert_eq!(String::from_utf8(config.to_vec().unwrap()).unwrap(), json);
    }

    #[test]
    fn bad_configs_are_refused_with_what_is_wrong() {
        for (json, words) in [
            ("\"x\"", "invalid cache config"),
            (
                r#"{"layers":[{"blob":"x","parent":3}]}"#,
                "layer 0 names layer 3",
            ),
            (
                r#"{"layers":[{"blob":"x","parent":-2}]}"#,
                "layer 0 names layer -2",
            ),
            (
                r#"{"layers":[{"blob":"x"}]}"#,
                "layer 0 is its own ancestor",
            ),
            (
                r#"{"records":[{"digest":"x","inputs":[[{"link":1}]]}]}"#,
                "record 0 names record 1",
            ),
            (
                r#"{"records":[{"digest":"x","inputs":[[]]}]}"#,
                "input of record 0",
            ),
            (
                r#"{"records":[{"digest":"x","inputs":[[{"link":0}]]}]}"#,
                "record 0 is its own",
            ),
            (
                r#"{"records":[{"inputs":[[{"link":1}]]},{"inputs":[[{"link":0}]]}]}"#,
                "is its own ancestor",
            ),
            (
                r#"{"records":[{"digest":"x","layers":[{"layer":0}]}]}"#,
                "record 0 names layer 0",
            ),
        ] {
            let error = CacheConfig::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn a_long_chain_does_not_exhaust_the_stack() {
        let layers = (0..100_000)
            .map(|index| CacheLayer {
                blob: "x".into(),
                parent: index - 1,
                annotations: None,
            })
            .collect();
        let config = CacheConfig {
            layers,
            records: Vec::new(),
        };
        assert!(config.check().is_ok());
    }
}
