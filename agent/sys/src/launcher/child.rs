//! What runs between `clone` and `exec`.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::clone::{become_stream, check, enter, unshare};
use super::confine;
use super::fill::{fill, missing};
use super::protocol::{Exec, Net, Process, Report, Run, Streams};
use super::slot::Slot;
use super::wire;

type Result<T> = std::result::Result<T, Report>;

fn tried(action: impl Into<String>) -> impl FnOnce(io::Error) -> Report {
    let action = action.into();
    move |error| Report::new(action, &error)
}

/// Becomes the first process of a container.
pub(super) fn first(slot: &Slot, run: &Run, fds: &[OwnedFd]) -> ! {
    let made = || -> Result<Infallible> {
        with_parent()?;
        enter_network(run.container.net, fds)?;
        if run.container.cgroup.is_some() {
            unshare(libc::CLONE_NEWCGROUP).map_err(tried("make a cgroup namespace"))?;
        }
        rustix::system::sethostname(run.container.hostname.as_bytes())
            .map_err(io::Error::from)
            .map_err(tried("set the host name"))?;
        let process = &run.process;
        fill(
            &run.container,
            fds,
            &process.cwd,
            (process.uid, process.gid),
        )?;
        start(slot, process, fds)
    };
    fail(&run.process, fds, made())
}

/// Becomes a further process of the container whose first process is `of`.
pub(super) fn further(slot: &Slot, exec: &Exec, of: BorrowedFd<'_>, fds: &[OwnedFd]) -> ! {
    let made = || -> Result<Infallible> {
        with_parent()?;
        let all = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        enter(of, all).map_err(tried("enter the container"))?;
        let root = crate::rootfs::RootDir::open(Path::new("/")).map_err(tried("open the root"))?;
        let creation = crate::rootfs::Creation {
            mode: 0o755,
            uid: exec.process.uid,
            gid: exec.process.gid,
        };
        let cwd = &exec.process.cwd;
        // A read-only root can't be added to; whether the directory is there shows below.
        if let Err(error) = root.create_dir_all(cwd, creation)
            && error.kind() != io::ErrorKind::ReadOnlyFilesystem
        {
            return Err(Report::new(
                format!("create working directory {}", cwd.display()),
                &error,
            ));
        }
        start(slot, &exec.process, fds)
    };
    fail(&exec.process, fds, made())
}

/// Says why, and ends.
fn fail(process: &Process, fds: &[OwnedFd], made: Result<Infallible>) -> ! {
    let Err(report) = made;
    if report.program {
        let text = format!("unable to start container process: {}\n", report.action);
        // Standard error is where people look; the daemon hears of it in any case.
        let _ = rustix::io::write(io::stderr(), text.as_bytes());
    }
    if let (Some(pipe), Ok(text)) = (fds.get(process.report), serde_json::to_vec(&report)) {
        let _ = rustix::io::write(pipe, &text);
    }
    // SAFETY: ends the process at once; nothing of the slot that it is a copy of shall run again.
    unsafe { libc::_exit(127) }
}

/// Dies with the slot.
fn with_parent() -> Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
        .map_err(tried("tie the process to its slot"))
}

fn enter_network(net: Net, fds: &[OwnedFd]) -> Result<()> {
    match net {
        Net::Keep => Ok(()),
        Net::Join(number) => {
            let namespace = fds.get(number).ok_or_else(missing)?;
            enter(namespace.as_fd(), libc::CLONE_NEWNET).map_err(tried("enter the network"))
        }
        Net::New => confine::loopback_up().map_err(tried("bring up the loopback device")),
    }
}

