//! A slot's loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::clone::{Side, become_stream, check, clone, enter, unshare};
use super::protocol::{Exec, Job, Net, Prepare, Reply, Report, Run};
use super::{child, wire};
use crate::mount;

/// What a slot keeps.
#[derive(Debug)]
pub(super) struct Slot {
    socket: OwnedFd,
    children: Vec<Running>,
    pub(super) filter: Vec<(u16, u8, u8, u32)>,
    /// The kernel won't choose it when memory runs out.
    pub(super) protected: bool,
    /// The slot's own pid namespace, to come back to.
    home: OwnedFd,
}

#[derive(Debug)]
struct Running {
    pid: i32,
    token: u64,
    /// It is a container's first process.
    first: bool,
    pidfd: OwnedFd,
}

/// Where a slot mounts a container's root before the container makes it its own.
pub(super) const ROOT: &str = "/r";
/// Where it keeps its cgroups.
pub(super) const CGROUPS: &str = "/cg";

/// Serves the daemon at the other end of standard input until it is gone.
pub(super) fn serve() -> i32 {
    match begin().and_then(Slot::run) {
        Ok(()) => 0,
        Err(error) => {
            // There is no log here; the daemon has the other end of this stream.
            let _ = rustix::io::write(io::stderr(), format!("slot: {error}\n").as_bytes());
            1
        }
    }
}

fn begin() -> io::Result<Slot> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) })?;
    // SAFETY: the name is NUL-terminated and only read.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, c"kiln-slot".as_ptr()) })?;
    // A slot is small and in the way of nobody; its containers are what should be killed.
    let protected = std::fs::write("/proc/self/oom_score_adj", "-1000").is_ok();
    let home = std::fs::File::open("/proc/self/ns/pid")?.into();
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    become_stream(null.as_fd(), 0)?;
    Ok(Slot {
        socket,
        children: Vec::new(),
        filter: Vec::new(),
        protected,
        home,
    })
}

impl Slot {
    fn run(mut self) -> io::Result<()> {
        let signals = child_signals()?;
        loop {
            let mut ready = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&signals, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let (asked, ended) = (
                !ready[0].revents().is_empty(),
                !ready[1].revents().is_empty(),
            );
            if ended {
                let mut buffer = [0; 1024];
                // Several ends may be behind one signal: the children are asked, not the signal.
                let _ = rustix::io::read(&signals, &mut buffer);
                self.reap()?;
            }
            if asked {
                match wire::receive::<Job>(self.socket.as_fd())? {
                    Some((job, fds)) => self.take(job, &fds)?,
                    // The daemon is gone. Children die with their parent.
                    None => return Ok(()),
                }
            }
        }
    }

    fn take(&mut self, job: Job, fds: &[OwnedFd]) -> io::Result<()> {
        match job {
            Job::Prepare(prepare) => self.prepare(prepare, fds),
            Job::Run(run) => {
                let token = run.token;
                let made = self.container(&run, fds);
                self.answer(token, true, made)
            }
            Job::Exec(exec) => {
                let token = exec.token;
                let made = self.further(&exec, fds);
                self.answer(token, false, made)
            }
        }
    }

    /// Leaves the host's mounts: a copy of a namespace with two mounts is quicker than one with hundreds.
    fn prepare(&mut self, prepare: Prepare, fds: &[OwnedFd]) -> io::Result<()> {
        self.filter = prepare.filter;
        unshare(libc::CLONE_NEWNS)?;
        mount::make_private(Path::new("/")).map_err(io::Error::other)?;
        let tmpfs = mount::MountSpec {
            fstype: "tmpfs".into(),
            source: "slot".into(),
            options: ["nosuid", "nodev", "noexec", "mode=700", "size=1m"]
                .map(Into::into)
                .into(),
        };
        mount::mount_all(&[tmpfs], &prepare.scratch).map_err(io::Error::other)?;
        std::env::set_current_dir(&prepare.scratch)?;
        for dir in ["r", "cg"] {
            std::fs::create_dir(dir)?;
        }
        for (name, fd) in prepare.cgroups.iter().zip(fds) {
            let at = Path::new("cg").join(name);
            std::fs::create_dir(&at)?;
            mount::attach(fd.as_fd(), &at)?;
        }
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
        std::env::set_current_dir("/")
    }

    fn container(&mut self, run: &Run, fds: &[OwnedFd]) -> io::Result<Option<(i32, OwnedFd)>> {
        let mut namespaces =
            libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if matches!(run.container.net, Net::New) {
            namespaces |= libc::CLONE_NEWNET;
        }
        let cgroup = run.container.cgroup.and_then(|number| fds.get(number));
        match clone(namespaces, cgroup.map(AsFd::as_fd))? {
            Side::Child => child::first(self, run, fds),
            Side::Parent { pid, pidfd } => Ok(Some((pid, pidfd))),
        }
    }

    fn further(&mut self, exec: &Exec, fds: &[OwnedFd]) -> io::Result<Option<(i32, OwnedFd)>> {
        let Some(first) = self.children.iter().find(|child| child.first) else {
            return Err(rustix::io::Errno::SRCH.into());
        };
        // Entering a pid namespace concerns the children to come, so the slot goes there and back.
        enter(first.pidfd.as_fd(), libc::CLONE_NEWPID)?;
        let made = clone(0, None);
        match made {
            Ok(Side::Child) => child::further(self, exec, first.pidfd.as_fd(), fds),
            Ok(Side::Parent { pid, pidfd }) => {
                enter(self.home.as_fd(), libc::CLONE_NEWPID)?;
                Ok(Some((pid, pidfd)))
            }
            Err(error) => {
                enter(self.home.as_fd(), libc::CLONE_NEWPID)?;
                Err(error)
            }
        }
    }

    fn answer(
        &mut self,
        token: u64,
        first: bool,
        made: io::Result<Option<(i32, OwnedFd)>>,
    ) -> io::Result<()> {
        match made {
            Ok(Some((pid, pidfd))) => {
                self.reply(&Reply::Started { token }, &[pidfd.as_fd()])?;
                self.children.push(Running {
                    pid,
                    token,
                    first,
                    pidfd,
                });
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                let report = Report::new("make a process", &error);
                self.reply(&Reply::Failed { token, report }, &[])
            }
        }
    }

    /// Tells the daemon. A group without memory gets some back once its processes are gone.
    fn reply(&self, reply: &Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match wire::send(self.socket.as_fd(), reply, fds) {
                Err(error) if is_memory(&error) && tries < 500 => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                other => return other,
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let mut index = 0;
        while let Some(child) = self.children.get(index) {
            let Some(pid) = Pid::from_raw(child.pid) else {
                break;
            };
            match waitpid(Some(pid), WaitOptions::NOHANG)? {
                None => index += 1,
                Some((_, status)) => {
                    let code = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => code,
                        (None, signal) => 128 + signal.unwrap_or(0),
                    };
                    let child = self.children.swap_remove(index);
                    let reply = Reply::Exited {
                        token: child.token,
                        code: code as u32,
                    };
                    self.reply(&reply, &[])?;
                }
            }
        }
        Ok(())
    }
}

fn is_memory(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC)
    )
}

/// A descriptor that is readable when a child ended.
fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is made by `sigemptyset` before it is used, and lives across the calls, which
    // read it; the descriptor that `signalfd` returns is ours alone.
    unsafe {
        let mut set = std::mem::MaybeUninit::uninit();
        check(libc::sigemptyset(set.as_mut_ptr()))?;
        check(libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD))?;
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            set.as_ptr(),
            std::ptr::null_mut(),
        ))?;
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd.as_raw_fd()))
    }
}
