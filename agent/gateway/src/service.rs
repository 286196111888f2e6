//! The gRPC service: finds the build of a call and converts messages.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use kiln_errdefs::{SharedError, to_build_status, to_status};
use kiln_frontend::{ResolveImage, SolveRequest, SourceMeta, Warning};
use kiln_ids::BuildRef;
use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::frontend as gw;
use kiln_proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridge;
use kiln_proto::pb;
use tonic::{Request, Response, Status};

use crate::{Forwarder, Registrar, caps};

/// The metadata key that names the build of a call on the control socket.
pub const BUILD_ID_HEADER: &str = "buildkit-controlapi-buildid";

/// How long a call waits for its build.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves `LLBBridge`.
#[derive(Debug, Clone)]
pub struct BridgeService(Builds);

#[derive(Debug, Clone)]
enum Builds {
    Joined(Registrar),
    Single(Arc<Forwarder>),
}

type Answer<T> = Result<Response<T>, Status>;

impl BridgeService {
    /// For the control socket: each call names its build.
    pub fn joined(registrar: Registrar) -> Self {
        Self(Builds::Joined(registrar))
    }

    /// For one frontend's own connection.
    pub fn single(forwarder: Arc<Forwarder>) -> Self {
        Self(Builds::Single(forwarder))
    }

