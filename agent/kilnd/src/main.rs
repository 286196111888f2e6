//! The daemon: composes, serves, drains.

mod args;
mod collect;
mod compose;
mod connections;
mod init;
mod listen;
mod logging;
mod machine;
mod platforms;
mod records;
mod serve;
mod settings;
mod steps;
mod telemetry;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

/// Threads for asynchronous work: at least two, so that one busy task never holds everything up.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |all| all.get().max(2))
}

fn main() -> ExitCode {
    // The daemon executes itself to start containers; then it is this and nothing else.
    kiln_sys::launcher::launcher_main();
    if let Some(code) = init::main() {
        return code;
    }
    let args = args::Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: args::Args) -> anyhow::Result<()> {
    let settings = settings::Settings::load(args)?;
    logging::start(&settings)?;
    // Fails only if somebody has installed one already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let signals = serve::StopSignals::catch()?;
        // Sockets come first: a client may connect while the state is still being loaded.
        let listeners = listen::bind_all(&settings)?;
        let surroundings = machine::Surroundings::new(kiln_agent_api::Place::Native);
        let daemon = compose::compose(&settings, surroundings).await?;
        serve::until_stopped(daemon, listeners, signals).await
    });
    // What still runs on threads for blocking work has nobody left to wait for it.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

/// The last words, on standard error, once.
#[expect(
    clippy::print_stderr,
    reason = "the one place that talks to the person who started it"
)]
fn report(error: &anyhow::Error) {
    eprintln!("kilnd: {error:#}");
}
