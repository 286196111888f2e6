//! An engine that builds nothing: it knows one image, hands out files and remembers what it is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use kiln_dockerfile::DockerfileFrontend;
use kiln_errdefs::{Kind, WithDetail};
use kiln_frontend::{
    Bridge, Frontend, Reference, ResolveImage, SolveRequest, Solved, SourceMeta, Warning,
};
use kiln_ids::SessionId;
use kiln_oci::Digest;
use kiln_proto::{fsutil, moby::buildkit::v1 as control, pb};

/// The image that the golden data was recorded with.
pub(crate) const BUSYBOX: &str = "127.0.0.1:5000/busybox:latest";
const BUSYBOX_DIGEST: &str =
    "sha256:b1d96093b72dd92208432bf3b33bfbb92a40c8cdcc9ddbcb72323ea1e226c36e";
const BUSYBOX_CONFIG: &str = r#"{"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"],"WorkingDir":"/","ArgsEscaped":true},"created":"2026-11-24T12:30:57.447551972Z","history":[{"created":"2026-11-24T12:30:57.447551972Z","created_by":"ADD bb.tar / # buildkit","comment":"buildkit.dockerfile.v0"},{"created":"2026-11-24T12:30:57.447551972Z","created_by":"CMD [\"/bin/sh\"]","comment":"buildkit.dockerfile.v0","empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185"]}}"#;

/// The engine.
#[derive(Default)]
pub(crate) struct FakeEngine {
    /// Files of each local source: source name, path.
    files: Mutex<BTreeMap<(String, String), Bytes>>,
    /// Commit objects of git sources.
    commits: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Configs of images beside the known one.
    images: Mutex<BTreeMap<String, String>>,
    pub(crate) solved: Mutex<Vec<SolveRequest>>,
    pub(crate) resolved: Mutex<Vec<(String, ResolveImage)>>,
    pub(crate) warnings: Mutex<Vec<Warning>>,
}

struct FakeReference {
    engine: Arc<FakeEngine>,
    definition: pb::Definition,
    local: String,
}

impl FakeEngine {
    pub(crate) fn new(dockerfile: &[u8]) -> Arc<Self> {
        let engine = Arc::new(Self::default());
        engine.file("dockerfile", "Dockerfile", dockerfile);
        engine
    }

    pub(crate) fn file(&self, source: &str, path: &str, data: &[u8]) {
        let key = (source.to_owned(), path.to_owned());
        self.files
            .lock()
            .unwrap()
            .insert(key, Bytes::copy_from_slice(data));
    }

    pub(crate) fn commit(&self, source: &str, object: &[u8]) {
        let mut commits = self.commits.lock().unwrap();
        commits.insert(source.to_owned(), object.to_vec());
    }

    pub(crate) fn image(&self, name: &str, config: &str) {
        self.images
            .lock()
            .unwrap()
            .insert(name.to_owned(), config.to_owned());
    }

    /// Runs the frontend with `key=value` options.
    pub(crate) async fn build(self: &Arc<Self>, options: &[&str]) -> kiln_frontend::Result<Solved> {
        self.build_with(options, BTreeMap::new()).await
    }

    /// The same, with graphs that the client gives.
    pub(crate) async fn build_with(
        self: &Arc<Self>,
        options: &[&str],
        inputs: BTreeMap<String, pb::Definition>,
    ) -> kiln_frontend::Result<Solved> {
        let options = options.iter().map(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            (key.to_owned(), value.to_owned())
        });
        let bridge = Arc::new(FakeBridge(Arc::clone(self)));
        DockerfileFrontend
            .solve(bridge, options.collect(), inputs)
            .await
    }

    /// The graph that was solved last.
    pub(crate) fn definition(&self) -> pb::Definition {
        let solved = self.solved.lock().unwrap();
        let last = solved.last().expect("something was solved");
        last.definition.clone().expect("a graph was solved")
    }
}

struct FakeBridge(Arc<FakeEngine>);

#[async_trait]
impl Reference for FakeReference {
    fn definition(&self) -> &pb::Definition {
        &self.definition
    }

    async fn evaluate(&self) -> kiln_frontend::Result<()> {
        Ok(())
    }

    async fn read_file(
        &self,
        path: &str,
        _range: Option<(u64, u64)>,
    ) -> kiln_frontend::Result<Bytes> {
        let files = self.engine.files.lock().unwrap();
        let key = (self.local.clone(), path.to_owned());
        files.get(&key).cloned().ok_or_else(|| {
            let text = format!("open {path}: no such file or directory");
            WithDetail::message(Kind::NotFound, text).shared()
        })
    }

    async fn read_dir(
        &self,
        _path: &str,
        _include: Option<&str>,
    ) -> kiln_frontend::Result<Vec<fsutil::types::Stat>> {
        Ok(Vec::new())
    }

    async fn stat_file(&self, path: &str) -> kiln_frontend::Result<fsutil::types::Stat> {
        Err(WithDetail::message(Kind::NotFound, path).shared())
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}

#[async_trait]
impl Bridge for FakeBridge {
    async fn solve(&self, request: SolveRequest) -> kiln_frontend::Result<Solved> {
        self.0.solved.lock().unwrap().push(request.clone());
        let mut solved = Solved::default();
        if let Some(definition) = request.definition {
            let edge = kiln_llb::decode(definition.clone()).expect("a valid graph");
            let name = edge.vertex.op.op.as_ref().and_then(|op| match op {
                pb::op::Op::Source(source) => Some(source.identifier.clone()),
                _ => None,
            });
            let local = name.unwrap_or_default().replace("local://", "");
            solved.refs.insert(
                String::new(),
                Some(Arc::new(FakeReference {
                    engine: Arc::clone(&self.0),
                    definition,
                    local,
                })),
            );
        }
        Ok(solved)
    }

    async fn resolve_source(
        &self,
        source: pb::SourceOp,
        options: ResolveImage,
    ) -> kiln_frontend::Result<SourceMeta> {
        let name = source.identifier.replace("docker-image://", "");
        let mut resolved = self.0.resolved.lock().unwrap();
        resolved.push((source.identifier.clone(), options));
        if let Some(object) = self.0.commits.lock().unwrap().get(&source.identifier) {
            let git = control::frontend::ResolveSourceGitResponse {
                commit_object: object.clone(),
                ..Default::default()
            };
            return Ok(SourceMeta {
                source,
                git: Some(git),
                ..SourceMeta::default()
            });
        }
        let images = self.0.images.lock().unwrap();
        let (digest, config) = match images.get(&name) {
            Some(config) => (Digest::of(config), config.clone()),
            None if name == BUSYBOX => (BUSYBOX_DIGEST.parse().unwrap(), BUSYBOX_CONFIG.to_owned()),
            None => {
                let text = format!("{name}: not found");
                return Err(WithDetail::message(Kind::NotFound, text).shared());
            }
        };
        Ok(SourceMeta {
            source,
            digest: Some(digest),
            config: Some(config.into()),
            ..SourceMeta::default()
        })
    }

    fn warn(&self, _vertex: Option<Digest>, warning: Warning) {
        self.0.warnings.lock().unwrap().push(warning);
    }

    fn session(&self) -> SessionId {
        SessionId::new("the-session")
    }

    fn worker_platforms(&self) -> Vec<pb::Platform> {
        vec![pb::Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..Default::default()
        }]
    }

    fn has_cap(&self, _cap: &str) -> bool {
        true
    }
}
