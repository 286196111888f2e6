//! Control groups, of version 2, of version 1, and of hosts that have both.
//!
//! A group is made in every hierarchy that the daemon may write to, below the daemon's own group.
//! Invariant: what can't be had (no delegation, a controller that isn't there) is reported by
//! [`Cgroups::controllers`], never an error for a process that didn't ask for a limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The daemon's own groups.
#[derive(Debug, Clone, Default)]
pub struct Cgroups {
    /// Version 1: controllers of a hierarchy (`cpu,cpuacct`), where it is mounted, and the own group in it.
    legacy: Vec<Hierarchy>,
    /// Version 2.
    unified: Option<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    controllers: String,
    root: PathBuf,
    own: PathBuf,
}

impl Hierarchy {
    /// Where a group goes: an absolute parent counts from the hierarchy's root.
    fn group(&self, parent: &str, name: &str) -> PathBuf {
        let base = if parent.is_empty() {
            self.own.clone()
        } else {
            self.root.join(parent.trim_matches('/'))
        };
        base.join(name)
    }
}

fn parse(own: &str, mounts: &str) -> Cgroups {
    let mut out = Cgroups::default();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let ([_, _, _, mount_root, point, ..], [fstype, _, options, ..]) = (&left[..], &right[..])
        else {
            continue;
        };
        let matches = |listed: &str| match *fstype {
            "cgroup2" => listed.is_empty(),
            "cgroup" => {
                !listed.is_empty()
                    && listed
                        .split(',')
                        .all(|c| options.split(',').any(|o| o == c))
            }
            _ => false,
        };
        let found = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            matches(controllers).then_some((controllers, path))
        });
        let Some((controllers, path)) = found else {
            continue;
        };
        // In a container only a part of the hierarchy is mounted.
        let below = Path::new(path)
            .strip_prefix(mount_root)
            .unwrap_or(Path::new(""));
        let hierarchy = Hierarchy {
            controllers: controllers.to_owned(),
            root: PathBuf::from(point),
            own: Path::new(point).join(below.strip_prefix("/").unwrap_or(below)),
        };
        if controllers.is_empty() {
            out.unified.get_or_insert(hierarchy);
        } else if !out
            .legacy
            .iter()
            .any(|h| h.controllers == hierarchy.controllers)
        {
            out.legacy.push(hierarchy);
        }
    }
    out
}

impl Cgroups {
    /// Finds the groups of this process.
    pub fn discover() -> io::Result<Self> {
        Ok(parse(
            &fs::read_to_string("/proc/self/cgroup")?,
            &fs::read_to_string("/proc/self/mountinfo")?,
        ))
    }

    /// Whether version 2 is all there is.
    pub fn is_unified(&self) -> bool {
        self.legacy.is_empty() && self.unified.is_some()
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.legacy.is_empty() && self.unified.is_none()
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.legacy
            .iter()
            .find(|h| h.controllers.split(',').any(|c| c == controller))
            .or(self.unified.as_ref())
    }

