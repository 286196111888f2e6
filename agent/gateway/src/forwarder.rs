//! The state of one build whose frontend runs elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{Bridge, MaybeReference, Reference, Solved};
use kiln_proto::moby::buildkit::v1::frontend as gw;
use kiln_proto::moby::buildkit::v1::types::WorkerRecord;
use kiln_proto::pb;
use tokio::sync::watch;

use crate::wire;

/// What a frontend is told of the worker.
#[derive(Debug, Clone, Default)]
pub struct WorkerInfo {
    /// The only worker.
    pub record: WorkerRecord,
    /// Optional LLB features.
    pub llb_caps: Vec<String>,
}

type Outcome = Result<Solved, SharedError>;

/// One build's calls from a frontend outside the engine.
pub struct Forwarder {
    bridge: Arc<dyn Bridge>,
    inputs: BTreeMap<String, pb::Definition>,
    worker: WorkerInfo,
    refs: Mutex<HashMap<String, Arc<dyn Reference>>>,
    outcome: watch::Sender<Option<Outcome>>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

impl Forwarder {
    /// A build whose frontend will call in.
    pub fn new(
        bridge: Arc<dyn Bridge>,
        inputs: BTreeMap<String, pb::Definition>,
        worker: WorkerInfo,
    ) -> Arc<Self> {
        Arc::new(Self {
            bridge,
            inputs,
            worker,
            refs: Mutex::default(),
            outcome: watch::channel(None).0,
        })
    }

    /// Waits until the frontend has returned.
    pub async fn returned(&self) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| {
            Err(WithDetail::message(Kind::Cancelled, "the frontend went without a result").shared())
        })
    }

    /// Sets the outcome if the frontend hasn't: for a frontend that ended without returning.
    pub fn abandon(&self, error: SharedError) {
        self.outcome.send_if_modified(|outcome| {
            let open = outcome.is_none();
            if open {
                *outcome = Some(Err(error));
            }
            open
        });
    }

    pub(crate) fn bridge(&self) -> &Arc<dyn Bridge> {
        &self.bridge
    }

    pub(crate) fn inputs(&self) -> &BTreeMap<String, pb::Definition> {
        &self.inputs
    }

    pub(crate) fn worker(&self) -> &WorkerInfo {
        &self.worker
    }

    /// Remembers a result and names it; the empty file system has the empty name.
    pub(crate) fn name(&self, reference: &MaybeReference) -> gw::Ref {
        let Some(reference) = reference else {
            return gw::Ref::default();
        };
        let id = wire::new_id();
        self.lock().insert(id.clone(), Arc::clone(reference));
        gw::Ref {
            id,
            def: Some(reference.definition().clone()),
        }
    }

    /// The result that `id` names.
    pub(crate) fn named(&self, id: &str) -> Result<MaybeReference, SharedError> {
        if id.is_empty() {
            return Ok(None);
        }
        self.lock().get(id).cloned().map(Some).ok_or_else(|| {
            WithDetail::message(Kind::NotFound, format!("no such ref: {id}")).shared()
        })
    }

    /// As [`Self::named`], for calls that need files.
    pub(crate) fn present(&self, id: &str) -> Result<Arc<dyn Reference>, SharedError> {
        self.named(id)?.ok_or_else(|| {
            WithDetail::message(Kind::NotFound, "the result is empty: it has no files").shared()
        })
    }

    /// What `Solve` tells the frontend of a result.
    pub(crate) fn announce(&self, solved: &Solved, arrays: bool) -> gw::Result {
        wire::result(solved, arrays, &mut |reference| self.name(reference))
    }

    /// Takes what the frontend returns.
    pub(crate) fn finish(&self, request: gw::ReturnRequest) -> Result<(), SharedError> {
        let outcome = match (request.result, request.error) {
            (Some(result), None) => Ok(wire::solved(result, &|id| self.named(id))?),
            (None, Some(error)) => Err(wire::error(&error)),
            _ => {
                return Err(WithDetail::message(
                    Kind::User,
                    "gateway return must be either result or err",
                )
                .shared());
            }
        };
        let set = self.outcome.send_if_modified(|current| {
            let open = current.is_none();
            if open {
                *current = Some(outcome);
            }
            open
        });
        if set {
            Ok(())
        } else {
            Err(WithDetail::message(Kind::Conflict, "gateway result is already set").shared())
        }
    }

    /// The old way to return: `Solve` with `Final` and metadata as JSON.
    pub(crate) fn finish_inline(
        &self,
        mut solved: Solved,
        exporter_attributes: &[u8],
    ) -> Result<(), SharedError> {
        if !exporter_attributes.is_empty() {
            for (key, value) in wire::exporter_attributes(exporter_attributes)? {
                solved
                    .metadata
                    .entry(key)
                    .or_insert_with(|| Bytes::from(value));
            }
        }
        self.outcome.send_replace(Some(Ok(solved)));
        Ok(())
    }

    /// Map operations only happen under the lock, so a poisoned map is whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<dyn Reference>>> {
        self.refs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
