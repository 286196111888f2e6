//! The cache: records, the plan of a clean-up, policies, cache mounts.

use futures::StreamExt as _;
use kiln_proto::agent;
use kiln_proto::agent::cache_client::CacheClient;
use kiln_proto::moby::buildkit::v1 as control;

use tonic::transport::Channel;

use crate::view::{
    CacheMount, CacheRecord, FileEntry, GcRun, Plan, PlannedRemoval, Policy, millis,
};
use crate::{Controller, Failure, files};

fn kind(record_type: String) -> String {
    if record_type.is_empty() {
        "regular".into()
    } else {
        record_type
    }
}

fn record(wire: agent::CacheRecord) -> CacheRecord {
    CacheRecord {
        id: wire.id,
        description: wire.description,
        r#type: kind(wire.record_type),
        project: wire.project,
        build: wire.build_ref,
        step: wire.step,
        rebuild_milliseconds: wire.rebuild_milliseconds,
        bytes: wire.bytes,
        created: wire.created.map(millis),
        last_used: wire.last_used.map(millis),
        usage_count: wire.usage_count,
        in_use: wire.in_use,
        shared: wire.shared,
        mutable: wire.mutable,
        pinned: wire.pinned,
        parents: wire.parents,
    }
}

/// What a builder that isn't ours tells of a record.
fn plain_record(wire: control::UsageRecord) -> CacheRecord {
    CacheRecord {
        id: wire.id,
        description: wire.description,
        r#type: kind(wire.record_type),
        bytes: wire.size,
        created: wire.created_at.map(millis),
        last_used: wire.last_used_at.map(millis),
        usage_count: wire.usage_count,
        in_use: wire.in_use,
        shared: wire.shared,
        mutable: wire.mutable,
        parents: wire.parents,
        ..CacheRecord::default()
    }
}

fn run(wire: agent::Run) -> GcRun {
    GcRun {
        id: wire.id,
        trigger: wire.trigger,
        started: wire.started.map_or(0, millis),
        finished: wire.finished.map(millis),
        records: wire.records,
        bytes: wire.bytes,
        host_bytes: None,
    }
}

fn policy_wire(policy: Policy) -> agent::Policy {
    agent::Policy {
        all: policy.all,
        filters: policy.filters,
        keep_duration_seconds: policy.keep_duration_seconds,
        reserved_space: policy.reserved_space,
        max_used_space: policy.max_used_space,
        min_free_space: policy.min_free_space,
    }
}

impl Controller {
    async fn cache_calls(&self) -> Result<CacheClient<Channel>, Failure> {
        let channel = self.engine().await?.channel();
        Ok(CacheClient::new(channel).max_decoding_message_size(64 << 20))
    }

