//! What happens when the disk's file finds no room on the host.
//!
//! QEMU stops the machine in the middle of a write, so that the guest doesn't see an error and loses nothing. The user is
//! told; when there is room again, the machine goes on where it was.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::qmp::Qmp;

/// With less than this it would stop again at once.
const ENOUGH: u64 = 64 << 20;
const LOOK: Duration = Duration::from_secs(2);

/// Until the machine is gone. `directory` is where the disk's file is.
pub(super) async fn watch(qmp: &Qmp, directory: &Path, notice: &watch::Sender<String>) {
    let mut waits = qmp.waits_for_room();
    while waits.wait_for(|waits| *waits).await.is_ok() {
        tracing::warn!("the host's disk is full; the machine waits");
        notice.send_replace(format!(
            "the machine waits: the host's disk is full where {} is; it goes on by itself when some of that is free",
            directory.display()
        ));
        while *waits.borrow() {
            if has_room(directory)
                && let Err(error) = qmp.go_on().await
            {
                tracing::warn!(%error, "the machine doesn't go on");
            }
            let goes_on = waits.wait_for(|waits| !*waits);
            if matches!(timeout(LOOK, goes_on).await, Ok(Err(_))) {
                return;
            }
        }
        notice.send_replace(String::new());
    }
}

/// What can't be looked at is tried.
fn has_room(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).map_or(true, |disk| disk.f_bavail * disk.f_frsize >= ENOUGH)
}
