//! The `kiln` command.
//!
//! ```text
//!  arguments ──► commands::… ──► kiln-client ──► builder (BuildKit's API, kiln.agent.v1)
//!                                        └─────► kiln-vmd (kiln.host.v1)
//! ```
//!
//! Invariants: data goes to standard output, everything else to standard error; a command that fails says
//! what to do next where it knows, and its exit code tells the kind of failure ([`failure::Kind`]).

mod arguments;
mod builder;
mod commands;
mod console;
mod failure;
mod machine;
mod progress;
mod wire_time;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::failure::{Failure, Kind};

fn main() -> ExitCode {
    // Fails only if somebody has installed one already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = Arguments::parse();
    log(arguments.global.debug);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(commands::run(arguments));
            // A read of standard input may never end.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::new(Kind::Internal, error.to_string())),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.report();
            failure.exit_code()
        }
    }
}

fn log(debug: bool) {
    let level = if debug {
        "kiln=debug,kiln_client=debug"
    } else {
        "error"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("KILN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
}
