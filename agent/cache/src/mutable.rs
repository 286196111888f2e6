//! Handles on states that are being written.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_ids::RefId;
use kiln_sys::mount::Mountable;

use crate::contenthash::Tree;
use crate::extract::names;
use crate::hold::Hold;
use crate::persist;
use crate::record::{Layer, Lineage, Record, TreeSlot};
use crate::shared::{Shared, new_id};
use crate::{Error, RecordOptions, Ref, Result, UsageKind};

/// The one handle on a state that is being written. Dropping it discards the state, unless the record
/// was made with `retain`: then the record stays and [`CacheManager::get_mutable`](crate::CacheManager::get_mutable)
/// gives the handle again.
pub struct MutableRef {
    hold: Arc<Hold>,
}

impl MutableRef {
    pub(crate) fn new(hold: Hold) -> Self {
        Self {
            hold: Arc::new(hold),
        }
    }

    fn record(&self) -> &Arc<Record> {
        &self.hold.record
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.hold.shared
    }

    fn layer(&self) -> Result<&Arc<Layer>> {
        self.record()
            .layer
            .as_ref()
            .ok_or_else(|| Error::NotFound(self.id().clone()))
    }

    /// The record's name.
    pub fn id(&self) -> &RefId {
        &self.record().id
    }

    /// Mounts of the state; overlay mounts are `volatile`. While the mounts are held, the record counts as
    /// used, even after the handle is gone.
    pub fn mountable(&self, readonly: bool) -> Result<Mountable> {
        let below = names(&self.record().stack_below());
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        let layer = self.layer()?;
        let specs = self.shared().snapshots.writable(&below, &layer.snapshot)?;
        let mountable = Mountable::new(specs, Arc::clone(&self.hold));
        Ok(if readonly {
            mountable.readonly()
        } else {
            mountable
        })
    }

    /// The directory that writes go to, for a record without a parent (then it is the whole state).
    pub fn root_path(&self) -> Option<PathBuf> {
        let layer = self.record().layer.as_ref()?;
        matches!(self.record().lineage, Lineage::Base)
            .then(|| self.shared().snapshots.files(&layer.snapshot).ok())
            .flatten()
    }

    /// The hash tree kept with the record, to apply changes to; empty if there is none. What is stored stays until
    /// [`set_tree`](Self::set_tree): whoever writes files marks the record first (with a value, say), so that a crash
    /// can't leave other files than the tree tells of.
    pub fn take_tree(&self) -> Tree {
        let tree = self.shared().tree(self.record());
        *self.record().tree.lock() = TreeSlot::Unknown;
        Arc::unwrap_or_clone(tree)
    }

    /// Keeps the hash tree with the record, and with the ref that `commit` makes of it. After a power cut either the
    /// files and the tree are there or the record isn't.
    pub fn set_tree(&self, mut tree: Tree) {
        tree.finish_changes();
        let changed = tree.take_dirty();
        let tree = Arc::new(tree);
        if changed {
            self.shared().put_tree(self.record(), tree);
            if self.record().data.lock().retain {
                // With a new epoch, for the files are new too.
                persist::put_record(&self.shared().db, self.record());
            }
        } else {
            *self.record().tree.lock() = TreeSlot::Loaded(tree);
        }
    }

