//! Image, moby, oci, docker, local and tar outputs; attestations.
//!
//! An exporter is made from a client's options before the build ([`resolve`]), so that a wrong option
//! fails at once, and gets the result at its end. **Invariant:** what is exported depends on the result
//! and the options alone: the same input gives the same bytes, whatever was cached or in which order
//! layers were ready.

mod attestation;
mod attrs;
mod error;
mod image;
mod input;
mod local;
mod platforms;
mod progress;
mod tar;
mod tree;

use std::sync::Arc;

use kiln_config::RegistryConfig;
use kiln_content::{ContentStore, ImageTable};
use kiln_ids::SessionId;
use kiln_oci::Reference;
use kiln_registry::{Client, Credentials, Registry};
use kiln_session::SessionManager;

pub use attestation::{Attestation, Predicate, Subject};
pub use attrs::Attributes;
pub use error::{Error, Shared};
pub use input::{ExportInput, ExportOutput, Exporter, InlineCache, Refs, ResultPlatform};
pub use platforms::{BASE_CONFIG, CONFIG, PLATFORMS};

/// Makes the credentials of some sessions' clients.
pub type CredentialsOf = Arc<dyn Fn(&[SessionId]) -> Arc<dyn Credentials> + Send + Sync>;

/// What exporters work with. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Clients that get files.
    pub sessions: SessionManager,
    /// Where blobs are.
    pub content: ContentStore,
    /// Names of the local image store.
    pub images: ImageTable,
    /// Registries that are pushed to.
    pub registry: Registry,
    /// With whose credentials.
    pub credentials: CredentialsOf,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Services")
    }
}

impl Services {
    /// A client for a push. An insecure one speaks HTTP too and believes any certificate.
    fn registry_client(
        &self,
        sessions: &[SessionId],
        insecure: bool,
        references: &[Reference],
    ) -> Result<Client, Error> {
        let credentials = (self.credentials)(sessions);
        if !insecure {
            return Ok(self.registry.client(credentials));
        }
        let configs = references.iter().map(|reference| {
            let config = RegistryConfig {
                http: Some(true),
                insecure: Some(true),
                ..RegistryConfig::default()
            };
            (reference.domain().to_owned(), config)
        });
        Ok(Registry::new(configs.collect(), None)?.client(credentials))
    }
}

/// The exporter of a kind, with its options. `output` is the client's number for it.
pub fn resolve(
    kind: &str,
    output: usize,
    attributes: Attributes,
    services: &Services,
) -> Result<Box<dyn Exporter>, Error> {
    let sessions = services.sessions.clone();
    let archive = |variant, attributes| {
        image::ArchiveExporter::new(services.clone(), output, variant, attributes)
    };
    Ok(match kind {
        "local" => Box::new(local::LocalExporter::new(sessions, output, attributes)?),
        "tar" => Box::new(tar::TarExporter::new(sessions, output, attributes)?),
        // Docker's own name for an image in its store.
        "image" | "moby" => Box::new(image::ImageExporter::new(services.clone(), attributes)?),
        "oci" => Box::new(archive(image::Variant::Oci, attributes)?),
        "docker" => Box::new(archive(image::Variant::Docker, attributes)?),
        _ => {
            return Err(Error::UnknownExporter {
                kind: kind.to_owned(),
            });
        }
    })
}
