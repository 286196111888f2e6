//! What can go wrong with a prune.

/// An error of garbage collection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that can't be read.
    #[error("invalid filter {filter:?}: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk couldn't be asked for its size.
    #[error("failed to measure the disk of {}", path.display())]
    Disk {
        /// A path on it.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A plan that was carried out, or that newer ones have pushed out.
    #[error("plan {0:?} is not known: make a new one")]
    UnknownPlan(String),
    /// Of the database.
    #[error(transparent)]
    Store(#[from] kiln_store::Error),
    /// Of the content store.
    #[error(transparent)]
    Content(#[from] kiln_content::Error),
    /// Of the cache.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
}
