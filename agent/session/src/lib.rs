//! Calls back into the client: files, secrets, ssh, credentials, upload.
//!
//! ```text
//!   client                                    daemon
//!   Control.Session(stream of bytes) ───────▶ SessionManager::serve
//!   gRPC server  ◀── HTTP/2 in those bytes ── gRPC client ──▶ Caller
//! ```
//! The roles are swapped inside the stream: whoever builds calls whoever asked for the build. A build
//! holds ids of sessions, never sessions: a step that outlives one client goes on with another's
//! ([`SessionManager::any`]).

mod caller;
mod calls;
mod connection;
mod error;
mod headers;
mod health;
mod manager;

pub use caller::Caller;
pub use calls::auth::{Credentials, Token, TokenRequest};
pub use calls::content::ContentProxy;
pub use calls::export::ExporterChoice;
pub use calls::files::{FileWriter, Taken};
pub use connection::Connection;
pub use error::Error;
pub use headers::SessionHeaders;
pub use kiln_filesync::{FileRequest, FilterOptions, MessageIo};
pub use manager::SessionManager;
