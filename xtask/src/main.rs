//! `cargo xtask`: the project's own commands.
//!
//! | command | what it does |
//! |---|---|
//! | `setup` | installs and unpacks what the tests and the examples need; once done it does nothing |
//! | `kilnd` | builds the daemon as it ships, one static file, and says where it is |
//! | `guest [--update\|--again] [--kilnd FILE]` | makes the guest image (`--update`: pins today's packages; `--again`: makes nothing, and fails if it would make other bytes; `--kilnd`: with this static daemon) |
//! | `demo` | the main job: two builds of the notes' Dockerfile on the engine itself (`demo native`), then a machine from nothing and two builds in it (`demo machine`) |
//! | `deb [--debug]` | makes the Debian package, and says where it is (`--debug`: built for a test) |
//! | `test [PART…] [--slow]` | all tests as CI runs them, or the parts that are named; `--slow`: ten times the crashes, and fuzzing |
//! | `bench` | kilnd against a real BuildKit; writes `docs/performance.md` |
//! | `figures [--debug]` | the machine's figures, measured now, as a table for `docs/performance.md`; under 4 minutes once all is built (`--debug`: of debug builds and the image that is there, to try the command) |
//! | `tidy` | layers, house rules, licences; each finding with its file and line |
//!
//! Invariant: a command is idempotent and says what it can't do; it needs nothing but Rust to start.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

mod cargo;
mod deb;
mod demo;
mod deny;
mod figures;
mod finding;
mod guest;
mod layering;
mod own_machine;
mod test;
mod tidy;
mod window;
mod workspace;

const USAGE: &str = "usage: cargo xtask setup|demo [native|machine]|test [PART…] [--slow]|bench [ROW…]|figures [--debug]|kilnd|deb [--debug]|guest [--update|--again] [--kilnd FILE]|tidy";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<ExitCode> {
    match arguments {
        ["setup"] => setup_command(),
        ["guest", more @ ..] => {
            let (purpose, more) = match more {
                ["--update", more @ ..] => (guest::Purpose::Update, more),
                ["--again", more @ ..] => (guest::Purpose::Compare, more),
                more => (guest::Purpose::Make, more),
            };
            let kilnd = match more {
                [] => None,
                ["--kilnd", path] => Some(Path::new(*path)),
                _ => return Ok(usage()),
            };
            done(guest::make(&workspace::root(), purpose, kilnd))
        }
        ["kilnd"] => {
            eprintln!("{}", guest::kilnd(&workspace::root())?.display());
            Ok(ExitCode::SUCCESS)
        }
        ["demo"] => demo::native().and_then(|_| demo::machine()),
        ["demo", "native"] => demo::native(),
        ["demo", "machine"] => demo::machine(),
        ["deb", more @ ..] if matches!(more, [] | ["--debug"]) => {
            let package = deb::make(&workspace::root(), !more.is_empty())?;
            eprintln!("{}", package.display());
            Ok(ExitCode::SUCCESS)
        }
        ["test", parts @ ..] => test::run(parts),
        ["bench", rows @ ..] => cargo::bench(rows),
        ["figures"] => figures::print(figures::Builds::Release),
        ["figures", "--debug"] => figures::print(figures::Builds::Debug),
        ["tidy"] => tidy_command(),
        _ => Ok(usage()),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn done(made: Result<()>) -> Result<ExitCode> {
    made.map(|()| ExitCode::SUCCESS)
}

fn setup_command() -> Result<ExitCode> {
    let tools = kiln_test_tools::install()?;
    for link in [
        "buildx-old",
        "buildx-new",
        "docker-cli",
        "dockerd",
        "containerd",
    ] {
        eprintln!("{link}: {}", tools.version(link));
    }
    Ok(ExitCode::SUCCESS)
}

fn tidy_command() -> Result<ExitCode> {
    let root = workspace::root();
    let read =
        |name: &str| std::fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let packages = workspace::packages()?;
    let mut findings = layering::check(&packages.members);
    findings.extend(layering::check_map(
        &packages.members,
        &read(layering::MAP)?,
    ));
    findings.extend(tidy::check(&workspace::files()?));
    let reasons = read("docs/dependencies.md")?;
    findings.extend(tidy::dependencies_have_reasons(
        &read("Cargo.toml")?,
        &reasons,
    ));
    findings.extend(deny::Rules::parse(&read("deny.toml")?)?.check(&packages.foreign));
    if findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{}", finding::render(&findings));
    Ok(ExitCode::FAILURE)
}
