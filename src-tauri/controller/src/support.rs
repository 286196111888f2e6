//! The support bundle: what somebody who helps needs to know, in a file that its sender has read first.
//!
//! ```text
//!  gather ──► parts, every text masked ──► the window shows them ──► those that stay ──► NAME.tar.gz, 0600
//! ```
//! | part | from |
//! |---|---|
//! | `versions.json` | this program, the machine's owner, the engine, the system |
//! | `machine.json`, `checks.json` | the machine's state; the doctor |
//! | `settings/*` | the app's settings and the machine's, without arguments, secrets and names of builds for the tray |
//! | `builds.json` | the last builds: times, counts, the first line of errors |
//! | `logs/*` | the ends of the logs and of the console |
//!
//! Invariants: nothing is sent anywhere; what is written is what was shown, masked once more; no file of the user's
//! projects, no login and no key is read for it.

use std::path::Path;

use kiln_client::archive::Archive;
use kiln_client::scrub;
use serde_json::{Value, json};

use crate::view::{BuildSummary, BundlePart};
use crate::{AppSettings, Controller, Failure};

/// As much of a log's end.
const TAIL: usize = 200 << 10;
const BUILDS: usize = 50;
/// Variables whose values are secrets by their names.
const NAMES: [&str; 7] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "API_KEY",
    "CREDENTIAL",
];

impl Controller {
    /// All parts, for people to read. What can't be had says why in its place.
    pub async fn support_parts(&self) -> Vec<BundlePart> {
        let (machine_settings, checks, console) =
            tokio::join!(self.machine_settings(), self.diagnose(), self.console());
        let known = known_secrets(std::env::vars());
        let machine = self.machine();
        let paths = self.paths();
        let mut parts = Vec::new();
        let mut put = |path: &str, what: &str, text: String| {
            let text = scrub(&text, &known);
            parts.push(BundlePart {
                path: path.into(),
                what: what.into(),
                text,
            });
        };
        let versions = json!({
            "app": env!("CARGO_PKG_VERSION"), "machine": machine.version, "engine": machine.engine_version,
            "system": system(Path::new("/")), "builders": self.builders().len(),
        });
        put(
            "versions.json",
            "Versions of Kiln and of the system",
            pretty(&versions),
        );
        put(
            "machine.json",
            "The machine’s state",
            pretty(&json!(machine)),
        );
        put("checks.json", "What the doctor found", said(checks));
        put(
            "settings/app.json",
            "This app’s settings",
            pretty(&settings(&self.settings())),
        );
        put(
            "settings/machine.json",
            "The machine’s settings",
            said(machine_settings),
        );
        put(
            "builds.json",
            "The last builds: times, counts, errors",
            pretty(&builds(&self.known_builds())),
        );
        put(
            "logs/kiln-vmd.log",
            "The end of the background process’s log",
            tail_of(&paths.vmd_log()),
        );
        put(
            "logs/console.log",
            "The end of what the machine printed",
            console.map_or_else(|failure| failure.message, |text| tail(&text)),
        );
        parts
    }

    /// Writes the parts that stayed.
    pub fn save_support(&self, path: &str, parts: Vec<BundlePart>) -> Result<(), Failure> {
        let target = Path::new(path);
        if !target.is_absolute() {
            return Err(Failure::user(
                "Give the file’s whole path.",
                "It begins with a slash.",
            ));
        }
        let known = known_secrets(std::env::vars());
        let failed =
            |error: std::io::Error| Failure::user(format!("{path} can’t be written: {error}."), "");
        let mut archive = Archive::default();
        for part in parts {
            let inside = format!("kiln-support/{}", part.path.trim_start_matches('/'));
            archive
                .file(&inside, scrub(&part.text, &known).as_bytes())
                .map_err(failed)?;
        }
        let bytes = archive.finish().map_err(failed)?;
        private(target, &bytes).map_err(failed)
    }

    /// Where a bundle goes unless another place is given.
    pub fn support_path(&self) -> String {
        let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
        let place = home.unwrap_or_else(std::env::temp_dir);
        place.join("kiln-support.tar.gz").display().to_string()
    }
}

fn private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(bytes)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn said<T: serde::Serialize>(answer: Result<T, Failure>) -> String {
    match answer {
        Ok(value) => pretty(&json!(value)),
        Err(failure) => failure.message,
    }
}

/// Values of this process's variables that are secrets by their names.
fn known_secrets(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let is_secret = |name: &str| {
        let name = name.to_uppercase();
        NAMES.iter().any(|part| name.contains(part))
    };
    variables
        .filter(|(name, _)| is_secret(name))
        .map(|(_, value)| value)
        .collect()
}

