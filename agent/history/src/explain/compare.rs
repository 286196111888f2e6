//! The first difference between two steps that are the same one in two builds.

use super::align::{Pairs, split, words};
use super::{
    Cause, Difference, DifferenceKind, FileLists, Found, Ingredients, Input, Step, StepKind,
};

/// The first difference of each step; `None` where nothing differs.
pub(super) fn compare(
    before: &Ingredients,
    now: &Ingredients,
    pairs: &Pairs,
    files: &FileLists,
) -> Vec<Option<Found>> {
    let mut comparison = Comparison {
        before,
        now,
        pairs,
        files,
        found: Vec::with_capacity(now.steps.len()),
    };
    for index in 0..now.steps.len() {
        let found = comparison.of_step(index);
        comparison.found.push(found);
    }
    comparison.found
}

struct Comparison<'a> {
    before: &'a Ingredients,
    now: &'a Ingredients,
    pairs: &'a Pairs,
    files: &'a FileLists,
    /// Of the steps so far: inputs come before what is made from them.
    found: Vec<Option<Found>>,
}

impl Comparison<'_> {
    fn of_step(&self, index: usize) -> Option<Found> {
        let new = &self.now.steps[index];
        let Some(old) = self.pairs.of_new(index).map(|old| &self.before.steps[old]) else {
            let text = split(&new.name).1;
            return Some(Found {
                cause: Cause::Instruction,
                summary: "the build before had no such step".to_owned(),
                differences: vec![difference(DifferenceKind::Instruction, &new.name, "", text)],
            });
        };
        if new.kind == StepKind::Source {
            return source(old, new);
        }
        if old.definition != new.definition {
            return Some(instruction(old, new));
        }
        self.base(new)
            .or_else(|| arguments(old, new))
            .or_else(|| self.inputs(old, new))
    }

    /// The image right below the step.
    fn base(&self, new: &Step) -> Option<Found> {
        new.inputs.iter().find_map(|input| {
            let is_base =
                input.reads.is_none() && self.now.steps[input.step].kind == StepKind::Source;
            is_base.then(|| self.found[input.step].clone()).flatten()
        })
    }

    fn inputs(&self, old: &Step, new: &Step) -> Option<Found> {
        new.inputs
            .iter()
            .enumerate()
            .find_map(|(at, input)| self.input(old.inputs.get(at), input))
    }

    fn input(&self, old: Option<&Input>, new: &Input) -> Option<Found> {
        if let (Some(old), Some(reads)) = (old, &new.reads) {
            let content = |input: &Input| input.reads.as_ref().and_then(|reads| reads.content);
            match (content(old), reads.content) {
                (Some(before), Some(now)) if before == now => return None,
                (None, _) | (_, None) if self.is_same_list(old, new) => return None,
                _ => {}
            }
            if let Some(found) = self.read_files(old, new) {
                return Some(found);
            }
        }
        let made_by = &self.now.steps[new.step];
        if made_by.no_cache {
            return Some(parent(
                made_by,
                "was run anew because the client asked for it",
            ));
        }
        let found = self.found[new.step].as_ref()?;
        let why = match found.cause {
            // The step that it all began with is the one to name.
            Cause::Parent => return Some(found.clone()),
            _ => &found.summary,
        };
        Some(parent(made_by, &format!("changed: {why}")))
    }

    fn is_same_list(&self, old: &Input, new: &Input) -> bool {
        let before = self.before.steps[old.step].files;
        before.is_some() && before == self.now.steps[new.step].files
    }

    /// Files of a directory, by path.
    fn read_files(&self, old: &Input, new: &Input) -> Option<Found> {
        let list = |digest: Option<kiln_oci::Digest>| self.files.get(&digest?);
        let before = list(self.before.steps.get(old.step)?.files)?;
        let now = list(self.now.steps[new.step].files)?;
        let patterns = &new.reads.as_ref()?.patterns;
        let differences = before.differences(now, patterns);
        let (first, rest) = differences.split_first()?;
        let summary = match rest.len() {
            0 => format!("{} {}", first.name, what_happened(first)),
            1 => format!("{} and one more file changed", first.name),
            more => format!("{} and {more} more files changed", first.name),
        };
        Some(Found {
            cause: Cause::Files,
            summary,
            differences,
        })
    }
}

fn what_happened(difference: &Difference) -> &'static str {
    match (difference.before.is_empty(), difference.after.is_empty()) {
        (true, _) => "is new",
        (_, true) => "is gone",
        _ => "changed",
    }
}

fn difference(kind: DifferenceKind, name: &str, before: &str, after: &str) -> Difference {
    Difference {
        kind,
        name: name.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    }
}

fn parent(step: &Step, what: &str) -> Found {
    Found {
        cause: Cause::Parent,
        summary: format!("{} {what}", step.name),
        differences: vec![difference(DifferenceKind::Parent, &step.name, "", "")],
    }
}

fn instruction(old: &Step, new: &Step) -> Found {
    let (before, after) = (split(&old.name).1, split(&new.name).1);
    let summary = if before == after {
        "the options of the instruction changed".to_owned()
    } else {
        format!("the instruction was {before}")
    };
    Found {
        cause: Cause::Instruction,
        summary,
        differences: vec![difference(
            DifferenceKind::Instruction,
            &new.name,
            before,
            after,
        )],
    }
}

/// Directories are compared by what is read of them.
fn source(old: &Step, new: &Step) -> Option<Found> {
    if new.files.is_some() || (old.pin == new.pin && old.definition == new.definition) {
        return None;
    }
    let (before, after) = (words(old), words(new));
    let name = after.strip_prefix("FROM ").unwrap_or(after);
    let pin = |step: &Step| step.pin.clone().unwrap_or_default();
    let moved = old.definition == new.definition;
    let summary = if moved {
        format!("{name} is another one now")
    } else {
        format!(
            "{name} instead of {}",
            before.strip_prefix("FROM ").unwrap_or(before)
        )
    };
    let (before, after) = if moved {
        (pin(old), pin(new))
    } else {
        (before.to_owned(), after.to_owned())
    };
    Some(Found {
        cause: Cause::Base,
        summary,
        differences: vec![difference(DifferenceKind::Base, name, &before, &after)],
    })
}

fn arguments(old: &Step, new: &Step) -> Option<Found> {
    let mut names: Vec<&String> = old.arguments.keys().chain(new.arguments.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| old.arguments.get(*name) != new.arguments.get(*name));
    let (first, rest) = names.split_first()?;
    let what = match (
        old.arguments.contains_key(*first),
        new.arguments.contains_key(*first),
    ) {
        (false, _) => "is new",
        (_, false) => "is gone",
        _ => "has another value",
    };
    let more = if rest.is_empty() {
        String::new()
    } else {
        format!(", and {} more", rest.len())
    };
    Some(Found {
        cause: Cause::Argument,
        summary: format!("argument {first} {what}{more}"),
        differences: names
            .iter()
            .map(|name| difference(DifferenceKind::Argument, name, "", ""))
            .collect(),
    })
}
