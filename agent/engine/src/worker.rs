//! What clients are told of the one worker.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_oci::Platform;
use kiln_proto::moby::buildkit::v1::types::{
    BuildkitVersion, GcPolicy as WireGcPolicy, WorkerRecord,
};
use kiln_proto::pb;

/// The worker as clients see it.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// Stays the same for a state root.
    pub id: String,
    /// `org.mobyproject.buildkit.worker.…` and the daemon's own.
    pub labels: BTreeMap<String, String>,
    /// What it runs, the native one first.
    pub platforms: Vec<Platform>,
    /// What garbage collection keeps, rule by rule.
    pub gc: Vec<GcPolicy>,
    /// The daemon's version.
    pub version: String,
    /// The commit it was made from.
    pub revision: String,
}

/// One rule of garbage collection, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Also internal and frontend records, and those that are shared.
    pub all: bool,
    /// Only records that pass.
    pub filters: Vec<String>,
    /// Used within this time: stays.
    pub keep_duration: Duration,
    /// This much always stays.
    pub reserved_space: u64,
    /// More than this never stays.
    pub max_used_space: u64,
    /// Free space of the disk that is aimed at.
    pub min_free_space: u64,
}

impl Worker {
    /// As the API has it.
    pub fn record(&self) -> WorkerRecord {
        WorkerRecord {
            id: self.id.clone(),
            labels: self.labels.clone().into_iter().collect(),
            platforms: self.wire_platforms(),
            gc_policy: self.gc.iter().map(GcPolicy::to_wire).collect(),
            buildkit_version: Some(self.version()),
            cdi_devices: Vec::new(),
        }
    }

    /// The version as the API has it. Clients compare it with BuildKit's versions to know what they
    /// may ask for, so it leads with the BuildKit version whose API is served.
    pub fn version(&self) -> BuildkitVersion {
        BuildkitVersion {
            package: "github.com/moby/buildkit".into(),
            version: self.version.clone(),
            revision: self.revision.clone(),
        }
    }

    pub(crate) fn wire_platforms(&self) -> Vec<pb::Platform> {
        self.platforms
            .iter()
            .map(|platform| pb::Platform {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
                variant: platform.variant.clone(),
                os_version: platform.os_version.clone(),
                os_features: platform.os_features.clone(),
            })
            .collect()
    }
}

impl GcPolicy {
    fn to_wire(&self) -> WireGcPolicy {
        WireGcPolicy {
            all: self.all,
            keep_duration: self.keep_duration.as_nanos() as i64,
            filters: self.filters.clone(),
            reserved_space: self.reserved_space as i64,
            max_used_space: self.max_used_space as i64,
            min_free_space: self.min_free_space as i64,
        }
    }
}
