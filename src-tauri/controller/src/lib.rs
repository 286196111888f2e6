//! What the desktop app does, without a window.
//!
//! ```text
//!  kiln-vmd ──status──┐
//!                     ├──► Controller ──► watch, broadcast ──► window, tray
//!  engine ──history───┘        ▲
//!                              └── calls of the window: one method each
//! ```
//! One task ([`Controller::run`]) owns the connections that last; calls of the window borrow them.
//!
//! Invariants: nothing here knows of Tauri; the machine is never woken to look at it: the engine is
//! connected to only while the machine runs, or for a call that people made.

pub mod autostart;
mod build_calls;
mod builders;
mod builds;
mod cache;
mod clients;
mod controller;
mod engine_config;
mod failure;
#[cfg(test)]
mod fake_host;
mod files;
mod folder;
mod freed;
mod graphics;
mod images;
mod keys;
mod machine;
mod notices;
pub mod picker;
mod progress;
mod projects;
mod provenance;
mod questions;
mod rebuild;
mod records;
mod registries;
mod requests;
mod settings;
mod starting;
mod support;
pub mod surroundings;
mod tools;
mod transfers;
pub mod tray;
pub mod view;
mod watching;

pub use controller::Controller;
pub use failure::Failure;
pub use notices::{Notice, Notices};
pub use settings::{AppSettings, SCHEMA};
