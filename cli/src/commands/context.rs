//! Kiln as a builder of the docker command: `kiln context …`.
//!
//! What is done is [`kiln_client::buildx`]'s; this says it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use kiln_client::Address;
use kiln_client::buildx::{Buildx, NAME};
use serde_json::json;

use crate::arguments::Global;
use crate::builder::{Builder, paths};
use crate::console::{self, Format};
use crate::failure::{Failure, Kind, Outcome, chain};

/// Kiln as a builder of docker buildx
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln context install            docker buildx build --builder kiln .
  kiln context install --use      and make it the one that docker build uses
  kiln context show
  kiln context uninstall")]
pub(crate) struct ContextArguments {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// Add the builder `kiln` to buildx
    Install {
        /// Make it the current one
        #[arg(long = "use")]
        make_current: bool,
    },
    /// Remove it
    Uninstall,
    /// Show addresses, and whether buildx knows them
    Show {
        /// Form of the answer
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

/// Where buildx finds the builder: for Kiln's own machine, the socket that keeps it awake.
fn endpoint(global: &Global) -> Outcome<Address> {
    let builder = Builder::find(global.builder.as_deref())?;
    Ok(if builder.is_own {
        Address::Unix(paths()?.buildkit_socket())
    } else {
        builder.address
    })
}

pub(crate) fn run(arguments: &ContextArguments, global: &Global) -> Outcome {
    let buildx = Buildx::of_user().ok_or_else(|| {
        Failure::new(Kind::Config, "no home directory").hint("set HOME or BUILDX_CONFIG")
    })?;
    let config = |error: kiln_client::Error| Failure::new(Kind::Config, chain(&error));
    match &arguments.command {
        ContextCommand::Install { make_current } => {
            let endpoint = endpoint(global)?;
            if matches!(endpoint, Address::Docker(_)) {
                return Err(Failure::user(
                    "buildx reaches Docker's own builder by itself",
                ));
            }
            buildx.install(&endpoint).map_err(config)?;
            if *make_current {
                buildx.make_current().map_err(config)?;
            }
            console::note(&format!("buildx has a builder `{NAME}` at {endpoint}"));
            if !make_current {
                console::note(
                    "Use it with `docker buildx build --builder kiln`, or make it current with --use.",
                );
            }
        }
        ContextCommand::Uninstall => buildx.uninstall().map_err(config)?,
        ContextCommand::Show { format } => {
            let endpoint = endpoint(global)?.to_string();
            let known = buildx.endpoint().is_some();
            let current = buildx.is_current();
            if *format == Format::Json {
                console::json(
                    &json!({"address": endpoint, "installed": known, "current": current}),
                )?;
            } else {
                console::print(&format!("Address    {endpoint}"))?;
                console::print(&format!(
                    "In buildx  {}",
                    match (known, current) {
                        (true, true) => "yes, current",
                        (true, false) => "yes",
                        _ => "no: kiln context install",
                    }
                ))?;
                console::print(&format!("By hand    export BUILDKIT_HOST={endpoint}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