    async fn forwarder<T>(&self, request: &Request<T>) -> Result<Arc<Forwarder>, Status> {
        match &self.0 {
            Builds::Single(forwarder) => Ok(Arc::clone(forwarder)),
            Builds::Joined(registrar) => {
                let id = request
                    .metadata()
                    .get(BUILD_ID_HEADER)
                    .and_then(|id| id.to_str().ok())
                    .ok_or_else(|| Status::invalid_argument("no buildid found in context"))?
                    .to_owned();
                registrar
                    .get(&BuildRef::new(id.clone()), PATIENCE)
                    .await
                    .ok_or_else(|| Status::not_found(format!("no such job {id}")))
            }
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn status(error: SharedError) -> Status {
    to_status(error.as_ref())
}

fn imports(entries: Vec<gw::CacheOptionsEntry>) -> Vec<control::CacheOptionsEntry> {
    entries
        .into_iter()
        .map(|entry| control::CacheOptionsEntry {
            r#type: entry.r#type,
            attrs: entry.attrs,
        })
        .collect()
}

#[tonic::async_trait]
impl LlbBridge for BridgeService {
    async fn resolve_image_config(
        &self,
        request: Request<gw::ResolveImageConfigRequest>,
    ) -> Answer<gw::ResolveImageConfigResponse> {
        const OCI_LAYOUT: i32 = 1;
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let mut source = pb::SourceOp {
            identifier: format!("docker-image://{}", request.r#ref),
            ..Default::default()
        };
        if request.resolver_type == OCI_LAYOUT {
            source.identifier = format!("oci-layout://{}", request.r#ref);
            for (key, value) in [
                ("oci.session", request.session_id),
                ("oci.store", request.store_id),
            ] {
                if !value.is_empty() {
                    source.attrs.insert(key.to_owned(), value);
                }
            }
        }
        let meta = forwarder
            .bridge()
            .resolve_source(
                source,
                ResolveImage {
                    platform: request.platform,
                    mode: request.resolve_mode,
                    log_name: request.log_name,
                    want_config: true,
                    source_policies: request.source_policies,
                },
            )
            .await
            .map_err(status)?;
        let name = meta.source.identifier;
        Ok(Response::new(gw::ResolveImageConfigResponse {
            r#ref: name
                .split_once("://")
                .map_or(name.as_str(), |(_, name)| name)
                .to_owned(),
            digest: meta
                .digest
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            config: meta.config.unwrap_or_default().to_vec(),
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<gw::ResolveSourceMetaRequest>,
    ) -> Answer<gw::ResolveSourceMetaResponse> {
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let source = request
            .source
            .ok_or_else(|| Status::invalid_argument("source is required"))?;
        if request
            .image
            .as_ref()
            .is_some_and(|image| image.attestation_chain || !image.resolve_attestations.is_empty())
        {
            return Err(Status::unimplemented(
                "attestations of a source can't be resolved: not supported by this builder",
            ));
        }
        let is_image = ["docker-image://", "oci-layout://"]
            .iter()
            .any(|scheme| source.identifier.starts_with(scheme));
        let meta = forwarder
            .bridge()
            .resolve_source(
                source,
                ResolveImage {
                    platform: request.platform,
                    mode: request.resolve_mode,
                    log_name: request.log_name,
                    want_config: !request.image.is_some_and(|image| image.no_config),
                    source_policies: request.source_policies,
                },
            )
            .await
            .map_err(status)?;
        Ok(Response::new(source_meta(meta, is_image)))
    }

    async fn solve(&self, request: Request<gw::SolveRequest>) -> Answer<gw::SolveResponse> {
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let solved = forwarder
            .bridge()
            .solve(SolveRequest {
                definition: request.definition,
                frontend: request.frontend,
                options: request.frontend_opt.into_iter().collect(),
                inputs: request.frontend_inputs.into_iter().collect(),
                evaluate: request.evaluate,
                cache_imports: imports(request.cache_imports),
                source_policies: request.source_policies,
            })
            .await
            .map_err(|error| to_build_status(error.as_ref()))?;
        if !request.allow_result_return && solved.refs.keys().any(|key| !key.is_empty()) {
            return Err(Status::failed_precondition(
                "solve did not return default result",
            ));
        }
        let result = forwarder.announce(&solved, request.allow_result_array_ref);
        let name = match (&result.result, request.allow_result_return) {
            (Some(gw::result::Result::RefDeprecated(id)), false) => id.clone(),
            (Some(gw::result::Result::Ref(reference)), false) => reference.id.clone(),
            _ => String::new(),
        };
        if request.r#final {
            forwarder
                .finish_inline(solved, &request.exporter_attr)
                .map_err(status)?;
        }
        Ok(Response::new(gw::SolveResponse {
            r#ref: name,
            result: Some(result),
        }))
    }

    async fn read_file(
        &self,
        request: Request<gw::ReadFileRequest>,
    ) -> Answer<gw::ReadFileResponse> {
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let range = match request.range {
            None => None,
            Some(range) => {
                let positive = |number: i64| {
                    u64::try_from(number)
                        .map_err(|_| Status::invalid_argument("negative file range"))
                };
                Some((positive(range.offset)?, positive(range.length)?))
            }
        };
        let data = forwarder
            .present(&request.r#ref)
            .map_err(status)?
            .read_file(&request.file_path, range)
            .await
            .map_err(status)?;
        Ok(Response::new(gw::ReadFileResponse {
            data: data.to_vec(),
        }))
    }

    async fn read_dir(&self, request: Request<gw::ReadDirRequest>) -> Answer<gw::ReadDirResponse> {
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let include = (!request.include_pattern.is_empty()).then_some(&*request.include_pattern);
        let entries = forwarder
            .present(&request.r#ref)
            .map_err(status)?
            .read_dir(&request.dir_path, include)
            .await
            .map_err(status)?;
        Ok(Response::new(gw::ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<gw::StatFileRequest>,
    ) -> Answer<gw::StatFileResponse> {
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let stat = forwarder
            .present(&request.r#ref)
            .map_err(status)?
            .stat_file(&request.path)
            .await
            .map_err(status)?;
        Ok(Response::new(gw::StatFileResponse { stat: Some(stat) }))
    }

    async fn evaluate(
        &self,
        request: Request<gw::EvaluateRequest>,
    ) -> Answer<gw::EvaluateResponse> {
        let forwarder = self.forwarder(&request).await?;
        if let Some(reference) = forwarder
            .named(&request.into_inner().r#ref)
            .map_err(status)?
        {
            reference
                .evaluate()
                .await
                .map_err(|error| to_build_status(error.as_ref()))?;
        }
        Ok(Response::new(gw::EvaluateResponse {}))
    }

    async fn ping(&self, request: Request<gw::PingRequest>) -> Answer<gw::PongResponse> {
        let forwarder = self.forwarder(&request).await?;
        let worker = forwarder.worker();
        Ok(Response::new(gw::PongResponse {
            frontend_api_caps: caps::enabled(caps::FRONTEND.iter().copied()),
            llb_caps: caps::enabled(worker.llb_caps.iter().map(String::as_str)),
            workers: vec![worker.record.clone()],
        }))
    }

    async fn r#return(&self, request: Request<gw::ReturnRequest>) -> Answer<gw::ReturnResponse> {
        let forwarder = self.forwarder(&request).await?;
        forwarder.finish(request.into_inner()).map_err(status)?;
        Ok(Response::new(gw::ReturnResponse {}))
    }

    async fn inputs(&self, request: Request<gw::InputsRequest>) -> Answer<gw::InputsResponse> {
        let forwarder = self.forwarder(&request).await?;
        Ok(Response::new(gw::InputsResponse {
            definitions: forwarder.inputs().clone().into_iter().collect(),
        }))
    }

    async fn warn(&self, request: Request<gw::WarnRequest>) -> Answer<gw::WarnResponse> {
        let forwarder = self.forwarder(&request).await?;
        let request = request.into_inner();
        let vertex = match request.digest.as_str() {
            "" => None,
            digest => Some(
                digest
                    .parse::<Digest>()
                    .map_err(|error| Status::invalid_argument(format!("{digest:?}: {error}")))?,
            ),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        forwarder.bridge().warn(
            vertex,
            Warning {
                level: i32::try_from(request.level).unwrap_or(i32::MAX),
                short: text(&request.short),
                detail: request.detail.iter().map(|line| text(line)).collect(),
                url: request.url,
                source: request.info,
                ranges: request.ranges,
            },
        );
        Ok(Response::new(gw::WarnResponse {}))
    }

    async fn new_container(
        &self,
        request: Request<gw::NewContainerRequest>,
    ) -> Answer<gw::NewContainerResponse> {
        self.forwarder(&request).await?;
        Err(no_containers())
    }

    async fn release_container(
        &self,
        request: Request<gw::ReleaseContainerRequest>,
    ) -> Answer<gw::ReleaseContainerResponse> {
        self.forwarder(&request).await?;
        Err(no_containers())
    }

    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<gw::ExecMessage, Status>> + Send>>;

    async fn exec_process(
        &self,
        request: Request<tonic::Streaming<gw::ExecMessage>>,
    ) -> Answer<Self::ExecProcessStream> {
        self.forwarder(&request).await?;
        Err(no_containers())
    }

    async fn read_file_container(
        &self,
        request: Request<gw::ReadFileRequest>,
    ) -> Answer<gw::ReadFileResponse> {
        self.forwarder(&request).await?;
        Err(no_containers())
    }

    async fn read_dir_container(
        &self,
        request: Request<gw::ReadDirRequest>,
    ) -> Answer<gw::ReadDirResponse> {
        self.forwarder(&request).await?;
        Err(no_containers())
    }

    async fn stat_file_container(
        &self,
        request: Request<gw::StatFileRequest>,
    ) -> Answer<gw::StatFileResponse> {
        self.forwarder(&request).await?;
        Err(no_containers())
    }
}

/// `gateway.exec` isn't among the capabilities until it is served.
fn no_containers() -> Status {
    Status::unimplemented("this builder runs no containers for frontends yet (gateway.exec)")
}

fn source_meta(meta: SourceMeta, is_image: bool) -> gw::ResolveSourceMetaResponse {
    gw::ResolveSourceMetaResponse {
        image: is_image.then(|| gw::ResolveSourceImageResponse {
            digest: meta
                .digest
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            config: meta.config.unwrap_or_default().to_vec(),
            attestation_chain: None,
        }),
        source: Some(meta.source),
        git: meta.git,
        http: meta.http,
    }
}
