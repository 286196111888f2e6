//! The calls of a daemon.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_filesync::grpc::MAX_MESSAGE;
use kiln_ids::{BuildRef, SessionId};
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::control_client::ControlClient;
use kiln_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use kiln_proto::moby::buildkit::v1::sourcepolicy;
use kiln_proto::pb;
use tonic::transport::Channel;

use crate::session::{Attachments, Session};
use crate::{Address, Error, TlsFiles, connect};

/// A daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

/// What to build and what to do with it.
#[derive(Debug, Clone, Default)]
pub struct SolveOptions {
    /// The build's id; random if not given.
    pub reference: Option<BuildRef>,
    /// The graph, where there is no frontend.
    pub definition: Option<pb::Definition>,
    /// `dockerfile.v0` or `gateway.v0`.
    pub frontend: String,
    /// The frontend's options.
    pub frontend_attrs: BTreeMap<String, String>,
    /// Graphs that the frontend gets as named contexts.
    pub frontend_inputs: BTreeMap<String, pb::Definition>,
    /// Outputs: type and attributes. Their files go to the attachments' outputs of the same number.
    pub exporters: Vec<(String, BTreeMap<String, String>)>,
    /// Caches to import: type and attributes.
    pub cache_imports: Vec<(String, BTreeMap<String, String>)>,
    /// Caches to export: type and attributes.
    pub cache_exports: Vec<(String, BTreeMap<String, String>)>,
    /// Such as `network.host`.
    pub entitlements: Vec<String>,
    /// Rules for sources.
    pub source_policy: Option<sourcepolicy::Policy>,
    /// Keep it out of the history.
    pub internal: bool,
}

/// A build that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Solved {
    /// The build's id.
    pub reference: String,
    /// `containerimage.digest` and so on.
    pub response: BTreeMap<String, String>,
}

impl Client {
    /// Connects now, so that a wrong address fails at once.
    pub async fn connect(address: &Address) -> Result<Self, Error> {
        let channel = connect::connect(address, None).await?;
        Ok(Self { channel })
    }

    /// The same with TLS, which is for `tcp://` addresses alone.
    pub async fn connect_tls(address: &Address, files: &TlsFiles) -> Result<Self, Error> {
        let channel = connect::connect(address, Some(files)).await?;
        Ok(Self { channel })
    }

    /// Uses a connection that was made elsewhere.
    pub fn from_channel(channel: Channel) -> Self {
        Self { channel }
    }

    /// The generated client, for calls that aren't wrapped here.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The gateway that a client-side frontend calls.
    pub fn bridge(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The connection, for generated clients of services that aren't wrapped here.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The daemon's version.
    pub async fn info(&self) -> Result<control::InfoResponse, Error> {
        Ok(self
            .control()
            .info(control::InfoRequest {})
            .await?
            .into_inner())
    }

    /// Where steps of this builder reach the host, if they do.
    pub async fn host_gateway(&self) -> Result<Option<IpAddr>, Error> {
        const LABEL: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
        let workers = self.workers().await?;
        let mut labels = workers.iter().filter_map(|worker| worker.labels.get(LABEL));
        Ok(labels.find_map(|address| address.parse().ok()))
    }

    /// The daemon's workers.
    pub async fn workers(&self) -> Result<Vec<control::types::WorkerRecord>, Error> {
        let request = control::ListWorkersRequest::default();
        Ok(self
            .control()
            .list_workers(request)
            .await?
            .into_inner()
            .record)
    }

    /// What the cache holds.
    pub async fn disk_usage(
        &self,
        filter: Vec<String>,
    ) -> Result<Vec<control::UsageRecord>, Error> {
        let request = control::DiskUsageRequest {
            filter,
            ..control::DiskUsageRequest::default()
        };
        Ok(self
            .control()
            .disk_usage(request)
            .await?
            .into_inner()
            .record)
    }

    /// Prunes the cache; yields what was removed.
    pub async fn prune(
        &self,
        request: control::PruneRequest,
    ) -> Result<BoxStream<'static, Result<control::UsageRecord, Error>>, Error> {
        let removed = self.control().prune(request).await?.into_inner();
        Ok(removed.map(|record| record.map_err(Error::from)).boxed())
    }

