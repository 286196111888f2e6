//! A key store that lives as long as the process: for tests, and the inside of the persistent one.

use kiln_oci::Digest;
use parking_lot::RwLock;

use super::graph::{Change, Forgetful, Graph, Journal};
use super::{InputRef, KeyCounts, KeyId, KeyRef, KeyStore, Link, StoredResult};

/// Keys in memory.
pub struct MemoryKeys {
    graph: RwLock<Graph>,
    journal: Box<dyn Journal>,
}

impl Default for MemoryKeys {
    fn default() -> Self {
        Self::with_journal(Box::new(Forgetful), [])
    }
}

impl MemoryKeys {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn with_journal(
        journal: Box<dyn Journal>,
        past: impl IntoIterator<Item = Change>,
    ) -> Self {
        let mut graph = Graph::default();
        for change in past {
            graph.restore(change);
        }
        Self {
            graph: RwLock::new(graph),
            journal,
        }
    }
}

impl KeyStore for MemoryKeys {
    fn exists(&self, key: KeyRef) -> bool {
        self.graph.read().resolve(key).is_some()
    }

    fn query(&self, inputs: &[InputRef], input: u32, record: &Digest) -> Vec<KeyId> {
        let (found, missing) = self.graph.read().find(inputs, input, record);
        if found.is_empty() || !missing {
            return found.into_iter().collect();
        }
        // Between the two locks the graph may have changed: what was found is looked up again.
        let mut graph = self.graph.write();
        let (found, _) = graph.find(inputs, input, record);
        graph.add_missing(&found, inputs, input, record, self.journal.as_ref());
        found.into_iter().collect()
    }

    fn commit(
        &self,
        record: &Digest,
        inputs: &[Vec<InputRef>],
        result: Option<StoredResult>,
    ) -> KeyId {
        let mut graph = self.graph.write();
        graph.commit(record, inputs, result, self.journal.as_ref())
    }

    fn results(&self, key: KeyRef) -> Vec<StoredResult> {
        self.graph.read().results(key)
    }

    fn root_digest(&self, key: KeyId) -> Option<Digest> {
        self.graph.read().root_digest(key)
    }

    fn parents(&self, child: KeyId) -> Vec<(KeyId, Link)> {
        self.graph.read().parents(child)
    }

    fn keys_of(&self, result: &str) -> Vec<KeyId> {
        self.graph.read().keys_of(result)
    }

    fn release(&self, result: &str) {
        self.graph.write().release(result, self.journal.as_ref());
    }

    fn forget_root(&self, record: &Digest) {
        let mut graph = self.graph.write();
        graph.forget_root(record, self.journal.as_ref());
    }

    fn result_ids(&self) -> Vec<String> {
        self.graph.read().result_ids()
    }

    fn counts(&self) -> KeyCounts {
        self.graph.read().counts()
    }
}

impl std::fmt::Debug for MemoryKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryKeys")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
