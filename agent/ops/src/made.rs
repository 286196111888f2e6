//! What a step's results cost, and for whom they were made: noted with their records.
//!
//! Garbage collection weighs the time that a step took against the bytes that removing its result frees,
//! and people see whose records they are. Results that were there before the step ran (an input that is
//! an output too, a layer that another build pulled) keep what is known of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use kiln_cache::{OpResult, Origin};
use kiln_session::SessionManager;
use kiln_solver::op::{CacheMap, Op, OpContext, OpError};

/// An op whose results are told how they were made.
pub(crate) struct Noted {
    op: Arc<dyn Op<OpResult>>,
    step: String,
    sessions: SessionManager,
}

impl Noted {
    pub(crate) fn new(op: Arc<dyn Op<OpResult>>, step: String, sessions: &SessionManager) -> Self {
        Self {
            op,
            step,
            sessions: sessions.clone(),
        }
    }
}

/// The build that works first, its project, and its name for the step.
fn origin(cx: &OpContext, step: &str, sessions: &SessionManager) -> Option<Origin> {
    let build = cx.builds().into_iter().next()?;
    let key = cx
        .sessions()
        .first()
        .and_then(|session| sessions.attached(session))
        .map(|client| client.shared_key().to_owned())
        .unwrap_or_default();
    Some(Origin {
        build,
        project: project(&key).to_owned(),
        step: step.to_owned(),
    })
}

/// The name in a client's shared key: buildx puts the id of the client's machine behind it.
fn project(shared_key: &str) -> &str {
    shared_key
        .rsplit_once(':')
        .map_or(shared_key, |(name, _)| name)
}

#[async_trait]
impl Op<OpResult> for Noted {
    async fn cache_map(
        &self,
        index: usize,
        cx: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        self.op.cache_map(index, cx).await
    }

    async fn run(&self, inputs: Vec<OpResult>, cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        // While the builds are there: they may leave before the step has ended.
        let origin = origin(&cx, &self.step, &self.sessions).map(Arc::new);
        let (since, begun) = (SystemTime::now(), Instant::now());
        let results = self.op.run(inputs, cx).await?;
        let time = begun.elapsed();
        for result in results.iter().flatten() {
            result.made(since, time, origin.as_ref());
        }
        Ok(results)
    }

    fn pin(&self) -> Option<String> {
        self.op.pin()
    }

    fn looks_up(&self) -> bool {
        self.op.looks_up()
    }

    fn takes_slot(&self) -> bool {
        self.op.takes_slot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_the_name_in_the_shared_key() {
        for (key, name) in [
            ("shop:x3nv", "shop"),
            ("/home/me/shop", "/home/me/shop"),
            ("a:b:c", "a:b"),
            ("", ""),
        ] {
            assert_eq!(project(key), name);
        }
    }
}
