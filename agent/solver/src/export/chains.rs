//! Records under construction: those that stand for one key are made one.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::Digest;

use super::{ExportLink, ExportRecord, ExportedResult};

/// Records so far. No record is among its own inputs, however far down.
pub(super) struct Chains<T> {
    records: Vec<ExportRecord<T>>,
    roots: BTreeMap<Digest, usize>,
    /// From a record to those that it is an input of: (record, input, digest, selector) → records.
    children: BTreeMap<(usize, usize, Digest, Option<Digest>), BTreeSet<usize>>,
}

impl<T: PartialEq> Default for Chains<T> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            roots: BTreeMap::new(),
            children: BTreeMap::new(),
        }
    }
}

impl<T: PartialEq> Chains<T> {
    /// Adds a record, or what is new of one that is there. `None` where some input has no record.
    pub(super) fn add(
        &mut self,
        digest: Digest,
        inputs: &[Vec<ExportLink>],
        results: Vec<ExportedResult<T>>,
    ) -> Option<usize> {
        if inputs.iter().any(Vec::is_empty) {
            return None;
        }
        let known = if inputs.is_empty() {
            self.roots.get(&digest).copied()
        } else {
            self.common_child(digest, inputs)
        };
        let record = known.unwrap_or_else(|| {
            self.records.push(ExportRecord {
                digest,
                inputs: vec![Vec::new(); inputs.len()],
                results: Vec::new(),
            });
            self.records.len() - 1
        });
        if inputs.is_empty() {
            self.roots.insert(digest, record);
        }
        for result in results {
            let known = &mut self.records[record].results;
            let is_known = known
                .iter()
                .any(|other| other.created == result.created && other.remote == result.remote);
            if !is_known {
                known.push(result);
            }
        }
        for (input, links) in inputs.iter().enumerate() {
            for link in links {
                // A record that was found by other links may be below this one already.
                if self.is_below(record, link.record) {
                    continue;
                }
                if !self.records[record].inputs[input].contains(link) {
                    self.records[record].inputs[input].push(*link);
                }
                self.children
                    .entry((link.record, input, digest, link.selector))
                    .or_default()
                    .insert(record);
            }
        }
        Some(record)
    }

    /// Whether `record` is `other` or among what `other` is made from.
    fn is_below(&self, record: usize, other: usize) -> bool {
        let mut seen = BTreeSet::from([other]);
        let mut pending = vec![other];
        while let Some(next) = pending.pop() {
            if next == record {
                return true;
            }
            let links = self.records[next].inputs.iter().flatten();
            pending.extend(
                links
                    .map(|link| link.record)
                    .filter(|below| seen.insert(*below)),
            );
        }
        false
    }

    fn common_child(&self, digest: Digest, inputs: &[Vec<ExportLink>]) -> Option<usize> {
        let mut common: Option<BTreeSet<usize>> = None;
        for (input, links) in inputs.iter().enumerate() {
            let found: BTreeSet<usize> = links
                .iter()
                .filter_map(|link| {
                    self.children
                        .get(&(link.record, input, digest, link.selector))
                })
                .flatten()
                .copied()
                .collect();
            common = Some(match common {
                None => found,
                Some(common) => common.intersection(&found).copied().collect(),
            });
        }
        common?.first().copied()
    }

    /// The records, inputs before what is made from them.
    pub(super) fn into_records(self) -> Vec<ExportRecord<T>> {
        let order = inputs_first(&self.records);
        let mut places = vec![0; order.len()];
        for (place, record) in order.iter().enumerate() {
            places[*record] = place;
        }
        let mut records: Vec<(usize, ExportRecord<T>)> =
            places.iter().copied().zip(self.records).collect();
        records.sort_unstable_by_key(|(place, _)| *place);
        let mut records: Vec<ExportRecord<T>> =
            records.into_iter().map(|(_, record)| record).collect();
        for record in &mut records {
            for link in record.inputs.iter_mut().flatten() {
                link.record = places[link.record];
            }
            for links in &mut record.inputs {
                links.sort_unstable_by_key(|link| (link.record, link.selector));
            }
            record
                .results
                .sort_by_key(|result| std::cmp::Reverse(result.created));
        }
        records
    }
}

fn inputs_first<T>(records: &[ExportRecord<T>]) -> Vec<usize> {
    let mut order = Vec::with_capacity(records.len());
    let mut seen = vec![false; records.len()];
    let mut pending: Vec<(usize, bool)> = (0..records.len())
        .rev()
        .map(|record| (record, false))
        .collect();
    while let Some((record, inputs_done)) = pending.pop() {
        if inputs_done {
            order.push(record);
        } else if !std::mem::replace(&mut seen[record], true) {
            pending.push((record, true));
            let links = records[record].inputs.iter().flatten();
            pending.extend(links.map(|link| (link.record, false)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(record: usize) -> ExportLink {
        ExportLink {
            selector: None,
            record,
        }
    }

    #[test]
    fn records_of_one_key_are_one() {
        let [root_a, root_b, op] = ["a", "b", "op"].map(Digest::of);
        let mut chains: Chains<u8> = Chains::default();
        let a = chains.add(root_a, &[], Vec::new()).unwrap();
        let b = chains.add(root_b, &[], Vec::new()).unwrap();
        assert_eq!(chains.add(root_a, &[], Vec::new()), Some(a));
        let both = chains.add(op, &[vec![link(a), link(b)]], Vec::new());
        assert_eq!(chains.add(op, &[vec![link(b)]], Vec::new()), both);
        assert_eq!(chains.add(op, &[vec![]], Vec::new()), None);
        // A link from a root that came later is kept, and the root comes first then.
        let late = chains.add(Digest::of("late"), &[], Vec::new()).unwrap();
        assert_eq!(
            chains.add(op, &[vec![link(b), link(late)]], Vec::new()),
            both
        );
        // One from what is made from the record would be a ring.
        let above = chains.add(
            Digest::of("above"),
            &[vec![link(both.unwrap())]],
            Vec::new(),
        );
        let ring = [vec![link(b), link(above.unwrap())]];
        assert_eq!(chains.add(op, &ring, Vec::new()), both);
        let records = chains.into_records();
        assert_eq!(records.len(), 5);
        for (index, record) in records.iter().enumerate() {
            let mut links = record.inputs.iter().flatten();
            assert!(links.all(|link| link.record < index), "{records:?}");
        }
        let op = records.iter().find(|record| record.digest == op).unwrap();
        assert_eq!(op.inputs[0].len(), 3);
    }
}
