//! A state root in a temporary directory, and ways to put files into it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use kiln_cache::{
    BlobProvider, CacheManager, FetchError, LayerBlob, RecordOptions, Ref, UsageKind,
};
use kiln_content::{Compression, CompressionSpec, ContentStore};
use kiln_ids::{RefId, SessionId};
use kiln_oci::{Descriptor, Digest};
use kiln_progress::VertexProgress;
use kiln_snapshot::{Driver, Snapshots};
use kiln_store::StateRoot;
use kiln_sys::mount::TempMount;

pub(crate) struct Fixture {
    pub(crate) cache: CacheManager,
    pub(crate) content: ContentStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) root: StateRoot,
    pub(crate) dir: Arc<tempfile::TempDir>,
    driver: Driver,
}

pub(crate) const OVERLAY: Driver = Driver::Overlay { userxattr: false };

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_driver(OVERLAY).await
    }

    pub(crate) async fn with_driver(driver: Driver) -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), driver).await
    }

    async fn open(dir: Arc<tempfile::TempDir>, driver: Driver) -> Self {
        let root = StateRoot::open(dir.path()).unwrap();
        let content = ContentStore::open(&root).unwrap();
        let snapshots = Snapshots::with_driver(root.snapshots_dir(), driver).unwrap();
        let cache = CacheManager::new(&root, content.clone(), snapshots.clone())
            .await
            .unwrap();
        Self {
            cache,
            content,
            snapshots,
            root,
            dir,
            driver,
        }
    }

    /// Closes everything and opens it again, as another process would.
    pub(crate) async fn reopen(self) -> Self {
        self.reopen_after(|_| {}).await
    }

    /// The same, with something done to the directory in between.
    pub(crate) async fn reopen_after(self, between: impl FnOnce(&Path)) -> Self {
        let (dir, driver) = (Arc::clone(&self.dir), self.driver);
        // All that was queued is written, but no orderly end.
        self.root.db().write(|_| Ok(())).await.unwrap();
        drop(self);
        between(dir.path());
        Self::open(dir, driver).await
    }

    /// Commits a layer on `parent` that `change` makes in a mount of it.
    pub(crate) async fn layer(&self, parent: Option<&Ref>, change: impl FnOnce(&Path)) -> Ref {
        let mutable = self
            .cache
            .new_mutable(parent, RecordOptions::described("step"))
            .await
            .unwrap();
        let mount = TempMount::new(
            &mutable.mountable(false).unwrap().specs,
            &self.root.tmp_dir(),
        )
        .unwrap();
        change(mount.path());
        drop(mount);
        mutable.commit(RecordOptions::default()).await.unwrap()
    }

    /// A client's directory with the file `a` in it, which stays when its build has ended: its id and this build's view.
    pub(crate) async fn context(&self) -> (RefId, Ref) {
        let options = RecordOptions {
            retain: true,
            kind: UsageKind::SourceLocal,
            ..RecordOptions::described("context")
        };
        let context = self.cache.new_mutable(None, options).await.unwrap();
        let id = context.id().clone();
        fs::write(context.root_path().unwrap().join("a"), "1").unwrap();
        (id, context.commit(RecordOptions::default()).await.unwrap())
    }

    pub(crate) async fn blobs(&self, of: &Ref) -> Vec<LayerBlob> {
        of.blobs(&gzip(), true, &[], &silent()).await.unwrap()
    }
}

pub(crate) fn silent() -> VertexProgress {
    VertexProgress::silent()
}

pub(crate) fn gzip() -> CompressionSpec {
    CompressionSpec {
        kind: Compression::Gzip,
        level: None,
        force: false,
    }
}

/// What a state's files are: path and content, links as `-> target`, directories as `/`.
pub(crate) async fn list(of: &Ref) -> Vec<(String, String)> {
    let root = of.root_path(&[], &silent()).await.unwrap();
    let mut found = Vec::new();
    let mut rest = vec![root.path().to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root.path())
                .unwrap()
                .display()
                .to_string();
            let kind = std::fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                found.push((name, "/".into()));
                rest.push(path);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                found.push((name, format!("-> {}", target.display())));
            } else {
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn names(of: &[(String, String)]) -> Vec<&str> {
    of.iter().map(|(name, _)| name.as_str()).collect()
}

/// Delivers blobs from memory, and counts how often it was asked.
pub(crate) struct Memory {
    pub(crate) content: ContentStore,
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) fetched: AtomicUsize,
}

#[async_trait]
impl BlobProvider for Memory {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        _: &[SessionId],
        _: &VertexProgress,
    ) -> Result<(), FetchError> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let bytes = self
            .blobs
            .iter()
            .find(|bytes| Digest::of(bytes) == descriptor.digest)
            .ok_or_else(|| Arc::new(std::io::Error::other("the registry said no")) as FetchError)?;
        let put = self.content.put(bytes.clone().into()).await;
        put.map(drop).map_err(|error| Arc::new(error) as FetchError)
    }

    fn sources(&self) -> Vec<String> {
        vec!["registry.test/library/x".into()]
    }
}
