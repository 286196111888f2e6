//! One file on its way in.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::entry;
use crate::{ChangeHook, Error, FileHasher, Stat};

/// Sizes from which space is reserved in one go.
const RESERVE: std::ops::RangeInclusive<i64> = 1 << 20..=4 << 30;

/// A directory of the destination, shared by the files that are on their way into it.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    /// New files get our user and group here, so that owners need not be set if they are the same.
    pub(super) owner: Option<(u32, u32)>,
}

/// A file that was, or is to be, asked for.
pub(super) struct Incoming {
    pub(super) parent: Rc<Parent>,
    pub(super) name: Box<str>,
    pub(super) stat: Box<Stat>,
    /// Something is there that is to be replaced in one step.
    pub(super) replaces: bool,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// The name it is written under.
    name: String,
    hasher: Option<Box<dyn FileHasher>>,
    written: u64,
    reserved: bool,
}

impl Incoming {
    pub(super) fn new(parent: Rc<Parent>, name: &str, stat: Box<Stat>, replaces: bool) -> Self {
        Self {
            parent,
            name: name.into(),
            stat,
            replaces,
            open: None,
        }
    }

    fn open(&mut self, hook: Option<&dyn ChangeHook>, temp: &mut u64) -> Result<&mut Open, Error> {
        if self.open.is_none() {
            let (file, name) = self.create(temp)?;
            let reserved = RESERVE.contains(&self.stat.size)
                && rustix::fs::fallocate(
                    &file,
                    FallocateFlags::KEEP_SIZE,
                    0,
                    self.stat.size.unsigned_abs(),
                )
                .is_ok();
            self.open = Some(Open {
                file,
                name,
                hasher: hook.map(|hook| hook.hasher(&self.stat)),
                written: 0,
                reserved,
            });
        }
        self.open
            .as_mut()
            .ok_or(Error::Malformed("a file that isn't open"))
    }

    fn create(&self, temp: &mut u64) -> Result<(File, String), Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = if self.replaces {
                temp_name(temp)
            } else {
                self.name.to_string()
            };
            match rustix::fs::openat(&self.parent.fd, &name, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => return Ok((File::from(fd), name)),
                Err(Errno::EXIST) if self.replaces => {}
                Err(errno) => return Err(Error::io("create", &self.stat.path, errno)),
            }
        }
    }

    /// Takes the next piece.
    pub(super) fn write(
        &mut self,
        data: &[u8],
        hook: Option<&dyn ChangeHook>,
        temp: &mut u64,
    ) -> Result<(), Error> {
        let open = self.open(hook, temp)?;
        open.written += data.len() as u64;
        if let Some(hasher) = &mut open.hasher {
            hasher.update(data);
        }
        open.file
            .write_all(data)
            .map_err(|error| Error::io("write", &self.stat.path, error))
    }

    /// Puts the whole file in place. Returns its digest, if it was hashed, and its length.
    pub(super) fn finish(
        &mut self,
        hook: Option<&dyn ChangeHook>,
        temp: &mut u64,
    ) -> Result<(Option<[u8; 32]>, u64), Error> {
        self.open(hook, temp)?;
        let Some(open) = &mut self.open else {
            return Err(Error::Malformed("a file that isn't open"));
        };
        let path = self.stat.path.as_str();
        if open.reserved && open.written < self.stat.size.unsigned_abs() {
            open.file
                .set_len(open.written)
                .map_err(|error| Error::io("truncate", path, error))?;
        }
        let owned = self.parent.owner == Some((self.stat.uid, self.stat.gid));
        entry::set_metadata(&open.file, &self.stat, owned)?;
        rustix::fs::futimens(&open.file, &entry::times(self.stat.mod_time))
            .map_err(|errno| Error::io("set times", path, errno))?;
        if self.replaces {
            rustix::fs::renameat(&self.parent.fd, &open.name, &self.parent.fd, &*self.name)
                .map_err(|errno| Error::io("replace", path, errno))?;
        }
        let digest = open.hasher.take().map(FileHasher::finish);
        let written = open.written;
        self.open = None;
        Ok((digest, written))
    }

    /// Takes away what was written of a file that won't be finished.
    pub(super) fn abandon(&mut self) {
        if let Some(open) = self.open.take()
            && let Err(errno) = rustix::fs::unlinkat(&self.parent.fd, &open.name, AtFlags::empty())
        {
            tracing::warn!(path = %self.stat.path, %errno, "half a file is left behind");
        }
    }
}

/// A name for something that takes another's place when it is complete.
pub(super) fn temp_name(counter: &mut u64) -> String {
    *counter += 1;
    format!(".kiln-{}-{counter}.tmp", std::process::id())
}
