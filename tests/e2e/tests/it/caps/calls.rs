//! The calls of a frontend that runs at the client.

use anyhow::{Context as _, Result, bail, ensure};
use kiln_client::{Attachments, Client, Session};
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::frontend as gateway;
use kiln_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use kiln_proto::pb;
use tonic::Status;
use tonic::transport::Channel;

use crate::hostile::gateway::of_build;

/// A build whose frontend is the test.
pub(super) struct Build<'a> {
    client: &'a Client,
    reference: String,
    pub(super) session: String,
}

/// Runs a build of which `work` is the frontend; it must return something.
pub(super) async fn in_build(
    client: &Client,
    attachments: Attachments,
    work: impl AsyncFnOnce(&Build<'_>) -> Result<()>,
) -> Result<()> {
    // What frontends do is long, and so are their futures.
    Box::pin(build_with(client, attachments, work)).await
}

async fn build_with(
    client: &Client,
    attachments: Attachments,
    work: impl AsyncFnOnce(&Build<'_>) -> Result<()>,
) -> Result<()> {
    let session = Session::open(client, attachments)?;
    let build = Build {
        client,
        reference: format!("caps-{}", session.id()),
        session: session.id().to_string(),
    };
    let outer = control::SolveRequest {
        r#ref: build.reference.clone(),
        session: build.session.clone(),
        entitlements: vec!["network.host".to_owned(), "security.insecure".to_owned()],
        ..control::SolveRequest::default()
    };
    let mut solver = client.control();
    let outer = async { solver.solve(outer).await.context("the build") };
    tokio::select! {
        ended = session.serve() => bail!("the session ended: {ended:?}"),
        // The work's error says more than that of the build that it leaves without a result.
        done = async { tokio::try_join!(work(&build), async { outer.await.map(drop) }) } => done.map(drop),
    }
}

/// As today's frontends ask.
pub(super) fn solve_request() -> gateway::SolveRequest {
    gateway::SolveRequest {
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    }
}

impl Build<'_> {
    pub(super) fn bridge(&self) -> LlbBridgeClient<Channel> {
        self.client.bridge()
    }

    pub(super) fn request<T>(&self, message: T) -> Result<tonic::Request<T>, Status> {
        of_build(message, &self.reference).map_err(|error| Status::internal(error.to_string()))
    }

    pub(super) async fn ping(&self) -> Result<gateway::PongResponse, Status> {
        let request = self.request(gateway::PingRequest {})?;
        Ok(self.bridge().ping(request).await?.into_inner())
    }

    pub(super) async fn solve(
        &self,
        request: gateway::SolveRequest,
    ) -> Result<gateway::SolveResponse, Status> {
        let request = self.request(request)?;
        Ok(self.bridge().solve(request).await?.into_inner())
    }

    pub(super) async fn resolve(
        &self,
        image: &str,
    ) -> Result<gateway::ResolveImageConfigResponse, Status> {
        let request = self.request(gateway::ResolveImageConfigRequest {
            r#ref: format!("docker.io/library/{image}:latest"),
            resolve_mode: "default".to_owned(),
            ..gateway::ResolveImageConfigRequest::default()
        })?;
        Ok(self
            .bridge()
            .resolve_image_config(request)
            .await?
            .into_inner())
    }

    async fn r#return(&self, result: gateway::Result) -> Result<()> {
        let request = self.request(gateway::ReturnRequest {
            result: Some(result),
            error: None,
        })?;
        self.bridge().r#return(request).await?;
        Ok(())
    }

    /// The empty file system.
    pub(super) async fn return_empty(&self) -> Result<()> {
        let result = Some(gateway::result::Result::Ref(gateway::Ref::default()));
        self.r#return(gateway::Result {
            result,
            ..gateway::Result::default()
        })
        .await
    }

    /// Makes a graph; the reference of its result.
    async fn made(&self, definition: pb::Definition) -> Result<gateway::Ref> {
        let request = gateway::SolveRequest {
            definition: Some(definition),
            evaluate: true,
            ..solve_request()
        };
        let solved = self.solve(request).await?;
        match solved.result.and_then(|result| result.result) {
            Some(gateway::result::Result::Ref(reference)) => Ok(reference),
            other => bail!("proto.refarray: {other:?}"),
        }
    }
}

fn files() -> pb::Definition {
    kiln_llb::definition(Some(&crate::vectors::graphs::file("/d", b"data")))
}

