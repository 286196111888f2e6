//! What the solver asks of an operation. It knows digests, keys and results of a type `R`; what an
//! op does, and what a result is, it never looks into.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kiln_ids::{BuildRef, SessionId};
use kiln_llb::Vertex;
use kiln_oci::Digest;
use kiln_progress::VertexProgress;
use tokio_util::sync::CancellationToken;

/// An error of an op, shared by every build that waits for it. Its chain of sources holds the typed
/// details that the edge turns into BuildKit's.
pub type OpError = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// What a result must be: cheap to clone, shared by builds.
pub trait ResultValue: Clone + Send + Sync + fmt::Debug + 'static {}
impl<T: Clone + Send + Sync + fmt::Debug + 'static> ResultValue for T {}

/// What an op gets beside its inputs.
#[derive(Clone)]
pub struct OpContext {
    /// Reports to every build that waits for this vertex.
    pub progress: VertexProgress,
    /// Cancelled when the last waiting build has left. Dropping the op's future must also be safe.
    pub cancel: CancellationToken,
    /// Sessions of the builds that wait, the first one first; it changes while an op runs.
    pub sessions: Arc<dyn Fn() -> Vec<SessionId> + Send + Sync>,
    /// The builds that wait, the first one first.
    pub builds: Arc<dyn Fn() -> Vec<BuildRef> + Send + Sync>,
    /// The vertex, for builds that are nested in it.
    pub(crate) vertex: Option<Arc<dyn Any + Send + Sync>>,
}

impl OpContext {
    /// A context that belongs to no build: for tests, and for work outside of a solve.
    pub fn new(
        progress: VertexProgress,
        cancel: CancellationToken,
        sessions: Arc<dyn Fn() -> Vec<SessionId> + Send + Sync>,
    ) -> Self {
        Self {
            progress,
            cancel,
            sessions,
            builds: Arc::new(Vec::new),
            vertex: None,
        }
    }

    /// A context that reports to nobody and has no session.
    pub fn detached() -> Self {
        Self::new(
            VertexProgress::silent(),
            CancellationToken::new(),
            Arc::new(Vec::new),
        )
    }

    /// The builds at this moment.
    pub fn builds(&self) -> Vec<BuildRef> {
        (self.builds)()
    }

    /// The sessions at this moment.
    pub fn sessions(&self) -> Vec<SessionId> {
        (self.sessions)()
    }
}

impl fmt::Debug for OpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpContext")
    }
}

/// One way to know an op's result: its digest and, for each input, how the input enters the key.
/// An op has one or more, from the cheapest to know to the most stable (an image source: by manifest
/// digest, then by the chain of its layers).
#[derive(Debug, Clone)]
pub struct CacheMap<R> {
    /// The op digest: what of the op changes its result.
    pub digest: Digest,
    /// Known in this session only (a local source): the key and its links are forgotten with the
    /// build, the result isn't stored under it, and exports leave it out.
    pub session_local: bool,
    /// As many as the vertex has inputs.
    pub inputs: Vec<InputKey<R>>,
}

/// How one input enters an op's key.
#[derive(Clone)]
pub struct InputKey<R> {
    /// Names the part of the input that the op reads; part of the link between the keys.
    pub selector: Option<Digest>,
    /// Computes a key from the input's content, where that is worth it.
    pub content: Option<Arc<dyn ContentKey<R>>>,
    /// Made on the input's result before anything reads it (unlazying, say).
    pub prepare: Option<Arc<dyn Prepare<R>>>,
}

impl<R> Default for InputKey<R> {
    fn default() -> Self {
        Self {
            selector: None,
            content: None,
            prepare: None,
        }
    }
}

impl<R> fmt::Debug for InputKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputKey")
            .field("selector", &self.selector)
            .field("content", &self.content.is_some())
            .finish_non_exhaustive()
    }
}

/// Hashes the part of an input that an op reads.
#[async_trait]
pub trait ContentKey<R>: Send + Sync {
    /// The digest, or `None` where content says nothing (the input is then known by its own key only).
    async fn digest(&self, input: R, cx: OpContext) -> Result<Option<Digest>, OpError>;
}

/// Prepares an input's result.
#[async_trait]
pub trait Prepare<R>: Send + Sync {
    /// Returns once the result can be read.
    async fn prepare(&self, input: R, cx: OpContext) -> Result<(), OpError>;
}

/// An operation of LLB. One value serves all builds that share the vertex.
///
/// No method has a default: an op that wraps another one would lose what the inner one says.
#[async_trait]
pub trait Op<R: ResultValue>: Send + Sync {
    /// The `index`-th way to know the result, and whether it is the last. Called with 0, 1, … until
    /// it says so; never concurrently for one op.
    async fn cache_map(&self, index: usize, cx: OpContext) -> Result<(CacheMap<R>, bool), OpError>;

    /// Runs the op. One result per output. A failed or dropped run leaves nothing behind.
    async fn run(&self, inputs: Vec<R>, cx: OpContext) -> Result<Vec<R>, OpError>;

    /// What the op turned out to stand for (a manifest's digest, a commit), once a cache map is known:
    /// for provenance.
    fn pin(&self) -> Option<String>;

    /// Whether the keys of an op without inputs are looked up somewhere, which clients are shown as work. Where
    /// they are known at once, as for a client's directory, only the run is shown: a vertex that is shown at work
    /// twice is announced twice.
    fn looks_up(&self) -> bool;

    /// Whether a run takes one of the daemon's slots. An op that waits for other vertices while it
    /// runs must not.
    fn takes_slot(&self) -> bool;
}

/// Makes the op of a vertex.
pub trait OpResolver<R: ResultValue>: Send + Sync {
    /// Fails where the op is of a kind that the worker doesn't have.
    fn resolve(&self, vertex: &Arc<Vertex>) -> Result<Arc<dyn Op<R>>, OpError>;
}

/// Where results live between builds. Ids are opaque to the solver; they are stored beside keys.
#[async_trait]
pub trait ResultStore<R: ResultValue>: Send + Sync {
    /// The id under which a later build can load `result`. The result is kept while a key names it.
    async fn save(&self, result: &R) -> Result<String, OpError>;
    /// The result, or `None` where it is gone. Must not pull, unpack or mount anything.
    async fn load(&self, id: &str) -> Result<Option<R>, OpError>;
    /// Whether `load` would find it.
    fn exists(&self, id: &str) -> bool;
}
