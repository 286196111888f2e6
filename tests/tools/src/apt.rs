//! A private apt: lists of other suites from the machine's own mirror, and single packages out of them.
//!
//! Invariant: the machine's own lists, sources and packages stay as they are; signatures are checked with
//! Debian's keyring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const ATTEMPTS: usize = 3;

/// An apt that lives in one directory.
#[derive(Debug)]
pub struct PrivateApt {
    directory: PathBuf,
}

impl PrivateApt {
    /// Sets up `directory` for the given suites.
    pub fn new(directory: PathBuf, suites: &[&str]) -> Result<Self> {
        for name in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(name))?;
        }
        let mirror = machines_mirror()?;
        let lines: Vec<String> = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .collect();
        fs::write(directory.join("sources.list"), lines.concat())?;
        fs::write(directory.join("status"), "")?;
        Ok(Self { directory })
    }

    /// Fetches the lists.
    pub fn update(&self) -> Result<()> {
        retry(|| {
            run(self
                .command("apt-get")
                .args(["update", "--quiet", "--quiet"]))
        })
    }

    /// The candidate's version of `package` in `suite`.
    pub fn version(&self, package: &str, suite: &str) -> Result<String> {
        let output = self
            .command("apt-cache")
            .args(["madison", package])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| line.contains(&format!(" {suite}/main ")))
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .next()
            .with_context(|| format!("Debian's {suite} has no {package} for this machine"))
    }

    /// What a package depends on, by name.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let output = self
            .command("apt-cache")
            .args(["depends", package])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Unpacks one version of a package into `target`, which appears complete or not at all.
    pub fn unpack(&self, package: &str, version: &str, target: &Path) -> Result<()> {
        let archive = self.download(package, version)?;
        let partial = target.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&partial))?;
        if target.exists() {
            fs::remove_dir_all(target)?;
        }
        fs::rename(&partial, target)?;
        fs::remove_file(&archive)?;
        Ok(())
    }

    /// Downloads one version of a package, and returns where its archive is.
    pub fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let downloads = self.directory.join("downloads").join(package);
        retry(|| {
            if downloads.exists() {
                fs::remove_dir_all(&downloads)?;
            }
            fs::create_dir_all(&downloads)?;
            let what = format!("{package}={version}");
            run(self
                .command("apt-get")
                .args(["download", "--quiet", "--quiet", &what])
                .current_dir(&downloads))
        })?;
        let archive = fs::read_dir(&downloads)?
            .next()
            .with_context(|| format!("apt-get downloaded nothing for {package}"))??;
        Ok(archive.path())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let paths = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State", "state"),
            ("Dir::State::Lists", "state/lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ];
        for (key, name) in paths {
            command
                .arg("-o")
                .arg(format!("{key}={}", self.directory.join(name).display()));
        }
        for setting in [
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferences=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null",
            "APT::Sandbox::User=",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            "Acquire::http::Timeout=60",
        ] {
            command.args(["-o", setting]);
        }
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }
}

/// Where this machine gets Debian's `main` from.
pub(crate) fn machines_mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ])
        .output()
        .context("apt-get doesn't start: set-up needs Debian")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .find(|(_, release, component)| *component == "main" && !release.contains(['-', '/']))
        .map(|(uri, ..)| uri.to_owned())
        .context("the machine's apt configuration names no mirror of Debian's main")
}

/// Installs packages with the machine's own apt, those that aren't there yet.
pub fn install_system(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command.args(["-o", "Acquire::Retries=3", "--quiet", "--quiet"]);
        command
    };
    retry(|| {
        run(apt().arg("update"))?;
        run(apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing))
    })
    .with_context(|| format!("installing {} (set-up runs as root)", missing.join(" ")))
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} doesn't start"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let program = command.get_program().to_string_lossy();
        bail!(
            "{program} failed ({}):\n{}",
            output.status,
            words.trim_end()
        );
    }
    Ok(())
}

/// Mirrors have bad moments: a step that talks to one is tried again.
fn retry(mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        match step() {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("trying again: {error:#}"),
        }
    }
    step()
}
