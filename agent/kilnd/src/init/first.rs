//! The first process: sets the stage, starts the daemon, buries orphans, turns the light off.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use kiln_sys::reaper::{Ended, kill_all_others, reap_until};
use rustix::system::RebootCommand;

use super::{GUEST, last_words, mounts};

/// Returns only where the machine can't be turned off.
pub(super) fn main() -> ExitCode {
    match life() {
        // It has said what there was to say.
        Ok(Ended::Exited(0 | 1)) => {}
        Ok(Ended::Exited(code)) => last_words(&format!("the daemon broke off (code {code})")),
        Ok(Ended::Killed(signal)) => last_words(&format!(
            "the daemon was killed by signal {signal}{}",
            if signal == 9 {
                ": the machine may be out of memory"
            } else {
                ""
            }
        )),
        Err(error) => last_words(&format!("{error:#}")),
    }
    // Each of these is tried whatever became of the one before.
    let _ = kill_all_others();
    mounts::end();
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn life() -> anyhow::Result<Ended> {
    mounts::begin()?;
    let child = Command::new("/proc/self/exe")
        .arg0(GUEST)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .spawn()?;
    Ok(reap_until(child.id())?)
}
