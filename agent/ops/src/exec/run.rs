//! Runs an exec op.
//!
//! ```text
//! mounts prepared ─► root mounted, user and stubs looked up ─► container runs ─► stubs removed,
//! root unmounted ─► exit code judged ─► outputs committed
//!                              └─ bad: everything committed for debuggers, removed with the error
//! ```
//! Invariants: outputs are committed only after nothing of the container is mounted or running; a run
//! that was cancelled or dropped commits nothing; secrets don't reach logs.

mod error;
mod logs;
mod mask;
mod surroundings;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kiln_cache::{CacheManager, OpResult, RecordOptions};
use kiln_errdefs::{Detail, Kind, WithDetail};
use kiln_executor::{
    ContainerSpec, Executor, ExecutorError, Exit, Network, ProcessIo, ProcessSpec,
};
use kiln_mounts::hosts::{DEFAULT_HOSTNAME, HostFiles};
use kiln_mounts::stubs::Stubs;
use kiln_mounts::{Mounts, Prepared, Process, Request, Root, extra_hosts};
use kiln_network::Lease;
use kiln_proto::pb::{self, NetMode, SecurityMode};
use kiln_solver::op::{OpContext, OpError};

use error::Leftovers;
pub use error::{ExecError, ExecFailure, NotRun};
pub use logs::LogLimits;
use logs::Logs;
pub use surroundings::{StepNetwork, Surroundings};

/// What steps run with.
#[derive(Clone)]
pub struct ExecRunner {
    /// Runs containers.
    pub executor: Arc<dyn Executor>,
    /// Prepares their mounts.
    pub mounts: Arc<Mounts>,
    /// Where their states are.
    pub cache: CacheManager,
    /// Makes the files that name hosts.
    pub hosts: HostFiles,
    /// What every step gets of the machine.
    pub surroundings: Surroundings,
    /// The cgroup parent of steps that don't name one.
    pub cgroup_parent: String,
    /// Limits of each step, in the units of cgroup v2.
    pub limits: BTreeMap<String, String>,
    /// How much output clients see.
    pub logs: LogLimits,
}

impl std::fmt::Debug for ExecRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecRunner").finish_non_exhaustive()
    }
}

/// A container that is ready to run.
struct Ready {
    root: Root,
    stubs: Stubs,
    container: ContainerSpec,
    process: ProcessSpec,
    lease: Option<Lease>,
}

impl ExecRunner {
    /// Runs `op` on `inputs`: one result per output.
    pub async fn run(
        &self,
        op: &pb::ExecOp,
        inputs: Vec<OpResult>,
        cx: &OpContext,
    ) -> Result<Vec<OpResult>, OpError> {
        let inputs = &inputs[..];
        let meta = op.meta.clone().unwrap_or_default();
        let user = format!("exec {}", meta.args.join(" "));
        let sessions = cx.sessions();
        let build = cx.builds().first().map(ToString::to_string);
        let request = Request {
            mounts: &op.mounts,
            inputs,
            cwd: &meta.cwd,
            user: &user,
            build: build.as_deref().unwrap_or_default(),
            sessions: &sessions,
            progress: &cx.progress,
        };
        let preparing = async {
            let prepared = self.mounts.prepare(&request).await?;
            let secret_env = self
                .mounts
                .secret_environment(&sessions, &op.secretenv)
                .await?;
            Ok::<_, kiln_mounts::Error>((prepared, secret_env))
        };
        let (prepared, secret_env) = tokio::select! {
            biased;
            () = cx.cancel.cancelled() => return Err(cancelled()),
            prepared = preparing => prepared.map_err(mounts_error)?,
        };
        let logs = Logs::new(&cx.progress, self.logs, &secrets(&prepared, &secret_env));
        let outcome = self
            .contain(op, &meta, &prepared, secret_env, &logs, cx)
            .await;
        let failed = match &outcome {
            Ok(exit) => !accepted(&meta, exit),
            Err(_) => true,
        };
        logs.end(failed);
        if cx.cancel.is_cancelled()
            || matches!(&outcome, Err(NotRun::Executor(ExecutorError::Cancelled)))
        {
            return Err(cancelled());
        }
        if failed {
            return Err(self
                .failed(op, inputs, prepared, failure(&meta, outcome))
                .await);
        }
        self.outputs(prepared).await.map_err(|error| {
            let error: OpError = Arc::new(error);
            error
        })
    }

