//! Texts and paths as Go's standard library has them: what BuildKit quotes in messages and histories, and the
//! paths of which it makes cache keys, are compared with ours byte by byte.
//!
//! Invariants: no I/O; a path is cleaned by its letters alone, so that a symbolic link in it isn't seen.

pub mod path;
pub mod pattern;
mod quote;

pub use quote::{quote, quote_list};
