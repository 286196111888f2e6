//! The services of a client, one file each.

pub(crate) mod auth;
pub(crate) mod content;
pub(crate) mod export;
pub(crate) mod files;
pub(crate) mod secrets;
pub(crate) mod ssh;
pub(crate) mod upload;