    /// Builds that were and are, and those to come unless the request says to stop early.
    pub async fn history(
        &self,
        request: control::BuildHistoryRequest,
    ) -> Result<BoxStream<'static, Result<control::BuildHistoryEvent, Error>>, Error> {
        let events = self.control().listen_build_history(request).await?;
        let events = events.into_inner();
        Ok(events.map(|event| event.map_err(Error::from)).boxed())
    }

    /// Pins, unpins or deletes a record of a build.
    pub async fn update_history(
        &self,
        request: control::UpdateBuildHistoryRequest,
    ) -> Result<(), Error> {
        self.control().update_build_history(request).await?;
        Ok(())
    }

    /// Progress of a build, from its beginning to its end. Works before the build exists.
    pub async fn status(
        &self,
        reference: &BuildRef,
    ) -> Result<BoxStream<'static, Result<control::StatusResponse, Error>>, Error> {
        let request = control::StatusRequest {
            r#ref: reference.to_string(),
        };
        let events = self.control().status(request).await?.into_inner();
        Ok(events.map(|event| event.map_err(Error::from)).boxed())
    }

    /// Builds. The daemon gets at `attachments` for as long; dropping the future cancels the build.
    pub async fn solve(
        &self,
        options: SolveOptions,
        attachments: Attachments,
        mut on_status: impl FnMut(control::StatusResponse),
    ) -> Result<Solved, Error> {
        let reference = match &options.reference {
            Some(reference) => reference.clone(),
            None => BuildRef::new(random_id()?),
        };
        let session = Session::open(self, attachments)?;
        let request = request(&reference, session.id(), options);
        let solve = async {
            let response = self.control().solve(request).await?.into_inner();
            Ok::<_, Error>(response.exporter_response.into_iter().collect())
        };
        let watch = async {
            // A build that failed tells so itself; its progress matters less.
            let Ok(mut events) = self.status(&reference).await else {
                return;
            };
            while let Some(Ok(event)) = events.next().await {
                on_status(event);
            }
        };
        let mut watch = std::pin::pin!(watch);
        let mut watched = false;
        let mut solve = std::pin::pin!(solve);
        let mut serve = std::pin::pin!(session.serve());
        let result = loop {
            tokio::select! {
                result = &mut solve => break result,
                () = &mut watch, if !watched => watched = true,
                ended = &mut serve => {
                    ended?;
                    return Err(Error::SessionEnded);
                }
            }
        };
        if !watched {
            // The stream ends with the build; what is still under way of it is shown.
            tokio::select! {
                () = watch => {}
                _ = serve => {}
            }
        }
        Ok(Solved {
            reference: reference.to_string(),
            response: result?,
        })
    }
}

fn request(
    reference: &BuildRef,
    session: &SessionId,
    options: SolveOptions,
) -> control::SolveRequest {
    let entries = |list: Vec<(String, BTreeMap<String, String>)>| {
        list.into_iter()
            .map(|(kind, attrs)| control::CacheOptionsEntry {
                r#type: kind,
                attrs: attrs.into_iter().collect(),
            })
            .collect()
    };
    control::SolveRequest {
        r#ref: reference.to_string(),
        definition: options.definition,
        session: session.to_string(),
        frontend: options.frontend,
        frontend_attrs: options.frontend_attrs.into_iter().collect(),
        cache: Some(control::CacheOptions {
            exports: entries(options.cache_exports),
            imports: entries(options.cache_imports),
            ..control::CacheOptions::default()
        }),
        entitlements: options.entitlements,
        frontend_inputs: options.frontend_inputs.into_iter().collect(),
        internal: options.internal,
        source_policy: options.source_policy,
        exporters: options
            .exporters
            .into_iter()
            .map(|(kind, attrs)| control::Exporter {
                r#type: kind,
                attrs: attrs.into_iter().collect(),
            })
            .collect(),
        ..control::SolveRequest::default()
    }
}

/// 25 characters of base 36, as BuildKit's ids are.
pub(crate) fn random_id() -> Result<String, Error> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0; 25];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Random)?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(DIGITS[usize::from(*byte) % 36]))
        .collect())
}
