//! Dockerfiles: the parser alone, and the whole frontend over an engine that builds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kiln_dockerfile::{DockerfileFrontend, LintConfig, Linter, detect_syntax, parse, stages};
use kiln_errdefs::{Kind, WithDetail};
use kiln_frontend::{
    Bridge, Frontend, Reference, ResolveImage, SolveRequest, Solved, SourceMeta, Warning,
};
use kiln_ids::SessionId;
use kiln_oci::Digest;
use kiln_proto::{fsutil, pb};
use parking_lot::Mutex;

use crate::{Target, seeds};

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"OnBuild":["RUN x"],"WorkingDir":"/w","User":"u"},"rootfs":{"type":"layers","diff_ids":["sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185"]}}"#;

const WORDS: &[&[u8]] = &[
    b"FROM ",
    b"RUN ",
    b"COPY ",
    b"ADD ",
    b"ARG ",
    b"ENV ",
    b"ONBUILD ",
    b"HEALTHCHECK ",
    b"EXPOSE ",
    b"SHELL ",
    b"<<EOF",
    b"EOF\n",
    b"<<-'E'",
    b"--mount=type=",
    b"cache,",
    b"bind,",
    b"secret,",
    b"tmpfs,",
    b"ssh,",
    b"target=/",
    b"from=",
    b"--from=",
    b"--chmod=",
    b"--chown=",
    b"--link ",
    b"--parents ",
    b"--exclude=",
    b"--checksum=",
    b"--platform=",
    b"--network=",
    b"--security=",
    b"$",
    b"${",
    b"}",
    b":-",
    b":+",
    b"%%",
    b"##",
    b"/",
    b"\\\n",
    b"\\",
    b"`",
    b"\"",
    b"'",
    b"[\"",
    b"\"]",
    b"# escape=`\n",
    b"# syntax=",
    b"\n",
    b"\r\n",
    b"\xff",
    b" AS ",
    b"scratch",
    b"git@h:r#b:d",
    b"https://h/x.git?ref=a",
    b"=",
    b"\t",
    b"\0",
    b"ONBUILD ONBUILD ",
    b"$TARGETPLATFORM",
    b"\xef\xbb\xbf",
];

pub(crate) const PARSER: Target = Target {
    name: "dockerfile",
    seeds: seeds::dockerfiles,
    words: WORDS,
    read: |input| {
        let _ = detect_syntax(input);
        let parsed = match parse(input) {
            Ok(parsed) => parsed,
            Err(error) => return format!("{error:?}"),
        };
        let linter = Linter::new(LintConfig::default());
        let outcome = match stages(&parsed.statements, &linter) {
            Ok(found) => format!("ok {}", found.stages.len()),
            Err((error, _)) => error.to_string(),
        };
        for broken in linter.take() {
            let _ = broken.short();
        }
        outcome
    },
};

pub(crate) const FRONTEND: Target = Target {
    name: "frontend",
    seeds: seeds::dockerfiles,
    words: WORDS,
    read: |input| match build(input) {
        Ok(engine) => {
            for definition in engine.definitions.lock().iter() {
                let decoded = kiln_llb::decode(definition.clone());
                assert!(
                    decoded.is_ok() || definition.def.is_empty(),
                    "the frontend made a graph that isn't one: {decoded:?}"
                );
            }
            "ok".to_owned()
        }
        Err(error) => kiln_errdefs::text(error.as_ref()),
    },
};

/// The graphs that the golden Dockerfiles become.
pub(crate) fn definitions() -> Vec<pb::Definition> {
    let engines = seeds::dockerfiles()
        .into_iter()
        .filter_map(|text| build(&text).ok());
    engines
        .filter_map(|engine| engine.definitions.lock().pop())
        .filter(|definition| !definition.def.is_empty())
        .collect()
}

/// What comes after a zero byte is the ignore file.
fn build(input: &[u8]) -> kiln_frontend::Result<Arc<Engine>> {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let mut file = |name: &str| (name.to_owned(), parts.next().map(Bytes::copy_from_slice));
    let files = [file("Dockerfile"), file(".dockerignore")]
        .into_iter()
        .filter_map(|(name, bytes)| Some((name, bytes?)));
    let engine = Arc::new(Engine {
        files: files.collect(),
        definitions: Mutex::default(),
    });
    let bridge: Arc<dyn Bridge> = Arc::new(FakeBridge(Arc::clone(&engine)));
    futures::executor::block_on(DockerfileFrontend.solve(
        bridge,
        BTreeMap::new(),
        BTreeMap::new(),
    ))?;
    Ok(engine)
}

struct Engine {
    files: BTreeMap<String, Bytes>,
    definitions: Mutex<Vec<pb::Definition>>,
}

struct FakeBridge(Arc<Engine>);

struct FakeReference {
    engine: Arc<Engine>,
    definition: pb::Definition,
}

#[async_trait]
impl Reference for FakeReference {
    fn definition(&self) -> &pb::Definition {
        &self.definition
    }

    async fn evaluate(&self) -> kiln_frontend::Result<()> {
        Ok(())
    }

    async fn read_file(&self, path: &str, _: Option<(u64, u64)>) -> kiln_frontend::Result<Bytes> {
        let found = self.engine.files.get(path).cloned();
        found.ok_or_else(|| WithDetail::message(Kind::NotFound, path).shared())
    }

    async fn read_dir(
        &self,
        _: &str,
        _: Option<&str>,
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
        let mut solved = Solved::default();
        if let Some(definition) = request.definition {
            self.0.definitions.lock().push(definition.clone());
            let reference = FakeReference {
                engine: Arc::clone(&self.0),
                definition,
            };
            solved.refs.insert(String::new(), Some(Arc::new(reference)));
        }
        Ok(solved)
    }

    async fn resolve_source(
        &self,
        source: pb::SourceOp,
        _: ResolveImage,
    ) -> kiln_frontend::Result<SourceMeta> {
        Ok(SourceMeta {
            digest: Some(Digest::of(&source.identifier)),
            source,
            config: Some(Bytes::from_static(CONFIG.as_bytes())),
            ..SourceMeta::default()
        })
    }

    fn warn(&self, _: Option<Digest>, _: Warning) {}

    fn session(&self) -> SessionId {
        SessionId::new("session")
    }

    fn worker_platforms(&self) -> Vec<pb::Platform> {
        vec![pb::Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..Default::default()
        }]
    }

    fn has_cap(&self, _: &str) -> bool {
        true
    }
}
