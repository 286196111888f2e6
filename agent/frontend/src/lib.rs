//! The contract between frontends and the engine.
//!
//! A [`Frontend`] turns options into a [`Solved`] by calling back through a [`Bridge`]. The built-in
//! Dockerfile frontend, gateway frontends in containers and client-side frontends all see this bridge.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kiln_ids::SessionId;
use kiln_oci::Digest;
use kiln_proto::{fsutil, moby::buildkit::v1 as control, moby::buildkit::v1::sourcepolicy, pb};

/// Shared so that one failure can be reported to many waiters with its typed details intact.
pub type Error = Arc<dyn std::error::Error + Send + Sync + 'static>;
/// What calls through the contract return.
pub type Result<T> = std::result::Result<T, Error>;

/// One result of a frontend: a file-system state that may not have been made yet.
#[async_trait]
pub trait Reference: Send + Sync + std::any::Any {
    /// The graph that makes it.
    fn definition(&self) -> &pb::Definition;
    /// Makes it now.
    async fn evaluate(&self) -> Result<()>;
    /// A file's bytes, or a range of them. Evaluates first.
    async fn read_file(&self, path: &str, range: Option<(u64, u64)>) -> Result<Bytes>;
    /// The entries of a directory whose names match `include`, if given.
    async fn read_dir(&self, path: &str, include: Option<&str>)
    -> Result<Vec<fsutil::types::Stat>>;
    /// One entry.
    async fn stat_file(&self, path: &str) -> Result<fsutil::types::Stat>;
    /// For the engine, which knows what it made.
    fn as_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync>;
}

/// `None` is the empty file system (`FROM scratch` and nothing else).
pub type MaybeReference = Option<Arc<dyn Reference>>;

/// What a frontend produced. `refs` has the key `""` alone for a single-platform result.
#[derive(Clone, Default)]
pub struct Solved {
    /// Results by platform id, in the order that `refs.platforms` names.
    pub refs: BTreeMap<String, MaybeReference>,
    /// Exporter keys such as `containerimage.config` and `refs.platforms`; key and platform are joined by `/`.
    pub metadata: BTreeMap<String, Bytes>,
    /// Attestations by platform id.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

impl std::fmt::Debug for Solved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solved")
            .field("refs", &self.refs.keys().collect::<Vec<_>>())
            .field("metadata", &self.metadata.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// An in-toto statement or bundle to be attached to an image; shaped as the gateway API has it.
#[derive(Clone)]
pub struct Attestation {
    /// As the gateway API names it.
    pub kind: control::frontend::AttestationKind,
    /// Where `path` is read from.
    pub reference: MaybeReference,
    /// The rest of the message.
    pub message: control::frontend::Attestation,
}

impl std::fmt::Debug for Attestation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attestation")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What to solve: a definition, or another frontend by name.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// Set for a graph.
    pub definition: Option<pb::Definition>,
    /// `dockerfile.v0` or `gateway.v0`, where there is no definition.
    pub frontend: String,
    /// The frontend's attributes.
    pub options: BTreeMap<String, String>,
    /// Graphs that the frontend takes as named contexts.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Make the results before returning.
    pub evaluate: bool,
    /// Caches to import first.
    pub cache_imports: Vec<control::CacheOptionsEntry>,
    /// Policies on top of the build's own.
    pub source_policies: Vec<sourcepolicy::Policy>,
}

/// How an image's name is resolved.
#[derive(Debug, Clone, Default)]
pub struct ResolveImage {
    /// Which image of an index; the worker's platform if absent.
    pub platform: Option<pb::Platform>,
    /// `default`, `pull` or `local`.
    pub mode: String,
    /// What progress displays call it.
    pub log_name: String,
    /// Also read the config.
    pub want_config: bool,
    /// Policies on top of the build's own.
    pub source_policies: Vec<sourcepolicy::Policy>,
}

/// What a source is, before it is fetched.
#[derive(Debug, Clone, Default)]
pub struct SourceMeta {
    /// The source after policies.
    pub source: pb::SourceOp,
    /// For images: the manifest or index digest.
    pub digest: Option<Digest>,
    /// For images, where it was asked for: the config's JSON.
    pub config: Option<Bytes>,
    /// For git: what the reference points to.
    pub git: Option<control::frontend::ResolveSourceGitResponse>,
    /// For http: what the server says of the file.
    pub http: Option<control::frontend::ResolveSourceHttpResponse>,
}

/// What the engine offers to a frontend. A bridge belongs to one build.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// Solves a graph or runs another frontend.
    async fn solve(&self, request: SolveRequest) -> Result<Solved>;
    /// Looks a source up (images today) without fetching it.
    async fn resolve_source(
        &self,
        source: pb::SourceOp,
        options: ResolveImage,
    ) -> Result<SourceMeta>;
    /// Reports a warning for the vertex, or for the build.
    fn warn(&self, vertex: Option<Digest>, warning: Warning);
    /// The session of the client that asked for the build.
    fn session(&self) -> SessionId;
    /// What the worker runs natively, the preferred one first.
    fn worker_platforms(&self) -> Vec<pb::Platform>;
    /// Optional LLB features that the engine has (`source.image`, `exec.mount.cache`, …).
    fn has_cap(&self, cap: &str) -> bool;
}

/// A warning of a frontend, such as a check rule that was broken.
#[derive(Debug, Clone, Default)]
pub struct Warning {
    /// 1 for check rules.
    pub level: i32,
    /// One line.
    pub short: String,
    /// Further lines.
    pub detail: Vec<String>,
    /// Where the rule is explained.
    pub url: String,
    /// The file that `ranges` points into.
    pub source: Option<pb::SourceInfo>,
    /// The lines it is about.
    pub ranges: Vec<pb::Range>,
}

/// A frontend: `dockerfile.v0` here, others in containers.
#[async_trait]
pub trait Frontend: Send + Sync {
    /// Turns options and inputs into a result.
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        options: BTreeMap<String, String>,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> Result<Solved>;
}
