//! `cargo xtask test`: everything that must hold, part by part, in the order of what fails soonest.
//!
//! Invariants: each part installs what it needs beyond set-up, and ends what it started; the daemon under test is
//! the one that ships, unless `KILN_KILND` names another.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{KILND, run as cargo, target};
use crate::{guest, window, workspace};

/// The variable that tells the harness which `kiln`.
const CLI: &str = "KILN_CLI";

/// How much of the parts that are never done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Usual,
    /// Ten times the crash points and power cuts, a minute of each fuzz target.
    Large,
}

/// A part of the tests.
struct Part {
    name: &'static str,
    what: &'static str,
    run: fn(&Path, Amount) -> Result<()>,
    /// Only where it is named, or with `--slow`.
    is_extra: bool,
}

const fn part(
    name: &'static str,
    what: &'static str,
    run: fn(&Path, Amount) -> Result<()>,
) -> Part {
    Part {
        name,
        what,
        run,
        is_extra: false,
    }
}

const PARTS: [Part; 11] = [
    part(
        "screens",
        "the app's screens: types, components, the built pages in Chromium",
        screens,
    ),
    part("house", "formatting, layers, house rules, licences", house),
    part("lints", "lints", lints),
    part("unit", "unit and contract tests", unit),
    part(
        "owner",
        "the owner of the machine, and the kiln command's life cycle",
        owner,
    ),
    part(
        "guest",
        "the guest image, and the machine that it makes",
        machine,
    ),
    part(
        "scenarios",
        "scenarios with stock clients, on kilnd and on a real BuildKit",
        scenarios,
    ),
    part(
        "crash",
        "kills, power cuts, full disks, damaged state",
        crash,
    ),
    part(
        "window",
        "the app: lints, its real window under Xvfb, the Debian package",
        app,
    ),
    part(
        "notes",
        "the case of the notes, natively and in the machine",
        notes,
    ),
    Part {
        is_extra: true,
        ..part("fuzz", "every parser of outside input, damaged", fuzz)
    },
];

/// Runs the parts that are named, or all; `--slow` does more in some.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    let slow = arguments.contains(&"--slow");
    let amount = if slow { Amount::Large } else { Amount::Usual };
    let names: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|argument| *argument != "--slow")
        .collect();
    for name in &names {
        let is_known = PARTS.iter().any(|part| part.name == *name);
        ensure!(is_known, "no part {name:?}; the parts are:\n{}", list());
    }
    kiln_test_tools::install()?;
    let root = workspace::root();
    let begun = Instant::now();
    let wanted = |part: &&Part| {
        let by_name = names.contains(&part.name);
        by_name || (names.is_empty() && (slow || !part.is_extra))
    };
    for part in PARTS.iter().filter(wanted) {
        let Part {
            name, what, run, ..
        } = part;
        eprintln!(
            "\n== {name}: {what} (after {} s)",
            begun.elapsed().as_secs()
        );
        run(&root, amount).with_context(|| format!("part {name}"))?;
    }
    eprintln!("\n== done (after {} s)", begun.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

fn list() -> String {
    let line = |part: &Part| format!("  {:<10} {}\n", part.name, part.what);
    PARTS.iter().map(line).collect()
}

fn screens(root: &Path, _: Amount) -> Result<()> {
    kiln_test_tools::install_system(&["chromium", "fonts-dejavu-core"])?;
    modules(root)?;
    for script in ["check", "test", "build", "test:browser"] {
        npm(root, &["run", script])?;
    }
    Ok(())
}

fn house(_: &Path, _: Amount) -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["test", "--quiet", "--package", "xtask"], &[])
}

fn lints(_: &Path, _: Amount) -> Result<()> {
    cargo(
        &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
        &[],
    )
}

fn unit(_: &Path, _: Amount) -> Result<()> {
    let mut arguments = vec!["test", "--quiet", "--workspace"];
    for other in ["xtask", "kiln-e2e", "kiln-vm", "kiln-guest-tests"] {
        arguments.extend(["--exclude", other]);
    }
    cargo(&arguments, &[])
}

fn owner(root: &Path, _: Amount) -> Result<()> {
    let (kilnd, cli) = (kilnd(root)?, cli()?);
    cargo(
        &[
            "test",
            "--quiet",
            "--package",
            "kiln-vm",
            "--lib",
            "--test",
            "it",
        ],
        &[(KILND, &kilnd), (CLI, &cli)],
    )
}

fn machine(root: &Path, _: Amount) -> Result<()> {
    let (kilnd, cli) = (kilnd(root)?, cli()?);
    for purpose in [guest::Purpose::Make, guest::Purpose::Compare] {
        guest::make(root, purpose, Some(Path::new(&kilnd)))?;
    }
    let mut image = vec!["test", "--quiet", "--package", "kiln-guest-tests"];
    image.extend(["--lib", "--test", "it", "--", "--test-threads", "1"]);
    cargo(&image, &[(KILND, &kilnd)])?;
    cargo(
        &[
            "test",
            "--quiet",
            "--package",
            "kiln-vm",
            "--test",
            "machine",
        ],
        &[(KILND, &kilnd), (CLI, &cli)],
    )
}

