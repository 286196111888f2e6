//! Merges and diffs.
//!
//! On overlayfs a merge has no files of its own: it is the layers of its parents, stacked. A diff
//! between a state and one a layer above it is that layer; one between a state and a later one on the
//! same chain is a merge of the layers between. Only the diff of unrelated states is computed, when its
//! files are needed. With plain copies merges are computed too.

use std::io::{Read, Write};
use std::sync::Arc;

use kiln_snapshot::diff::{DiffOptions, write_trees};

use crate::extract::{Asker, names, owners};
use crate::persist;
use crate::record::{Layer, Lineage, Record};
use crate::shared::{Shared, new_id};
use crate::{Error, RecordOptions, Result};

impl Shared {
    /// A record of the states one over the other. At least two are given.
    pub(crate) fn new_merge(
        self: &Arc<Self>,
        parents: Vec<Arc<Record>>,
        options: RecordOptions,
    ) -> Arc<Record> {
        // What merges are made of matters, not in which groups.
        let mut flat = Vec::with_capacity(parents.len());
        for parent in parents {
            match &parent.lineage {
                Lineage::Merge(inner) => flat.extend(inner.iter().cloned()),
                _ => flat.push(parent),
            }
        }
        let id = new_id();
        let layer =
            (!self.snapshots.layers_are_independent()).then(|| Layer::new(id.as_str(), false));
        let owns = layer.is_some();
        Self::new_record(id, Lineage::Merge(flat), layer, owns, false, options)
    }

    /// A record of what makes `upper` of `lower`; `None` where nothing does.
    pub(crate) fn new_diff(
        self: &Arc<Self>,
        lower: Option<Arc<Record>>,
        upper: Option<Arc<Record>>,
        options: RecordOptions,
    ) -> Option<Arc<Record>> {
        let (lower, upper) = match (lower, upper) {
            (None, upper) => return upper,
            (Some(lower), Some(upper)) if lower.id == upper.id => return None,
            (Some(lower), upper) => (lower, upper),
        };
        if let Some(upper) = &upper
            && let Some(above) = above(&lower, upper)
        {
            let mut diffs: Vec<Arc<Record>> = above
                .iter()
                .map(|record| self.neighbours(record, options.clone()))
                .collect();
            return Some(match diffs.len() {
                1 => diffs.remove(0),
                _ => self.new_merge(diffs, options),
            });
        }
        let id = new_id();
        let layer = Layer::new(id.as_str(), false);
        let lineage = Lineage::Diff {
            lower: Some(lower),
            upper,
        };
        Some(Self::new_record(
            id,
            lineage,
            Some(layer),
            true,
            false,
            options,
        ))
    }

    /// The diff between a record and its parent.
    fn neighbours(self: &Arc<Self>, upper: &Arc<Record>, options: RecordOptions) -> Arc<Record> {
        let Lineage::Layer(parent) = &upper.lineage else {
            return Arc::clone(upper);
        };
        let id = new_id();
        let lineage = Lineage::Diff {
            lower: Some(Arc::clone(parent)),
            upper: Some(Arc::clone(upper)),
        };
        // The upper one's layer serves where layers don't depend on what is below.
        let (layer, owns) = if self.snapshots.layers_are_independent() {
            (upper.layer.clone(), false)
        } else {
            (Some(Layer::new(id.as_str(), false)), true)
        };
        let record = Self::new_record(id, lineage, layer, owns, false, options);
        let mut state = self.lock();
        self.insert(&mut state, &record);
        record
    }

