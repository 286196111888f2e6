//! What a build's steps were made from, as it is kept with the build's record (JSON).

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_oci::{Digest, Digester};
use serde::{Deserialize, Serialize};

/// The ingredients of one build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredients {
    /// Each after its inputs.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The digest under which clients know it.
    pub vertex: String,
    /// What displays call it.
    pub name: String,
    /// What it is.
    pub kind: StepKind,
    /// How it went.
    pub outcome: Outcome,
    /// The client asked to run it whatever the cache has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// A digest of the op without arguments and what sources turned out to be.
    pub definition: String,
    /// Names of arguments and variables, with digests of their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, String>,
    /// Of a source: what it turned out to be (a digest, a commit).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// Of a directory: the list of its files, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Digest>,
    /// What it is made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
}

/// What a step is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// An image, a commit, a file, a directory of the client.
    Source,
    /// A process.
    Exec,
    /// Copies and the like.
    File,
    /// Anything else.
    #[default]
    Other,
}

/// How a step went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The cache had its result.
    Cached,
    /// It ran to its end.
    Ran,
    /// It ran and failed.
    Failed,
    /// It didn't run, or was stopped.
    #[default]
    Unfinished,
}

impl Outcome {
    /// Whether work was done.
    pub fn has_run(self) -> bool {
        matches!(self, Self::Ran | Self::Failed)
    }
}

/// One input of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Which of the build's steps made it.
    pub step: usize,
    /// What is read of it, where the key is made of content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Reads>,
}

/// What a step reads of an input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Which paths; everything if empty.
    pub patterns: Vec<Pattern>,
    /// The digest of what was read, where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
}

/// A path, or a pattern for paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// The path; everything if empty.
    pub path: String,
    /// Whether it is a pattern.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wildcard: bool,
}

impl Ingredients {
    /// As a blob.
    pub fn encode(&self) -> Bytes {
        // Maps with keys of text and numbers can't fail to be written.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From a blob; `None` where it isn't one.
    pub fn decode(blob: &[u8]) -> Option<Self> {
        let all: Self = serde_json::from_slice(blob).ok()?;
        let is_ordered = all
            .steps
            .iter()
            .enumerate()
            .all(|(index, step)| step.inputs.iter().all(|input| input.step < index));
        is_ordered.then_some(all)
    }
}

/// Makes digests by which values can be compared and not be found.
#[derive(Clone)]
pub struct Salt(pub(crate) Vec<u8>);

impl Salt {
    /// The digest of a value of `name`.
    pub fn digest(&self, name: &str, value: &[u8]) -> String {
        let mut digester = Digester::new();
        for part in [self.0.as_slice(), name.as_bytes(), value] {
            digester.update((part.len() as u64).to_le_bytes());
            digester.update(part);
        }
        // Short: there are many of them, and they tell values of one name apart.
        digester.finish().hex()[..16].to_owned()
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}
