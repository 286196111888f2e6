//! Operations on named images, over the content that builds use too.
//!
//! ```text
//!  name ──► ImageTable ──► index ──► manifest ─┬─► config
//!                             └─► manifest ─┐  └─► layers        all of them blobs of the content store
//!                               attestation ┘
//! ```
//! An image is what a name points to: an index or a manifest. Several names may point to one image. Parts
//! of an index may be missing, since a pull brings the platforms that were asked for.
//!
//! Invariants:
//! - A name is set when everything that the operation was to bring is in the store and verified.
//! - While an operation runs, a lease keeps what it brought; afterwards the names do.
//! - Removing a name deletes no blob: the next collection does, since builds may use it.

mod document;
mod error;
mod filter;
mod inspect;
mod list;
mod load;
mod pull;
mod push;
mod related;
mod remove;
mod save;

use std::sync::Arc;

use kiln_content::{ContentStore, Documents, ImageTable, NamedImage};
use kiln_oci::{Platform, Reference};
use kiln_registry::{Credential, CredentialError, Credentials, Registry};

pub use error::{Error, Result};
pub use filter::Filters;
pub use inspect::{Attestation, Inspected, LayerInfo};
pub use list::Image;
pub use pull::PullOptions;
pub use related::Related;
pub use remove::{RemoveFailure, Removed, RemovedName};
pub use save::{Archive, ArchiveFormat, SaveOptions};

/// What an operation with a registry is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobProgress {
    /// Which blob.
    pub digest: String,
    /// Where it is.
    pub state: BlobState,
    /// Bytes so far.
    pub current: u64,
    /// All its bytes.
    pub total: u64,
    /// What it is: `layer`, `config`, `manifest`.
    pub description: &'static str,
}

/// The state of a blob on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobState {
    /// Not begun.
    Waiting,
    /// Under way.
    Transferring,
    /// It was there already.
    Exists,
    /// It is there.
    Done,
}

/// Hears of progress.
pub type OnProgress = Arc<dyn Fn(BlobProgress) + Send + Sync>;

/// The images of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    content: ContentStore,
    table: ImageTable,
    documents: Documents,
    registry: Registry,
    platform: Platform,
}

impl Images {
    /// Over the stores of a daemon that runs on `platform`.
    pub fn new(
        content: ContentStore,
        table: ImageTable,
        documents: Documents,
        registry: Registry,
        platform: Platform,
    ) -> Self {
        Self {
            content,
            table,
            documents,
            registry,
            platform,
        }
    }

    /// Lets another name point to an image.
    pub async fn tag(&self, source: &str, target: &str) -> Result<()> {
        let image = self.find(source).await?;
        let target = reference(target)?.with_default_tag();
        Ok(self.table.set(&target, &image.target).await?)
    }

    /// The image of a name, or of the beginning of an id.
    async fn find(&self, text: &str) -> Result<NamedImage> {
        let not_found = || Error::NotFound {
            name: text.to_owned(),
        };
        let parsed = text.parse::<Reference>();
        if let Ok(name) = &parsed {
            let canonical = name.clone().canonical();
            if let Some(found) = self.table.get(&canonical).await? {
                return Ok(found);
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() < 4 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            parsed.map_err(|source| Error::Name {
                name: text.to_owned(),
                source,
            })?;
            return Err(not_found());
        }
        let mut found: Option<NamedImage> = None;
        for image in self.table.list().await? {
            let is_meant = image.target.digest.hex().starts_with(hex)
                || self
                    .config_of(&image)
                    .await
                    .is_some_and(|digest| digest.hex().starts_with(hex));
            if !is_meant {
                continue;
            }
            match &found {
                Some(other) if other.target.digest != image.target.digest => {
                    let id = text.to_owned();
                    return Err(Error::Ambiguous { id });
                }
                Some(_) => {}
                None => found = Some(image),
            }
        }
        found.ok_or_else(not_found)
    }
}

fn reference(text: &str) -> Result<Reference> {
    text.parse().map_err(|source| Error::Name {
        name: text.to_owned(),
        source,
    })
}

fn platform(text: &str) -> Result<Platform> {
    text.parse().map_err(|source| Error::Platform {
        text: text.to_owned(),
        source,
    })
}

/// What a client gave for one registry. No other host gets it.
struct Given {
    domain: String,
    credential: Option<Credential>,
}

impl Given {
    fn client(
        images: &Images,
        name: &Reference,
        credential: Option<Credential>,
    ) -> kiln_registry::Client {
        images.registry.client(Arc::new(Self {
            domain: name.domain().to_owned(),
            credential,
        }))
    }
}

#[async_trait::async_trait]
impl Credentials for Given {
    async fn for_host(
        &self,
        host: &str,
    ) -> std::result::Result<Option<Credential>, CredentialError> {
        const HUB: &str = "docker.io";
        let is_hub = self.domain == HUB && (host == HUB || host.ends_with(".docker.io"));
        let is_meant = host == self.domain || is_hub;
        Ok(self.credential.clone().filter(|_| is_meant))
    }
}
