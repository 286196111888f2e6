//! What crosses to the window. The window's half is `ui/src/host/types/`; a test compares both.
//!
//! Times are milliseconds since 1970, sizes are bytes.

use serde::{Deserialize, Serialize};

/// Declares a view model: public, serialised in camel case.
macro_rules! view {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $(pub $field: $kind,)* }

        impl $name {
            /// Names of the fields as they are sent, for the comparison with the window's half.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($field),)*];
        }
    };
}

view!(/// A socket on the host.
    Socket { name: String, path: String, hint: String, });
view!(/// Bytes of the data disk.
    DiskUse { total: i64, used: i64, reclaimable: i64, host_allocated: i64, });
view!(/// How the machine is.
MachineStatus {
    state: String, reason: String, driver: String, accelerator: String, accelerator_reason: String, since: Option<i64>,
    cpus: u32, memory_bytes: i64, disk: Option<DiskUse>, sockets: Vec<Socket>, running_builds: u32, connections: u32,
    version: String, engine_version: String, notices: Vec<String>, boot_milliseconds: i64, pid: i32, idle_stop_in_seconds: i64,
});
view!(/// What the machine uses right now.
    MachineUse { busy_cpus: f64, cpus: u32, memory_used: i64, memory_total: i64, disk: Option<DiskUse>, });
view!(/// A port of the host that builds may reach.
    Allow { name: String, port: u32, });
view!(/// Settings of the machine.
MachineSettings {
    driver: String, cpus: u32, memory_bytes: i64, disk_bytes: i64, idle_stop_seconds: i64, accelerator: String, proxy_http: String,
    proxy_https: String, no_proxy: String, ca_files: Vec<String>, allow: Vec<Allow>, buildkitd_toml: String, host_cpus: u32,
    host_memory_bytes: i64, host_disk_bytes: i64, default_cpus: u32, default_memory_bytes: i64, default_disk_bytes: i64, disk_length: i64,
});
view!(/// A build in a list.
BuildSummary {
    r#ref: String, name: String, project: String, status: String, created: i64, completed: Option<i64>, dockerfile: String,
    context: String, target: String, platforms: Vec<String>, tags: Vec<String>, outputs: Vec<String>, total_steps: i32,
    cached_steps: i32, completed_steps: i32, warnings: i32, pinned: bool, error: String, imported: bool, client: String,
});
view!(/// What changed in the list of builds.
    BuildsChange { reset: bool, changed: Vec<BuildSummary>, removed: Vec<String>, });
view!(/// A name with its value.
    NameValue { name: String, value: String, });
view!(/// A Dockerfile.
    SourceFile { filename: String, text: String, });
view!(/// Why a build failed.
    BuildFailure { message: String, step: String, vertex: String, exit_code: Option<u32>, lines: Vec<(i32, i32)>, source: Option<SourceFile>, });
view!(/// Something that a build depends on.
    Material { uri: String, digest: String, });
