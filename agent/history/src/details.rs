//! What Kiln keeps of a build beside BuildKit's record: its project, its client, and the ingredients of its steps.

use kiln_oci::Digest;
use serde::{Deserialize, Serialize};

/// Builds that are compared with each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Project {
    /// Equal for builds of one project.
    pub key: String,
    /// For people.
    pub name: String,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The project; none where the build is of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
    /// The program that asked for the build: `buildx`, `buildctl`, `kiln`. Empty where that isn't known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// The ingredients of the steps, a blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingredients: Option<Digest>,
    /// Lists of files that the ingredients name, blobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Digest>,
    /// What its images among the sources turned out to be, for the question who uses an image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Digest>,
    /// Bytes of all blobs that the record brought.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde wants"
)]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Details {
    /// The blobs that exist for these details.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.ingredients
            .into_iter()
            .chain(self.files.iter().copied())
    }

    pub(crate) fn encode(&self) -> String {
        // Texts and numbers can't fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Details that can't be read are of a record that stays readable without.
    pub(crate) fn decode(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}
