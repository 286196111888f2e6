//! The cases.

pub(crate) mod isolation;
pub(crate) mod life;
pub(crate) mod mounts;
pub(crate) mod process;
