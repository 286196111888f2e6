//! The source op: what comes from outside.

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::OpResult;
use kiln_llb::keys;
use kiln_solver::op::{CacheMap, Op, OpContext, OpError};
use kiln_source::{Source, SourceContext};
use tokio::sync::Mutex;

/// A source as an op.
pub(crate) struct SourceOp {
    source: Arc<dyn Source>,
    /// Calls of a source don't overlap, though the solver may drop one and make the next.
    turn: Mutex<()>,
    /// What the source turned out to be.
    pin: std::sync::OnceLock<String>,
}

impl SourceOp {
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            turn: Mutex::new(()),
            pin: std::sync::OnceLock::new(),
        }
    }
}

fn context(cx: &OpContext) -> SourceContext {
    SourceContext {
        sessions: cx.sessions(),
        progress: cx.progress.clone(),
    }
}

#[async_trait]
impl Op<OpResult> for SourceOp {
    async fn cache_map(
        &self,
        index: usize,
        cx: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        let _turn = self.turn.lock().await;
        let key = self.source.cache_key(index, &context(&cx)).await?;
        if let Some(pin) = key.pin {
            let _ = self.pin.set(pin);
        }
        let (digest, session_local) = keys::source(&key.key);
        Ok((
            CacheMap {
                digest,
                session_local,
                inputs: Vec::new(),
            },
            key.last,
        ))
    }

    fn looks_up(&self) -> bool {
        self.source.looks_up()
    }

    fn pin(&self) -> Option<String> {
        self.pin.get().cloned()
    }

    fn takes_slot(&self) -> bool {
        true
    }

    async fn run(&self, _inputs: Vec<OpResult>, cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        let _turn = self.turn.lock().await;
        Ok(vec![self.source.snapshot(&context(&cx)).await?])
    }
}
