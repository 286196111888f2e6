//! Sessions and outputs end to end: a stand-in for the daemon's session endpoint, and the real client.

#![expect(clippy::unwrap_used, reason = "tests fail where they stand")]

mod images;
mod outputs;
mod peer;
mod session;
