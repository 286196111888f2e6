//! `cargo run -p kiln-fuzz -- TARGET SECONDS [SEED]`; without a target it lists them.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_fuzz::{ALL, Target, fuzz};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let (name, seconds, seed) = match arguments {
        [name, seconds] => (name, seconds.parse()?, 1),
        [name, seconds, seed] => (name, seconds.parse()?, seed.parse()?),
        _ => {
            let names: Vec<_> = ALL.iter().map(|target| target.name).collect();
            eprintln!(
                "usage: kiln-fuzz TARGET|all SECONDS [SEED]\ntargets: {}",
                names.join(" ")
            );
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut code = ExitCode::SUCCESS;
    let wanted: Vec<&Target> = ALL
        .iter()
        .filter(|target| name == "all" || target.name == name)
        .collect();
    anyhow::ensure!(!wanted.is_empty(), "there is no target {name:?}");
    for target in wanted {
        if !one(target, seed, Duration::from_secs(seconds))? {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn one(target: &Target, seed: u64, time: Duration) -> Result<bool> {
    match fuzz(target, seed, time, u64::MAX) {
        Ok(report) => {
            eprintln!(
                "{}: {} inputs, {} outcomes",
                target.name, report.inputs, report.outcomes
            );
            Ok(true)
        }
        Err(found) => {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("testdata")
                .join(target.name);
            fs::create_dir_all(&directory)?;
            let digest = kiln_oci::Digest::of(&found.input).hex();
            let file = directory.join(digest.get(..16).context("a digest is longer")?);
            fs::write(&file, &found.input)?;
            eprintln!("{}: {}\n  {}", target.name, found.what, file.display());
            Ok(false)
        }
    }
}
