//! Containers by an external `runc`.
//!
//! Correct everywhere `runc` is, and slow: it starts a program three times and compiles its seccomp
//! filter for each container. What it can't do in time is done here: killing goes through the
//! process's descriptor, and mounts are made and removed by the daemon.

mod bundle;
mod monitor;
mod spec;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiln_sys::cgroup::Cgroups;
use tokio_util::sync::CancellationToken;

use crate::containers::{Containers, Place};
use crate::task::blocking;
use crate::{ContainerSpec, Executor, ExecutorError, Exit, ProcessIo, ProcessSpec, prepare};
use bundle::Bundle;
use monitor::Call;

/// Output that comes after a further process ended, from children that it left, is waited for this long.
const EXEC_PATIENCE: Duration = Duration::from_millis(200);

/// What the executor needs to know.
#[derive(Debug, Clone)]
pub struct RuncConfig {
    /// The program; looked up in `PATH` if it is a plain name.
    pub binary: PathBuf,
    /// A directory of its own.
    pub root: PathBuf,
    /// For containers that name no parent of their own; below the daemon's own group where empty.
    pub cgroup_parent: String,
    /// The daemon has no rights over cgroups.
    pub rootless: bool,
}

/// See the module.
#[derive(Debug)]
pub struct RuncExecutor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuncConfig,
    cgroups: Cgroups,
    containers: Containers<()>,
}

