//! What a record is told at its birth.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use kiln_ids::BuildRef;
use serde::{Deserialize, Serialize};

/// What a record is for, as `docker buildx du` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UsageKind {
    /// The result of a step, or a layer of an image.
    #[default]
    Regular,
    /// Made by the engine for itself.
    Internal,
    /// An image that serves as a frontend.
    Frontend,
    /// A client's directory.
    SourceLocal,
    /// A git checkout or repository.
    SourceGit,
    /// A `RUN --mount=type=cache`.
    ExecCacheMount,
}

impl UsageKind {
    /// The word that BuildKit's API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::Frontend => "frontend",
            Self::SourceLocal => "source.local",
            Self::SourceGit => "source.git.checkout",
            Self::ExecCacheMount => "exec.cachemount",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Regular,
        Self::Internal,
        Self::Frontend,
        Self::SourceLocal,
        Self::SourceGit,
        Self::ExecCacheMount,
    ];
}

impl fmt::Display for UsageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind of record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown cache record type {0:?}")]
pub struct UnknownKind(pub String);

impl FromStr for UsageKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// For whom a record was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The build whose step made it.
    pub build: BuildRef,
    /// What groups builds: the name of the client's directory. Empty where the client has none.
    pub project: String,
    /// What the build calls the step: `[build 2/6] RUN make`. Empty where that isn't known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
}

/// What a new record is told about itself.
#[derive(Debug, Clone, Default)]
pub struct RecordOptions {
    /// One line for people: the step's name, the layer's origin.
    pub description: String,
    /// What it is for.
    pub kind: UsageKind,
    /// A mutable record outlives its handle: a cache mount, a local source.
    pub retain: bool,
    /// Keys under which [`CacheManager::search`](crate::CacheManager::search) finds it:
    /// `cache-mount:<id>`, `local:<key>`.
    pub index: Vec<String>,
    /// When it was made, if not now.
    pub created: Option<SystemTime>,
    /// How long the step took that makes it; GC weighs it against what removing it frees.
    pub build_time: Option<Duration>,
}

impl RecordOptions {
    /// Options with a description only.
    pub fn described(description: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            ..Self::default()
        }
    }
}
