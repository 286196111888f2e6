//! Giving up rights: limits, capabilities, users, the seccomp filter.

use std::io;

use super::clone::check;
use super::protocol::Process;

/// The last capability that a kernel may have.
const LAST_CAPABILITY: u32 = 63;

/// Signals are handled as in a fresh process.
pub(super) fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: takes numbers only. Signals that can't be changed, or that don't exist, are refused
        // without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set is made by `sigemptyset` before it is read, and lives across both calls.
    unsafe {
        let mut none = std::mem::MaybeUninit::uninit();
        check(libc::sigemptyset(none.as_mut_ptr()))?;
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            none.as_ptr(),
            std::ptr::null_mut(),
        ))
    }
}

/// Sets resource limits.
pub(super) fn limit(limits: &[(u32, u64, u64)]) -> io::Result<()> {
    for &(resource, soft, hard) in limits {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        // SAFETY: the kernel reads `limit`, which lives across the call.
        check(unsafe { libc::setrlimit(resource as _, &raw const limit) })?;
    }
    Ok(())
}

/// Nothing but the three streams gets through `exec`.
pub(super) fn close_on_exec() -> io::Result<()> {
    // SAFETY: takes numbers only; descriptors stay open until `exec`, so that none is closed behind
    // the back of its owner.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    check(answer as i32)
}

/// Becomes the user, with no more capabilities than it shall have, behind the filter.
pub(super) fn confine(process: &Process, filter: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    for capability in 0..=LAST_CAPABILITY {
        if process.capabilities & (1 << capability) == 0 {
            // SAFETY: takes numbers only; a capability that the kernel doesn't have is refused.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    // SAFETY: takes numbers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        ))?;
    }
    // Without "no new privileges", which would break `sudo` in builds, a filter takes the right to
    // administrate, so it comes before that is gone. Everything below is allowed by it.
    if !filter.is_empty() {
        load(filter)?;
    }
    become_user(process)?;
    set_capabilities(process.capabilities, process.ambient)
}

fn become_user(process: &Process) -> io::Result<()> {
    let mut groups = process.groups.clone();
    if !groups.contains(&process.gid) {
        groups.push(process.gid);
    }
    // SAFETY: the list of groups and its length belong together and are only read; the rest takes
    // numbers only. The slot has one thread, for which these calls hold.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(process.gid, process.gid, process.gid))?;
        check(libc::setresuid(process.uid, process.uid, process.uid))
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities(bits: u64, ambient: bool) -> io::Result<()> {
    let header = CapabilityHeader {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |bits: u32| CapabilityData {
        effective: bits,
        permitted: bits,
        inheritable: if ambient { bits } else { 0 },
    };
    let data = [half(bits as u32), half((bits >> 32) as u32)];
    // SAFETY: version 3 of the call reads one header and two sets, which live across it.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(answer as i32)?;
    for capability in (0..=LAST_CAPABILITY).filter(|c| ambient && bits & (1 << c) != 0) {
        // SAFETY: takes numbers only.
        check(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                capability,
                0,
                0,
            )
        })?;
    }
    Ok(())
}

fn load(filter: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> = filter
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program's length and its instructions belong together, and both live across the
    // call, which only reads them. Speculation is left as it is: builds run their own code.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    check(answer as i32)
}

/// Brings up the loopback device of a new network.
pub(super) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    use std::os::fd::AsRawFd;
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: a zeroed `ifreq` is a valid one; the name fits with its NUL; the kernel reads and
    // writes it during the call.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ))
    }
}
