//! Keys, links and results: what is known of results that exist.
//!
//! A **key** names a result by how it is made. A *root* key has a digest; every other key has an id
//! that means nothing and *is* the set of its links. A **link** leads from the key of an input to the
//! key of an output. A **result** is an id of the [`ResultStore`](crate::op::ResultStore); a key has
//! any number of them. Keys without results stay as long as links lead on from them.
//!
//! ```text
//!   root key (image by digest) ──{input 0, record of RUN}──────────► key 17 ──► …
//!   root key (image by layers) ──{input 0, record of RUN}──────────►    │
//!                                                                      results
//! ```
//!
//! Invariants: a link's two keys exist; a key that has neither results nor links that lead on is
//! removed together with the last result that it had; nothing here waits for a disk.

mod database;
mod graph;
mod memory;

pub use database::DatabaseKeys;
pub use memory::MemoryKeys;

use std::time::SystemTime;

use kiln_oci::Digest;

/// The digest of a root key, and of the record of any key: `sha256("<op digest>@<output>")`. Content
/// keys have the output −1.
pub fn record_digest(op: &Digest, output: i64) -> Digest {
    Digest::of(format!("{op}@{output}"))
}

/// A key within one store. Ids of different stores have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u64);

/// How a key is named from outside of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRef {
    /// By its id.
    Id(KeyId),
    /// A root key by its digest, which may not be in the store yet.
    Root {
        /// `sha256("<op digest>@<output>")`.
        record: Digest,
        /// Forgotten at the next start, and its links with it.
        session_local: bool,
    },
}

/// What lies between an input's key and the key of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// Which input of the op.
    pub input: u32,
    /// The record digest of the output: op digest and output index in one.
    pub record: Digest,
    /// The part of the input that the op reads, where the input isn't known by its content.
    pub selector: Option<Digest>,
}

/// One way to an output from a key of one of its inputs: the key, and the link's selector.
pub type InputRef = (KeyRef, Option<Digest>);

/// A result under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// Under which the result store has it.
    pub id: String,
    /// When it was made.
    pub created: SystemTime,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyCounts {
    /// Keys.
    pub keys: usize,
    /// Links.
    pub links: usize,
    /// Pairs of key and result.
    pub results: usize,
}

/// The daemon's own keys. Each call is atomic and answers from memory; an implementation that
/// persists writes behind.
pub trait KeyStore: Send + Sync {
    /// Whether the key is there.
    fn exists(&self, key: KeyRef) -> bool;

    /// Keys of outputs with the record digest that some of `inputs`, which all name the same input,
    /// lead to. Links from the others of `inputs` to those keys are added: what names the same input
    /// leads to the same outputs.
    fn query(&self, inputs: &[InputRef], input: u32, record: &Digest) -> Vec<KeyId>;

    /// The key that all of an output's inputs lead to, made if there is none, with links from every
    /// one of `inputs` and, if given, a result. Without inputs it is the root key of `record`.
    fn commit(
        &self,
        record: &Digest,
        inputs: &[Vec<InputRef>],
        result: Option<StoredResult>,
    ) -> KeyId;

    /// Results of a key, in no order.
    fn results(&self, key: KeyRef) -> Vec<StoredResult>;

    /// The record digest, if `key` is a root key that outlives its session.
    fn root_digest(&self, key: KeyId) -> Option<Digest>;

    /// Keys and links that lead to `child`.
    fn parents(&self, child: KeyId) -> Vec<(KeyId, Link)>;

    /// Keys that have the result.
    fn keys_of(&self, result: &str) -> Vec<KeyId>;

    /// The result is gone: takes it from its keys, and removes keys that nothing refers to.
    fn release(&self, result: &str);

    /// Removes a session-local root key, its links, and keys that nothing refers to.
    fn forget_root(&self, record: &Digest);

    /// Every result id that some key has.
    fn result_ids(&self) -> Vec<String>;

    /// Sizes.
    fn counts(&self) -> KeyCounts;
}
