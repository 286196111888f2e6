//! Where the solver's results live between builds: records of the cache.

use async_trait::async_trait;
use kiln_cache::{CacheManager, OpResult};
use kiln_ids::RefId;
use kiln_solver::op::{OpError, ResultStore};

/// The empty file system has no record; every other result is named by its record.
const SCRATCH: &str = "scratch";

/// Results as records of the cache.
#[derive(Debug, Clone)]
pub struct Results {
    cache: CacheManager,
}

impl Results {
    /// Over the records of `cache`.
    pub fn new(cache: CacheManager) -> Self {
        Self { cache }
    }

    /// Whether there is a result of this name.
    pub fn has(&self, id: &str) -> bool {
        id == SCRATCH || self.cache.exists(&RefId::new(id))
    }
}

#[async_trait]
impl ResultStore<OpResult> for Results {
    async fn save(&self, result: &OpResult) -> Result<String, OpError> {
        Ok(result
            .as_ref()
            .map_or_else(|| SCRATCH.to_owned(), |result| result.id().to_string()))
    }

    async fn load(&self, id: &str) -> Result<Option<OpResult>, OpError> {
        if id == SCRATCH {
            return Ok(Some(None));
        }
        match self.cache.get(&RefId::new(id)).await {
            Ok(found) => Ok(found.map(Some)),
            Err(error) => Err(std::sync::Arc::new(error)),
        }
    }

    fn exists(&self, id: &str) -> bool {
        self.has(id)
    }
}
