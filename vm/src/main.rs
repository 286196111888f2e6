//! `kiln-vmd`: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use kiln_vm::{args::Args, child, daemon};

fn main() -> ExitCode {
    // This program executes itself to tie a child's life to its own; then it is that and nothing else.
    if let Some(error) = child::become_child(std::env::args_os()) {
        return report("can't start the child", &error.into());
    }
    let args = Args::parse();
    // One thread: it copies bytes and waits; and a child's death signal hangs on the thread that made it.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return report("can't start", &error.into()),
    };
    match runtime.block_on(daemon::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(daemon::Failure::AnotherRuns(text)) => {
            let _ = report("can't start", &anyhow::Error::msg(text));
            ExitCode::from(kiln_client::host::EXIT_ANOTHER_RUNS as u8)
        }
        Err(daemon::Failure::Other(error)) => report("can't go on", &error),
    }
}

/// The last words, on standard error, once.
#[expect(
    clippy::print_stderr,
    reason = "the one place that talks to the person who started it"
)]
fn report(what: &str, error: &anyhow::Error) -> ExitCode {
    let is_full = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
    });
    let next = match is_full {
        true => {
            ": free some of it, or name another directory by KILN_STATE_DIR or KILN_RUNTIME_DIR"
        }
        false => "",
    };
    eprintln!("kiln-vmd: {what}: {error:#}{next}");
    ExitCode::FAILURE
}
