//! One entry against what the destination has: left alone, changed, made anew or asked for; and what the
//! sender passes over, deleted.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::Mode;

use super::{Level, Writer};
use crate::path::{base, parent};
use crate::receive::entry;
use crate::receive::incoming::{Incoming, Parent, temp_name};
use crate::{Change, Differ, Error, Stat, mode};

impl Writer {
    /// Compares an entry with the destination and makes it, or asks for it.
    pub(super) fn place(&mut self, id: u32, stat: Box<Stat>) -> Result<(), Error> {
        let dir = parent(&stat.path);
        while self.chain.last().is_some_and(|level| level.path != dir) {
            self.leave()?;
        }
        let name = base(&stat.path).to_owned();
        self.delete_until(Some(name.as_bytes()))?;
        let Some(level) = self.chain.last_mut() else {
            return Err(Error::Order {
                path: stat.path.clone(),
                after: String::new(),
            });
        };
        let there = self.options.merge
            || level
                .before
                .pop_if(|before| **before == *name.as_bytes())
                .is_some();
        let parent = Rc::clone(&level.parent);
        let mut old = if there {
            entry::existing(&parent.fd, &name, &stat.path, &mut self.inodes)?
        } else {
            None
        };
        let differ = self.options.differ == Differ::None || self.options.merge;
        let is_dir = mode::is_dir(stat.mode);
        if let Some(stat) = &old
            && mode::is_dir(stat.mode) != is_dir
        {
            let path = self.path_of(&name);
            self.delete(&parent.fd, name.as_bytes(), path)?;
            old = None;
        }
        if is_dir {
            return self.directory(&parent, &name, stat, old.as_ref());
        }
        let linked_anew =
            !mode::is_symlink(stat.mode) && self.targets.get(stat.linkname.as_str()) == Some(&true);
        if !differ && !linked_anew && old.as_ref().is_some_and(|old| entry::same(old, &stat)) {
            return Ok(());
        }
        self.begin(&stat.path)?;
        if mode::has_data(stat.mode) && stat.linkname.is_empty() {
            self.targets.insert(stat.path.as_str().into(), true);
            let incoming = Incoming::new(parent, &name, stat, old.is_some());
            self.ask(id, incoming);
            return Ok(());
        }
        if !mode::is_symlink(stat.mode) && !stat.linkname.is_empty() {
            self.links.push(*stat);
            return Ok(());
        }
        let made = self.temp_name_if(old.is_some(), &name);
        if !mode::is_symlink(stat.mode) {
            self.targets.insert(stat.path.as_str().into(), true);
        }
        entry::make_special(&parent.fd, &made, &stat)?;
        rename(&parent.fd, &made, &name, &stat.path)?;
        self.put(stat, None)
    }

    fn path_of(&self, name: &str) -> String {
        match self.chain.last() {
            Some(level) if !level.path.is_empty() => format!("{}/{name}", level.path),
            _ => name.to_owned(),
        }
    }

    fn directory(
        &mut self,
        parent: &Parent,
        name: &str,
        stat: Box<Stat>,
        old: Option<&Stat>,
    ) -> Result<(), Error> {
        let path = stat.path.clone();
        let same = old.is_some_and(|old| entry::same(old, &stat));
        if !same {
            self.begin(&path)?;
        }
        if old.is_none() {
            rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700))
                .map_err(|errno| Error::io("create directory", &path, errno))?;
        }
        let fd = rustix::fs::openat(&parent.fd, name, entry::DIR_FLAGS, Mode::empty())
            .map_err(|errno| Error::io("open directory", &path, errno))?;
        self.dir_times.push((path.clone(), stat.mod_time));
        if !same {
            let owned = old.is_none() && parent.owner == Some((stat.uid, stat.gid));
            entry::set_metadata(&fd, &stat, owned)?;
            self.put(stat, None)?;
        }
        self.enter(path, fd, old.is_some())
    }

    pub(super) fn enter(&mut self, path: String, fd: OwnedFd, existed: bool) -> Result<(), Error> {
        let mut before = Vec::new();
        if existed && !self.options.merge {
            before = entry::names(&fd, &path)?;
            before.reverse();
        }
        // In a set-group-id directory new files get the directory's group.
        let found = rustix::fs::fstat(&fd).map_err(|errno| Error::io("stat", &path, errno))?;
        let owner = (found.st_mode & 0o2000 == 0).then(|| {
            (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )
        });
        let parent = Rc::new(Parent { fd, owner });
        self.chain.push(Level {
            path,
            parent,
            before,
        });
        Ok(())
    }

    /// Deletes what is left of the current directory's old names and goes up.
    pub(super) fn leave(&mut self) -> Result<(), Error> {
        self.delete_until(None)?;
        self.chain.pop();
        Ok(())
    }

    /// Deletes old names of the current directory that sort before `name`, or all.
    fn delete_until(&mut self, name: Option<&[u8]>) -> Result<(), Error> {
        loop {
            let Some(level) = self.chain.last_mut() else {
                return Ok(());
            };
            let passed = level
                .before
                .pop_if(|before| name.is_none_or(|name| **before < *name));
            let Some(passed) = passed else { return Ok(()) };
            let parent = Rc::clone(&level.parent);
            let path = self.path_of(&String::from_utf8_lossy(&passed));
            self.delete(&parent.fd, &passed, path)?;
        }
    }

    fn delete(&mut self, dir: &OwnedFd, name: &[u8], path: String) -> Result<(), Error> {
        self.begin(&path)?;
        entry::remove(dir, name, &path)?;
        self.summary.deleted += 1;
        self.change(Change::Delete { path })
    }

    fn temp_name_if(&mut self, needed: bool, name: &str) -> String {
        if needed {
            temp_name(&mut self.temp)
        } else {
            name.to_owned()
        }
    }
}

fn rename(dir: &OwnedFd, from: &str, to: &str, path: &str) -> Result<(), Error> {
    if from == to {
        return Ok(());
    }
    rustix::fs::renameat(dir, from, dir, to).map_err(|errno| Error::io("replace", path, errno))
}
