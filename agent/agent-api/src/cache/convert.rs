//! Records, plans, runs and policies between the wire and the crates that have them.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_cache::UsageRecord;
use kiln_errdefs::{Kind, WithDetail};
use kiln_gc::{Filters, Order, PlannedRemoval, Policy, Removal, Run};
use kiln_proto::agent as api;
use prost_types::Timestamp;
use tonic::Status;

use crate::status;

/// Bytes as the wire has them.
pub(super) fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn order(by_cost: bool) -> Order {
    if by_cost { Order::Cost } else { Order::Use }
}

/// A list of policies. Sizes and times that are negative are nobody's intention.
pub(super) fn policies(policies: &[api::Policy]) -> Result<Vec<Policy>, Status> {
    policies.iter().map(policy).collect()
}

fn policy(policy: &api::Policy) -> Result<Policy, Status> {
    let natural = |number: i64, what: &str| {
        u64::try_from(number).map_err(|_| {
            status(WithDetail::message(
                Kind::User,
                format!("{what} of a policy can't be {number}"),
            ))
        })
    };
    Ok(Policy {
        all: policy.all,
        filters: Filters::parse(&policy.filters)
            .map_err(|error| status(WithDetail::kind(std::sync::Arc::new(error), Kind::User)))?,
        keep_duration: Duration::from_secs(natural(
            policy.keep_duration_seconds,
            "keep_duration_seconds",
        )?),
        reserved_space: natural(policy.reserved_space, "reserved_space")?,
        max_used_space: natural(policy.max_used_space, "max_used_space")?,
        min_free_space: natural(policy.min_free_space, "min_free_space")?,
    })
}

pub(super) fn to_wire(policy: &Policy) -> api::Policy {
    api::Policy {
        all: policy.all,
        filters: policy.filters.texts().to_vec(),
        keep_duration_seconds: number(policy.keep_duration.as_secs()),
        reserved_space: number(policy.reserved_space),
        max_used_space: number(policy.max_used_space),
        min_free_space: number(policy.min_free_space),
    }
}

pub(super) fn plan(id: String, plan: &kiln_gc::Plan) -> api::PlanResponse {
    let rebuild = plan
        .removals
        .iter()
        .filter_map(|planned| planned.record.build_time)
        .sum();
    api::PlanResponse {
        id,
        removals: plan.removals.iter().map(planned).collect(),
        bytes: number(plan.freed),
        rebuild_milliseconds: milliseconds(rebuild),
        bytes_before: number(plan.before),
    }
}

pub(super) fn planned(planned: &PlannedRemoval) -> api::PlannedRemoval {
    removal(Removal::from(planned))
}

fn removal(removal: Removal) -> api::PlannedRemoval {
    api::PlannedRemoval {
        last_used: removal.last_used().map(Timestamp::from),
        id: removal.id.to_string(),
        description: removal.description,
        bytes: number(removal.bytes),
        rebuild_milliseconds: number(removal.rebuild_millis),
        policy: u32::try_from(removal.policy).unwrap_or(u32::MAX),
        reason: removal.reason,
        record_type: removal.kind,
    }
}

pub(super) fn run(run: Run) -> api::Run {
    api::Run {
        id: run.id.to_string(),
        trigger: run.trigger,
        started: Some(Timestamp::from(run.started)),
        finished: Some(Timestamp::from(run.finished)),
        records: u32::try_from(run.records).unwrap_or(u32::MAX),
        bytes: number(run.bytes),
        removals: run.removals.into_iter().map(removal).collect(),
    }
}

/// A record; of a cache mount with the build that had it last.
pub(super) fn record(record: UsageRecord, mounted: Option<String>) -> api::CacheRecord {
    let origin = record.origin.as_deref();
    let (project, step) = origin.map_or_else(Default::default, |origin| {
        (origin.project.clone(), origin.step.clone())
    });
    let made = origin.map(|origin| origin.build.to_string());
    api::CacheRecord {
        project,
        step,
        build_ref: mounted.or(made).unwrap_or_default(),
        id: record.id.to_string(),
        description: record.description,
        record_type: record.kind.to_string(),
        bytes: number(record.size),
        created: Some(Timestamp::from(record.created)),
        last_used: record.last_used.map(Timestamp::from),
        usage_count: number(record.usage_count),
        in_use: record.in_use,
        shared: record.shared,
        mutable: record.mutable,
        pinned: record.pinned,
        parents: record.parents.iter().map(ToString::to_string).collect(),
        rebuild_milliseconds: record.build_time.map_or(0, milliseconds),
    }
}

/// Bytes by project and kind.
pub(super) fn usage(records: &[UsageRecord]) -> api::UsageResponse {
    let mut groups = BTreeMap::<_, api::UsageGroup>::new();
    let mut response = api::UsageResponse::default();
    for record in records {
        let project = record
            .origin
            .as_ref()
            .map_or("", |origin| origin.project.as_str());
        let bytes = number(record.size);
        response.total += bytes;
        if record.in_use {
            response.in_use += bytes;
        } else if !record.pinned {
            response.reclaimable += bytes;
        }
        let group = groups
            .entry((project, record.kind))
            .or_insert_with(|| api::UsageGroup {
                project: project.to_owned(),
                record_type: record.kind.to_string(),
                ..api::UsageGroup::default()
            });
        group.records += 1;
        group.bytes += bytes;
        group.rebuild_milliseconds += record.build_time.map_or(0, milliseconds);
    }
    response.groups = groups.into_values().collect();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_come_back_as_they_were_sent_and_nonsense_is_refused() {
        let sent = api::Policy {
            all: true,
            filters: vec!["type==regular".into()],
            keep_duration_seconds: 60,
            reserved_space: 1,
            max_used_space: 2,
            min_free_space: 3,
        };
        let read = policies(std::slice::from_ref(&sent)).expect("policies");
        assert_eq!(to_wire(&read[0]), sent);
        for (bad, words) in [
            (
                api::Policy {
                    reserved_space: -1,
                    ..api::Policy::default()
                },
                "reserved_space",
            ),
            (
                api::Policy {
                    filters: vec!["type=".into()],
                    ..api::Policy::default()
                },
                "type=",
            ),
        ] {
            let status = policies(&[bad]).expect_err(words);
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(words), "{status}");
        }
    }
}
