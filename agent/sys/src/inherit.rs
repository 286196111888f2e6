//! Sockets that whoever started the daemon has handed over (systemd's `LISTEN_FDS`).

use std::os::fd::FromRawFd as _;
use std::os::unix::net::UnixListener;
use std::sync::Once;

/// The first descriptor that may be one of them.
const FIRST: i32 = 3;

static TAKEN: Once = Once::new();

/// The listening sockets that were handed over to this process. They are given out once.
pub fn sockets() -> Vec<UnixListener> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let for_us =
        number("LISTEN_PID").is_none_or(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS").filter(|_| for_us).unwrap_or(0);
    let mut sockets = Vec::new();
    TAKEN.call_once(|| {
        for fd in FIRST..FIRST.saturating_add(count.clamp(0, 64)) {
            // SAFETY: whoever set LISTEN_FDS for this process says that these descriptors are open and
            // ours; nothing else in the process has opened or taken them, since `TAKEN` lets us here once.
            sockets.push(unsafe { UnixListener::from_raw_fd(fd) });
        }
    });
    sockets
}