    /// Everything that the cache holds.
    pub async fn cache_records(&self) -> Result<Vec<CacheRecord>, Failure> {
        let request = agent::ListRecordsRequest {};
        match self.cache_calls().await?.list_records(request).await {
            Ok(answer) => Ok(answer
                .into_inner()
                .records
                .into_iter()
                .map(record)
                .collect()),
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                let records = self.engine().await?.disk_usage(Vec::new()).await?;
                Ok(records.into_iter().map(plain_record).collect())
            }
            Err(status) => Err(status.into()),
        }
    }

    /// What would go so that at most `keep_bytes` stay. Touches nothing.
    pub async fn plan_cleanup(&self, keep_bytes: i64) -> Result<Plan, Failure> {
        // Zero would mean "no limit".
        let policy = agent::Policy {
            all: true,
            max_used_space: keep_bytes.max(1),
            ..Default::default()
        };
        self.plan_of(vec![policy]).await
    }

    /// What a run of these policies would remove now. Touches nothing.
    pub async fn plan_policies(&self, policies: Vec<Policy>) -> Result<Plan, Failure> {
        self.plan_of(policies.into_iter().map(policy_wire).collect())
            .await
    }

    async fn plan_of(&self, policies: Vec<agent::Policy>) -> Result<Plan, Failure> {
        let request = agent::PlanRequest {
            policies,
            by_cost: true,
        };
        let plan = self.cache_calls().await?.plan(request).await?.into_inner();
        Ok(Plan {
            id: plan.id,
            removals: plan
                .removals
                .into_iter()
                .map(|removal| PlannedRemoval {
                    id: removal.id,
                    description: removal.description,
                    bytes: removal.bytes,
                    rebuild_milliseconds: removal.rebuild_milliseconds,
                    reason: removal.reason,
                    record_type: removal.record_type,
                    last_used: removal.last_used.map(millis),
                })
                .collect(),
            bytes: plan.bytes,
            rebuild_milliseconds: plan.rebuild_milliseconds,
            bytes_before: plan.bytes_before,
        })
    }

    /// Does what the plan said.
    pub async fn run_cleanup(&self, plan_id: String) -> Result<GcRun, Failure> {
        self.measured(self.execute(plan_id)).await
    }

    async fn execute(&self, plan_id: String) -> Result<GcRun, Failure> {
        let request = agent::ExecuteRequest { plan_id };
        let mut events = self
            .cache_calls()
            .await?
            .execute(request)
            .await?
            .into_inner();
        while let Some(event) = events.next().await {
            if let Some(agent::execute_response::Event::Finished(finished)) = event?.event {
                return Ok(run(finished));
            }
        }
        Err(Failure::unavailable(
            "The engine ended before the clean-up did.",
        ))
    }

    /// Runs of the past, newest first.
    pub async fn gc_runs(&self) -> Result<Vec<GcRun>, Failure> {
        let request = agent::ListRunsRequest { limit: 50 };
        let runs = self
            .cache_calls()
            .await?
            .list_runs(request)
            .await?
            .into_inner()
            .runs;
        Ok(self.with_freed(runs.into_iter().map(run).collect()))
    }

    /// The policies in force.
    pub async fn gc_policies(&self) -> Result<Vec<Policy>, Failure> {
        let request = agent::GetPoliciesRequest {};
        let policies = self
            .cache_calls()
            .await?
            .get_policies(request)
            .await?
            .into_inner()
            .policies;
        Ok(policies
            .into_iter()
            .map(|policy| Policy {
                all: policy.all,
                filters: policy.filters,
                keep_duration_seconds: policy.keep_duration_seconds,
                reserved_space: policy.reserved_space,
                max_used_space: policy.max_used_space,
                min_free_space: policy.min_free_space,
            })
            .collect())
    }

    /// Others in their place, now and after the machine's next start; none: the defaults. Names of the settings that
    /// wait for that start.
    pub async fn save_gc_policies(&self, policies: Vec<Policy>) -> Result<Vec<String>, Failure> {
        let request = agent::SetPoliciesRequest {
            policies: policies.iter().cloned().map(policy_wire).collect(),
        };
        // The engine refuses what can't be; only what it took is kept.
        self.cache_calls().await?.set_policies(request).await?;
        self.keep_policies(&policies).await
    }

    /// All cache mounts.
    pub async fn cache_mounts(&self) -> Result<Vec<CacheMount>, Failure> {
        let request = agent::ListMountsRequest {};
        let mounts = self
            .cache_calls()
            .await?
            .list_mounts(request)
            .await?
            .into_inner()
            .mounts;
        Ok(mounts
            .into_iter()
            .map(|mount| CacheMount {
                record_id: mount.record_id,
                mount_id: mount.mount_id,
                sharing: mount.sharing,
                bytes: mount.bytes,
                created: mount.created.map(millis),
                last_used: mount.last_used.map(millis),
                last_build_ref: mount.last_build_ref,
                in_use: mount.in_use,
            })
            .collect())
    }

    /// One directory of a mount.
    pub async fn browse_mount(
        &self,
        record_id: String,
        path: String,
    ) -> Result<Vec<FileEntry>, Failure> {
        let request = agent::BrowseMountRequest { record_id, path };
        let entries = self
            .cache_calls()
            .await?
            .browse_mount(request)
            .await?
            .into_inner()
            .entries;
        Ok(entries
            .into_iter()
            .map(|entry| FileEntry {
                name: entry.name,
                kind: entry.kind,
                bytes: entry.bytes,
                modified: entry.modified.map(millis),
                link_target: entry.link_target,
            })
            .collect())
    }

    /// Writes a mount's files to a tar on this computer; its size.
    pub async fn export_mount(&self, record_id: String, path: String) -> Result<i64, Failure> {
        let chunks = self.engine().await?.cache().export_mount(record_id).await?;
        files::write(&path, chunks).await
    }

    /// Puts a tar's files (plain, gzip or zstd) in the place of a mount's.
    pub async fn import_mount(&self, record_id: String, path: String) -> Result<(), Failure> {
        let mount = agent::import_mount_start::Mount::RecordId(record_id);
        let archive = files::read(&path).await?;
        let calls = self.engine().await?.cache();
        calls.import_mount(mount, false, archive).await?;
        Ok(())
    }

    /// Removes a mount's files; the bytes that it freed.
    pub async fn clear_mount(&self, record_id: String) -> Result<i64, Failure> {
        let request = agent::ClearMountRequest { record_id };
        Ok(self
            .cache_calls()
            .await?
            .clear_mount(request)
            .await?
            .into_inner()
            .freed_bytes)
    }
}