/// Builds for the tray and folders say what somebody works on: only their number is told.
fn settings(settings: &AppSettings) -> Value {
    let mut value = json!(settings);
    value["quickBuilds"] = json!(settings.quick_builds.len());
    value["recentFolders"] = json!(settings.recent_folders.len());
    value
}

fn builds(all: &[BuildSummary]) -> Value {
    let one = |build: &BuildSummary| {
        json!({
            "ref": build.r#ref, "status": build.status, "created": build.created, "completed": build.completed,
            "steps": build.total_steps, "cached": build.cached_steps, "warnings": build.warnings, "platforms": build.platforms,
            "outputs": build.outputs, "error": build.error.lines().next().unwrap_or_default(),
        })
    };
    all.iter().take(BUILDS).map(one).collect()
}

fn system(root: &Path) -> Value {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let name = read("etc/os-release")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    let memory = read("proc/meminfo").lines().next().map(str::to_owned);
    json!({
        "name": name, "kernel": read("proc/sys/kernel/osrelease").trim(), "architecture": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism().map_or(0, usize::from), "memory": memory,
    })
}

fn tail_of(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => tail(&String::from_utf8_lossy(&bytes)),
        Err(error) => format!("{}: {error}", path.display()),
    }
}

/// The last whole lines.
fn tail(text: &str) -> String {
    let mut from = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let end = &text[from..];
    match end.split_once('\n') {
        Some((_, whole)) if from > 0 => whole.to_owned(),
        _ => end.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{BuildRequest, NameValue, QuickBuild};

    const SECRET: &str = "hunter2-planted";

    fn controller(directory: &Path) -> Controller {
        Controller::new(kiln_config::HostPaths {
            runtime: directory.join("r"),
            state: directory.join("s"),
            config: directory.join("c"),
        })
    }

    fn part(path: &str, text: String) -> BundlePart {
        BundlePart {
            path: path.into(),
            what: String::new(),
            text,
        }
    }

    fn unpacked(path: &Path) -> String {
        // gzip says at its end how long the content is.
        let file = std::fs::read(path).unwrap();
        let output = std::process::Command::new("tar")
            .args(["-xzOf"])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success() && file.starts_with(b"\x1f\x8b"));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn settings_go_without_what_somebody_builds() {
        let arg = NameValue {
            name: "KEY".into(),
            value: SECRET.into(),
        };
        let request = BuildRequest {
            context: "/home/ada/secret-project".into(),
            args: vec![arg],
            ..BuildRequest::default()
        };
        let all = AppSettings {
            quick_builds: vec![QuickBuild {
                name: "shop".into(),
                request,
            }],
            recent_folders: vec!["/home/ada/secret-project".into()],
            ..AppSettings::default()
        };
        let text = settings(&all).to_string();
        assert!(!text.contains(SECRET) && !text.contains("ada"), "{text}");
        assert!(text.contains("\"quickBuilds\":1"), "{text}");
    }

    #[test]
    fn a_secret_that_was_planted_everywhere_is_in_no_part_and_no_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let controller = controller(directory.path());
        let planted = [
            format!("pull https://me:{SECRET}@r.example/x"),
            format!("NPM_TOKEN={SECRET}"),
            format!("{{\"password\": \"{SECRET}\"}}"),
            format!("Authorization: Bearer {SECRET}"),
            format!("proxy: http://:{SECRET}@proxy.example:3128"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"),
        ];
        std::fs::create_dir_all(directory.path().join("r")).unwrap();
        std::fs::write(controller.paths().vmd_log(), planted.join("\n")).unwrap();
        let log = scrub(&tail_of(&controller.paths().vmd_log()), &[]);
        assert!(!log.contains(SECRET), "{log}");
        assert!(log.contains("r.example/x"), "{log}");
        // Somebody typed one into a part: it is masked when it is written.
        let file = directory.path().join("b.tar.gz");
        let parts = vec![
            part("logs/a.log", log),
            part("note.txt", planted.join("\n")),
        ];
        controller
            .save_support(&file.display().to_string(), parts)
            .unwrap();
        let text = unpacked(&file);
        assert!(!text.contains(SECRET), "{text}");
        assert_eq!(text.matches("r.example/x").count(), 2, "{text}");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let relative = controller.save_support("x", Vec::new());
        assert_eq!(relative.unwrap_err().kind, "user");
    }

    #[test]
    fn variables_with_a_secrets_name_are_known() {
        let variables = [("NPM_TOKEN", "a"), ("HOME", "b"), ("db_password", "c")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(known_secrets(variables.into_iter()), ["a", "c"]);
    }

    #[test]
    fn a_logs_end_begins_with_a_whole_line() {
        let log = format!("first\n{}\nlast", "é".repeat(TAIL / 2));
        let end = tail(&log);
        assert_eq!(end, "last");
        assert_eq!(tail("short\nlog"), "short\nlog");
    }
}