    /// A value kept with the record (`key` names its kind), such as the state of a protocol.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.shared().value(self.record(), key)
    }

    /// Keeps a value with the record. It is written when this returns, so that files can be changed after.
    pub fn set_value(&self, key: &str, value: Vec<u8>) -> Result<()> {
        self.shared().put_value(self.id(), key, value.clone());
        self.shared().db.write_blocking(|_| Ok(()))?;
        let mut data = self.record().data.lock();
        data.values.insert(key.to_owned(), value);
        Ok(())
    }

    /// Keeps a value with the record, without waiting until it is written.
    pub fn put_value(&self, key: &str, value: Vec<u8>) {
        self.shared().put_value(self.id(), key, value.clone());
        let mut data = self.record().data.lock();
        data.values.insert(key.to_owned(), value);
    }

    /// The state that it is built on.
    pub fn parent(&self) -> Option<Ref> {
        match &self.record().lineage {
            Lineage::Layer(parent) => Some(Ref::new(Hold::new(self.shared(), parent, true))),
            Lineage::Base | Lineage::Merge(_) | Lineage::Diff { .. } => None,
        }
    }

    /// Changes what people see of it.
    pub fn set_description(&self, description: impl Into<String>) {
        self.record().data.lock().description = description.into();
        persist::amend_record(&self.shared().db, self.record());
    }

    /// Makes an immutable ref of the state, without copying. A record made with `retain` stays behind and shares
    /// its files with the ref: it can be written again when the ref is no longer in use, which removes the ref's
    /// record. Description, kind, index and times are replaced where `options` sets them.
    #[expect(
        clippy::unused_async,
        reason = "a driver that must copy would wait here"
    )]
    pub async fn commit(self, options: RecordOptions) -> Result<Ref> {
        if self.record().data.lock().retain {
            Ok(self.commit_view(options))
        } else {
            self.commit_in_place(options)
        }
    }

    fn commit_in_place(self, options: RecordOptions) -> Result<Ref> {
        let record = self.record();
        let mut state = self.shared().lock();
        {
            let mut data = record.data.lock();
            data.mutable = false;
            if !options.description.is_empty() {
                data.description = options.description;
            }
            if options.kind != UsageKind::Regular {
                data.kind = options.kind;
            }
            data.created = options.created.unwrap_or(data.created);
            data.build_time = options.build_time.or(data.build_time);
            for key in options.index {
                let ids = state.by_index.entry(key.clone()).or_default();
                if !ids.contains(&record.id) {
                    ids.push(record.id.clone());
                }
                data.index.push(key);
            }
        }
        persist::put_layer(&self.shared().db, self.layer()?);
        persist::put_record(&self.shared().db, record);
        drop(state);
        Ok(Ref {
            hold: Arc::clone(&self.hold),
        })
    }

    fn commit_view(self, mut options: RecordOptions) -> Ref {
        let record = self.record();
        let mut state = self.shared().lock();
        if options.description.is_empty() {
            options
                .description
                .clone_from(&record.data.lock().description);
        }
        if options.kind == UsageKind::Regular {
            options.kind = record.data.lock().kind;
        }
        let view = Shared::new_record(
            new_id(),
            record.lineage.clone(),
            record.layer.clone(),
            false,
            false,
            options,
        );
        view.data.lock().shares_with = Some(record.id.clone());
        record.data.lock().shared_by = Some(view.id.clone());
        self.shared().insert(&mut state, &view);
        Ref::new(Hold::new(self.shared(), &view, true))
    }

    /// Gives the handle back and keeps the record, whatever it was made with.
    pub fn retain(self) {
        let record = self.record();
        record.data.lock().retain = true;
        persist::put_record(&self.shared().db, record);
        if let Some(layer) = &record.layer {
            persist::put_layer(&self.shared().db, layer);
        }
    }

    /// Removes the record and its files; those that a mount still shows go with the mount.
    pub async fn discard(self) -> Result<()> {
        self.record().data.lock().retain = false;
        let (shared, id) = (Arc::clone(self.shared()), self.id().clone());
        let removal = {
            let mut state = shared.lock();
            let alone = Arc::strong_count(&self.hold) == 1
                && self
                    .record()
                    .handles
                    .load(std::sync::atomic::Ordering::Acquire)
                    == 1;
            alone
                .then(|| state.records.get(&id).cloned())
                .flatten()
                .map(|record| shared.take_out(&mut state, &record))
        };
        drop(self);
        match removal {
            Some(removal) => removal.finish(&shared).await,
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for MutableRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MutableRef").field(self.id()).finish()
    }
}
