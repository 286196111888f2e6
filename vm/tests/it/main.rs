//! The owner of the machine as its users meet it: through its sockets, with stock clients.
//!
//! The engine is a real `kilnd` (`KILN_KILND`, or the one beside `kiln-vmd`), run by the native driver, which needs
//! root; the command is a real `kiln` (`KILN_CLI`, or the one beside it). The tests are independent of each other: each has directories of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod commands;
mod complaints;
mod contract;
mod home;
mod hostile;
mod life;
mod native;
mod refusals;
mod sockets;
