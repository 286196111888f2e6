//! What can go wrong with images.

use kiln_errdefs::Kind;
use kiln_oci::Digest;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that isn't one.
    #[error("invalid image name {name:?}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        #[source]
        source: kiln_oci::ReferenceError,
    },
    /// Nothing has that name.
    #[error("no such image: {name}")]
    NotFound {
        /// The name, or the id.
        name: String,
    },
    /// Several images have ids that begin so.
    #[error("{id} is the beginning of more than one image's id")]
    Ambiguous {
        /// What was given.
        id: String,
    },
    /// A platform that isn't one.
    #[error("invalid platform {text:?}")]
    Platform {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: kiln_oci::PlatformError,
    },
    /// The image isn't for that platform, or that part of it isn't here.
    #[error("{name} has no image for {platform} here")]
    NoPlatform {
        /// The image.
        name: String,
        /// The platform.
        platform: String,
    },
    /// Parts of the image were never pulled.
    #[error("{name} isn't complete here: {digest} is missing")]
    Incomplete {
        /// The image.
        name: String,
        /// A part.
        digest: Digest,
    },
    /// A filter that isn't known.
    #[error("invalid filter {filter:?}: want reference=, label=, dangling=, before= or since=")]
    Filter {
        /// As it was given.
        filter: String,
    },
    /// A document that isn't of its kind.
    #[error("{what} isn't readable")]
    Document {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An archive that holds no images.
    #[error("the archive can't be loaded: {reason}")]
    Archive {
        /// What is wrong.
        reason: String,
    },
    /// Reading or writing an archive.
    #[error("{action}")]
    Io {
        /// Such as `read the archive`.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The content store.
    #[error("content store")]
    Content(#[from] kiln_content::Error),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] kiln_registry::Error),
    /// The work's thread is gone.
    #[error("the work was cut off")]
    CutOff,
}

/// The outcome of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. }
            | Self::Ambiguous { .. }
            | Self::Platform { .. }
            | Self::Filter { .. }
            | Self::Archive { .. }
            | Self::Document { .. } => Kind::User,
            Self::NotFound { .. } | Self::NoPlatform { .. } => Kind::NotFound,
            Self::Incomplete { .. } => Kind::Config,
            Self::Registry(error) if error.is_temporary() => Kind::Unavailable,
            Self::Registry(_) => Kind::Build,
            Self::Io { .. } | Self::Content(_) | Self::CutOff => Kind::Internal,
        }
    }
}
