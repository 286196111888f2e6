//! Which step of a build is which step of another.
//!
//! Steps of equal digests are the same. Of the others those of one stage are laid side by side: what has the
//! same text is the same step, and what lies between two such is paired in order, so that a changed
//! instruction finds what it was before, and an added one finds nothing.

use std::collections::BTreeMap;
use std::collections::HashMap;

use super::{Ingredients, Step};

/// Pairs of steps, by position.
#[derive(Debug)]
pub(super) struct Pairs(Vec<Option<usize>>);

impl Pairs {
    /// The step of the build before that is this one now.
    pub(super) fn of_new(&self, new: usize) -> Option<usize> {
        self.0[new]
    }

    pub(super) fn of(before: &Ingredients, now: &Ingredients) -> Self {
        let mut pairs = vec![None; now.steps.len()];
        let mut taken = vec![false; before.steps.len()];
        let by_vertex: HashMap<&str, usize> = before
            .steps
            .iter()
            .enumerate()
            .map(|(index, step)| (step.vertex.as_str(), index))
            .collect();
        for (new, step) in now.steps.iter().enumerate() {
            if let Some(&old) = by_vertex.get(step.vertex.as_str())
                && !taken[old]
            {
                pairs[new] = Some(old);
                taken[old] = true;
            }
        }
        let (old_lanes, new_lanes) = (lanes(before), lanes(now));
        for (lane, new) in &new_lanes {
            if let Some(old) = old_lanes.get(lane) {
                pair_lane(before, now, old, new, &mut pairs, &mut taken);
            }
        }
        // Stages get other names when one is added; what steps do stays.
        for (new, step) in now.steps.iter().enumerate() {
            if pairs[new].is_none() {
                let same = |(old, other): &(usize, &Step)| {
                    !taken[*old] && other.kind == step.kind && words(other) == words(step)
                };
                if let Some((old, _)) = before.steps.iter().enumerate().find(same) {
                    pairs[new] = Some(old);
                    taken[old] = true;
                }
            }
        }
        Self(pairs)
    }
}

/// The steps of each stage in order.
fn lanes(all: &Ingredients) -> BTreeMap<&str, Vec<usize>> {
    let mut lanes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, step) in all.steps.iter().enumerate() {
        lanes.entry(split(&step.name).0).or_default().push(index);
    }
    lanes
}

/// The stage of a step and its instruction: `[build 2/3] RUN make` is of `build`.
pub(super) fn split(name: &str) -> (&str, &str) {
    let Some((head, rest)) = name
        .strip_prefix('[')
        .and_then(|name| name.split_once("] "))
    else {
        return ("", name);
    };
    let (stage, number) = head.rsplit_once(' ').unwrap_or(("", head));
    let is_number = number
        .split_once('/')
        .is_some_and(|(a, b)| [a, b].iter().all(|part| part.parse::<u32>().is_ok()));
    (if is_number { stage } else { head }, rest)
}

/// The instruction without what a source turned out to be.
pub(super) fn words(step: &Step) -> &str {
    let (_, words) = split(&step.name);
    words
        .split_once("@sha256:")
        .map_or(words, |(words, _)| words)
}

fn pair_lane(
    before: &Ingredients,
    now: &Ingredients,
    old: &[usize],
    new: &[usize],
    pairs: &mut [Option<usize>],
    taken: &mut [bool],
) {
    let same = |old: usize, new: usize| {
        pairs[new] == Some(old)
            || (pairs[new].is_none()
                && !taken[old]
                && before.steps[old].kind == now.steps[new].kind
                && words(&before.steps[old]) == words(&now.steps[new]))
    };
    let common = longest_common(old, new, same);
    for &(old_at, new_at) in &common {
        pairs[new[new_at]] = Some(old[old_at]);
        taken[old[old_at]] = true;
    }
    // Between two common ones, in order.
    let ends = common.into_iter().chain([(old.len(), new.len())]);
    let (mut old_from, mut new_from) = (0, 0);
    for (old_to, new_to) in ends {
        let mut candidates = old[old_from..old_to].to_vec();
        for &new in &new[new_from..new_to] {
            if pairs[new].is_some() {
                continue;
            }
            let kind = now.steps[new].kind;
            let found = candidates
                .iter()
                .position(|&old| !taken[old] && before.steps[old].kind == kind);
            if let Some(found) = found {
                let old = candidates[found];
                candidates.drain(..=found);
                pairs[new] = Some(old);
                taken[old] = true;
            }
        }
        old_from = (old_to + 1).min(old.len());
        new_from = (new_to + 1).min(new.len());
    }
}

/// Positions of a longest common subsequence. Stages have tens of steps; beyond some thousands only the
/// common beginning counts.
fn longest_common(
    old: &[usize],
    new: &[usize],
    same: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    const MOST: usize = 1 << 22;
    if old.len() * new.len() > MOST {
        return (0..old.len().min(new.len()))
            .take_while(|&at| same(old[at], new[at]))
            .map(|at| (at, at))
            .collect();
    }
    let width = new.len() + 1;
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if same(old[i], new[j]) {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut common) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if same(old[i], new[j]) {
            common.push((i, j));
            i += 1;
            j += 1;
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}