fn scenarios(root: &Path, _: Amount) -> Result<()> {
    end_to_end(root, "it", &[])
}

fn crash(root: &Path, amount: Amount) -> Result<()> {
    let more = [("KILN_CRASH_POINTS", "1000"), ("KILN_CRASH_CUTS", "240")];
    match amount {
        Amount::Usual => end_to_end(root, "crash", &[]),
        Amount::Large => end_to_end(root, "crash", &more),
    }
}

fn app(root: &Path, _: Amount) -> Result<()> {
    modules(root)?;
    npm(root, &["run", "build"])?;
    window::test(root, Path::new(&kilnd(root)?))
}

fn notes(root: &Path, _: Amount) -> Result<()> {
    let kilnd = kilnd(root)?;
    guest::make_if_older(root, Path::new(&kilnd))?;
    cargo(&["build", "--quiet", "--package", "kiln-vm"], &[])?;
    let owner = target().join("debug/kiln-vmd").display().to_string();
    end_to_end(root, "slow", &[("KILN_VMD", &owner)])
}

fn fuzz(_: &Path, amount: Amount) -> Result<()> {
    let seconds = match amount {
        Amount::Usual => "10",
        Amount::Large => "60",
    };
    let fuzz = ["run", "--release", "--package", "kiln-fuzz", "--"];
    cargo(&[&fuzz[..], &["all", seconds]].concat(), &[])
}

fn end_to_end(root: &Path, suite: &str, more: &[(&str, &str)]) -> Result<()> {
    let (kilnd, cli) = (kilnd(root)?, cli()?);
    let mut environment = vec![(KILND, kilnd.as_str()), (CLI, cli.as_str())];
    environment.extend(more);
    cargo(
        &["test", "--package", "kiln-e2e", "--test", suite],
        &environment,
    )
}

/// The daemon as it ships.
fn kilnd(root: &Path) -> Result<String> {
    match std::env::var(KILND) {
        Ok(path) => Ok(path),
        Err(_) => Ok(guest::kilnd(root)?.display().to_string()),
    }
}

fn cli() -> Result<String> {
    if let Ok(path) = std::env::var(CLI) {
        return Ok(path);
    }
    cargo(&["build", "--quiet", "--package", "kiln"], &[])?;
    Ok(target().join("debug/kiln").display().to_string())
}

/// The packages of the screens, as their lock file has them.
pub(crate) fn modules(root: &Path) -> Result<()> {
    let version = Command::new("node").arg("--version").output();
    let version = version.context("node doesn't start: the screens need Node 20.19 or newer")?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    ensure!(
        is_new_enough(&version),
        "the screens need Node 20.19 or newer, this is {version}"
    );
    match are_installed(&root.join("ui")) {
        true => Ok(()),
        false => npm(root, &["ci", "--no-progress"]),
    }
}

/// npm writes down what it has installed, after the last of it.
fn are_installed(ui: &Path) -> bool {
    let at = |name: &str| std::fs::metadata(ui.join(name)).and_then(|file| file.modified());
    let (installed, wanted) = (
        at("node_modules/.package-lock.json"),
        at("package-lock.json"),
    );
    matches!((installed, wanted), (Ok(installed), Ok(wanted)) if installed > wanted)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (20_u32, 19_u32),
        _ => false,
    }
}

/// Runs npm for the screens.
pub(crate) fn npm(root: &Path, arguments: &[&str]) -> Result<()> {
    let directory: PathBuf = root.join("ui");
    let status = Command::new("npm")
        .args(arguments)
        .current_dir(directory)
        .status()
        .context("npm doesn't start")?;
    if !status.success() {
        bail!("npm {} failed", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_new_enough_from_20_19() {
        for (version, expected) in [
            ("v20.19.0", true),
            ("v22.1.0", true),
            ("v20.18.3", false),
            ("v18.20.0", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn modules_are_installed_once_for_a_lock_file() {
        let ui = tempfile::tempdir().unwrap();
        let write = |name: &str, seconds| {
            let path = ui.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(path).unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(at).unwrap();
        };
        write("package-lock.json", 10);
        assert!(!are_installed(ui.path()));
        write("node_modules/.package-lock.json", 20);
        assert!(are_installed(ui.path()));
        write("package-lock.json", 30);
        assert!(!are_installed(ui.path()));
    }

    #[test]
    fn an_unknown_part_is_refused_with_the_list() {
        let words = run(&["scenario"]).unwrap_err().to_string();
        assert!(words.contains("\"scenario\"") && words.contains("scenarios "));
    }
}
