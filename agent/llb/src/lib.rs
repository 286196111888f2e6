//! Decodes, validates and builds LLB; keeps the op bytes as they were sent; writes Go's JSON.
//!
//! Invariant: a vertex's digest is the sha256 of its bytes *as sent*. Bytes are marshalled anew only
//! where an op was made here or a source policy changed it, and then deterministically.

mod build;
mod decode;
mod exec;
mod file;
pub mod gojson;
mod graph;
pub mod keys;
mod marshal;
mod name;
mod validate;

pub use build::{definition, diff, merge, post_order, source, vertex};
pub use decode::{DecodeError, MAX_DEPTH, Replacements, decode, decode_replacing, sources};
pub use exec::{Exec, ExecOutputs, Mount, MountKind, Secret};
pub use file::{FileChain, owner};
pub use graph::{CUSTOM_NAME, Edge, Location, Vertex, VertexOptions};
pub use marshal::{definition_bytes, op_bytes};
pub use validate::InvalidOp;
