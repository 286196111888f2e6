//! `kiln.agent.v1.Cache`: what the cache holds, what collection would do with it, what is in cache mounts.

mod convert;
mod mounts;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kiln_errdefs::{Kind, WithDetail};
use kiln_gc::{Collector, Filters, Outcome};
use kiln_ids::RefId;
use kiln_mounts::Caches;
use kiln_proto::agent as api;
use kiln_proto::agent::cache_server::Cache;
use kiln_proto::agent::execute_response::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::status;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Runs that a client gets that doesn't say how many it wants.
const RUNS: u32 = 50;

/// The cache of one daemon.
#[derive(Debug, Clone)]
pub struct CacheService {
    collector: Arc<Collector>,
    mounts: Caches,
}

impl CacheService {
    /// Over what collects the cache's garbage, and its cache mounts.
    pub fn new(collector: Arc<Collector>, mounts: Caches) -> Self {
        Self { collector, mounts }
    }
}

/// The status of what the collector refused.
fn refused(error: kiln_gc::Error) -> Status {
    let kind = match &error {
        kiln_gc::Error::UnknownPlan(_) | kiln_gc::Error::Cache(kiln_cache::Error::NotFound(_)) => {
            Kind::NotFound
        }
        kiln_gc::Error::Filter { .. } => Kind::User,
        _ => return status(error),
    };
    status(WithDetail::kind(Arc::new(error), kind))
}

#[tonic::async_trait]
impl Cache for CacheService {
    async fn plan(
        &self,
        request: Request<api::PlanRequest>,
    ) -> Result<Response<api::PlanResponse>, Status> {
        let request = request.into_inner();
        let asked = convert::policies(&request.policies)?;
        let in_force = self.collector.policies().policies;
        let policies = if asked.is_empty() {
            &in_force
        } else {
            &asked[..]
        };
        let (id, plan) = self
            .collector
            .keep_plan(policies, convert::order(request.by_cost))
            .await
            .map_err(refused)?;
        Ok(Response::new(convert::plan(id, &plan)))
    }

    type ExecuteStream = Messages<api::ExecuteResponse>;

    async fn execute(
        &self,
        request: Request<api::ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        // What is gone is gone, whether the client keeps up or not: outcomes wait in memory.
        let (told, outcomes) = mpsc::unbounded_channel();
        let collector = Arc::clone(&self.collector);
        let plan = request.into_inner().plan_id;
        // The stream owns the work: a client that leaves stops it between two groups.
        let work = async move {
            let run = collector
                .execute(&plan, |outcome| {
                    let event = match outcome {
                        Outcome::Removed(planned) => Event::Removed(convert::planned(planned)),
                        Outcome::Skipped(planned, kept) => Event::Skipped(api::Skipped {
                            id: planned.record.id.to_string(),
                            reason: kept.to_string(),
                        }),
                    };
                    let _ = told.send(Ok(event));
                })
                .await;
            let last = run.map(|run| Event::Finished(convert::run(run)));
            let _ = told.send(last.map_err(refused));
        };
        let events = UnboundedReceiverStream::new(outcomes).map(|event| {
            Ok(api::ExecuteResponse {
                event: Some(event?),
            })
        });
        let work = futures::stream::once(work).filter_map(|()| async { None });
        Ok(Response::new(Box::pin(futures::stream::select(
            events, work,
        ))))
    }

