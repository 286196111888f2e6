//! A frontend's result: an output of a vertex, made when somebody needs it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kiln_cache::{OpResult, RootPath};
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::Reference;
use kiln_llb::Edge;
use kiln_progress::VertexProgress;
use kiln_proto::{fsutil, pb};
use kiln_solver::{CacheSource, CachedResult};
use tokio::sync::OnceCell;

use crate::bridge::EngineBridge;
use crate::errors::with_locations;
use crate::files;

/// An output of a vertex of one build.
pub(crate) struct EdgeReference {
    bridge: EngineBridge,
    definition: pb::Definition,
    edge: Edge,
    imports: Vec<Arc<dyn CacheSource<OpResult>>>,
    result: OnceCell<CachedResult<OpResult>>,
}

impl EdgeReference {
    pub(crate) fn new(
        bridge: EngineBridge,
        definition: pb::Definition,
        edge: Edge,
        imports: Vec<Arc<dyn CacheSource<OpResult>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            bridge,
            definition,
            edge,
            imports,
            result: OnceCell::new(),
        })
    }

    /// Makes the result, once.
    pub(crate) async fn result(&self) -> Result<&CachedResult<OpResult>, SharedError> {
        self.result
            .get_or_try_init(|| async {
                self.bridge
                    .job()
                    .build_with(&self.edge, &self.imports)
                    .await
                    .map_err(|error| with_locations(error, &self.edge))
            })
            .await
    }

    /// The vertex and its output.
    pub(crate) fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Runs `read` on a directory with the result's files, on a thread for blocking work.
    async fn with_files<T: Send + 'static>(
        &self,
        path: &str,
        read: impl FnOnce(&std::path::Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, SharedError> {
        let root: Option<RootPath> = match self.result().await?.result() {
            None => None,
            Some(result) => Some(
                result
                    .root_path(&[self.bridge.session_id()], &VertexProgress::silent())
                    .await
                    .map_err(|error| -> SharedError { Arc::new(error) })?,
            ),
        };
        let Some(root) = root else {
            return Err(missing(path, "no such file or directory"));
        };
        let done = tokio::task::spawn_blocking(move || read(root.path())).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(missing(path, "no such file or directory"))
            }
            Ok(Err(error)) => Err(WithDetail::message(
                Kind::User,
                format!("failed to read {path}: {error}"),
            )
            .shared()),
            Err(panicked) => Err(Arc::new(panicked)),
        }
    }
}

fn missing(path: &str, why: &str) -> SharedError {
    WithDetail::message(Kind::NotFound, format!("open {path}: {why}")).shared()
}

#[async_trait]
impl Reference for EdgeReference {
    fn definition(&self) -> &pb::Definition {
        &self.definition
    }

    async fn evaluate(&self) -> kiln_frontend::Result<()> {
        self.result().await.map(|_| ())
    }

    async fn read_file(
        &self,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> kiln_frontend::Result<Bytes> {
        let name = path.to_owned();
        self.with_files(path, move |root| files::read(root, &name, range))
            .await
    }

    async fn read_dir(
        &self,
        path: &str,
        include: Option<&str>,
    ) -> kiln_frontend::Result<Vec<fsutil::types::Stat>> {
        let (name, include) = (path.to_owned(), include.map(str::to_owned));
        self.with_files(path, move |root| {
            files::list(root, &name, include.as_deref())
        })
        .await
    }

    async fn stat_file(&self, path: &str) -> kiln_frontend::Result<fsutil::types::Stat> {
        let name = path.to_owned();
        self.with_files(path, move |root| files::stat(root, &name))
            .await
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}
