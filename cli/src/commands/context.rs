//! Kiln as a builder of the docker command: `kiln context …`.
//!
//! A builder of buildx is a JSON file in its directory. Invariant: the builder that is current there stays
//! current, unless `--use` asks for another one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use kiln_client::{Address, DockerConfig};
use serde_json::{Value, json};

use crate::arguments::Global;
use crate::builder::{Builder, paths};
use crate::console::{self, Format};
use crate::failure::{Failure, Kind, Outcome};

const NAME: &str = "kiln";

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

fn buildx_directory() -> Outcome<PathBuf> {
    if let Some(directory) = std::env::var_os("BUILDX_CONFIG").filter(|value| !value.is_empty()) {
        return Ok(directory.into());
    }
    DockerConfig::default_dir()
        .map(|directory| directory.join("buildx"))
        .ok_or_else(|| {
            Failure::new(Kind::Config, "no home directory").hint("set HOME or BUILDX_CONFIG")
        })
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
    let directory = buildx_directory()?;
    let file = directory.join("instances").join(NAME);
    match &arguments.command {
        ContextCommand::Install { make_current } => {
            let endpoint = endpoint(global)?;
            if matches!(endpoint, Address::Docker(_)) {
                return Err(Failure::user(
                    "buildx reaches Docker's own builder by itself",
                ));
            }
            install(&file, &endpoint)?;
            if *make_current {
                make_kiln_current(&directory)?;
            }
            console::note(&format!("buildx has a builder `{NAME}` at {endpoint}"));
            if !make_current {
                console::note(
                    "Use it with `docker buildx build --builder kiln`, or make it current with --use.",
                );
            }
        }
        ContextCommand::Uninstall => {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::new(
                        Kind::Config,
                        format!("remove {}: {error}", file.display()),
                    ));
                }
                _ => {}
            }
            let current = directory.join("current");
            if current_name(&current).as_deref() == Some(NAME) {
                // Without a current builder buildx takes Docker's own.
                let _ = std::fs::remove_file(current);
            }
        }
        ContextCommand::Show { format } => {
            let endpoint = endpoint(global)?.to_string();
            let known = file.is_file();
            let current = current_name(&directory.join("current")).as_deref() == Some(NAME);
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

fn config(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let text = format!("{action} {}", path.display());
    move |error| Failure::new(Kind::Config, format!("{text}: {error}"))
}

fn install(file: &Path, endpoint: &Address) -> Outcome<()> {
    let instance = json!({
        "Name": NAME,
        "Driver": "remote",
        "Nodes": [{
            "Name": format!("{NAME}0"),
            "Endpoint": endpoint.to_string(),
            "Platforms": Value::Null,
            "DriverOpts": {},
            "Flags": Value::Null,
            "Files": Value::Null,
        }],
        "Dynamic": false,
    });
    write(file, &instance)
}

fn write(file: &Path, value: &Value) -> Outcome<()> {
    let directory = file.parent().unwrap_or(file);
    std::fs::create_dir_all(directory).map_err(config("create", directory))?;
    std::fs::write(file, value.to_string()).map_err(config("write", file))
}

fn current_name(file: &Path) -> Option<String> {
    let current: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    current["Name"].as_str().map(str::to_owned)
}

/// buildx keeps the current builder for each of Docker's endpoints.
fn make_kiln_current(directory: &Path) -> Outcome<()> {
    let file = directory.join("current");
    let mut current: Value = std::fs::read(&file)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| json!({"Key": "unix:///var/run/docker.sock", "Global": false}));
    current["Name"] = NAME.into();
    current["Global"] = true.into();
    write(&file, &current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_builder_stays() {
        let base = std::env::temp_dir().join(format!("kiln-context-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        let current = base.join("current");
        std::fs::write(&current, r#"{"Key":"k","Name":"mine","Global":false}"#).unwrap();
        let file = base.join("instances/kiln");
        install(&file, &"unix:///x.sock".parse().unwrap()).unwrap();
        assert_eq!(current_name(&current).as_deref(), Some("mine"));
        let instance: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(instance["Nodes"][0]["Endpoint"], "unix:///x.sock");
        make_kiln_current(&base).unwrap();
        assert_eq!(current_name(&current).as_deref(), Some("kiln"));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
