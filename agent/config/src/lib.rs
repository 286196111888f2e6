//! `buildkitd.toml` and Kiln's own settings: types and parsing.
//!
//! Invariants: parsing is pure (no I/O but [`load_file`], [`HostSettings::load`] and what lists a
//! [`TlsDirectory`]); an unknown key is an error that names the key,
//! the file and the line; a key that is known but not served says so where it is used, never silently.

mod buildkitd;
mod certs;
mod edit;
mod host;
mod load;
pub mod paths;
mod units;

pub use buildkitd::{
    BuildkitdConfig, CdiConfig, DnsConfig, DockerfileFrontendConfig, FrontendConfig,
    GatewayFrontendConfig, GcPolicyConfig, GrpcConfig, HistoryConfig, LogConfig, OtelConfig,
    RegistryConfig, SystemConfig, TlsConfig, TlsKeyPair, WorkerConfig, WorkersConfig,
};
pub use certs::TlsDirectory;
pub use edit::ConfigText;
pub use host::{
    AcceleratorChoice, AllowRule, DriverChoice, HostSettings, IdleStop, ProxySettings,
    SettingsError, Size,
};
pub use load::{ConfigError, load_file, parse};
pub use paths::{HostPaths, PathsError};
pub use units::{DiskSpace, Seconds, UnitError};
