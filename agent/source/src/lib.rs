//! Image, git, http, local and oci-layout sources.
//!
//! ```text
//! SourceOp ──► Sources (by scheme) ──► SourceProvider::open ──► Source: cache_key(0), (1) … ──► snapshot
//!                                          └─ look_up: what it is, without fetching it
//! ```
//!
//! Invariants: a cache key is BuildKit's, byte for byte; a key that starts with `session:` is good in one
//! session only; nothing of a source is fetched for a key alone, unless there is no other way to know
//! what it is (http without a checksum); secrets and credentials are in no key, record or error.

mod client_directory;
mod credentials;
pub mod git;
pub mod http;
pub mod image;
pub mod local;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::Ref;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{ResolveImage, SourceMeta};
use kiln_ids::SessionId;
use kiln_oci::Platform;
use kiln_progress::VertexProgress;
use kiln_proto::pb;

pub use client_directory::ClientDirectories;
pub use credentials::SessionCredentials;
pub use git::GitSources;
pub use image::ImageSources;

/// What a source gets to work with.
#[derive(Debug, Clone)]
pub struct SourceContext {
    /// Clients of the builds that wait.
    pub sessions: Vec<SessionId>,
    /// Reports on the vertex.
    pub progress: VertexProgress,
}

/// One way to know a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceKey {
    /// The key; the op's digest is made of it.
    pub key: String,
    /// What the source turned out to be (a digest, a commit), for provenance.
    pub pin: Option<String>,
    /// No further ways.
    pub last: bool,
}

/// One source of one vertex. Its calls never overlap.
#[async_trait]
pub trait Source: Send + Sync {
    /// The `index`-th key.
    async fn cache_key(&self, index: usize, cx: &SourceContext) -> Result<SourceKey, SharedError>;

    /// Whether its key has to be looked up somewhere, which is work to be seen.
    fn looks_up(&self) -> bool {
        true
    }

    /// The files; `None` where there are none. May be lazy.
    async fn snapshot(&self, cx: &SourceContext) -> Result<Option<Ref>, SharedError>;
}

/// Makes the sources of some schemes.
#[async_trait]
pub trait SourceProvider: Send + Sync {
    /// `docker-image`, `local`, `https`, …
    fn schemes(&self) -> &'static [&'static str];

    /// The source that `op` describes. `platform` is the vertex's.
    fn open(
        &self,
        op: &pb::SourceOp,
        platform: Option<&Platform>,
    ) -> Result<Arc<dyn Source>, SharedError>;

    /// What the source is, without fetching it.
    async fn look_up(
        &self,
        op: pb::SourceOp,
        options: &ResolveImage,
        cx: &SourceContext,
    ) -> Result<SourceMeta, SharedError>;
}

/// All sources of a daemon.
#[derive(Clone, Default)]
pub struct Sources(BTreeMap<&'static str, Arc<dyn SourceProvider>>);

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Sources {
    /// Adds the sources of a provider's schemes.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "the sources keep it")]
    pub fn with(mut self, provider: Arc<dyn SourceProvider>) -> Self {
        for &scheme in provider.schemes() {
            self.0.insert(scheme, Arc::clone(&provider));
        }
        self
    }

    fn provider(&self, identifier: &str) -> Result<&Arc<dyn SourceProvider>, SharedError> {
        let Some((scheme, _)) = identifier.split_once("://") else {
            return Err(WithDetail::message(
                Kind::User,
                format!("failed to parse source {identifier:?}: it has no scheme"),
            )
            .shared());
        };
        self.0.get(scheme).ok_or_else(|| {
            WithDetail::message(
                Kind::Unimplemented,
                format!("unknown source scheme {scheme:?}"),
            )
            .shared()
        })
    }

    /// The source that `op` describes.
    pub fn open(
        &self,
        op: &pb::SourceOp,
        platform: Option<&Platform>,
    ) -> Result<Arc<dyn Source>, SharedError> {
        self.provider(&op.identifier)?.open(op, platform)
    }

    /// What the source is, without fetching it.
    pub async fn look_up(
        &self,
        op: pb::SourceOp,
        options: &ResolveImage,
        cx: &SourceContext,
    ) -> Result<SourceMeta, SharedError> {
        let provider = Arc::clone(self.provider(&op.identifier)?);
        provider.look_up(op, options, cx).await
    }
}
