//! The owner of the machine: `kiln-vmd`.
//!
//! ```text
//!  host.sock ──► service ──────────┐ commands          ┌─► driver::native   a child kilnd
//!                                  ▼                   │
//!  buildkitd.sock ─► publish ─► life (one task) ─► driver
//!  agent.sock ─────►    │          │ status            └─► driver::qemu     a virtual machine
//!                       │          ▼
//!                       └── relay ◄── Machine::connect: streams to the engine
//! ```
//! Invariants:
//! - one owner per runtime directory (`instance`), and its death takes the machine along (`child`);
//! - sockets exist before the machine does, and the first connection wakes it;
//! - only the task of `life` changes what the machine is; everybody else asks it and watches;
//! - what comes from the machine is hostile: no path, mode, command or unbounded text is taken from it.

pub mod args;
pub mod child;
pub mod console;
pub mod daemon;
mod diagnose;
pub mod driver;
mod idle;
mod instance;
pub mod life;
mod programs;
mod publish;
mod refusal;
mod service;
mod settings;
mod traffic;

pub use programs::Programs;
