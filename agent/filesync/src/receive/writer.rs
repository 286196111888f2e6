//! Brings the destination to the state that the packets describe.
//!
//! Stats come in walk order, so the writer keeps the directories from the root to the current one
//! open, each with the names that it held before, and merges: a name that the sender passes over is
//! deleted, one that is the same is left alone, any other is made anew. What needs data is asked for
//! at once; hard links and times of directories wait for the end, when nothing changes any more.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::incoming::{Incoming, Parent, temp_name};
use super::order::Order;
use super::{Queued, entry};
use crate::path::{base, parent};
use crate::{Change, ChangeHook, Differ, Error, Packet, ReceiveOptions, Stat, Summary, mode};

/// Files that are asked for at a time.
const IN_FLIGHT: usize = 256;
/// Stats that a sender may make the receiver remember, in bytes.
const METADATA: u64 = 1 << 30;
/// Where stats are left in metadata-only mode.
const METADATA_FILE: &str = ".fsutil-metadata";

pub(super) struct Writer {
    root: OwnedFd,
    options: ReceiveOptions,
    replies: mpsc::UnboundedSender<Packet>,
    order: Order,
    /// The directories from the root to the current one.
    chain: Vec<Level>,
    next_id: u32,
    asked: HashMap<u32, Incoming>,
    waiting: VecDeque<(u32, Incoming)>,
    /// Inodes with several names, as the destination had them.
    inodes: HashMap<(u64, u64), Box<str>>,
    /// Paths that hard links may point to, and whether they changed.
    targets: HashMap<Box<str>, bool>,
    links: Vec<Stat>,
    dir_times: Vec<(String, i64)>,
    /// In metadata-only mode: the stats, and directories that nothing was fetched below yet.
    stats: Vec<u8>,
    held_back: Vec<Stat>,
    remembered: u64,
    temp: u64,
    walked: bool,
    begun: bool,
    summary: Summary,
}

/// An open directory.
struct Level {
    path: String,
    parent: Rc<Parent>,
    /// Names it held before that weren't reached yet, the next one last.
    before: Vec<Box<[u8]>>,
}

impl Writer {
    pub(super) fn open(
        dest: &Path,
        options: ReceiveOptions,
        replies: mpsc::UnboundedSender<Packet>,
    ) -> Result<Self, Error> {
        let root = entry::open_root(dest)?;
        let fd = entry::open_below(&root, "").map_err(|errno| Error::io("open", ".", errno))?;
        let mut writer = Self {
            order: Order::new(options.limits),
            root,
            options,
            replies,
            chain: Vec::new(),
            next_id: 0,
            asked: HashMap::new(),
            waiting: VecDeque::new(),
            inodes: HashMap::new(),
            targets: HashMap::new(),
            links: Vec::new(),
            dir_times: Vec::new(),
            stats: Vec::new(),
            held_back: Vec::new(),
            remembered: 0,
            temp: 0,
            walked: false,
            begun: false,
            summary: Summary::default(),
        };
        writer.enter(String::new(), fd, true)?;
        Ok(writer)
    }

    /// Works until the transfer is complete. On failure nothing half-written is left.
    pub(super) fn run(mut self, mut packets: mpsc::Receiver<Queued>) -> Result<Summary, Error> {
        let result = self.drive(&mut packets);
        if result.is_err() {
            for incoming in self.asked.values_mut() {
                incoming.abandon();
            }
        }
        result
    }

    fn drive(&mut self, packets: &mut mpsc::Receiver<Queued>) -> Result<Summary, Error> {
        let mut batch = Vec::with_capacity(64);
        loop {
            if packets.blocking_recv_many(&mut batch, 64) == 0 {
                return Err(Error::Truncated);
            }
            for (packet, _permit) in batch.drain(..) {
                self.packet(packet)?;
            }
            if self.walked && self.asked.is_empty() && self.waiting.is_empty() {
                self.finish()?;
                // The other end of this queue lives as long as the thread is waited for.
                let _ = self.replies.send(Packet::Finish);
                return Ok(self.summary);
            }
        }
    }

    fn packet(&mut self, packet: Packet) -> Result<(), Error> {
        match packet {
            Packet::Stat(Some(stat)) => self.stat(stat),
            Packet::Stat(None) => {
                while !self.chain.is_empty() {
                    self.leave()?;
                }
                self.walked = true;
                Ok(())
            }
            Packet::Data(id, data) => self.data(id, &data),
            Packet::Request(_) => Err(Error::Malformed("only receivers ask for files")),
            Packet::Finish => Err(Error::Truncated),
            Packet::Error(text) => Err(Error::Sender(text)),
        }
    }

    fn stat(&mut self, mut stat: Box<Stat>) -> Result<(), Error> {
        let id = self.next_id;
        self.next_id += 1;
        self.summary.entries += 1;
        self.check_limits(&stat)?;
        let path = stat.path.clone();
        self.order.next(&path, mode::is_dir(stat.mode))?;
        self.remember_target(&stat)?;
        if let Some(map) = &self.options.map
            && !map(&path, &mut stat)
        {
            return Ok(());
        }
        if let Some(only) = &self.options.metadata_only {
            if path == METADATA_FILE {
                return Ok(());
            }
            let whole = only
                .except
                .as_ref()
                .is_some_and(|except| except.matches(&path));
            return self.metadata_only(id, stat, whole);
        }
        self.place(id, stat)
    }

