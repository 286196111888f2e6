//! A guest that hangs, with a QEMU that lives: it is ended, and what it was at is kept.

use std::time::Duration;

use kiln_proto::agent as api;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::shell_request::Part;
use kiln_vm::driver::Service;
use kiln_vm::driver::qemu::Qemu;

use super::bed::{self, Bed, is_alive};
use super::contract::{client, start};
use super::{ONE, SETTINGS, qemu};

/// Stops everything until something wakes it, which nothing here does; the console still prints.
const HANG: &str = "echo N > /sys/module/printk/parameters/console_suspend
echo freeze > /sys/power/state";

#[tokio::test]
async fn a_guest_that_hangs_is_ended_and_says_what_it_was_at() {
    let _one = ONE.lock().await;
    let bed = Bed::new(SETTINGS);
    let driver = Qemu {
        silence: Duration::from_secs(10),
        ..qemu()
    };
    let machine = start(&driver, &bed).await;
    let pid = machine.facts().pid;
    let start = Part::Start(api::ShellStart {
        command: ["sh", "-c", HANG].map(str::to_owned).to_vec(),
        terminal: None,
    });
    let request = api::ShellRequest { part: Some(start) };
    let channel = client(&machine, Service::Agent).await.channel();
    let mut shell = MachineClient::new(channel);
    let hang = shell.shell(tokio_stream::once(request));
    let ended = tokio::time::timeout(bed::PATIENCE, async {
        let (reason, _broken) = tokio::join!(machine.ended(), hang);
        reason
    });
    let reason = ended.await.unwrap();
    let console = std::fs::read_to_string(bed.paths.console_log()).unwrap();
    assert!(
        reason.contains("no sign of life for 10 s"),
        "{reason}\n{console}"
    );
    assert!(!is_alive(pid));
    for word in [
        "info registers -a",
        "RIP=",
        "VM status: running",
        "panic - not syncing: NMI",
    ] {
        assert!(console.contains(word), "{word}:\n{console}");
    }
}
