//! What can be wrong with the settings.

use std::path::PathBuf;

/// Why there is no way to a collector.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that says something else than it may.
    #[error("{variable}={value}: {expected}")]
    Variable {
        /// Its name.
        variable: String,
        /// What it says; hidden where that may be a secret.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
    /// A certificate or a key that can't be read.
    #[error("reading {path} for {variable}")]
    File {
        /// The variable that names it.
        variable: String,
        /// Where it should be.
        path: PathBuf,
        /// Why it can't be read.
        #[source]
        source: std::io::Error,
    },
    /// TLS that can't be set up.
    #[error("TLS for the collector at {endpoint}")]
    Grpc {
        /// Where it is.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The same, over HTTP.
    #[error("TLS for the collector at {endpoint}")]
    Http {
        /// Where it is.
        endpoint: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}
