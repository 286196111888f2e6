//! Why an image couldn't be had, and what kind of failure that is.

use std::sync::Arc;

use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_oci::{Digest, ReferenceError};

/// Why an image couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name isn't one.
    #[error("failed to parse image source {identifier:?}")]
    Reference {
        /// What was given.
        identifier: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// An attribute that can't be read.
    #[error("invalid value for {key} {value:?}")]
    Attribute {
        /// The attribute.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// An index without an image for the platform.
    #[error("no match for platform in manifest {index}: {platform} not found (it has {available})")]
    NoPlatform {
        /// The index.
        index: Digest,
        /// What was wanted.
        platform: String,
        /// What there is.
        available: String,
    },
    /// A document that isn't what it should be.
    #[error("{digest} is not a valid {what}")]
    Document {
        /// Which.
        digest: Digest,
        /// `image manifest`, `image index`, `image config`.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest of the first Docker schema, or something else altogether.
    #[error(
        "unsupported media type {media_type:?} of {digest}: only OCI and Docker schema 2 manifests are supported"
    )]
    MediaType {
        /// Of what.
        digest: Digest,
        /// What it is.
        media_type: String,
    },
    /// Manifest and config disagree.
    #[error("image {digest} has {layers} layers but its config lists {diff_ids}")]
    LayerCount {
        /// The manifest.
        digest: Digest,
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// A document is larger, or nested deeper, than any honest one.
    #[error("image {digest} is refused: {reason}")]
    Refused {
        /// Which.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// The client limited the layers to more than there are.
    #[error("layer limit {limit} is greater than the number of layers in the image {layers}")]
    LayerLimit {
        /// What was asked for.
        limit: usize,
        /// What there is.
        layers: usize,
    },
    /// The name stands for something else than was demanded.
    #[error("image digest {actual} for {name} does not match expected checksum {expected}")]
    Checksum {
        /// The image.
        name: String,
        /// What was demanded.
        expected: Digest,
        /// What there is.
        actual: Digest,
    },
    /// The image isn't in the local store, which is all that may be asked.
    #[error("{name}: not found in the local image store")]
    NotLocal {
        /// The image.
        name: String,
    },
    /// An OCI layout must be named by digest.
    #[error("oci-layout source {name} must include a digest")]
    NoDigest {
        /// The source.
        name: String,
    },
    /// An OCI layout needs a client.
    #[error("could not access OCI layout {store:?} without its client's session")]
    NoSession {
        /// The layout.
        store: String,
    },
    /// The client's layout hasn't got it.
    #[error("content {digest} not found in OCI layout {store:?}")]
    NotInLayout {
        /// What was wanted.
        digest: Digest,
        /// The layout.
        store: String,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] kiln_registry::Error),
    /// The client failed.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The client's layout broke off.
    #[error("failed to read from OCI layout {store:?}")]
    Layout {
        /// The layout.
        store: String,
        /// Why.
        #[source]
        source: Box<tonic::Status>,
    },
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] kiln_content::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
}

impl ImageError {
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Reference { .. }
            | Self::Attribute { .. }
            | Self::LayerLimit { .. }
            | Self::NoDigest { .. }
            | Self::MediaType { .. } => Some(Kind::User),
            Self::NoPlatform { .. } | Self::NotLocal { .. } | Self::NotInLayout { .. } => {
                Some(Kind::NotFound)
            }
            Self::NoSession { .. } => Some(Kind::Unavailable),
            Self::Registry(error) if error.is_not_found() => Some(Kind::NotFound),
            Self::Registry(error) if error.is_denied() => Some(Kind::Denied),
            Self::Registry(error) if error.is_temporary() => Some(Kind::Unavailable),
            Self::Content(kiln_content::Error::Full) => Some(Kind::Exhausted),
            _ => None,
        }
    }
}

impl From<ImageError> for SharedError {
    fn from(error: ImageError) -> Self {
        match error.kind() {
            Some(kind) => WithDetail::kind(Arc::new(error), kind).shared(),
            None => Arc::new(error),
        }
    }
}
