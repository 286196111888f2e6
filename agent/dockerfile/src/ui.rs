//! What clients give a Dockerfile frontend beside the Dockerfile: options, contexts, ignore files.
//!
//! Names and meanings are those of BuildKit's `dockerui`, which buildx and other clients speak.

mod context;
mod git;
mod image;
mod named;
mod options;

pub use context::ContextError;
pub(crate) use context::{Contexts, Entrypoint, follow_paths};
pub use git::GitError;
pub(crate) use git::{GitOptions, GitRef, git_source, parse as parse_git, percent_decode};
pub(crate) use image::{from_pb, to_pb};
pub(crate) use named::{Base, LocalBase, NamedContext, image_source};
pub use options::OptionError;
pub(crate) use options::{Options, ResolveMode};
