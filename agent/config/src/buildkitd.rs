//! The keys of `buildkitd.toml`, as BuildKit documents them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::{DiskSpace, Seconds};

/// The whole file. Flags of `kilnd` override it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildkitdConfig {
    /// Old form of `log.level = "debug"`.
    pub debug: bool,
    /// Old form of `log.level = "trace"`.
    pub trace: bool,
    /// Where all state is kept.
    pub root: Option<PathBuf>,
    /// What builds may be granted: `network.host`, `security.insecure`, `device`.
    #[serde(rename = "insecure-entitlements")]
    pub insecure_entitlements: Vec<String>,
    /// Route the traffic of all builds through an enforcing proxy.
    #[serde(rename = "proxyNetwork")]
    pub proxy_network: bool,
    /// The daemon's own log.
    pub log: LogConfig,
    /// Where the daemon listens.
    pub grpc: GrpcConfig,
    /// Where traces go.
    pub otel: OtelConfig,
    /// Devices.
    pub cdi: CdiConfig,
    /// What runs the steps.
    pub worker: WorkersConfig,
    /// Settings by registry host; the key `docker.io` also names its mirrors.
    #[serde(rename = "registry")]
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Name resolution of steps.
    pub dns: Option<DnsConfig>,
    /// How long finished builds are remembered.
    pub history: HistoryConfig,
    /// Which frontends may run.
    pub frontend: FrontendConfig,
    /// Limits of the process as a whole.
    pub system: SystemConfig,
    /// Files that are merged into the provenance of builds.
    #[serde(rename = "provenanceEnvDir")]
    pub provenance_env_dir: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: Option<String>,
}

/// `[grpc]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// `unix://`, `tcp://` or `fd://` addresses.
    pub address: Vec<String>,
    /// Accepted and unused: there is no Go profiler here.
    #[serde(rename = "debugAddress")]
    pub debug_address: Option<String>,
    /// Owner of the unix socket.
    pub uid: Option<u32>,
    /// Group of the unix socket.
    pub gid: Option<u32>,
    /// Windows only.
    #[serde(rename = "SecurityDescriptor")]
    pub security_descriptor: Option<String>,
    /// Certificates for `tcp://`.
    pub tls: TlsConfig,
}

/// `[grpc.tls]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file of the server's certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// PEM file of the CA that clients' certificates must come from.
    pub ca: Option<PathBuf>,
}

/// `[otel]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OtelConfig {
    /// A socket that offers steps an OTLP collector.
    #[serde(rename = "socketPath")]
    pub socket_path: Option<PathBuf>,
}

/// `[cdi]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CdiConfig {
    /// No devices at all.
    pub disabled: Option<bool>,
    /// Where device descriptions are read from.
    #[serde(rename = "specDirs")]
    pub spec_dirs: Vec<PathBuf>,
    /// Kinds that need no entitlement.
    #[serde(rename = "autoAllowed")]
    pub auto_allowed: Vec<String>,
}

/// `[worker]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// Kiln's worker.
    pub oci: WorkerConfig,
    /// Read, so that a shared file is accepted; Kiln has no containerd worker.
    pub containerd: WorkerConfig,
}

/// `[worker.oci]` and `[worker.containerd]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Run this worker.
    pub enabled: Option<bool>,
    /// Shown by `ListWorkers`.
    pub labels: BTreeMap<String, String>,
    /// What it builds for; detected where empty.
    pub platforms: Vec<String>,
    /// `auto`, `overlayfs` or `native`.
    pub snapshotter: Option<String>,
    /// Run without root.
    pub rootless: bool,
    /// Run steps in the daemon's own process namespace.
    #[serde(rename = "noProcessSandbox")]
    pub no_process_sandbox: bool,
    /// Collect garbage by itself.
    pub gc: Option<bool>,
    /// Old name of `reservedSpace`.
    #[serde(rename = "gckeepstorage")]
    pub gc_keep_storage: Option<DiskSpace>,
    /// What garbage collection leaves at least.
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<DiskSpace>,
    /// What the cache may use at most.
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<DiskSpace>,
    /// What should stay free on the disk.
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<DiskSpace>,
    /// Rules of garbage collection, in order; BuildKit's defaults where empty.
    #[serde(rename = "gcpolicy")]
    pub gc_policy: Vec<GcPolicyConfig>,
    /// `auto`, `bridge`, `host`, `cni` or `none`.
    #[serde(rename = "networkMode")]
    pub network_mode: Option<String>,
    /// A CNI configuration; `auto` without the file means the host's network.
    #[serde(rename = "cniConfigPath")]
    pub cni_config_path: Option<PathBuf>,
    /// Where CNI plugins are.
    #[serde(rename = "cniBinaryPath")]
    pub cni_binary_path: Option<PathBuf>,
    /// How many network namespaces are kept ready.
    #[serde(rename = "cniPoolSize")]
    pub cni_pool_size: usize,
    /// The bridge of `networkMode = "bridge"`.
    #[serde(rename = "bridgeName")]
    pub bridge_name: Option<String>,
    /// Its addresses.
    #[serde(rename = "bridgeSubnet")]
    pub bridge_subnet: Option<String>,
    /// For BuildKit's own tests.
    #[serde(rename = "userRemapUnsupported")]
    pub user_remap_unsupported: Option<String>,
    /// An external runtime (`runc`) in place of Kiln's own.
    pub binary: Option<String>,
    /// A snapshotter in another process; refused.
    #[serde(rename = "proxySnapshotterPath")]
    pub proxy_snapshotter_path: Option<PathBuf>,
    /// The cgroup below which steps run.
    #[serde(rename = "defaultCgroupParent")]
    pub default_cgroup_parent: Option<String>,
    /// Settings of the stargz snapshotter; refused where it is asked for.
    #[serde(rename = "stargzSnapshotter")]
    pub stargz_snapshotter: Option<toml::Table>,
    /// An AppArmor profile that is already loaded.
    #[serde(rename = "apparmor-profile")]
    pub apparmor_profile: Option<String>,
    /// Label processes for SELinux.
    pub selinux: bool,
    /// How many steps run at once; no limit where 0.
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: usize,
    /// containerd's socket.
    pub address: Option<PathBuf>,
    /// containerd's namespace.
    pub namespace: Option<String>,
    /// containerd's runtime.
    pub runtime: Option<toml::Table>,
}

