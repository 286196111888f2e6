//! The start: what the rows say, as far as the disk agrees.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kiln_ids::RefId;
use kiln_store::Recovery;

use crate::persist::{LineageRow, Rows, StoredRecord};
use crate::record::{BlobVariant, Layer, Lineage, Record};
use crate::shared::{Shared, State};
use crate::{RecordOptions, Result, UsageKind, persist};

/// Fills the maps from the database. Rows that promise files or blobs that are gone go, too (the removal of files may
/// have reached the disk before that of their rows did), then records whose parents or files are gone, and snapshots
/// that no record names. After a power cut clients' directories go as well: files may have changed on the disk
/// whose mark of that was still on its way there, and a hash tree would tell of the files before.
pub(crate) fn load(shared: &Arc<Shared>, recovery: Recovery) -> Result<()> {
    let mut rows = shared.db.read_blocking(persist::read_all)?;
    let on_disk: HashSet<String> = shared.snapshots.ids()?.into_iter().collect();
    forget_lost(shared, &mut rows, &on_disk);
    let mut loader = Loader {
        shared,
        layers: layers(&rows, &on_disk),
        waiting: rows
            .records
            .into_iter()
            .map(|stored| (stored.id.clone(), stored))
            .collect(),
        dropped: Vec::new(),
        crashed: matches!(recovery, Recovery::Crashed { .. }),
    };
    let mut state = shared.lock();
    let ids: Vec<RefId> = loader.waiting.keys().cloned().collect();
    for id in ids {
        loader.restore_with_parents(&mut state, id);
    }
    loader.link_views(&mut state);
    let dropped = std::mem::take(&mut loader.dropped);
    if !dropped.is_empty() {
        tracing::info!(
            records = dropped.len(),
            "dropped cache records that can't be vouched for"
        );
    }
    for (id, layer) in dropped {
        persist::delete_record(&shared.db, &id, layer);
        shared.announce_removed(&id);
    }
    let named: HashSet<&str> = state
        .records
        .values()
        .filter_map(|record| record.layer.as_ref())
        .map(|layer| layer.snapshot.as_str())
        .collect();
    // A record that was used again has a newer epoch than what is known of its layer, which outlives it then.
    let unnamed = loader.layers.into_keys();
    let unnamed: Vec<String> = unnamed
        .filter(|snapshot| !named.contains(snapshot.as_str()))
        .collect();
    if !unnamed.is_empty() || recovery != Recovery::Clean {
        persist::delete_unnamed(&shared.db, unnamed);
    }
    for snapshot in on_disk.iter().filter(|id| !named.contains(id.as_str())) {
        shared.snapshots.remove(snapshot)?;
    }
    Ok(())
}

/// Removes the rows of layers whose files are gone, and of blobs that are neither here nor elsewhere.
fn forget_lost(shared: &Shared, rows: &mut Rows, on_disk: &HashSet<String>) {
    let lost_layers = rows.layers.iter().map(|(snapshot, _)| snapshot);
    let lost_layers: Vec<String> = lost_layers
        .filter(|snapshot| !on_disk.contains(*snapshot))
        .cloned()
        .collect();
    let is_lost = |blob: &BlobVariant| {
        blob.sources.is_empty() && shared.content.info(&blob.descriptor.digest).is_none()
    };
    let lost_blobs: Vec<(String, i64)> = rows
        .blobs
        .extract_if(.., |(_, _, blob)| is_lost(blob))
        .map(|(snapshot, position, _)| (snapshot, position))
        .collect();
    if !lost_layers.is_empty() || !lost_blobs.is_empty() {
        persist::delete_layer_rows(&shared.db, lost_layers, lost_blobs);
    }
}

/// The layers that rows tell of; extracted only if the snapshot is there.
fn layers(rows: &Rows, on_disk: &HashSet<String>) -> HashMap<String, Arc<Layer>> {
    let mut layers: HashMap<String, Arc<Layer>> = HashMap::new();
    for (snapshot, row) in &rows.layers {
        let layer = Layer::new(snapshot.as_str(), on_disk.contains(snapshot));
        {
            let mut info = layer.info.lock();
            info.diff_id = row.diff_id;
            info.implied.clone_from(&row.implied);
        }
        layers.insert(snapshot.clone(), layer);
    }
    for (snapshot, _, blob) in &rows.blobs {
        let layer = layers
            .entry(snapshot.clone())
            .or_insert_with(|| Layer::new(snapshot.as_str(), false));
        let _: bool = layer.add_blob(BlobVariant::clone(blob));
    }
    layers
}

struct Loader<'a> {
    shared: &'a Arc<Shared>,
    layers: HashMap<String, Arc<Layer>>,
    waiting: HashMap<RefId, StoredRecord>,
    dropped: Vec<(RefId, Option<String>)>,
    crashed: bool,
}

