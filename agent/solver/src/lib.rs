//! The graph engine: digests, keys, links and results.
//!
//! ```text
//!  Job::build ─► core: active nodes ─► edge: fast keys ► slow keys ► hit or NoHit ► Done
//!                                        │ search        (keys of inputs, contents)
//!                                        ├ caches        (own keys, imported caches)
//!                                        └ run ► flight  (equal work of all builds runs once)
//! ```
//!
//! Invariants, each with a named test:
//! 1. Nothing runs if any cache key of it has a result.
//! 2. A fully cached build evaluates nothing that it doesn't return.
//! 3. Equal work of two builds runs once, even under different vertex digests, and stops when the last
//!    of them leaves.
//! 4. A failed or cancelled step leaves no result under any key.
//! 5. Independent vertices run in parallel.
//! 6. Each output has one owner, whose phases are types: nothing runs without the proof of a miss.
//!
//! Nothing here knows of containers, file systems, registries or Dockerfiles.

mod caches;
mod core;
mod edge;
pub mod error;
pub mod export;
mod flight;
pub mod import;
mod key;
mod memo;
mod node;
pub mod op;
mod report;
mod run;
mod search;
mod slots;
mod solver;
pub mod store;

pub use error::SolveError;
pub use export::{ExportMode, ExportOptions, ExportTarget};
pub use import::{CacheSource, ImportedCache};
pub use solver::{CachedResult, Job, Solver, SolverOptions, VertexFacts};
pub use store::{DatabaseKeys, KeyStore, MemoryKeys};
