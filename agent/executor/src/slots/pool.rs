//! Slots that wait for work, each with its cgroup.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_sys::cgroup::{Cgroups, Group};
use kiln_sys::launcher::Prepare;
use kiln_sys::{memfd, mount};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::SlotConfig;
use super::job::{self, Jobs};
use super::slot::Slot;
use crate::isolation::CAPABILITIES;
use crate::limits::Limits;
use crate::seccomp::{self, Architecture, Profile};
use crate::task::blocking;
use crate::{ExecutorError, prepare};

/// A slot and the group that its containers are in.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: Arc<Slot>,
    pub(super) group: SlotGroup,
    /// No cgroup keeps containers from devices, so their mounts must.
    pub(super) nodev: bool,
    key: (String, bool),
}

#[derive(Debug)]
pub(super) struct Pool {
    program: PathBuf,
    /// The program, copied when it is first needed.
    copy: OnceCell<OwnedFd>,
    filter: Vec<(u16, u8, u8, u32)>,
    cgroups: Cgroups,
    scratch: PathBuf,
    idle: Mutex<Vec<Seat>>,
    keep: usize,
}

impl Pool {
    pub(super) fn new(config: &SlotConfig) -> Result<Self, ExecutorError> {
        let scratch = config.root.join("slots");
        std::fs::create_dir_all(&scratch)
            .map_err(prepare(|| format!("create {}", scratch.display())))?;
        let profile = Profile::new(Architecture::NATIVE, &CAPABILITIES);
        let filter = seccomp::compile(&profile).0;
        let cgroups = Cgroups::discover().map_err(prepare(|| "find cgroups".into()))?;
        cgroups.remove_stale(&config.cgroup_parent, "kiln", |name| {
            slot_of(name).is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        });
        Ok(Self {
            program: config.program.clone(),
            copy: OnceCell::new(),
            filter: filter
                .iter()
                .map(|i| (i.code, i.if_true, i.if_false, i.value))
                .collect(),
            cgroups,
            scratch: std::path::absolute(scratch).map_err(prepare(|| "find the root".into()))?,
            idle: Mutex::default(),
            keep: config.idle,
        })
    }

    /// An idle slot, or a new one.
    pub(super) async fn seat(&self, parent: &str, privileged: bool) -> Result<Seat, ExecutorError> {
        let key = (parent.to_owned(), privileged);
        {
            let mut idle = self.idle.lock();
            while let Some(index) = idle.iter().position(|seat| seat.key == key) {
                let seat = idle.swap_remove(index);
                if seat.slot.is_alive() {
                    return Ok(seat);
                }
            }
        }
        let copy = self.copy.get_or_try_init(|| {
            let program = self.program.clone();
            blocking(move || {
                memfd::sealed_copy(&program)
                    .map_err(prepare(|| format!("copy {}", program.display())))
            })
        });
        let slot = Slot::start(copy.await?)?;
        // Counted for the whole process: its pools share one directory of groups.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kiln/slot{}x{number}", std::process::id());
        let group = self.cgroups.group(parent, &name);
        let made = {
            let (group, pid) = (group.clone(), slot.pid().unwrap_or(0));
            blocking(move || {
                let made = SlotGroup::make(group, pid, privileged);
                made.map_err(prepare(|| format!("make cgroup {name}")))
            })
            .await
        };
        let group = match made {
            Ok(group) => group,
            Err(error) => {
                slot.stop().await;
                // What was made of it goes; the first error is what counts.
                let _ =
                    blocking(move || group.remove().map_err(prepare(|| "remove a cgroup".into())))
                        .await;
                return Err(error);
            }
        };
        let (names, fds) = group.mounts()?;
        let prepare = Prepare {
            filter: self.filter.clone(),
            cgroups: names,
            scratch: self.scratch.clone(),
        };
        slot.prepare(prepare, fds).await?;
        Ok(Seat {
            nodev: !group.guards_devices && !privileged,
            slot: Arc::new(slot),
            group,
            key,
        })
    }