    /// Runs the container to its end and clears up after it.
    async fn contain(
        &self,
        op: &pb::ExecOp,
        meta: &pb::Meta,
        prepared: &Prepared,
        secret_env: Vec<String>,
        logs: &Logs,
        cx: &OpContext,
    ) -> Result<Exit, NotRun> {
        let (runner, op, meta) = (self.clone(), op.clone(), meta.clone());
        let (root, mounts) = (prepared.root.clone(), prepared.mounts.clone());
        let readonly_root = prepared.readonly_root;
        let ready = blocking(move || {
            let root = Root::mount(root, runner.mounts.scratch())?;
            runner.ready(&op, &meta, root, mounts, readonly_root, secret_env)
        })
        .await?;
        let Ready {
            root,
            stubs,
            container,
            process,
            lease,
        } = ready;
        // Who may do everything may have changed the network.
        let privileged = container.privileged;
        let io = ProcessIo {
            stdout: Some(logs.stdout()),
            stderr: Some(logs.stderr()),
            ..ProcessIo::default()
        };
        let exit = self
            .executor
            .run(container, process, io, None, cx.cancel.clone())
            .await;
        blocking(move || {
            match lease {
                Some(lease) if !privileged => lease.give_back(),
                other => drop(other),
            }
            stubs.clean(root.dir());
            root.unmount()
        })
        .await?;
        match exit {
            // The reason is in the log; clients see the code that runc gives them for it.
            Err(ExecutorError::Program { .. }) => Ok(Exit {
                code: 1,
                out_of_memory: false,
            }),
            other => Ok(other?),
        }
    }

    fn ready(
        &self,
        op: &pb::ExecOp,
        meta: &pb::Meta,
        root: Root,
        mut mounts: Vec<kiln_executor::ContainerMount>,
        readonly_root: bool,
        secret_env: Vec<String>,
    ) -> Result<Ready, NotRun> {
        let targets = mounts.iter().map(|mount| mount.target.as_path());
        let stubs = Stubs::record(root.dir(), targets, meta.remove_mount_stubs_recursive);
        let mut process = Process {
            args: &meta.args,
            env: &meta.env,
            proxy: meta.proxy_env.as_ref(),
            secret_env,
            cwd: &meta.cwd,
            user: &meta.user,
            terminal: false,
        }
        .resolve(root.dir())?;
        self.surroundings.environment(meta, &mut process.env);
        mounts.extend(self.surroundings.mounts());
        let mode = NetMode::try_from(op.network).unwrap_or_default();
        let (network, lease) = self.surroundings.network(mode)?;
        let files = |source| kiln_mounts::Error::Io {
            doing: "failed to make",
            path: Path::new("/etc/hosts").to_owned(),
            source,
        };
        let hostname = if meta.hostname.is_empty() {
            DEFAULT_HOSTNAME
        } else {
            &meta.hostname
        };
        let mut extra = extra_hosts(&meta.extra_hosts)?;
        if network != Network::None {
            extra.extend(self.surroundings.names.clone());
        }
        let container = ContainerSpec {
            id: new_id(),
            root: root.mountable(),
            readonly_root,
            mounts,
            hostname: hostname.to_owned(),
            etc_hosts: Some(self.hosts.hosts(hostname, &extra).map_err(files)?),
            resolv_conf: Some(
                self.hosts
                    .resolv_conf(network == Network::Host)
                    .map_err(files)?,
            ),
            network,
            privileged: op.security == SecurityMode::Insecure as i32,
            cgroup_parent: if meta.cgroup_parent.is_empty() {
                self.cgroup_parent.clone()
            } else {
                meta.cgroup_parent.clone()
            },
            ulimits: meta
                .ulimit
                .iter()
                .map(|limit| (limit.name.clone(), limit.soft as u64, limit.hard as u64))
                .collect(),
            shm_size: None,
            limits: self.limits.clone(),
        };
        Ok(Ready {
            root,
            stubs,
            container,
            process,
            lease,
        })
    }