impl Loader<'_> {
    /// Restores a record after those it is built on, without recursion: chains are long. Records that are
    /// built on each other in a circle (which only damage can make) don't find their parents and go.
    fn restore_with_parents(&mut self, state: &mut State, id: RefId) {
        let mut stack = vec![id];
        let mut expanded = HashSet::new();
        while let Some(id) = stack.last().cloned() {
            let Some(stored) = self.waiting.get(&id) else {
                stack.pop();
                continue;
            };
            let missing: Vec<RefId> = parents(&stored.row.lineage)
                .filter(|parent| self.waiting.contains_key(*parent) && !expanded.contains(*parent))
                .filter(|parent| **parent != id)
                .cloned()
                .collect();
            if missing.is_empty() {
                stack.pop();
                if let Some(stored) = self.waiting.remove(&id) {
                    self.restore(state, stored);
                }
            } else {
                expanded.insert(id);
                stack.extend(missing);
            }
        }
    }

    fn restore(&mut self, state: &mut State, stored: StoredRecord) {
        let StoredRecord {
            id,
            row,
            kind,
            last_used,
            usage_count,
            size,
        } = stored;
        let owned = row.layer.clone().filter(|_| row.owns_layer);
        if self.crashed && row.mutable && kind == UsageKind::SourceLocal {
            self.dropped.push((id, owned));
            return;
        }
        let Some(lineage) = lineage(state, &row.lineage) else {
            self.dropped.push((id, owned));
            return;
        };
        let layer = match &row.layer {
            Some(name) => Some(Arc::clone(
                self.layers
                    .entry(name.clone())
                    .or_insert_with(|| Layer::new(name.as_str(), false)),
            )),
            None => None,
        };
        if !is_obtainable(&lineage, layer.as_deref()) || (row.mutable && !row.retain) {
            self.dropped.push((id, owned));
            return;
        }
        let options = RecordOptions {
            description: row.description,
            kind,
            retain: row.retain,
            index: row.index,
            created: Some(persist::from_millis(row.created)),
            build_time: row.build_millis.map(std::time::Duration::from_millis),
        };
        let record = Shared::new_record(id, lineage, layer, row.owns_layer, row.mutable, options);
        {
            let mut data = record.data.lock();
            data.last_used = last_used;
            data.usage_count = usage_count;
            data.files_size = size;
            data.pinned = row.pinned;
            data.origin = row.origin;
            data.shares_with = row.shares_with;
        }
        state.insert(&record);
    }

    /// Joins refs with the mutable records whose files they share. A ref without its partner goes.
    fn link_views(&mut self, state: &mut State) {
        let views: Vec<Arc<Record>> = state
            .records
            .values()
            .filter(|record| record.data.lock().shares_with.is_some())
            .cloned()
            .collect();
        for view in views {
            let partner = view.data.lock().shares_with.clone();
            match partner.and_then(|id| state.records.get(&id).cloned()) {
                Some(mutable) => mutable.data.lock().shared_by = Some(view.id.clone()),
                None => {
                    let _ = self.shared.take_view(state, &view);
                    self.dropped.push((view.id.clone(), None));
                }
            }
        }
    }
}

fn parents(lineage: &LineageRow) -> impl Iterator<Item = &RefId> {
    let parents: Vec<&RefId> = match lineage {
        LineageRow::Base => Vec::new(),
        LineageRow::Layer(parent) => vec![parent],
        LineageRow::Merge(parents) => parents.iter().collect(),
        LineageRow::Diff(lower, upper) => lower.iter().chain(upper).collect(),
    };
    parents.into_iter()
}

fn lineage(state: &State, row: &LineageRow) -> Option<Lineage> {
    let find = |id: &RefId| state.records.get(id).cloned();
    let find_or_none = |id: &Option<RefId>| match id {
        Some(id) => find(id).map(Some),
        None => Some(None),
    };
    Some(match row {
        LineageRow::Base => Lineage::Base,
        LineageRow::Layer(parent) => Lineage::Layer(find(parent)?),
        LineageRow::Merge(parents) => {
            Lineage::Merge(parents.iter().map(find).collect::<Option<_>>()?)
        }
        LineageRow::Diff(lower, upper) => Lineage::Diff {
            lower: find_or_none(lower)?,
            upper: find_or_none(upper)?,
        },
    })
}

/// Whether the layer's files are here, or can be had from a blob or by computing them.
fn is_obtainable(lineage: &Lineage, layer: Option<&Layer>) -> bool {
    match lineage {
        Lineage::Merge(_) | Lineage::Diff { .. } => true,
        Lineage::Base | Lineage::Layer(_) => {
            layer.is_some_and(|layer| layer.is_extracted() || !layer.info.lock().blobs.is_empty())
        }
    }
}
