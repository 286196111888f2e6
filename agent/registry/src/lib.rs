//! The distribution client: resolve, fetch, push, auth, mirrors.
//!
//! A [`Registry`] holds what the configuration says of hosts, and connections; a [`Client`] is a
//! registry with somebody's [`Credentials`] and the tokens that they gave. Invariants:
//!
//! - Nothing is believed that wasn't hashed: manifests are checked here, blobs by whoever stores them.
//! - A body that breaks off is resumed where it broke, up to a number of tries without progress.
//! - Pulls ask the mirrors in order and then the registry itself; pushes go to the registry only.
//! - Credentials go only to the host, or the token server of the host, that they are for.
//! - Dropping a future ends its request.

mod auth;
mod client;
mod error;
mod fetch;
mod hosts;
mod manifest;
mod push;
mod request;

pub use auth::{Anonymous, Credential, CredentialError, Credentials, Token, TokenRequest};
pub use client::{Client, Registry};
pub use error::{Error, Result};
pub use fetch::BlobReader;
pub use manifest::{MAX_MANIFEST, Manifest};
pub use push::{BlobSource, Pushed, Sent};
