//! The count of a record's users.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::persist;
use crate::record::{Record, TreeSlot};
use crate::shared::Shared;

/// One use of a record. The record isn't removed while it lives.
pub(crate) struct Hold {
    pub(crate) shared: Arc<Shared>,
    pub(crate) record: Arc<Record>,
    /// Whether the end of this use counts as a use.
    counts: bool,
}

impl Hold {
    /// Counts a use. The caller has the state locked, or another use of the record.
    pub(crate) fn new(shared: &Arc<Shared>, record: &Arc<Record>, counts: bool) -> Self {
        record.handles.fetch_add(1, Ordering::AcqRel);
        Self {
            shared: Arc::clone(shared),
            record: Arc::clone(record),
            counts,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.counts {
            let mut data = self.record.data.lock();
            data.last_used = Some(SystemTime::now());
            data.usage_count += 1;
            if data.mutable {
                data.files_size = None;
            }
        }
        if self.record.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Under the lock, so that nobody takes the record between the look and the removal.
        let mut state = self.shared.lock();
        let unused = self.record.handles.load(Ordering::Acquire) == 0;
        let known = state.records.contains_key(&self.record.id);
        let doomed = {
            let data = self.record.data.lock();
            data.mutable && !data.retain && data.shares_with.is_none()
        };
        if unused && known && doomed {
            let removal = self.shared.take_out(&mut state, &self.record);
            drop(state);
            removal.finish_in_background(&self.shared);
            return;
        }
        drop(state);
        if unused && known {
            let mut tree = self.record.tree.lock();
            if matches!(*tree, TreeSlot::Loaded(_)) {
                *tree = TreeSlot::Unknown;
            }
            drop(tree);
            if self.counts {
                persist::put_usage(&self.shared.db, &self.record);
            }
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hold").field(&self.record.id).finish()
    }
}
