//! Work that isn't an op but shows as a vertex: an export, a cache transfer, a look-up of an image.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kiln_oci::Digest;

use crate::{
    Audience, BuildReceiver, Receiver, Status, Stream, VertexProgress, VertexState, Warning,
};

/// A vertex of one build that no op stands behind. Dropped without [`Step::end`] it counts as cancelled.
pub struct Step {
    receiver: Arc<dyn BuildReceiver>,
    state: VertexState,
}

impl Step {
    /// Begins a step. `id` names it within the build; the same id is the same vertex.
    pub fn begin(receiver: Arc<dyn BuildReceiver>, id: &str, name: impl Into<String>) -> Self {
        let state = VertexState {
            digest: Digest::of(id),
            inputs: Vec::new(),
            name: name.into(),
            cached: false,
            started: Some(SystemTime::now()),
            completed: None,
            error: String::new(),
            group: None,
        };
        receiver.vertex(state.clone());
        Self { receiver, state }
    }

    /// The hand to report on it with.
    pub fn progress(&self) -> VertexProgress {
        VertexProgress::new(Arc::new(Forward {
            receiver: Arc::clone(&self.receiver),
            vertex: self.state.digest,
        }))
    }

    /// It ended, with an error's words if it failed.
    pub fn end(mut self, error: Option<String>) {
        self.close(error.unwrap_or_default());
    }

    fn close(&mut self, error: String) {
        self.state.completed = Some(SystemTime::now());
        self.state.error = error;
        self.receiver.vertex(self.state.clone());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.state.completed.is_none() {
            self.close("context canceled".into());
        }
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.state.name)
            .finish_non_exhaustive()
    }
}

struct Forward {
    receiver: Arc<dyn BuildReceiver>,
    vertex: Digest,
}

impl Receiver for Forward {
    fn status(&self, status: Status) {
        self.receiver.status(self.vertex, status);
    }

    fn log(&self, stream: Stream, audience: Audience, bytes: Bytes) {
        self.receiver.log(self.vertex, stream, audience, bytes);
    }

    fn is_behind(&self) -> bool {
        self.receiver.is_behind()
    }

    fn warn(&self, warning: Warning) {
        self.receiver.warn(Some(self.vertex), warning);
    }
}