/// Everything that a first and a further process have in common.
fn start(slot: &Slot, process: &Process, fds: &[OwnedFd]) -> Result<Infallible> {
    // The slot shares the container's group. Where it may not make itself the last choice when memory
    // runs out, its children make themselves the first.
    let score = if slot.protected { "0" } else { "100" };
    let _ = std::fs::write("/proc/self/oom_score_adj", score);
    rustix::process::setsid()
        .map_err(io::Error::from)
        .map_err(tried("begin a session"))?;
    streams(process, fds)?;
    confine::reset_signals().map_err(tried("reset signals"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    confine::limit(&process.rlimits).map_err(tried("set limits"))?;
    // A working directory can't be one of the descriptors that are still open here.
    confine::close_on_exec().map_err(tried("close descriptors"))?;
    working_directory(&process.cwd)?;
    let filter = if process.filtered {
        &slot.filter[..]
    } else {
        &[]
    };
    confine::confine(process, filter).map_err(tried("give up rights"))?;
    execute(process)
}

fn streams(process: &Process, fds: &[OwnedFd]) -> Result<()> {
    let connect = |stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd| -> io::Result<()> {
        become_stream(stdin.as_fd(), 0)?;
        become_stream(stdout.as_fd(), 1)?;
        become_stream(stderr.as_fd(), 2)?;
        Ok(())
    };
    let fd = |number: usize| fds.get(number).ok_or_else(missing);
    match process.streams {
        Streams::Given([stdin, stdout, stderr]) => {
            connect(fd(stdin)?, fd(stdout)?, fd(stderr)?).map_err(tried("connect the streams"))
        }
        Streams::Terminal(socket) => {
            let open = || -> io::Result<()> {
                let terminal = terminal(fds.get(socket).ok_or(rustix::io::Errno::BADF)?, process)?;
                rustix::process::ioctl_tiocsctty(&terminal)?;
                connect(&terminal, &terminal, &terminal)
            };
            open().map_err(tried("open a terminal"))
        }
    }
}

/// A terminal of the container's own; the controlling side goes to the daemon.
fn terminal(socket: &OwnedFd, process: &Process) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let controller = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&controller)?;
    let name = rustix::pty::ptsname(&controller, Vec::new())?;
    let terminal = rustix::fs::open(name.as_c_str(), flags | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::fs::fchown(
        &terminal,
        Some(rustix::fs::Uid::from_raw(process.uid)),
        None,
    )?;
    wire::send(socket.as_fd(), &(), &[controller.as_fd()])?;
    Ok(terminal)
}

fn working_directory(cwd: &Path) -> Result<()> {
    let cwd = if cwd.as_os_str().is_empty() {
        Path::new("/")
    } else {
        cwd
    };
    rustix::process::chdir(cwd)
        .map_err(io::Error::from)
        .map_err(tried(format!("change to {}", cwd.display())))?;
    // A directory outside of the root has no path here (CVE-2024-21626).
    let inside =
        rustix::process::getcwd(Vec::new()).is_ok_and(|path| path.as_bytes().starts_with(b"/"));
    if inside {
        return Ok(());
    }
    Err(Report::new(
        format!(
            "the working directory {} is outside of the container",
            cwd.display()
        ),
        &rustix::io::Errno::XDEV.into(),
    ))
}

/// The program's path, or why there is none.
fn find(process: &Process) -> Result<PathBuf> {
    let name = process.args.first().map_or("", String::as_str);
    let not = |words: String, errno: i32| Report {
        action: format!("exec: {name:?}: {words}"),
        errno,
        program: true,
    };
    let usable = |path: &Path| -> std::result::Result<(), (String, i32)> {
        let stat = rustix::fs::stat(path).map_err(|e| {
            (
                format!("stat {}: {}", path.display(), words(e.raw_os_error())),
                e.raw_os_error(),
            )
        })?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let denied = (words(libc::EACCES), libc::EACCES);
        if kind == rustix::fs::FileType::Directory || stat.st_mode & 0o111 == 0 {
            return Err(denied);
        }
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).map_err(|_| denied)
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match usable(&path) {
            Ok(()) => Ok(path),
            Err((words, errno)) => Err(not(words, errno)),
        };
    }
    let variable = process
        .env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let mut denied = false;
    for directory in variable
        .unwrap_or_default()
        .split(':')
        .filter(|_| !name.is_empty())
    {
        let path = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err((_, errno)) => denied |= errno == libc::EACCES,
        }
    }
    if denied {
        return Err(not(words(libc::EACCES), libc::EACCES));
    }
    Err(not(
        "executable file not found in $PATH".into(),
        libc::ENOENT,
    ))
}

/// What an error number is called, without the number.
fn words(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

fn execute(process: &Process) -> Result<Infallible> {
    let path = find(process)?;
    let text = |text: &str| CString::new(text).map_err(|e| Report::new("exec", &e.into()));
    let args = process
        .args
        .iter()
        .map(|arg| text(arg))
        .collect::<Result<Vec<_>>>()?;
    let env = process
        .env
        .iter()
        .map(|entry| text(entry))
        .collect::<Result<Vec<_>>>()?;
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let program = text(&path.to_string_lossy())?;
    let (args, env) = (pointers(&args), pointers(&env));
    // SAFETY: the program's name is NUL-terminated; both lists end with a null pointer, and what they
    // point to is alive until the call, which only returns if it failed.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    let error = io::Error::last_os_error();
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    Err(Report {
        action: format!("exec {}: {}", path.display(), words(errno)),
        errno,
        program: true,
    })
}
