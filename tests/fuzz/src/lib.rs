//! Every parser of what comes from outside, fed with damaged input.
//!
//! A [`Target`] is a parser with the promises that it must keep: no panic, no overflow of the stack, an end in bounded
//! time, nothing outside of the directory that it writes to, and what was read and written again reads the same. It
//! says in a word what became of the input; inputs with a new word are kept and damaged further, which leads deeper
//! than chance alone. The numbers are the same in each run with the same seed.
//!
//! `cargo test -p kiln-fuzz` gives each target a moment; `cargo run -p kiln-fuzz -- TARGET SECONDS [SEED]` as long as
//! one likes. An input that broke a promise goes to `testdata/TARGET/`, where every later run begins with it.
//!
//! Invariant: a target is a function of its bytes.

mod mutate;
mod run;
mod seeds;
mod targets;

pub use run::{Found, Report, fuzz, replay};
pub use targets::ALL;

/// A parser.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Inputs that it understands.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of its language.
    pub words: &'static [&'static [u8]],
    /// Reads the input and says what became of it.
    pub read: fn(&[u8]) -> String,
}
