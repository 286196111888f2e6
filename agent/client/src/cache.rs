//! Calls of `kiln.agent.v1.Cache`. A real `buildkitd` answers them with `UNIMPLEMENTED`.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kiln_filesync::grpc::MAX_MESSAGE;
use kiln_proto::agent as api;
use kiln_proto::agent::cache_client::CacheClient as Generated;
use kiln_proto::agent::import_mount_request::Part;
use tonic::transport::Channel;

use crate::{Client, Error};

/// The cache of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CacheClient {
    calls: Generated<Channel>,
}

impl Client {
    /// What the cache holds, what collection would do with it, what is in cache mounts.
    pub fn cache(&self) -> CacheClient {
        CacheClient {
            calls: Generated::new(self.channel())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }
}

impl CacheClient {
    fn calls(&self) -> Generated<Channel> {
        self.calls.clone()
    }

    /// What a run of these policies (with none, of those in force) would remove. Touches nothing.
    pub async fn plan(
        &self,
        policies: Vec<api::Policy>,
        by_cost: bool,
    ) -> Result<api::PlanResponse, Error> {
        let request = api::PlanRequest { policies, by_cost };
        Ok(self.calls().plan(request).await?.into_inner())
    }

    /// Carries a plan out. Dropping the stream ends the run.
    pub async fn execute(
        &self,
        plan_id: impl Into<String>,
    ) -> Result<BoxStream<'static, Result<api::ExecuteResponse, Error>>, Error> {
        let request = api::ExecuteRequest {
            plan_id: plan_id.into(),
        };
        let events = self.calls().execute(request).await?.into_inner();
        Ok(events.map(|event| event.map_err(Error::from)).boxed())
    }

    /// Runs of the past, the newest first.
    pub async fn runs(&self, limit: u32) -> Result<Vec<api::Run>, Error> {
        let request = api::ListRunsRequest { limit };
        Ok(self.calls().list_runs(request).await?.into_inner().runs)
    }

    /// The policies in force.
    pub async fn policies(&self) -> Result<api::GetPoliciesResponse, Error> {
        let request = api::GetPoliciesRequest {};
        Ok(self.calls().get_policies(request).await?.into_inner())
    }

    /// Others in their place until the daemon starts again; with none, those of its configuration.
    pub async fn set_policies(&self, policies: Vec<api::Policy>) -> Result<(), Error> {
        let request = api::SetPoliciesRequest { policies };
        self.calls().set_policies(request).await?;
        Ok(())
    }

    /// Keeps a record from being collected or pruned, or lets it go.
    pub async fn pin(&self, id: impl Into<String>, pinned: bool) -> Result<(), Error> {
        let id = id.into();
        self.calls().pin(api::PinRequest { id, pinned }).await?;
        Ok(())
    }

    /// Bytes by project and by kind of record.
    pub async fn usage(&self) -> Result<api::UsageResponse, Error> {
        Ok(self.calls().usage(api::UsageRequest {}).await?.into_inner())
    }

    /// Every record, with for whom it was made and what it would cost to make it again.
    pub async fn records(&self) -> Result<Vec<api::CacheRecord>, Error> {
        let request = api::ListRecordsRequest {};
        Ok(self
            .calls()
            .list_records(request)
            .await?
            .into_inner()
            .records)
    }

    /// The cache mounts, the last used first.
    pub async fn mounts(&self) -> Result<Vec<api::CacheMount>, Error> {
        let request = api::ListMountsRequest {};
        Ok(self.calls().list_mounts(request).await?.into_inner().mounts)
    }

    /// The entries of one directory of a cache mount.
    pub async fn browse(
        &self,
        record_id: impl Into<String>,
        path: impl Into<String>,
    ) -> Result<api::BrowseMountResponse, Error> {
        let request = api::BrowseMountRequest {
            record_id: record_id.into(),
            path: path.into(),
        };
        Ok(self.calls().browse_mount(request).await?.into_inner())
    }

    /// The bytes of one file of a cache mount.
    pub async fn read_file(
        &self,
        record_id: impl Into<String>,
        path: impl Into<String>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let request = api::ReadMountFileRequest {
            record_id: record_id.into(),
            path: path.into(),
        };
        let chunks = self.calls().read_mount_file(request).await?.into_inner();
        Ok(chunks.map(|chunk| Ok(chunk?.data)).boxed())
    }

    /// A cache mount's files as an uncompressed tar.
    pub async fn export_mount(
        &self,
        record_id: impl Into<String>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let request = api::ExportMountRequest {
            record_id: record_id.into(),
        };
        let chunks = self.calls().export_mount(request).await?.into_inner();
        Ok(chunks.map(|chunk| Ok(chunk?.data)).boxed())
    }

    /// Replaces a cache mount's files by those of a tar (plain, gzip or zstd), or adds them with `merge`.
    pub async fn import_mount(
        &self,
        mount: api::import_mount_start::Mount,
        merge: bool,
        archive: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Option<api::CacheMount>, Error> {
        let start = Part::Start(api::ImportMountStart {
            merge,
            mount: Some(mount),
        });
        let parts = futures::stream::once(async { start })
            .chain(archive.map(|data| Part::Chunk(api::Chunk { data })))
            .map(|part| api::ImportMountRequest { part: Some(part) });
        Ok(self.calls().import_mount(parts).await?.into_inner().mount)
    }

    /// Removes a cache mount; says how many bytes it had.
    pub async fn clear_mount(&self, record_id: impl Into<String>) -> Result<i64, Error> {
        let request = api::ClearMountRequest {
            record_id: record_id.into(),
        };
        let response = self.calls().clear_mount(request).await?.into_inner();
        Ok(response.freed_bytes)
    }
}