    /// Keeps a slot for the next container.
    pub(super) fn give_back(&self, seat: Seat) {
        let mut idle = self.idle.lock();
        if idle.len() < self.keep && seat.slot.is_alive() {
            idle.push(seat);
            return;
        }
        drop(idle);
        tokio::spawn(end(seat));
    }

    /// Ends a slot.
    pub(super) async fn dismiss(&self, seat: Seat) {
        end(seat).await;
    }

    /// Ends all idle slots.
    pub(super) async fn clear(&self) {
        let all = std::mem::take(&mut *self.idle.lock());
        for seat in all {
            end(seat).await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for seat in self.idle.get_mut().drain(..) {
            let group = seat.group.group.clone();
            // The slot dies with the last handle on it.
            drop(seat);
            if let Err(error) = group.remove() {
                tracing::warn!(%error, "a slot's cgroup stays behind");
            }
        }
    }
}

/// The daemon whose slot has a group of this name.
fn slot_of(name: &str) -> Option<u32> {
    name.strip_prefix("slot")?.split_once('x')?.0.parse().ok()
}

async fn end(seat: Seat) {
    seat.slot.stop().await;
    let group = seat.group.group.clone();
    let removed = blocking(move || group.remove().map_err(prepare(|| "remove a cgroup".into())));
    if let Err(error) = removed.await {
        tracing::warn!(%error, "a slot's cgroup stays behind");
    }
}

/// The group of a slot's containers.
#[derive(Debug, Clone)]
pub(super) struct SlotGroup {
    group: Group,
    /// The slot is in it (version 1), or its containers are put there (version 2).
    unified: bool,
    guards_devices: bool,
}

impl SlotGroup {
    fn make(group: Group, pid: u32, privileged: bool) -> io::Result<Self> {
        group.create()?;
        let unified = group.is_unified();
        let mut guards_devices = false;
        if !unified {
            guards_devices = group.guard_devices(&job::device_rules(privileged))?;
            group.attach(pid)?;
        }
        Ok(Self {
            group,
            unified,
            guards_devices,
        })
    }

    /// What containers see below `/sys/fs/cgroup`, by name, as detached mounts.
    fn mounts(&self) -> Result<(Vec<String>, Vec<OwnedFd>), ExecutorError> {
        if self.unified {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut names = Vec::new();
        let mut fds = Vec::new();
        for (name, path) in self.group.directories() {
            let action = || format!("open {}", path.display());
            fds.push(mount::clone_tree(&path, false).map_err(prepare(action))?);
            names.push(name);
        }
        Ok((names, fds))
    }

    /// Version 2: the group itself, for the container to start in.
    pub(super) fn start_in(&self, job: &mut Jobs) -> Result<Option<OwnedFd>, ExecutorError> {
        if !self.unified {
            return Ok(None);
        }
        let fd = self
            .group
            .open()
            .map_err(prepare(|| "open a cgroup".into()))?;
        job.set_cgroup();
        Ok(Some(fd))
    }

    pub(super) fn limit(
        &self,
        limits: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), ExecutorError> {
        if limits.is_empty() {
            return Ok(());
        }
        let parsed = Limits::parse(limits);
        let action = || "limit a container".to_owned();
        // The slot itself counts where it is in the group.
        let beside = i64::from(!self.unified);
        if self.unified {
            return self.group.write_all(limits).map_err(prepare(action));
        }
        for (controller, file, value) in parsed.legacy(beside) {
            self.group
                .write(controller, file, &value)
                .map_err(prepare(action))?;
        }
        Ok(())
    }

    /// Undoes the limits of a container.
    pub(super) fn reset(&self) -> Result<(), ExecutorError> {
        let action = || "reset a container's limits".to_owned();
        if self.unified {
            return self.group.reset_all().map_err(prepare(action));
        }
        for (controller, file, value) in Limits::none_legacy() {
            // A controller that isn't there has no limits.
            let _ = self.group.write(controller, file, value);
        }
        Ok(())
    }

    pub(super) fn oom_kills(&self) -> u64 {
        self.group.oom_kills()
    }
}
