//! What is kept of a machine that hangs, before it is ended: on its console, where `kiln logs` shows it.
//!
//! First what the processors and their interrupt controllers hold, by QEMU; then the kernel's own word on what each
//! processor was at: it panics at an interrupt that can't be turned off.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::qmp::Qmp;
use crate::console::Console;

/// For all of it. A QEMU that hangs itself says nothing.
const PATIENCE: Duration = Duration::from_secs(8);
/// For the kernel to print, slow as a console is by translation.
const LAST_WORDS: Duration = Duration::from_secs(3);
const QUESTIONS: [&str; 5] = [
    "info status",
    "info registers -a",
    "info lapic 0",
    "info lapic 1",
    "info pic",
];
const CALCULATION: [&str; 5] = ["FCW", "FPR", "XMM", "YMM", "ZMM"];

/// Asks QEMU and the kernel, as long as that takes, within bounds.
pub(super) async fn record(qmp: &Qmp, console: &Console) {
    let asking = async {
        for question in QUESTIONS {
            match qmp.inspect(question).await {
                Ok(answer) => console.note(&format!("{question}\n{}", without_numbers(&answer))),
                Err(error) => console.note(&format!("{question}: {error}")),
            }
        }
        if qmp.interrupt_for_good().await.is_ok() {
            sleep(LAST_WORDS).await;
        }
    };
    if timeout(PATIENCE, asking).await.is_err() {
        console.note("QEMU doesn't answer");
    }
}

/// Registers of calculations say nothing about a hang, are most of the lines, and may hold parts of keys.
fn without_numbers(answer: &str) -> String {
    let lines = answer.lines().map(str::trim_end);
    let telling = lines.filter(|line| !CALCULATION.iter().any(|name| line.starts_with(name)));
    telling.collect::<Vec<_>>().join("\n")
}
