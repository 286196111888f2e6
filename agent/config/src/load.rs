//! Reading a configuration file.

use std::io;
use std::path::{Path, PathBuf};

use crate::{BuildkitdConfig, SettingsError};

/// Why a configuration can't be used. The text shows the line and says what was expected there.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there but can't be read.
    #[error("can't read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file isn't TOML, has a key that doesn't exist, or a value of the wrong kind.
    #[error("{path}: {}", source.to_string().trim_end())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which line, and what is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// The text can't be taken apart for an edit.
    #[error("{path}: {problem}")]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A setting has a value that can't be.
    #[error("{path}: {problem}")]
    Setting {
        /// The file.
        path: PathBuf,
        /// Which setting, and why.
        problem: SettingsError,
    },
}

/// Parses the text of a configuration; `path` is only named in errors.
pub fn parse(text: &str, path: &Path) -> Result<BuildkitdConfig, ConfigError> {
    toml::from_str(text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Reads `path`. A file that doesn't exist is an empty configuration where `required` is false (the
/// default path), as with buildkitd.
pub fn load_file(path: &Path, required: bool) -> Result<BuildkitdConfig, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {
            Ok(BuildkitdConfig::default())
        }
        Err(source) => Err(ConfigError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiskSpace;

    fn check(text: &str) -> Result<BuildkitdConfig, String> {
        parse(text, Path::new("buildkitd.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_keys_that_clients_and_their_tests_write_are_known() {
        let config = check(
            r#"
            root = "/var/lib/buildkit"
            insecure-entitlements = ["network.host", "security.insecure"]
            provenanceEnvDir = "/etc/p"
            [log]
              format = "json"
            [dns]
              nameservers = ["1.1.1.1"]
            [grpc]
              address = ["tcp://127.0.0.1:1234"]
              [grpc.tls]
                cert = "c"
            [otel]
              socketPath = "/run/otel.sock"
            [cdi]
              specDirs = ["/etc/cdi"]
            [history]
              maxAge = 172800
              maxEntries = 50
              maxSize = "1GB"
            [worker.oci]
              gc = true
              max-parallelism = 4
              networkMode = "auto"
              cniConfigPath = "/missing"
              reservedSpace = "30%"
              [worker.oci.labels]
                foo = "bar"
              [[worker.oci.gcpolicy]]
                keepBytes = "512MB"
                keepDuration = "48h"
                filters = ["type==source.local"]
              [[worker.oci.gcpolicy]]
                all = true
                reservedSpace = 1024000000
            [worker.containerd]
              enabled = false
              [worker.containerd.runtime]
                options = { BinaryName = "runc" }
            [registry."docker.io"]
              mirrors = ["127.0.0.1:5000"]
              http = true
              [[registry."docker.io".keypair]]
                key = "k"
                cert = "c"
            [frontend."dockerfile.v0"]
              enabled = true
            [frontend."gateway.v0"]
              allowedRepositories = []
            [system]
              platformsCacheMaxAge = "1h"
            "#,
        )
        .unwrap();
        assert_eq!(config.registries["docker.io"].mirrors, ["127.0.0.1:5000"]);
        assert_eq!(
            config.worker.oci.reserved_space,
            Some(DiskSpace::Percent(30))
        );
        let policies = &config.worker.oci.gc_policy;
        assert_eq!(
            policies[0].reserved_space(),
            Some(DiskSpace::Bytes(512 << 20))
        );
        assert_eq!(
            policies[1].reserved_space(),
            Some(DiskSpace::Bytes(1_024_000_000))
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = check("[worker.oci]\n  gc = true\n  max-paralelism = 3\n").unwrap_err();
        for part in [
            "buildkitd.toml",
            "line 3",
            "max-paralelism",
            "max-parallelism",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn a_bad_unit_is_refused() {
        let error = check("[worker.oci]\nreservedSpace = \"many\"\n").unwrap_err();
        assert!(
            error.contains("many") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_empty_only_at_the_default_path() {
        let path = Path::new("/nonexistent/buildkitd.toml");
        assert_eq!(load_file(path, false).unwrap(), BuildkitdConfig::default());
        assert!(load_file(path, true).is_err());
    }
}