    /// Commits what was written and puts outputs in their order.
    async fn outputs(&self, prepared: Prepared) -> Result<Vec<OpResult>, kiln_cache::Error> {
        let Prepared {
            written, passed, ..
        } = prepared;
        let mut outputs = BTreeMap::new();
        for passed in passed {
            outputs.insert(passed.output, passed.result);
        }
        for written in written {
            match written.output {
                Some(output) => {
                    let state = written.state.commit(RecordOptions::default()).await?;
                    outputs.insert(output, Some(state));
                }
                None => written.state.discard().await?,
            }
        }
        Ok(outputs.into_values().collect())
    }

    /// Keeps what the step wrote for as long as somebody has the error.
    async fn failed(
        &self,
        op: &pb::ExecOp,
        inputs: &[OpResult],
        prepared: Prepared,
        failure: ExecFailure,
    ) -> OpError {
        let input_of = |mount: &pb::Mount| {
            usize::try_from(mount.input)
                .ok()
                .and_then(|input| inputs.get(input))
                .cloned()
        };
        let of_inputs: Vec<Option<OpResult>> = op.mounts.iter().map(input_of).collect();
        let mut of_mounts = of_inputs.clone();
        let mut states = Vec::new();
        for written in prepared.written {
            match written.state.commit(RecordOptions::default()).await {
                Ok(state) => {
                    of_mounts[written.mount] = Some(Some(state.clone()));
                    states.push(state);
                }
                Err(error) => {
                    tracing::warn!(%error, "what a failed step wrote can't be looked into");
                }
            }
        }
        let code = match &failure {
            ExecFailure::Exit { code, .. } => Some(*code),
            ExecFailure::NotRun { .. } => None,
        };
        let error: OpError = Arc::new(ExecError {
            source: Arc::new(failure),
            inputs: of_inputs,
            mounts: of_mounts,
            leftovers: Arc::new(Leftovers {
                states,
                cache: self.cache.clone(),
                runtime: tokio::runtime::Handle::current(),
            }),
        });
        match code {
            Some(code) => WithDetail::new(error, Detail::Exit { code }).shared(),
            None => error,
        }
    }
}

fn secrets(prepared: &Prepared, secret_env: &[String]) -> Vec<bytes::Bytes> {
    let values = secret_env.iter().filter_map(|entry| entry.split_once('='));
    let values = values.map(|(_, value)| bytes::Bytes::copy_from_slice(value.as_bytes()));
    prepared.secrets.iter().cloned().chain(values).collect()
}

fn accepted(meta: &pb::Meta, exit: &Exit) -> bool {
    if meta.valid_exit_codes.is_empty() {
        return exit.code == 0;
    }
    meta.valid_exit_codes
        .iter()
        .any(|valid| i64::from(*valid) == i64::from(exit.code))
}

fn failure(meta: &pb::Meta, outcome: Result<Exit, NotRun>) -> ExecFailure {
    let command = kiln_gotext::quote(&meta.args.join(" "));
    match outcome {
        Ok(exit) => ExecFailure::Exit {
            command,
            code: exit.code,
            out_of_memory: exit.out_of_memory,
        },
        Err(source) => ExecFailure::NotRun { command, source },
    }
}

fn mounts_error(error: kiln_mounts::Error) -> OpError {
    use kiln_mounts::Error as E;
    let kind = match &error {
        E::Session(kiln_session::Error::NoSecret { .. }) => Some(Kind::NotFound),
        E::Cancelled => Some(Kind::Cancelled),
        E::MissingInput(_)
        | E::RootType { .. }
        | E::UnknownType(_)
        | E::NoRoot
        | E::MissingOptions { .. }
        | E::Sharing(_)
        | E::NoSecretId
        | E::NoSecretEnvId { .. } => Some(Kind::User),
        _ => None,
    };
    let error: OpError = Arc::new(error);
    match kind {
        Some(kind) => WithDetail::kind(error, kind).shared(),
        None => error,
    }
}

fn cancelled() -> OpError {
    WithDetail::message(Kind::Cancelled, "context canceled").shared()
}

/// 25 characters, as container ids and cgroup names take them.
fn new_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number: u128 = rand::random();
    (0..25)
        .map(|_| {
            let digit = DIGITS[(number % 36) as usize];
            number /= 36;
            char::from(digit)
        })
        .collect()
}

async fn blocking<T: Send + 'static, E: Into<NotRun> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, NotRun> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ExecutorError::Cancelled.into()),
        },
    }
}