view!(/// An attestation of a result.
    ResultAttestation { r#type: String, digest: String, bytes: i64, });
view!(/// The size of the same image from the build before.
    PreviousSize { r#ref: String, bytes: i64, });
view!(/// A result of a build.
BuildResult {
    platform: String, digest: String, media_type: String, bytes: Option<i64>, previous: Option<PreviousSize>,
    attestations: Vec<ResultAttestation>,
});
view!(/// All that is known of a build but its progress.
BuildDetail {
    summary: BuildSummary, args: Vec<NameValue>, labels: Vec<NameValue>, contexts: Vec<NameValue>, secrets: Vec<String>,
    ssh: Vec<String>, options: Vec<NameValue>, materials: Vec<Material>, results: Vec<BuildResult>, response: Vec<NameValue>,
    source: Option<SourceFile>, failure: Option<BuildFailure>,
});
view!(/// A step.
    Vertex { digest: String, inputs: Vec<String>, name: String, started: Option<f64>, completed: Option<f64>, cached: bool, error: String, });
view!(/// Progress inside of a step.
    Progress { vertex: String, id: String, current: i64, total: i64, started: Option<f64>, completed: Option<f64>, });
view!(/// Output of a step.
    LogChunk { vertex: String, stream: i64, text: String, time: f64, });
view!(/// A finding of the checks.
    Warning { vertex: String, level: i64, short: String, detail: Vec<String>, url: String, lines: Vec<(i32, i32)>, source: Option<SourceFile>, });
view!(/// A piece of a build's progress.
    BuildUpdate { vertices: Vec<Vertex>, progress: Vec<Progress>, logs: Vec<LogChunk>, warnings: Vec<Warning>, end: bool, });
view!(/// One difference that made a step run.
    Difference { kind: String, name: String, before: String, after: String, });
view!(/// Why a step ran.
    Explanation { vertex: String, cause: String, summary: String, differences: Vec<Difference>, });
view!(/// Where a secret comes from.
    SecretSource { id: String, source: String, value: String, });
view!(/// A build to start.
BuildRequest {
    context: String, dockerfile: String, target: String, args: Vec<NameValue>, labels: Vec<NameValue>, contexts: Vec<NameValue>,
    secrets: Vec<SecretSource>, ssh: Vec<String>, platforms: Vec<String>, tags: Vec<String>, no_cache: bool, pull: bool, output: String, destination: String,
    cache_from: Vec<String>, cache_to: Vec<String>,
});
view!(/// What a build of the past began with: what a start needs and nobody knows any more, and what won’t be as it was.
    Rebuild { request: BuildRequest, missing: Vec<String>, different: Vec<String>, });
view!(/// A build that is kept for the tray.
    QuickBuild { name: String, request: BuildRequest, });
view!(/// A stage of a Dockerfile.
    Stage { name: String, base: String, line: u32, uses: Vec<String>, });
view!(/// An argument of a Dockerfile.
    DockerfileArg { name: String, value: String, line: u32, });
view!(/// What a Dockerfile uses.
DockerfileInfo {
    path: String, source: String, stages: Vec<Stage>, args: Vec<DockerfileArg>, secrets: Vec<String>, ssh: Vec<String>, error: String,
});
view!(/// A stage that can be built, as the engine's frontend names it.
    Target { name: String, default: bool, description: String, base: String, platform: String, line: u32, });
view!(/// An argument that the target takes, with the value that it has now.
    OutlineArg { name: String, value: String, description: String, line: u32, });
view!(/// A secret or an ssh agent that the target mounts.
    Need { name: String, required: bool, line: u32, });
view!(/// A check that a Dockerfile breaks.
    Finding { rule: String, title: String, detail: String, url: String, lines: Vec<(i32, i32)>, });
view!(/// What the engine's frontend says of a Dockerfile.
DockerfileAnswers {
    source: String, targets: Vec<Target>, args: Vec<OutlineArg>, secrets: Vec<Need>, ssh: Vec<Need>, findings: Vec<Finding>,
    error: String, error_lines: Vec<(i32, i32)>,
});
view!(/// A folder that is watched: what is going on there.
    WatchState { phase: String, reference: String, builds: u32, changed: Vec<String>, error: String, });
view!(/// A folder that can be built.
    FolderInfo { path: String, name: String, dockerfiles: Vec<DockerfileInfo>, ignore_file: String, });
view!(/// An image.
Image {
    digest: String, id: String, names: Vec<String>, platforms: Vec<String>, created: Option<i64>, bytes: i64, shared_bytes: i64,
    build_ref: String,
});
view!(/// A layer with the command that made it.
    ImageLayer { digest: String, media_type: String, bytes: i64, command: String, });
view!(/// An entry of an image's history.
    ImageHistory { command: String, created: Option<i64>, bytes: i64, empty: bool, });
view!(/// An attestation of an image.
    ImageAttestation { r#type: String, digest: String, platform: String, });
view!(/// A build that an image was a source of.
    ImageUse { build_ref: String, created: Option<i64>, });
view!(/// An image with the same first layers as another.
    RelatedImage { digest: String, names: Vec<String>, layers: u32, shared_layers: u32, });
view!(/// An image in full.
ImageDetail {
    image: Image, layers: Vec<ImageLayer>, history: Vec<ImageHistory>, attestations: Vec<ImageAttestation>, config: String,
    used_by: Vec<ImageUse>, used_by_total: u32, related: Vec<RelatedImage>,
});
view!(/// A blob under way.
    TransferBlob { digest: String, status: String, current: i64, total: i64, description: String, });
view!(/// A pull or push: under way, or at its end with a digest or an error.
    Transfer { blobs: Vec<TransferBlob>, finished: String, error: String, hint: String, });
view!(/// A record of the cache.
CacheRecord {
    id: String, description: String, r#type: String, project: String, bytes: i64, created: Option<i64>, last_used: Option<i64>,
    usage_count: i64, in_use: bool, shared: bool, mutable: bool, pinned: bool, parents: Vec<String>, build: String, step: String,
    rebuild_milliseconds: i64,
});
view!(/// A policy of garbage collection.
    Policy { all: bool, filters: Vec<String>, keep_duration_seconds: i64, reserved_space: i64, max_used_space: i64, min_free_space: i64, });
view!(/// A record that a plan would remove.
PlannedRemoval {
    id: String, description: String, bytes: i64, rebuild_milliseconds: i64, reason: String, record_type: String, last_used: Option<i64>,
});
view!(/// What would go.
    Plan { id: String, removals: Vec<PlannedRemoval>, bytes: i64, rebuild_milliseconds: i64, bytes_before: i64, });
view!(/// A run of garbage collection.
GcRun {
    id: String, trigger: String, started: i64, finished: Option<i64>, records: u32, bytes: i64, host_bytes: Option<i64>,
});
view!(/// A cache mount.
CacheMount {
    record_id: String, mount_id: String, sharing: String, bytes: i64, created: Option<i64>, last_used: Option<i64>,
    last_build_ref: String, in_use: bool,
});
view!(/// A file of a cache mount.
    FileEntry { name: String, kind: String, bytes: i64, modified: Option<i64>, link_target: String, });
view!(/// A builder.
    Builder { name: String, kind: String, address: String, current: bool, ca_file: String, cert_file: String, key_file: String, server_name: String, });
view!(/// Where a builder is, and the files of TLS to it.
    BuilderAddress { name: String, address: String, ca_file: String, cert_file: String, key_file: String, server_name: String, });
view!(/// One layer of a test.
    TestStep { title: String, ok: bool, detail: String, milliseconds: i64, });
view!(/// A registry that there is a login for, or that the machine is told of.
    Registry { host: String, login: String, mirrors: Vec<String>, http: bool, insecure: bool, ca_files: Vec<String>, configured: bool, });
view!(/// How long records of builds are kept; 0 is the engine's own measure.
    Retention { max_age_days: u32, max_entries: u32, max_bytes: i64, });
view!(/// Whether docker buildx knows Kiln.
    ToolState { installed: bool, elsewhere: bool, current: bool, address: String, });
view!(/// What the desktop's dialog is asked for: a `folder`, a `file` that is there, or where to `save` one.
    Pick { what: String, title: String, path: String, kinds: Vec<String>, });
view!(/// A part of a support bundle.
    BundlePart { path: String, what: String, text: String, });
view!(/// A check of the doctor.
    Check { id: String, title: String, outcome: String, detail: String, fix: String, });

/// A moment of the wire: there are two generated types of it.
pub(crate) trait Moment {
    /// Seconds since 1970, and nanoseconds since that second.
    fn parts(self) -> (i64, i32);
}

impl Moment for prost_types::Timestamp {
    fn parts(self) -> (i64, i32) {
        (self.seconds, self.nanos)
    }
}

impl Moment for kiln_proto::google::protobuf::Timestamp {
    fn parts(self) -> (i64, i32) {
        (self.seconds, self.nanos)
    }
}

/// A moment in milliseconds.
pub(crate) fn millis(at: impl Moment) -> i64 {
    let (seconds, nanos) = at.parts();
    seconds * 1000 + i64::from(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The window's half.
    const THEIRS: &str = concat!(
        include_str!("../../../ui/src/host/types/machine.ts"),
        include_str!("../../../ui/src/host/types/builds.ts"),
        include_str!("../../../ui/src/host/types/steps.ts"),
        include_str!("../../../ui/src/host/types/new.ts"),
        include_str!("../../../ui/src/host/types/images.ts"),
        include_str!("../../../ui/src/host/types/cache.ts"),
        include_str!("../../../ui/src/host/types/remotes.ts"),
        include_str!("../../../ui/src/host/types/settings.ts"),
        include_str!("../../../ui/src/host/types/calls.ts"),
    );

    fn camel(name: &str) -> String {
        let mut out = String::new();
        let mut upper = false;
        for c in name.trim_start_matches("r#").chars() {
            if c == '_' {
                upper = true;
            } else if upper {
                out.extend(c.to_uppercase());
                upper = false;
            } else {
                out.push(c);
            }
        }
        out
    }

    /// Fields of each interface of the window's half that has one a line.
    fn interfaces(text: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut all = BTreeMap::new();
        let mut current: Option<(String, BTreeSet<String>)> = None;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("export interface ") {
                let name = rest.split_whitespace().next().unwrap_or_default();
                current = Some((name.to_owned(), BTreeSet::new()));
            } else if line == "}" {
                all.extend(current.take());
            } else if let (Some((_, fields)), Some((field, _))) =
                (&mut current, line.split_once(": "))
                && line.starts_with("  ")
                && !line.trim_start().starts_with(['/', '*', '|'])
            {
                fields.insert(field.trim().to_owned());
            }
        }
        all
    }

    #[test]
    fn the_window_expects_what_is_sent() {
        let theirs = interfaces(THEIRS);
        let ours: &[(&str, &[&str])] = &[
            ("DiskUse", DiskUse::FIELDS),
            ("MachineStatus", MachineStatus::FIELDS),
            ("MachineUse", MachineUse::FIELDS),
            ("MachineSettings", MachineSettings::FIELDS),
            ("BuildSummary", BuildSummary::FIELDS),
            ("BuildsChange", BuildsChange::FIELDS),
            ("NameValue", NameValue::FIELDS),
            ("SourceFile", SourceFile::FIELDS),
            ("Failure", BuildFailure::FIELDS),
            ("BuildDetail", BuildDetail::FIELDS),
            ("BuildResult", BuildResult::FIELDS),
            ("PreviousSize", PreviousSize::FIELDS),
            ("Vertex", Vertex::FIELDS),
            ("Progress", Progress::FIELDS),
            ("LogChunk", LogChunk::FIELDS),
            ("Warning", Warning::FIELDS),
            ("BuildUpdate", BuildUpdate::FIELDS),
            ("Explanation", Explanation::FIELDS),
            ("BuildRequest", BuildRequest::FIELDS),
            ("QuickBuild", QuickBuild::FIELDS),
            ("FolderInfo", FolderInfo::FIELDS),
            ("DockerfileInfo", DockerfileInfo::FIELDS),
            ("Image", Image::FIELDS),
            ("ImageDetail", ImageDetail::FIELDS),
            ("RelatedImage", RelatedImage::FIELDS),
            ("Transfer", Transfer::FIELDS),
            ("TransferBlob", TransferBlob::FIELDS),
            ("CacheRecord", CacheRecord::FIELDS),
            ("Policy", Policy::FIELDS),
            ("PlannedRemoval", PlannedRemoval::FIELDS),
            ("Plan", Plan::FIELDS),
            ("GcRun", GcRun::FIELDS),
            ("CacheMount", CacheMount::FIELDS),
            ("FileEntry", FileEntry::FIELDS),
            ("Target", Target::FIELDS),
            ("OutlineArg", OutlineArg::FIELDS),
            ("Need", Need::FIELDS),
            ("Finding", Finding::FIELDS),
            ("DockerfileAnswers", DockerfileAnswers::FIELDS),
            ("WatchState", WatchState::FIELDS),
            ("Builder", Builder::FIELDS),
            ("BuilderAddress", BuilderAddress::FIELDS),
            ("TestStep", TestStep::FIELDS),
            ("Registry", Registry::FIELDS),
            ("Retention", Retention::FIELDS),
            ("Check", Check::FIELDS),
            ("BundlePart", BundlePart::FIELDS),
            ("ToolState", ToolState::FIELDS),
            ("Pick", Pick::FIELDS),
            ("Rebuild", Rebuild::FIELDS),
        ];
        for (name, fields) in ours {
            let fields: BTreeSet<String> = fields.iter().map(|field| camel(field)).collect();
            assert_eq!(theirs.get(*name), Some(&fields), "interface {name}");
        }
    }
}