    async fn list_runs(
        &self,
        request: Request<api::ListRunsRequest>,
    ) -> Result<Response<api::ListRunsResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => RUNS,
            limit => limit,
        };
        let runs = self.collector.runs(limit).await.map_err(refused)?;
        Ok(Response::new(api::ListRunsResponse {
            runs: runs.into_iter().map(convert::run).collect(),
        }))
    }

    async fn get_policies(
        &self,
        _: Request<api::GetPoliciesRequest>,
    ) -> Result<Response<api::GetPoliciesResponse>, Status> {
        let in_force = self.collector.policies();
        Ok(Response::new(api::GetPoliciesResponse {
            policies: in_force.policies.iter().map(convert::to_wire).collect(),
            default: in_force.are_default,
        }))
    }

    async fn set_policies(
        &self,
        request: Request<api::SetPoliciesRequest>,
    ) -> Result<Response<api::SetPoliciesResponse>, Status> {
        let policies = convert::policies(&request.into_inner().policies)?;
        self.collector.replace_policies(policies).map_err(refused)?;
        Ok(Response::new(api::SetPoliciesResponse {}))
    }

    async fn pin(
        &self,
        request: Request<api::PinRequest>,
    ) -> Result<Response<api::PinResponse>, Status> {
        let request = request.into_inner();
        self.collector
            .set_pinned(&RefId::new(request.id), request.pinned)
            .map_err(refused)?;
        Ok(Response::new(api::PinResponse {}))
    }

    async fn usage(
        &self,
        _: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let records = self
            .collector
            .disk_usage(&Filters::default(), Duration::ZERO)
            .await
            .map_err(refused)?;
        Ok(Response::new(convert::usage(&records)))
    }

    async fn list_records(
        &self,
        _: Request<api::ListRecordsRequest>,
    ) -> Result<Response<api::ListRecordsResponse>, Status> {
        let records = self
            .collector
            .disk_usage(&Filters::default(), Duration::ZERO)
            .await
            .map_err(refused)?;
        let mounts = self.mounts.list().await.map_err(mounts::refused)?;
        let mut last: HashMap<RefId, String> = mounts
            .into_iter()
            .map(|mount| (mount.record, mount.last_build))
            .collect();
        let records = records
            .into_iter()
            .map(|record| {
                let build = last.remove(&record.id);
                convert::record(record, build)
            })
            .collect();
        Ok(Response::new(api::ListRecordsResponse { records }))
    }

    async fn list_mounts(
        &self,
        _: Request<api::ListMountsRequest>,
    ) -> Result<Response<api::ListMountsResponse>, Status> {
        let all = self.mounts.list().await.map_err(mounts::refused)?;
        Ok(Response::new(api::ListMountsResponse {
            mounts: all.into_iter().map(mounts::mount).collect(),
        }))
    }

    async fn browse_mount(
        &self,
        request: Request<api::BrowseMountRequest>,
    ) -> Result<Response<api::BrowseMountResponse>, Status> {
        let request = request.into_inner();
        let directory = self
            .mounts
            .browse(&RefId::new(request.record_id), &request.path)
            .await
            .map_err(mounts::refused)?;
        Ok(Response::new(mounts::directory(directory)))
    }

    type ReadMountFileStream = Messages<api::Chunk>;

    async fn read_mount_file(
        &self,
        request: Request<api::ReadMountFileRequest>,
    ) -> Result<Response<Self::ReadMountFileStream>, Status> {
        let request = request.into_inner();
        let pieces = self
            .mounts
            .read(&RefId::new(request.record_id), &request.path)
            .await
            .map_err(mounts::refused)?;
        Ok(Response::new(Box::pin(mounts::chunks(pieces))))
    }

    type ExportMountStream = Messages<api::Chunk>;

    async fn export_mount(
        &self,
        request: Request<api::ExportMountRequest>,
    ) -> Result<Response<Self::ExportMountStream>, Status> {
        let record = RefId::new(request.into_inner().record_id);
        let pieces = self.mounts.export(&record).await.map_err(mounts::refused)?;
        Ok(Response::new(Box::pin(mounts::chunks(pieces))))
    }

    async fn import_mount(
        &self,
        request: Request<Streaming<api::ImportMountRequest>>,
    ) -> Result<Response<api::ImportMountResponse>, Status> {
        let mut messages = request.into_inner();
        let (target, merge) = mounts::start(&mut messages).await?;
        let (pieces, feed) = mounts::incoming(messages);
        let import = self.mounts.import(target, merge, pieces);
        let (imported, ()) = tokio::join!(import, feed);
        Ok(Response::new(api::ImportMountResponse {
            mount: Some(mounts::mount(imported.map_err(mounts::refused)?)),
        }))
    }

    async fn clear_mount(
        &self,
        request: Request<api::ClearMountRequest>,
    ) -> Result<Response<api::ClearMountResponse>, Status> {
        let record = RefId::new(request.into_inner().record_id);
        let freed = self.mounts.clear(&record).await.map_err(mounts::refused)?;
        Ok(Response::new(api::ClearMountResponse {
            freed_bytes: convert::number(freed),
        }))
    }
}
