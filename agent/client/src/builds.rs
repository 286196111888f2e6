//! Calls of `kiln.agent.v1.Builds`. A real `buildkitd` answers them with `UNIMPLEMENTED`.

use futures::StreamExt as _;
use kiln_filesync::grpc::MAX_MESSAGE;
use kiln_ids::BuildRef;
use kiln_proto::agent;
use kiln_proto::agent::builds_client::BuildsClient as Generated;
use tonic::transport::Channel;

use crate::{Client, Error};

pub use kiln_proto::agent::explanation::Cause;
pub use kiln_proto::agent::{
    Description, Difference, ExplainResponse, Explanation, Project, ResultSize,
};

/// The builds of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BuildsClient {
    calls: Generated<Channel>,
}

impl Client {
    /// Cancel builds from anywhere, group them by project, ask why steps ran.
    pub fn builds(&self) -> BuildsClient {
        BuildsClient {
            calls: Generated::new(self.channel())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }
}

impl BuildsClient {
    /// The generated client, for calls that aren't wrapped here.
    pub fn calls(&self) -> Generated<Channel> {
        self.calls.clone()
    }

    /// Ends a running build, whichever client began it.
    pub async fn cancel(&self, build: &BuildRef) -> Result<(), Error> {
        let request = agent::CancelRequest {
            r#ref: build.to_string(),
        };
        self.calls().cancel(request).await?;
        Ok(())
    }

    /// Why steps of a build ran: of every step that did, or of `vertex` alone. Compared with `against`, or
    /// with the build of the same project before.
    pub async fn explain(
        &self,
        build: &BuildRef,
        vertex: Option<&str>,
        against: Option<&BuildRef>,
    ) -> Result<ExplainResponse, Error> {
        let request = agent::ExplainRequest {
            r#ref: build.to_string(),
            vertex: vertex.unwrap_or_default().to_owned(),
            against: against.map(ToString::to_string).unwrap_or_default(),
        };
        Ok(self.calls().explain(request).await?.into_inner())
    }

    /// Builds by project; those that were built last come first.
    pub async fn projects(&self) -> Result<Vec<Project>, Error> {
        let request = agent::ListProjectsRequest {};
        Ok(self
            .calls()
            .list_projects(request)
            .await?
            .into_inner()
            .projects)
    }

    /// What the daemon knows of builds beside their records: of these, or of all where none is named.
    pub async fn describe(&self, builds: &[BuildRef]) -> Result<Vec<Description>, Error> {
        let request = agent::DescribeRequest {
            refs: builds.iter().map(ToString::to_string).collect(),
        };
        Ok(self.calls().describe(request).await?.into_inner().builds)
    }

    /// How large the images of a build are, and those of the build before it.
    pub async fn sizes(&self, build: &BuildRef) -> Result<Vec<ResultSize>, Error> {
        let request = agent::SizesRequest {
            r#ref: build.to_string(),
        };
        Ok(self.calls().sizes(request).await?.into_inner().results)
    }

    /// The bytes of an attachment of a record, by its digest.
    pub async fn attachment(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let request = agent::ReadAttachmentRequest {
            digest: digest.to_owned(),
        };
        let mut chunks = self.calls().read_attachment(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?.data);
        }
        Ok(bytes)
    }
}
