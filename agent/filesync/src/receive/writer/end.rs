//! What waits until nothing else changes: hard links, the stats of metadata-only mode, times of directories.

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::{METADATA_FILE, Writer};
use crate::path::{base, parent};
use crate::receive::entry;
use crate::receive::incoming::temp_name;
use crate::{Error, Stat};

impl Writer {
    /// What had to wait until nothing else changes.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        for stat in std::mem::take(&mut self.links) {
            self.link(&stat)?;
            self.put(Box::new(stat), None)?;
        }
        if self.options.metadata_only.is_some() {
            self.write_stats()?;
        }
        for (path, time) in std::mem::take(&mut self.dir_times).into_iter().rev() {
            let dir = entry::open_below(&self.root, &path)
                .map_err(|errno| Error::io("open directory", &path, errno))?;
            rustix::fs::futimens(&dir, &entry::times(time))
                .map_err(|errno| Error::io("set times", &path, errno))?;
        }
        Ok(())
    }

    fn link(&mut self, stat: &Stat) -> Result<(), Error> {
        let failed = |errno: Errno| Error::io("link", &stat.path, errno);
        let from = entry::open_below(&self.root, parent(&stat.linkname)).map_err(failed)?;
        let to = entry::open_below(&self.root, parent(&stat.path)).map_err(failed)?;
        let (source, name) = (base(&stat.linkname), base(&stat.path));
        match rustix::fs::linkat(&from, source, &to, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                let temp = temp_name(&mut self.temp);
                rustix::fs::linkat(&from, source, &to, &temp, AtFlags::empty()).map_err(failed)?;
                rustix::fs::renameat(&to, &temp, &to, name).map_err(failed)?;
                // Renaming onto another name of the same inode does nothing at all.
                match rustix::fs::unlinkat(&to, &temp, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(errno) => Err(failed(errno)),
                }
            }
            result => result.map_err(failed),
        }
    }

    fn write_stats(&mut self) -> Result<(), Error> {
        use std::io::Write as _;
        let failed = |error: std::io::Error| Error::io("write", METADATA_FILE, error);
        entry::remove(&self.root, METADATA_FILE.as_bytes(), METADATA_FILE)?;
        let flags = rustix::fs::OFlags::WRONLY
            | rustix::fs::OFlags::CREATE
            | rustix::fs::OFlags::EXCL
            | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.root, METADATA_FILE, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| failed(errno.into()))?;
        std::fs::File::from(fd)
            .write_all(&self.stats)
            .map_err(failed)
    }
}