    /// How often the kernel killed a process of a group for want of memory.
    pub fn oom_kills(&self, parent: &str, name: &str) -> u64 {
        let Some(hierarchy) = self.with("memory") else {
            return 0;
        };
        let group = hierarchy.group(parent, name);
        ["memory.events", "memory.oom_control"]
            .iter()
            .filter_map(|file| fs::read_to_string(group.join(file)).ok())
            .find_map(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }
}

/// A group in every hierarchy that has it.
#[derive(Debug, Clone)]
pub struct Group {
    paths: Vec<PathBuf>,
    /// The controllers of each path; empty for version 2.
    controllers: Vec<String>,
}

impl Cgroups {
    /// The group of this name; it need not exist.
    pub fn group(&self, parent: &str, name: &str) -> Group {
        let hierarchies = self.legacy.iter().chain(&self.unified);
        Group {
            controllers: hierarchies.clone().map(|h| h.controllers.clone()).collect(),
            paths: hierarchies.map(|h| h.group(parent, name)).collect(),
        }
    }
}

impl Cgroups {
    /// Removes groups below `parent/directory` that `is_stale` by their names, if nothing is in them.
    pub fn remove_stale(&self, parent: &str, directory: &str, is_stale: impl Fn(&str) -> bool) {
        for hierarchy in self.legacy.iter().chain(&self.unified) {
            let entries = fs::read_dir(hierarchy.group(parent, directory));
            for entry in entries.into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(&is_stale) {
                    remove_children(&entry.path());
                    // One that is in use stays, and may go the next time.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// How long the kernel is given to let go of processes that were killed.
const REMOVAL: Duration = Duration::from_secs(2);

impl Group {
    /// Kills every process in it.
    pub fn kill(&self) {
        for path in &self.paths {
            if fs::write(path.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            for pid in fs::read_to_string(path.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.parse().ok().and_then(Pid::from_raw))
            {
                // It may end by itself in between.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Kills what is in it and removes it. What isn't there is not an error.
    pub fn remove(&self) -> io::Result<()> {
        let begin = Instant::now();
        for path in &self.paths {
            let mut wait = Duration::from_millis(1);
            loop {
                match fs::remove_dir(path) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    Err(e) if begin.elapsed() > REMOVAL => return Err(e),
                    Err(_) => {
                        remove_children(path);
                        self.kill();
                        // No event tells that a group of version 1 became empty.
                        std::thread::sleep(wait);
                        wait = (wait * 2).min(Duration::from_millis(50));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Files of version 2 that a limit may have been written to, with what undoes it.
const LIMITS: [(&str, &str); 5] = [
    ("memory.max", "max"),
    ("memory.swap.max", "max"),
    ("cpu.max", "max"),
    ("cpu.weight", "100"),
    ("pids.max", "max"),
];

impl Group {
    /// Makes it in every hierarchy.
    pub fn create(&self) -> io::Result<()> {
        for (path, controllers) in self.paths.iter().zip(&self.controllers) {
            fs::create_dir_all(path)?;
            if controllers.is_empty() {
                if self.is_unified() {
                    delegate(path);
                }
            } else if controllers.split(',').any(|c| c == "cpuset") {
                inherit_cpuset(path)?;
            }
        }
        Ok(())
    }

    /// Whether version 2 is all there is.
    pub fn is_unified(&self) -> bool {
        self.controllers.iter().all(String::is_empty)
    }

    /// Moves a process into it, in every hierarchy.
    pub fn attach(&self, pid: u32) -> io::Result<()> {
        for path in &self.paths {
            fs::write(path.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Names as below `/sys/fs/cgroup`, and directories.
    pub fn directories(&self) -> Vec<(String, PathBuf)> {
        let name = |controllers: &str| match controllers.strip_prefix("name=") {
            _ if controllers.is_empty() => "unified".to_owned(),
            Some(name) => name.to_owned(),
            None => controllers.to_owned(),
        };
        let names = self.controllers.iter().map(|controllers| name(controllers));
        names.zip(self.paths.iter().cloned()).collect()
    }

    fn path(&self, controller: &str) -> Option<&PathBuf> {
        let has = |listed: &String| {
            listed.split(',').any(|c| c == controller) || (listed.is_empty() && self.is_unified())
        };
        let index = self.controllers.iter().position(has)?;
        self.paths.get(index)
    }

    /// Writes one file of a version 1 controller.
    pub fn write(&self, controller: &str, file: &str, value: &str) -> io::Result<()> {
        let path = self.path(controller).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("this host has no {controller} cgroups"),
            )
        })?;
        fs::write(path.join(file), value)
    }

    /// Writes limits of version 2.
    pub fn write_all(&self, limits: &std::collections::BTreeMap<String, String>) -> io::Result<()> {
        for (file, value) in limits {
            self.write("unified", file, value)?;
        }
        Ok(())
    }

    /// Undoes limits of version 2.
    pub fn reset_all(&self) -> io::Result<()> {
        for (file, value) in LIMITS {
            // A controller that isn't there has no limits.
            let _ = self.write("unified", file, value);
        }
        Ok(())
    }

    /// Applies device rules (allowed, rule); `false` where version 1's device controller isn't there.
    pub fn guard_devices(&self, rules: &[(bool, String)]) -> io::Result<bool> {
        if !self
            .controllers
            .iter()
            .any(|listed| listed.split(',').any(|c| c == "devices"))
        {
            return Ok(false);
        }
        for (allowed, rule) in rules {
            let file = if *allowed {
                "devices.allow"
            } else {
                "devices.deny"
            };
            self.write("devices", file, rule)?;
        }
        Ok(true)
    }

    /// Its directory of version 2.
    pub fn open(&self) -> io::Result<std::os::fd::OwnedFd> {
        let path = self.path("unified").ok_or(io::ErrorKind::Unsupported)?;
        Ok(fs::File::open(path)?.into())
    }

    /// How often the kernel killed a process of it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(path) = self.path("memory") else {
            return 0;
        };
        ["memory.events", "memory.oom_control"]
            .iter()
            .filter_map(|file| fs::read_to_string(path.join(file)).ok())
            .find_map(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }
}

/// Version 2: controllers of a group must be passed on by the one above, which may have no processes
/// of its own. Where that isn't allowed the group has no limits, which shows when one is written.
fn delegate(path: &Path) {
    for above in [path.parent().and_then(Path::parent), path.parent()]
        .into_iter()
        .flatten()
    {
        for controller in ["+memory", "+pids", "+cpu", "+cpuset"] {
            let _ = fs::write(above.join("cgroup.subtree_control"), controller);
        }
    }
}

/// Version 1: a group without processors and memory can hold no process.
fn inherit_cpuset(path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|dir| {
                fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim().is_empty())
            })
            .collect();
        for dir in missing.into_iter().rev() {
            let Some(above) = dir.parent() else { continue };
            fs::write(dir.join(file), fs::read_to_string(above.join(file))?)?;
        }
    }
    Ok(())
}

/// Removes groups that the processes of a group made below it.
fn remove_children(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_children(&entry.path());
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            // The group above can't be removed either then, and says so.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// A number in a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn own_groups_are_found_on_each_kind_of_host() {
        let hybrid = parse(
            "5:memory:/a/b\n3:cpu,cpuacct:/\n2:name=systemd:/s\n0::/\n",
            HYBRID,
        );
        assert!(!hybrid.is_unified());
        assert_eq!(
            hybrid.with("memory").unwrap().group("", "c"),
            Path::new("/sys/fs/cgroup/memory/a/b/c")
        );
        assert_eq!(
            hybrid.with("cpuacct").unwrap().group("/p/", "c"),
            Path::new("/sys/fs/cgroup/cpu/p/c")
        );
        let unified = parse(
            "0::/system.slice/kiln.service\n",
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert!(unified.is_unified());
        assert_eq!(
            unified.with("memory").unwrap().own,
            Path::new("/sys/fs/cgroup/system.slice/kiln.service")
        );
        let contained = parse(
            "0::/docker/x\n",
            "30 23 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(
            contained.with("pids").unwrap().own,
            Path::new("/sys/fs/cgroup")
        );
        assert!(parse("", "").is_empty());
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(field(events, "oom_kill"), Some(2));
        assert_eq!(field(events, "kill"), None);
    }
}