    /// Makes the files of a diff or a merge that has no blob.
    pub(crate) async fn compose_files(
        self: &Arc<Self>,
        record: &Arc<Record>,
        layer: &Arc<Layer>,
        asker: Asker<'_>,
    ) -> Result<()> {
        for parent in record.lineage.parents() {
            self.extract(parent, asker).await?;
        }
        let turn = Arc::clone(&layer.work).lock_owned().await;
        if layer.is_extracted() {
            return Ok(());
        }
        let permit = Arc::clone(&self.work)
            .acquire_owned()
            .await
            .map_err(|_| Error::Cancelled)?;
        let (shared, record, layer) = (Arc::clone(self), Arc::clone(record), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let _held = (turn, permit);
            let composed = shared.compose_steps(&record, &layer);
            if composed.is_err()
                && let Err(error) = shared.snapshots.remove(&layer.snapshot)
            {
                tracing::warn!(%error, "half a layer stays until the next start");
            }
            composed
        })
        .await
        .map_err(|_| Error::Cancelled)?
    }

    fn compose_steps(&self, record: &Record, layer: &Layer) -> Result<()> {
        match &record.lineage {
            Lineage::Diff { .. } => {
                let (lower, upper) = sides(record);
                self.snapshots.create(&layer.snapshot, &[])?;
                self.pipe_diff(layer, &lower, &upper)?;
            }
            Lineage::Merge(parents) => {
                // Whole states: the first one copied, then what each layer of the others changes.
                let first = parents.first().map(|first| names(&first.stack()));
                let first = first.unwrap_or_default();
                let below: Vec<&str> = first.iter().map(String::as_str).collect();
                self.snapshots.create(&layer.snapshot, &below)?;
                for parent in parents.iter().skip(1) {
                    for owner in owners(parent) {
                        let (below, above) = sides(&owner);
                        self.pipe_diff(layer, &below, &above)?;
                    }
                }
            }
            Lineage::Base | Lineage::Layer(_) => return Err(Error::NotFound(record.id.clone())),
        }
        self.finish_files(layer, kiln_snapshot::apply::Applied::default());
        persist::amend_record(&self.db, record);
        Ok(())
    }

    /// Applies what makes one state of another to the layer's snapshot.
    fn pipe_diff(&self, layer: &Layer, lower: &[String], upper: &[String]) -> Result<()> {
        let directories = |stack: &[String]| {
            let stack: Vec<&str> = stack.iter().map(String::as_str).collect();
            self.snapshots.layers(&stack)
        };
        let (lower, upper) = (directories(lower)?, directories(upper)?);
        let (mut reader, writer) = pipe().map_err(|source| Error::Io {
            doing: "failed to make a pipe for",
            path: layer.snapshot.clone().into(),
            source,
        })?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                let out = std::io::BufWriter::with_capacity(128 << 10, writer);
                let (mut out, _) = write_trees(&lower, &upper, out, DiffOptions::default())?;
                // An early end of the reader shows as its own error.
                let _ = out.flush();
                Ok::<_, Error>(())
            });
            let read = self.snapshots.apply(
                &layer.snapshot,
                std::io::BufReader::with_capacity(128 << 10, &mut reader),
                false,
                kiln_snapshot::tar::Limits::default(),
            );
            drop(reader);
            let written = writing.join().unwrap_or(Err(Error::Cancelled));
            read?;
            written
        })
    }
}

/// The two stacks between which a record's own layer is the difference.
pub(crate) fn sides(record: &Record) -> (Vec<String>, Vec<String>) {
    let stack = |record: &Record| names(&record.stack());
    match &record.lineage {
        Lineage::Layer(parent) => (stack(parent), stack(record)),
        Lineage::Diff { lower, upper } => (
            lower.as_deref().map(stack).unwrap_or_default(),
            upper.as_deref().map(stack).unwrap_or_default(),
        ),
        Lineage::Base | Lineage::Merge(_) => (Vec::new(), stack(record)),
    }
}

/// The records above `lower` on the chain of `upper`, the lowest first, if `lower` is on it.
fn above(lower: &Arc<Record>, upper: &Arc<Record>) -> Option<Vec<Arc<Record>>> {
    let mut above = Vec::new();
    let mut at = upper;
    while at.id != lower.id {
        above.push(Arc::clone(at));
        match &at.lineage {
            Lineage::Layer(parent) => at = parent,
            _ => return None,
        }
    }
    above.reverse();
    Some(above)
}

fn pipe() -> std::io::Result<(impl Read + Send, impl Write + Send)> {
    std::io::pipe()
}
