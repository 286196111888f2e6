//! A look at records from beside: what is kept with them, and the files of one that a step may be writing.

use kiln_ids::RefId;
use kiln_sys::mount::TempMount;

use crate::extract::names;
use crate::record::Lineage;
use crate::{CacheManager, Error, Result, RootPath};

impl CacheManager {
    /// The directory with the files of a mutable record as they are now, for reading; `None` where there is no
    /// such record. It is no use of the record: steps get it as before, and a prune may remove it, which ends
    /// what is read here with an error.
    pub async fn peek(&self, id: &RefId) -> Result<Option<RootPath>> {
        let found = self.shared.find(id);
        let Some(record) = found.filter(|record| record.data.lock().mutable) else {
            return Ok(None);
        };
        let Some(layer) = &record.layer else {
            return Ok(None);
        };
        let snapshots = &self.shared.snapshots;
        if matches!(record.lineage, Lineage::Base) {
            let path = snapshots.files(&layer.snapshot)?;
            return Ok(Some(RootPath::new(path, ())));
        }
        let stack = names(&record.stack());
        let stack: Vec<&str> = stack.iter().map(String::as_str).collect();
        let specs = snapshots.read_only(&stack, false)?;
        let tmp = self.shared.tmp_dir.clone();
        let mount = tokio::task::spawn_blocking(move || TempMount::new(&specs, &tmp))
            .await
            .map_err(|_| Error::Cancelled)?
            .map_err(kiln_snapshot::Error::from)?;
        Ok(Some(RootPath::new(mount.path().to_owned(), mount)))
    }

    /// The keys under which [`search`](Self::search) finds a record.
    pub fn index_of(&self, id: &RefId) -> Vec<String> {
        let found = self.shared.find(id);
        found.map_or_else(Vec::new, |record| record.data.lock().index.clone())
    }

    /// A value kept with a record. Reads the database.
    pub fn value_of(&self, id: &RefId, key: &str) -> Option<Vec<u8>> {
        let record = self.shared.find(id)?;
        self.shared.value(&record, key)
    }
}