/// Uses every cap of the gateway that leaves the build running.
pub(super) async fn use_all(build: &Build<'_>) -> Result<()> {
    let mut bridge = build.bridge();
    let image = build.resolve("busybox").await.context("resolveimage")?;
    ensure!(!image.config.is_empty(), "resolveimage: {image:?}");

    let reference = build
        .made(files())
        .await
        .context("solve.base, gateway.solve.evaluate")?;
    // A result can be built on.
    let again = reference
        .def
        .clone()
        .context("reference.output: no definition")?;
    build.made(again).await.context("reference.output")?;
    let id = reference.id;
    let request = gateway::ReadFileRequest {
        r#ref: id.clone(),
        file_path: "/d".to_owned(),
        ..gateway::ReadFileRequest::default()
    };
    let read = bridge
        .read_file(build.request(request)?)
        .await
        .context("readfile")?;
    ensure!(read.get_ref().data == b"data", "readfile: {read:?}");
    let request = gateway::ReadDirRequest {
        r#ref: id.clone(),
        dir_path: "/".to_owned(),
        ..gateway::ReadDirRequest::default()
    };
    let listed = bridge
        .read_dir(build.request(request)?)
        .await
        .context("readdir")?;
    ensure!(listed.get_ref().entries.len() == 1, "readdir: {listed:?}");
    let request = gateway::StatFileRequest {
        r#ref: id.clone(),
        path: "/d".to_owned(),
        ..gateway::StatFileRequest::default()
    };
    let stat = bridge
        .stat_file(build.request(request)?)
        .await
        .context("statfile")?;
    ensure!(
        stat.get_ref()
            .stat
            .as_ref()
            .is_some_and(|stat| stat.size == 4),
        "statfile: {stat:?}"
    );
    let request = gateway::EvaluateRequest { r#ref: id };
    bridge
        .evaluate(build.request(request)?)
        .await
        .context("gateway.evaluate")?;

    let inputs = build.request(gateway::InputsRequest {})?;
    bridge.inputs(inputs).await.context("frontend.inputs")?;
    let request = gateway::WarnRequest {
        level: 1,
        short: b"a warning of the test".to_vec(),
        ..gateway::WarnRequest::default()
    };
    bridge
        .warn(build.request(request)?)
        .await
        .context("gateway.warnings")?;
    let request = gateway::ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: "docker-image://docker.io/library/busybox:latest".to_owned(),
            ..pb::SourceOp::default()
        }),
        ..gateway::ResolveSourceMetaRequest::default()
    };
    let meta = bridge
        .resolve_source_meta(build.request(request)?)
        .await
        .context("source.metaresolver")?;
    ensure!(
        meta.get_ref()
            .image
            .as_ref()
            .is_some_and(|found| found.digest == image.digest),
        "source.metaresolver: {meta:?}"
    );
    // A cache that isn't there is no condition of a build.
    let request = gateway::SolveRequest {
        definition: Some(files()),
        cache_imports: vec![gateway::CacheOptionsEntry {
            r#type: "local".to_owned(),
            attrs: [("src", "nowhere"), ("digest", image.digest.as_str())]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }],
        ..solve_request()
    };
    build.solve(request).await.context("importcaches")?;
    // The frontend of the daemon, with caps that it must have and without: metadata come back, a lack is told.
    let request = gateway::SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        frontend_inputs: ["context", "dockerfile"]
            .map(|name| (name.to_owned(), dockerfile()))
            .into(),
        frontend_opt: [(
            "frontend.caps".to_owned(),
            "moby.buildkit.frontend.inputs".to_owned(),
        )]
        .into(),
        ..solve_request()
    };
    let solved = build
        .solve(request.clone())
        .await
        .context("frontend.caps")?;
    let metadata = solved
        .result
        .map(|result| result.metadata)
        .unwrap_or_default();
    ensure!(
        metadata.contains_key("containerimage.config"),
        "gateway.solve.metadata: {metadata:?}"
    );
    let request = gateway::SolveRequest {
        frontend_opt: [("frontend.caps".to_owned(), "no.such.cap".to_owned())].into(),
        ..request
    };
    let Err(status) = build.solve(request).await else {
        bail!("frontend.caps: a cap that no frontend has is taken for one that it has")
    };
    ensure!(
        status.message().contains("no.such.cap"),
        "frontend.caps: {status}"
    );
    Ok(())
}

fn dockerfile() -> pb::Definition {
    let file = crate::vectors::graphs::file("/Dockerfile", b"FROM scratch\nCOPY Dockerfile /\n");
    kiln_llb::definition(Some(&file))
}

/// What a frontend says of the results for its platforms.
const PLATFORMS: &str = r#"{"Platforms":[
    {"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}},
    {"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}}
]}"#;

/// `return`, `returnmap` and `reference.attestations`: results for two platforms, one with a statement.
pub(super) async fn return_map(build: &Build<'_>) -> Result<()> {
    let reference = build.made(files()).await?;
    let statement = gateway::Attestation {
        kind: gateway::AttestationKind::InToto as i32,
        r#ref: Some(reference.clone()),
        path: "/d".to_owned(),
        in_toto_predicate_type: "https://example.org/words".to_owned(),
        ..gateway::Attestation::default()
    };
    let platforms = ["linux/amd64", "linux/arm64"];
    let refs = platforms
        .map(|platform| (platform.to_owned(), reference.clone()))
        .into();
    let attestations = [(
        platforms[0].to_owned(),
        gateway::Attestations {
            attestation: vec![statement],
        },
    )];
    build
        .r#return(gateway::Result {
            result: Some(gateway::result::Result::Refs(gateway::RefMap { refs })),
            attestations: attestations.into(),
            metadata: [("refs.platforms".to_owned(), PLATFORMS.into())].into(),
        })
        .await
        .context("returnmap, reference.attestations")
}

/// `solve.inlinereturn`: the result of a solve is that of the build.
pub(super) async fn return_inline(build: &Build<'_>) -> Result<()> {
    let request = gateway::SolveRequest {
        definition: Some(files()),
        r#final: true,
        exporter_attr: b"{}".to_vec(),
        ..solve_request()
    };
    build.solve(request).await.context("solve.inlinereturn")?;
    Ok(())
}
