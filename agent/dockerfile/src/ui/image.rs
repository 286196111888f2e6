//! Looks up what images are, each once in a build.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kiln_frontend::{Bridge, Error, ResolveImage};
use kiln_oci::{Digest, Platform};
use kiln_proto::pb;
use tokio::sync::OnceCell;

/// What an image is.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// The identifier after source policies, without its scheme.
    pub reference: String,
    /// The whole identifier after source policies.
    pub identifier: String,
    pub digest: Option<Digest>,
    /// JSON; empty where the source is no image.
    pub config: Bytes,
}

type Key = (String, Option<Platform>, &'static str);
type Slot = Arc<OnceCell<Result<Resolved, Error>>>;

/// Remembers what was looked up.
pub(crate) struct ImageResolver {
    bridge: Arc<dyn Bridge>,
    known: Mutex<HashMap<Key, Slot>>,
}

impl ImageResolver {
    pub(crate) fn new(bridge: Arc<dyn Bridge>) -> Self {
        Self {
            bridge,
            known: Mutex::default(),
        }
    }

    /// Looks an image up. A second call with the same arguments waits for the first one.
    pub(crate) async fn resolve(
        &self,
        source: pb::SourceOp,
        platform: Option<&Platform>,
        mode: &'static str,
        log_name: String,
    ) -> Result<Resolved, Error> {
        let key = (source.identifier.clone(), platform.cloned(), mode);
        let slot = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(key).or_default())
        };
        let lookup = || async {
            let options = ResolveImage {
                platform: platform.map(to_pb),
                mode: mode.to_owned(),
                log_name,
                want_config: true,
                ..ResolveImage::default()
            };
            let meta = self.bridge.resolve_source(source, options).await?;
            let identifier = meta.source.identifier;
            let (_, reference) = identifier.split_once("://").unwrap_or(("", &identifier));
            Ok(Resolved {
                reference: reference.to_owned(),
                digest: meta.digest,
                config: meta.config.unwrap_or_default(),
                identifier,
            })
        };
        slot.get_or_init(lookup).await.clone()
    }
}

/// A platform as ops have it.
pub(crate) fn to_pb(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// A platform as a worker tells it.
pub(crate) fn from_pb(platform: &pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone(),
    }
}
