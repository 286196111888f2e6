//! A session bus of its own with GNOME's keyring on it: a real Secret Service.
//!
//! Invariant: bus, keyring and its files are the test's own; nothing of the user's session is seen.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use kiln_test_tools::on_path;
use tempfile::TempDir;

use crate::run::Run;
use crate::service::Service;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running keyring, unlocked.
#[derive(Debug)]
pub struct Keyring {
    // The keyring ends before the bus, and both before their files go.
    _service: Service,
    _bus: Service,
    directory: TempDir,
}

impl Keyring {
    /// Starts both.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("kr-").tempdir()?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700))?;
        let at = |name: &str| directory.path().join(name);
        let socket = at("bus");
        // Nothing can be activated: what isn't started here isn't there.
        let config = at("bus.conf");
        fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\
                 <type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
                 <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
                 <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n",
                socket.display()
            ),
        )?;
        let mut command = Command::new(on_path("dbus-daemon")?);
        command
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"]);
        let mut bus = Service::start("dbus-daemon", &mut command, at("bus.log"))?;
        bus.wait_until("listening", PATIENCE, || socket.exists())?;
        // The password, an empty line, makes the login keyring and unlocks it.
        let password = at("password");
        fs::File::create(&password)?.write_all(b"\n")?;
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "exec \"$0\" --foreground --unlock --components=secrets < \"$1\"",
            ])
            .arg(on_path("gnome-keyring-daemon")?)
            .arg(&password)
            .env_remove("DISPLAY")
            .envs(environment(directory.path()));
        let mut service = Service::start("gnome-keyring-daemon", &mut command, at("keyring.log"))?;
        service.wait_until("serving", PATIENCE, || {
            let mut look = Command::new("secret-tool");
            look.args(["search", "no", "such"])
                .envs(environment(directory.path()));
            // Where nothing serves it says so.
            at("data/keyrings/login.keyring").exists()
                && look.output().is_ok_and(|output| output.stderr.is_empty())
        })?;
        Ok(Self {
            _service: service,
            _bus: bus,
            directory,
        })
    }

    /// What a program needs to find it.
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        environment(self.directory.path())
    }

    /// What it keeps with an attribute of this value, secrets included.
    pub fn search(&self, attribute: &str, value: &str) -> Result<String> {
        let mut command = Command::new(on_path("secret-tool")?);
        command
            .args(["search", "--all", attribute, value])
            .envs(self.environment());
        let run = Run::of(&mut command)?;
        Ok(run.stdout + &run.stderr)
    }

    /// Locks it; nobody is there to unlock it.
    pub fn lock(&self) -> Result<()> {
        let mut command = Command::new(on_path("dbus-send")?);
        command
            .args([
                "--session",
                "--print-reply",
                "--dest=org.freedesktop.secrets",
            ])
            .args([
                "/org/freedesktop/secrets",
                "org.freedesktop.Secret.Service.Lock",
                "array:objpath:/org/freedesktop/secrets/collection/login",
            ])
            .envs(self.environment());
        Run::of(&mut command)?.succeeds()?;
        Ok(())
    }
}

fn environment(directory: &Path) -> [(&'static str, PathBuf); 3] {
    let address = format!("unix:path={}", directory.join("bus").display());
    [
        ("DBUS_SESSION_BUS_ADDRESS", address.into()),
        ("XDG_RUNTIME_DIR", directory.to_owned()),
        ("XDG_DATA_HOME", directory.join("data")),
    ]
}
