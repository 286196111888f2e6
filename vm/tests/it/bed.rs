//! A `kiln-vmd` with directories of its own, and a stock buildx.
#![allow(
    dead_code,
    reason = "two test programs share this, and each needs its part"
)]

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use kiln_client::host::{State, Status};
use kiln_client::{Address, Client, HostClient};
use kiln_config::HostPaths;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// For anything that should happen at once; the machine may be loaded.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    pub(crate) root: TempDir,
    pub(crate) paths: HostPaths,
    environment: Vec<(&'static str, String)>,
}

pub(crate) struct Vmd {
    pub(crate) process: Child,
}

pub(crate) fn vmd_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kiln-vmd"))
}

/// The engine that the tests run.
pub(crate) fn kilnd() -> PathBuf {
    let path = std::env::var_os("KILN_KILND")
        .map_or_else(|| vmd_program().with_file_name("kilnd"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} isn't there: cargo build -p kilnd, or set KILN_KILND",
        path.display()
    );
    path
}

/// Directories of a user's own, with short paths, and these settings in them.
pub(crate) fn directories(settings: &str) -> (tempfile::TempDir, HostPaths) {
    let root = tempfile::Builder::new().prefix("kv").tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let paths = HostPaths {
        runtime: at("r"),
        state: at("s"),
        config: at("c"),
    };
    std::fs::create_dir(&paths.config).unwrap();
    std::fs::write(paths.settings_file(), settings).unwrap();
    (root, paths)
}

impl Bed {
    /// With the native driver.
    pub(crate) fn native(settings: &str) -> Self {
        Self::new(&format!("driver = \"native\"\n{settings}"))
    }

    pub(crate) fn new(settings: &str) -> Self {
        let (root, paths) = directories(settings);
        Self {
            root,
            paths,
            environment: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.push((name, value.into()));
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(vmd_program());
        command
            .env("KILN_RUNTIME_DIR", &self.paths.runtime)
            .env("KILN_STATE_DIR", &self.paths.state)
            .env("KILN_CONFIG_DIR", &self.paths.config)
            .env("KILN_KILND", kilnd())
            .envs(self.environment.iter().cloned())
            .kill_on_drop(true);
        command
    }

    /// Starts it and waits until its sockets accept.
    pub(crate) async fn start(&self) -> Vmd {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.path().join("vmd.log"))
            .unwrap();
        let mut process = self
            .command()
            .arg("--detach")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut word = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        timeout(PATIENCE, stdout.read_line(&mut word))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(word, "ready\n", "{}", self.log());
        Vmd { process }
    }

    /// Starts one that can't serve; its status and last words.
    pub(crate) async fn fails(&self) -> (ExitStatus, String) {
        let mut process = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let status = timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
        let mut words = String::new();
        let mut stderr = process.stderr.take().unwrap();
        stderr.read_to_string(&mut words).await.unwrap();
        (status, words)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("vmd.log")).unwrap_or_default()
    }

    pub(crate) async fn host(&self) -> HostClient {
        HostClient::connect(&self.paths).await.unwrap()
    }

    /// A connection as a tool that builds makes it.
    pub(crate) async fn builder(&self) -> Client {
        let address = Address::Unix(self.paths.buildkit_socket());
        Client::connect(&address).await.unwrap()
    }

    /// Waits for a state, and gives the status that had it.
    pub(crate) async fn reaches(&self, state: State) -> Status {
        let mut changes = self.host().await.watch_status().await.unwrap();
        let search = async {
            while let Some(status) = changes.next().await {
                let status = status.unwrap();
                if status.state() == state {
                    return status;
                }
            }
            panic!("the stream ended; {}", self.log());
        };
        timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("not {state:?}; {}", self.log()))
    }
}

impl Bed {
    /// Runs the `kiln` command in `directory`: its exit code, and what it said.
    pub(crate) async fn kiln(&self, directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(crate::home::binary())
            .args(arguments)
            .env("KILN_RUNTIME_DIR", &self.paths.runtime)
            .env("KILN_STATE_DIR", &self.paths.state)
            .env("KILN_CONFIG_DIR", &self.paths.config)
            .env("DOCKER_CONFIG", self.root.path().join("docker"))
            .env_remove("KILN_HOST")
            .env_remove("BUILDKIT_HOST")
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code(), text)
    }
}

/// Whether a process of that number is there and isn't a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    })
}

pub(crate) fn kill(pid: i32, signal: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Where `cargo xtask setup` puts the tools.
fn buildx() -> PathBuf {
    let tools = std::env::var_os("KILN_TOOLS").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/kiln/tools"),
        PathBuf::from,
    );
    let path = tools.join("buildx-new/usr/libexec/docker/cli-plugins/docker-buildx");
    assert!(path.is_file(), "{}: cargo xtask setup", path.display());
    path
}

/// A stock buildx with the machine's socket as its remote builder.
pub(crate) struct Buildx<'a> {
    bed: &'a Bed,
}

impl<'a> Buildx<'a> {
    pub(crate) async fn on(bed: &'a Bed) -> Self {
        let buildx = Self { bed };
        let address = format!("unix://{}", bed.paths.buildkit_socket().display());
        let create = ["create", "--name", "kiln", "--driver", "remote", &address];
        buildx.run(bed.root.path(), &create).await;
        buildx
    }

    /// Builds in `context`; what it said.
    pub(crate) async fn build(&self, context: &Path, arguments: &[&str]) -> String {
        let start = ["build", "--builder", "kiln", "--progress", "plain"];
        self.run(context, &[&start, arguments].concat()).await
    }

    async fn run(&self, directory: &Path, arguments: &[&str]) -> String {
        let root = self.bed.root.path();
        let output = Command::new(buildx())
            .args(arguments)
            .env("BUILDX_CONFIG", root.join("buildx"))
            .env("DOCKER_CONFIG", root.join("docker"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}\n{}", self.bed.log());
        text
    }
}
