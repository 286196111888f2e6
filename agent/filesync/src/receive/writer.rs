//! Brings the destination to the state that the packets describe.
//!
//! Stats come in walk order, so the writer keeps the directories from the root to the current one
//! open, each with the names that it held before, and merges: a name that the sender passes over is
//! deleted, one that is the same is left alone, any other is made anew. What needs data is asked for
//! at once; hard links and times of directories wait for the end, when nothing changes any more.

mod end;
mod place;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::incoming::{Incoming, Parent};
use super::order::Order;
use super::{Queued, entry};
use crate::path::parent;
use crate::{Change, ChangeHook, Error, Packet, ReceiveOptions, Stat, Summary, mode};

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