impl RuncExecutor {
    /// Clears what an earlier daemon left in `config.root`.
    pub fn new(config: RuncConfig) -> Result<Self, ExecutorError> {
        let state = config.root.join("state");
        std::fs::create_dir_all(&state)
            .map_err(prepare(|| format!("create {}", state.display())))?;
        let inner = Inner {
            cgroups: Cgroups::discover().map_err(prepare(|| "find cgroups".into()))?,
            containers: Containers::default(),
            config,
        };
        inner.clear_stale(&state);
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    fn arguments(&self, log: &Path) -> Vec<OsString> {
        let state = self.config.root.join("state");
        let mut out: Vec<OsString> = vec!["--root".into(), state.into(), "--log".into()];
        out.extend([log.into(), "--log-format".into(), "json".into()]);
        out
    }

    fn clear_stale(&self, state: &Path) {
        for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
            let mut arguments = self.arguments(Path::new("/dev/null"));
            arguments.extend(["delete".into(), "--force".into(), entry.file_name()]);
            if let Err(error) = std::process::Command::new(&self.config.binary)
                .args(arguments)
                .output()
            {
                tracing::warn!(%error, "an earlier container could not be removed");
            }
        }
        for entry in std::fs::read_dir(&self.config.root)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name() != "state" {
                bundle::clear_stale(&entry.path());
            }
        }
    }

    /// Kills and removes the container, if it is there.
    async fn delete(&self, id: &str, force: bool) {
        let mut command = tokio::process::Command::new(&self.config.binary);
        command
            .args(self.arguments(Path::new("/dev/null")))
            .arg("delete");
        if force {
            command.arg("--force");
        }
        match command.arg(id).output().await {
            Ok(output) if output.status.success() || force => {}
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                tracing::warn!(id, message, "runc could not remove a container");
            }
            Err(error) => tracing::warn!(id, %error, "runc could not be run"),
        }
    }

    fn parent<'a>(&'a self, container: &'a ContainerSpec) -> &'a str {
        if container.cgroup_parent.is_empty() {
            &self.config.cgroup_parent
        } else {
            &container.cgroup_parent
        }
    }

    /// The container's group as `runc` takes it, and as a parent and a name.
    fn cgroup(&self, container: &ContainerSpec) -> (Option<String>, String) {
        let name = format!("kiln/{}", container.id);
        let parent = self.parent(container).trim_matches('/');
        let path = match parent {
            "" => name.clone(),
            parent => format!("/{parent}/{name}"),
        };
        let possible = !self.config.rootless && !self.cgroups.is_empty();
        (possible.then_some(path), name)
    }

    async fn run(
        self: Arc<Self>,
        mut place: Place<()>,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let container = Arc::clone(&place.spec);
        let (cgroup, name) = self.cgroup(&container);
        let prepared = {
            let (inner, container, process) =
                (Arc::clone(&self), Arc::clone(&container), process.clone());
            blocking(move || inner.prepare(&container, &process, cgroup.as_deref())).await?
        };
        let call = Call {
            binary: self.config.binary.clone(),
            arguments: {
                let mut out = self.arguments(&prepared.file("log.json"));
                out.extend(["run".into(), "--keep".into(), "--bundle".into()]);
                out.extend([prepared.dir.clone().into(), "--pid-file".into()]);
                out.extend([prepared.file("pid").into(), container.id.clone().into()]);
                out
            },
            terminal: process.terminal,
            pid_file: prepared.file("pid"),
            log: prepared.file("log.json"),
        };
        let ended = call.run(io, || place.runs(()), None, &cancel).await;
        let cancelled = matches!(ended, Err(ExecutorError::Cancelled));
        let kills = self.cgroups.oom_kills(self.parent(&container), &name);
        place.ended();
        self.delete(&container.id, cancelled).await;
        let group = self.cgroups.group(self.parent(&container), &name);
        // Unmounting waits for file systems, so it is kept off the runtime's threads.
        let removed = blocking(move || {
            if cancelled && let Err(error) = group.remove() {
                tracing::warn!(%error, "a container's cgroup stays behind");
            }
            drop(prepared);
            Ok(())
        });
        removed.await?;
        let ended = ended?;
        match ended.failure {
            Some(message) => {
                let program = process.args.first().map_or("", String::as_str);
                Err(monitor::failure(message, program))
            }
            None => Ok(Exit {
                code: ended.code,
                out_of_memory: kills > 0,
            }),
        }
    }

    fn prepare(
        &self,
        container: &ContainerSpec,
        process: &ProcessSpec,
        cgroup: Option<&str>,
    ) -> Result<Bundle, ExecutorError> {
        let bundle = Bundle::create(&self.config.root, container, process)?;
        let parts = spec::Parts {
            container,
            root: &bundle.rootfs(),
            mounts: &bundle.mounts,
            cgroup,
            cgroup_namespace: self.cgroups.is_unified(),
        };
        let spec = spec::process(container, process)
            .and_then(|process| spec::spec(&parts, process))
            .map_err(bad_spec)?;
        write_json(&bundle.file("config.json"), &spec)?;
        Ok(bundle)
    }

    async fn exec(
        self: Arc<Self>,
        id: String,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let running = self.containers.running(&id, &cancel).await?;
        let data = spec::process(running.spec(), &process).map_err(bad_spec)?;
        let scratch = tempfile::Builder::new()
            .prefix("exec-")
            .tempdir_in(self.config.root.join(&id))
            .map_err(prepare(|| "create a directory".into()))?;
        let file = |name: &str| scratch.path().join(name);
        write_json(&file("process.json"), &data)?;
        let mut arguments = self.arguments(&file("log.json"));
        arguments.extend([
            "exec".into(),
            "--process".into(),
            file("process.json").into(),
        ]);
        arguments.extend(["--pid-file".into(), file("pid").into(), id.clone().into()]);
        let call = Call {
            binary: self.config.binary.clone(),
            arguments,
            terminal: process.terminal,
            pid_file: file("pid"),
            log: file("log.json"),
        };
        let ended = call.run(io, || {}, Some(EXEC_PATIENCE), &cancel).await?;
        match ended.failure {
            Some(message) => {
                if running.is_over() {
                    return Err(ExecutorError::NotRunning(id));
                }
                let program = process.args.first().map_or("", String::as_str);
                Err(monitor::failure(message, program))
            }
            None => Ok(Exit {
                code: ended.code,
                out_of_memory: false,
            }),
        }
    }
}

fn bad_spec(error: oci_spec::OciSpecError) -> ExecutorError {
    ExecutorError::Prepare {
        action: "describe the container".into(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error),
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), ExecutorError> {
    let action = || format!("write {}", path.display());
    let bytes = serde_json::to_vec(value)
        .map_err(std::io::Error::from)
        .map_err(prepare(action))?;
    std::fs::write(path, bytes).map_err(prepare(action))
}

#[async_trait]
impl Executor for RuncExecutor {
    async fn drain(&self) {
        self.inner.containers.drain().await;
    }

    async fn run(
        &self,
        container: ContainerSpec,
        process: ProcessSpec,
        io: ProcessIo,
        started: Option<tokio::sync::oneshot::Sender<()>>,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let place = self.inner.containers.enter(container, started)?;
        let inner = Arc::clone(&self.inner);
        let work = |token| inner.run(place, process, io, token);
        self.inner.containers.supervise(&cancel, work).await
    }

    async fn exec(
        &self,
        container: &str,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let (inner, id) = (Arc::clone(&self.inner), container.to_owned());
        let work = |token| inner.exec(id, process, io, token);
        self.inner.containers.supervise(&cancel, work).await
    }
}