    fn check_limits(&mut self, stat: &Stat) -> Result<(), Error> {
        let limits = self.options.limits;
        if self.summary.entries > limits.entries || self.walked {
            return Err(Error::Limit {
                what: "entries",
                limit: limits.entries,
            });
        }
        if stat.linkname.len() as u64 > limits.path {
            return Err(Error::Limit {
                what: "bytes in one link target",
                limit: limits.path,
            });
        }
        let xattrs: usize = stat.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.remembered += (stat.path.len() + stat.linkname.len() + xattrs + 100) as u64;
        if self.remembered > METADATA {
            return Err(Error::Limit {
                what: "bytes of metadata",
                limit: METADATA,
            });
        }
        Ok(())
    }

    fn remember_target(&mut self, stat: &Stat) -> Result<(), Error> {
        if mode::is_dir(stat.mode) || mode::is_symlink(stat.mode) {
            return Ok(());
        }
        if stat.linkname.is_empty() {
            self.targets.insert(stat.path.as_str().into(), false);
        } else if !self.targets.contains_key(stat.linkname.as_str()) {
            return Err(Error::LinkTarget {
                path: stat.path.clone(),
                target: stat.linkname.clone(),
            });
        }
        Ok(())
    }

    /// Records the stat; an entry that is wanted whole goes in place, below directories that go
    /// before it.
    fn metadata_only(&mut self, id: u32, stat: Box<Stat>, whole: bool) -> Result<(), Error> {
        use prost::Message as _;
        let encoded = stat.encode_to_vec();
        self.stats
            .extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        self.stats.extend_from_slice(&encoded);
        let above = parent(&stat.path);
        while self
            .held_back
            .last()
            .is_some_and(|dir| above != dir.path && !above.starts_with(&format!("{}/", dir.path)))
        {
            self.held_back.pop();
        }
        if !whole {
            if mode::is_dir(stat.mode) {
                self.held_back.push(*stat);
            }
            return Ok(());
        }
        for dir in std::mem::take(&mut self.held_back) {
            self.place(id, Box::new(dir))?;
        }
        self.place(id, stat)
    }

    /// Compares an entry with the destination and makes it, or asks for it.
    fn place(&mut self, id: u32, stat: Box<Stat>) -> Result<(), Error> {
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

    fn enter(&mut self, path: String, fd: OwnedFd, existed: bool) -> Result<(), Error> {
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
    fn leave(&mut self) -> Result<(), Error> {
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

    /// Comes before every change.
    fn begin(&mut self, path: &str) -> Result<(), Error> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        match &self.options.hook {
            None => Ok(()),
            Some(hook) => hook.begin().map_err(|source| Error::Hook {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn delete(&mut self, dir: &OwnedFd, name: &[u8], path: String) -> Result<(), Error> {
        self.begin(&path)?;
        entry::remove(dir, name, &path)?;
        self.summary.deleted += 1;
        self.change(Change::Delete { path })
    }

    fn ask(&mut self, id: u32, incoming: Incoming) {
        if self.asked.len() < IN_FLIGHT {
            self.asked.insert(id, incoming);
            let _ = self.replies.send(Packet::Request(id));
        } else {
            self.waiting.push_back((id, incoming));
        }
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Error> {
        let hook = self.options.hook.clone();
        let hook = hook.as_deref();
        let incoming = self.asked.get_mut(&id).ok_or(Error::Unrequested(id))?;
        if !data.is_empty() {
            return incoming.write(data, hook, &mut self.temp);
        }
        let (digest, written) = incoming.finish(hook, &mut self.temp)?;
        let Some(incoming) = self.asked.remove(&id) else {
            return Err(Error::Unrequested(id));
        };
        if let Some((id, incoming)) = self.waiting.pop_front() {
            self.ask(id, incoming);
        }
        self.summary.files += 1;
        self.summary.bytes += written;
        self.put(incoming.stat, digest)
    }

    /// What had to wait until nothing else changes.
    fn finish(&mut self) -> Result<(), Error> {
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

    fn temp_name_if(&mut self, needed: bool, name: &str) -> String {
        if needed {
            temp_name(&mut self.temp)
        } else {
            name.to_owned()
        }
    }

    fn put(&self, stat: Box<Stat>, digest: Option<[u8; 32]>) -> Result<(), Error> {
        self.change(Change::Put {
            path: stat.path.clone(),
            stat,
            digest,
        })
    }

    fn change(&self, change: Change) -> Result<(), Error> {
        let Some(hook) = &self.options.hook else {
            return Ok(());
        };
        let path = match &change {
            Change::Put { path, .. } | Change::Delete { path } => path.clone(),
        };
        let hook: &Arc<dyn ChangeHook> = hook;
        hook.change(change)
            .map_err(|source| Error::Hook { path, source })
    }
}

fn rename(dir: &OwnedFd, from: &str, to: &str, path: &str) -> Result<(), Error> {
    if from == to {
        return Ok(());
    }
    rustix::fs::renameat(dir, from, dir, to).map_err(|errno| Error::io("replace", path, errno))
}