/// `[[worker.oci.gcpolicy]]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcPolicyConfig {
    /// Also internal records, and those that others share.
    pub all: bool,
    /// Which records, `type==source.local` and the like; any of them.
    pub filters: Vec<String>,
    /// Spare what was used more recently than this.
    #[serde(rename = "keepDuration")]
    pub keep_duration: Option<Seconds>,
    /// Old name of `reservedSpace`.
    #[serde(rename = "keepBytes")]
    pub keep_bytes: Option<DiskSpace>,
    /// Leave at least this much.
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<DiskSpace>,
    /// Leave at most this much.
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<DiskSpace>,
    /// Try to have this much of the disk free.
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<DiskSpace>,
}

impl GcPolicyConfig {
    /// What the rule leaves at least, by its new name or its old one.
    pub fn reserved_space(&self) -> Option<DiskSpace> {
        self.reserved_space.or(self.keep_bytes)
    }
}

/// `[registry."HOST"]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Hosts (with a path, if they need one) that are asked first, in order.
    pub mirrors: Vec<String>,
    /// Speak plain HTTP.
    pub http: Option<bool>,
    /// Don't check certificates; fall back to plain HTTP.
    pub insecure: Option<bool>,
    /// PEM files of further CAs.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypair: Vec<TlsKeyPair>,
    /// Directories of `*.crt`, `*.cert` and `*.key`, as Docker's `certs.d` has them.
    pub tlsconfigdir: Vec<PathBuf>,
}

/// `[[registry."HOST".keypair]]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsKeyPair {
    /// PEM file of the key.
    pub key: PathBuf,
    /// PEM file of the certificate.
    pub cert: PathBuf,
}

/// `[dns]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// `nameserver` lines of a step's `/etc/resolv.conf`.
    pub nameservers: Vec<String>,
    /// Its `options` line.
    pub options: Vec<String>,
    /// Its `search` line.
    #[serde(rename = "searchDomains")]
    pub search_domains: Vec<String>,
}

/// `[history]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// A record goes once it is older than this and beyond `maxEntries`; 48 hours where absent.
    #[serde(rename = "maxAge")]
    pub max_age: Option<Seconds>,
    /// 50 where absent.
    #[serde(rename = "maxEntries")]
    pub max_entries: Option<u64>,
    /// Bytes of all records together, beyond which the oldest go; 1 GiB where absent. Kiln's own.
    #[serde(rename = "maxSize")]
    pub max_size: Option<DiskSpace>,
}

/// `[frontend]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontendConfig {
    /// The built-in Dockerfile frontend.
    #[serde(rename = "dockerfile.v0")]
    pub dockerfile: DockerfileFrontendConfig,
    /// Frontends in images.
    #[serde(rename = "gateway.v0")]
    pub gateway: GatewayFrontendConfig,
}

/// `[frontend."dockerfile.v0"]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DockerfileFrontendConfig {
    /// On where absent.
    pub enabled: Option<bool>,
}

/// `[frontend."gateway.v0"]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayFrontendConfig {
    /// On where absent.
    pub enabled: Option<bool>,
    /// Names of repositories, without a tag; all where empty.
    #[serde(rename = "allowedRepositories")]
    pub allowed_repositories: Vec<String>,
}

/// `[system]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SystemConfig {
    /// How often emulated platforms are looked for again.
    #[serde(rename = "platformsCacheMaxAge")]
    pub platforms_cache_max_age: Option<Seconds>,
    /// Connections to one registry at once.
    #[serde(rename = "maxRegistryConcurrency")]
    pub max_registry_concurrency: Option<usize>,
}
