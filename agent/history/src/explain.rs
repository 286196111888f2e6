//! Why steps of a build ran instead of coming from the cache.
//!
//! ```text
//! ingredients of the build before ─┐
//!                                  ├─► pairs of steps ─► first difference of each ─► cause
//! ingredients of this build ───────┘     (align)             (compare)
//! ```
//!
//! A step differs from its pair where something of its own does (instruction, base image, arguments), or
//! where what it reads does: by content where the key is made of content, else by the step that made it.
//! What differs in nothing and still ran was no longer in the cache.
//!
//! Invariant: whatever is compared or shown is in the ingredients, which hold no value of an argument or a
//! secret.

mod align;
mod compare;
mod files;
mod ingredients;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use kiln_oci::Digest;

use align::Pairs;

pub use files::{FileList, encode_files};
pub use ingredients::{Ingredients, Input, Outcome, Pattern, Reads, Salt, Step, StepKind};

/// Why a step ran, or that it didn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It didn't run.
    Cached,
    /// Nothing to compare with.
    FirstBuild,
    /// The instruction differs.
    Instruction,
    /// An argument or a variable of the environment differs.
    Argument,
    /// The image below it is another one.
    Base,
    /// Files that it reads differ.
    Files,
    /// Nothing differs: the cache let go of the result.
    Evicted,
    /// The client asked for it.
    NoCache,
    /// A step that it builds upon came out different.
    Parent,
}

/// What a difference is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The text of an instruction.
    Instruction,
    /// An argument, by name.
    Argument,
    /// An image or another source.
    Base,
    /// A file, by path.
    File,
    /// A step, by name.
    Parent,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Of what.
    pub kind: DifferenceKind,
    /// Which one.
    pub name: String,
    /// What it was; empty where it is new or may not be shown.
    pub before: String,
    /// What it is; empty where it is gone or may not be shown.
    pub after: String,
}

/// Why one step ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The step's vertex.
    pub vertex: String,
    /// The step's name.
    pub name: String,
    /// Why.
    pub cause: Cause,
    /// In words.
    pub summary: String,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// Which files a directory had, by the digest of the list; none where it isn't known any more.
pub type FileLists = HashMap<Digest, FileList>;

/// Explains the steps of a build that ran, or the one of `vertex`, whether it ran or not.
pub fn explain(
    before: Option<&Ingredients>,
    now: &Ingredients,
    files: &FileLists,
    vertex: Option<&str>,
) -> Vec<Explanation> {
    let compared = before.map(|before| {
        let pairs = Pairs::of(before, now);
        (before, compare::compare(before, now, &pairs, files), pairs)
    });
    let mut explanations = Vec::new();
    for (index, step) in now.steps.iter().enumerate() {
        let of_interest = match vertex {
            Some(vertex) => step.vertex == vertex,
            None => step.outcome.has_run() && step.kind != StepKind::Source,
        };
        if !of_interest {
            continue;
        }
        let found = match &compared {
            _ if step.outcome == Outcome::Cached => {
                Found::of(Cause::Cached, "its result was in the cache")
            }
            _ if step.no_cache => Found::of(Cause::NoCache, "the client asked to run it anew"),
            None => Found::of(
                Cause::FirstBuild,
                "there is no earlier build of this project",
            ),
            Some((before, differences, pairs)) => match &differences[index] {
                Some(found) => found.clone(),
                None => no_difference(pairs.of_new(index).map(|old| &before.steps[old])),
            },
        };
        explanations.push(Explanation {
            vertex: step.vertex.clone(),
            name: step.name.clone(),
            cause: found.cause,
            summary: found.summary,
            differences: found.differences,
        });
    }
    explanations
}

/// The list of files that any comparison of the two can need.
pub fn needed_files<'a>(all: impl IntoIterator<Item = &'a Ingredients>) -> Vec<Digest> {
    let mut needed: Vec<Digest> = all
        .into_iter()
        .flat_map(|one| one.steps.iter().filter_map(|step| step.files))
        .collect();
    needed.sort_unstable();
    needed.dedup();
    needed
}

fn no_difference(old: Option<&Step>) -> Found {
    match old.map(|old| old.outcome) {
        Some(Outcome::Ran | Outcome::Cached) => Found::of(
            Cause::Evicted,
            "nothing of it changed: the cache no longer has the result",
        ),
        Some(Outcome::Failed) => Found::of(Cause::FirstBuild, "it failed in the build before"),
        _ => Found::of(
            Cause::FirstBuild,
            "the build before ended without running it",
        ),
    }
}

/// What was found of a step.
#[derive(Debug, Clone)]
struct Found {
    cause: Cause,
    summary: String,
    differences: Vec<Difference>,
}

impl Found {
    fn of(cause: Cause, summary: &str) -> Self {
        Self {
            cause,
            summary: summary.to_owned(),
            differences: Vec::new(),
        }
    }
}
