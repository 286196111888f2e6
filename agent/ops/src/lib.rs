//! Source, exec, file, merge, diff and build ops over records of the cache.
//!
//! ```text
//! Vertex ──► Resolver ──► Op: cache_map (keys, made in kiln-llb) ──► run (inputs' refs → outputs' refs)
//! ```
//!
//! Invariants: a key is BuildKit's, byte for byte; an op that failed or was dropped leaves no record, mount
//! or process; nothing is fetched, unpacked or mounted to know a key that can be known without.

mod exec;
mod file;
mod graph_ops;
mod inputs;
mod made;
mod resolver;
mod source;

pub use exec::{ExecError, ExecFailure, ExecRunner, LogLimits, NotRun, StepNetwork, Surroundings};
pub use file::{ActionError, FileError};
pub use resolver::{OpParts, Resolver};
