//! From an op's key, as `kiln_llb::keys` describes it, to what the solver asks with.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use kiln_cache::OpResult;
use kiln_cache::contenthash::{ChecksumOpts, checksum};
use kiln_llb::keys::{self, OpKey, Selector};
use kiln_oci::Digest;
use kiln_solver::op::{CacheMap, ContentKey, InputKey, OpContext, OpError, Prepare};

/// The one cache map of an op that reads files of its inputs. Lazy inputs are fetched and extracted
/// side by side before the op runs.
pub(crate) fn cache_map(key: OpKey) -> CacheMap<OpResult> {
    let inputs = key.inputs.into_iter().map(|input| InputKey {
        selector: input.selector,
        content: input.content.map(|selectors| {
            let content: Arc<dyn ContentKey<OpResult>> = Arc::new(Content { selectors });
            content
        }),
        prepare: Some(Arc::new(Extract)),
    });
    CacheMap {
        digest: key.digest,
        session_local: false,
        inputs: inputs.collect(),
    }
}

struct Content {
    selectors: Vec<Selector>,
}

#[async_trait]
impl ContentKey<OpResult> for Content {
    async fn digest(&self, input: OpResult, cx: OpContext) -> Result<Option<Digest>, OpError> {
        let sessions = cx.sessions();
        let digests = self.selectors.iter().map(|selector| {
            let (input, sessions, progress) = (input.as_ref(), &sessions, &cx.progress);
            async move {
                let path = kiln_gotext::path::rooted(&selector.path);
                let options = ChecksumOpts {
                    follow_links: selector.follow_links,
                    wildcard: selector.wildcard,
                    include_patterns: selector.include.clone(),
                    exclude_patterns: selector.exclude.clone(),
                    required_paths: selector.required.clone(),
                };
                let digest = checksum(input, &path, &options, sessions, progress).await;
                digest.map_err(|source| ChecksumError {
                    record: input.map_or_else(String::new, |input| input.id().to_string()),
                    source,
                })
            }
        });
        let digests = try_join_all(digests)
            .await
            .map_err(|error| -> OpError { Arc::new(error) })?;
        Ok(Some(keys::content(&digests)))
    }
}

/// The words that clients and their tests match on.
#[derive(Debug, thiserror::Error)]
#[error("failed to calculate checksum of ref {record}")]
struct ChecksumError {
    record: String,
    source: kiln_cache::Error,
}

struct Extract;

#[async_trait]
impl Prepare<OpResult> for Extract {
    async fn prepare(&self, input: OpResult, cx: OpContext) -> Result<(), OpError> {
        if let Some(input) = input {
            let extracted = input.extract(&cx.sessions(), &cx.progress).await;
            extracted.map_err(|error| -> OpError { Arc::new(error) })?;
        }
        Ok(())
    }
}
