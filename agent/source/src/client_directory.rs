//! `local://`: the client's directories as sources.

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::Ref;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{ResolveImage, SourceMeta};
use kiln_oci::Platform;
use kiln_proto::pb;

use crate::local::{LocalError, LocalRequest, LocalSource};
use crate::{Source, SourceContext, SourceKey, SourceProvider};

const SCHEME: &str = "local://";

/// Makes sources of directories.
#[derive(Debug, Clone)]
pub struct ClientDirectories(LocalSource);

impl ClientDirectories {
    /// Of the directories that `source` brings in.
    pub fn new(source: LocalSource) -> Self {
        Self(source)
    }
}

#[async_trait]
impl SourceProvider for ClientDirectories {
    fn schemes(&self) -> &'static [&'static str] {
        &["local"]
    }

    fn open(
        &self,
        op: &pb::SourceOp,
        _platform: Option<&Platform>,
    ) -> Result<Arc<dyn Source>, SharedError> {
        let name = op.identifier.strip_prefix(SCHEME).unwrap_or(&op.identifier);
        let request = LocalRequest::parse(name, &op.attrs).map_err(shared)?;
        Ok(Arc::new(Directory {
            source: self.0.clone(),
            request,
        }))
    }

    async fn look_up(
        &self,
        op: pb::SourceOp,
        _options: &ResolveImage,
        _cx: &SourceContext,
    ) -> Result<SourceMeta, SharedError> {
        // A directory has no identity of its own.
        Ok(SourceMeta {
            source: op,
            ..SourceMeta::default()
        })
    }
}

struct Directory {
    source: LocalSource,
    request: LocalRequest,
}

#[async_trait]
impl Source for Directory {
    async fn cache_key(&self, _index: usize, cx: &SourceContext) -> Result<SourceKey, SharedError> {
        Ok(SourceKey {
            key: self.request.cache_key(&cx.sessions).map_err(shared)?,
            pin: None,
            last: true,
        })
    }

    fn looks_up(&self) -> bool {
        false
    }

    async fn snapshot(&self, cx: &SourceContext) -> Result<Option<Ref>, SharedError> {
        self.source
            .snapshot(&self.request, &cx.sessions, &cx.progress)
            .await
            .map(Some)
            .map_err(shared)
    }
}

fn shared(error: LocalError) -> SharedError {
    let kind = match &error {
        LocalError::NoSession | LocalError::Attribute { .. } => Some(Kind::User),
        _ => None,
    };
    let error: SharedError = Arc::new(error);
    match kind {
        Some(kind) => WithDetail::kind(error, kind).shared(),
        None => error,
    }
}
