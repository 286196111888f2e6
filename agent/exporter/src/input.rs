//! What exporters get and give.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_cache::OpResult;
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Platform};
use kiln_progress::VertexProgress;

use crate::attestation::Attestation;
use crate::error::Shared;
use crate::{Error, platforms};

/// The file systems of a result.
#[derive(Debug, Clone)]
pub enum Refs {
    /// One, for whatever platform the metadata says.
    Single(OpResult),
    /// One per platform id.
    Multi(BTreeMap<String, OpResult>),
}

/// Makes the inline cache of a result, by platform id: what goes into the image config under
/// `moby.buildkit.cache.v0`. Asked once the layers have their blobs.
#[async_trait]
pub trait InlineCache: Send + Sync {
    /// The entries. A single result has the key `""`.
    async fn entries(&self) -> Result<BTreeMap<String, Bytes>, Shared>;
}

/// A result to be exported.
#[derive(Clone)]
pub struct ExportInput {
    /// Its file systems.
    pub refs: Refs,
    /// Exporter keys such as `containerimage.config`, some with `/<platform id>` behind them.
    pub metadata: BTreeMap<String, Bytes>,
    /// By platform id.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
    /// The client that gets what goes to a client.
    pub session: SessionId,
    /// Clients whose credentials and layers may be used.
    pub sessions: Vec<SessionId>,
    /// Reports below the exporter's vertex.
    pub progress: VertexProgress,
    /// Set when an inline cache was asked for.
    pub inline_cache: Option<Arc<dyn InlineCache>>,
    /// BuildKit's defaults of which time: 10, 20 or 30, and 0 for the newest.
    pub compatibility: u32,
}

impl std::fmt::Debug for ExportInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportInput")
            .field("refs", &self.refs)
            .field("metadata", &self.metadata.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// One platform of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultPlatform {
    /// Key of its parts in the result.
    pub id: String,
    /// What it is.
    pub platform: Platform,
}

impl ExportInput {
    /// Whether the result has a file system per platform.
    pub fn is_multi(&self) -> bool {
        matches!(&self.refs, Refs::Multi(refs) if !refs.is_empty())
    }

    /// The file system of a platform.
    pub fn find(&self, id: &str) -> Result<OpResult, Error> {
        match &self.refs {
            Refs::Single(result) => Ok(result.clone()),
            Refs::Multi(refs) if refs.is_empty() => Ok(None),
            Refs::Multi(refs) => refs
                .get(id)
                .cloned()
                .ok_or_else(|| Error::Result(format!("failed to find ref for ID {id}"))),
        }
    }

    /// The metadata of a platform, or else of the whole result.
    pub fn key(&self, key: &str, platform: Option<&str>) -> Option<&Bytes> {
        platform
            .and_then(|id| self.metadata.get(&format!("{key}/{id}")))
            .or_else(|| self.metadata.get(key))
    }

    /// The platforms in the order that the frontend gave them: one at least.
    pub fn platforms(&self) -> Result<Vec<ResultPlatform>, Error> {
        platforms::parse(self)
    }
}

/// What an exporter tells.
#[derive(Default)]
pub struct ExportOutput {
    /// For the client: `containerimage.digest` and so on.
    pub response: BTreeMap<String, String>,
    /// What was made, for the build's history.
    pub descriptor: Option<Descriptor>,
    /// Keeps what was made from being pruned; to be held until the history names it.
    pub keep: Option<Arc<dyn std::any::Any + Send + Sync>>,
    /// Work that may go on beside other exports, such as a push. Dropping it leaves it undone.
    pub finalize: Option<BoxFuture<'static, Result<(), Error>>>,
}

impl std::fmt::Debug for ExportOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportOutput")
            .field("response", &self.response)
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}

/// An exporter with its options, for one build.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// The name of its vertex: `exporting to image`.
    fn name(&self) -> String;

    /// Exports a result. Called once.
    async fn export(&self, input: ExportInput) -> Result<ExportOutput, Error>;
}
