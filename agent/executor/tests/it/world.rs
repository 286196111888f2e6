//! A root file system, an executor, and ways to run things and to see what is left of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kiln_executor::{
    ContainerMount, ContainerSpec, Executor, ExecutorError, Exit, Network, ProcessIo, ProcessSpec,
    RuncConfig, RuncExecutor, SlotConfig, SlotExecutor,
};
use kiln_sys::mount::{MountSpec, Mountable, mounts_below};
use tokio_util::sync::CancellationToken;

/// Which executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "they name the modules of the tests")]
pub(crate) enum Kind {
    runc,
    slots,
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) exit: Result<Exit, ExecutorError>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code(), 0, "{self:?}");
        &self.stdout
    }

    #[track_caller]
    pub(crate) fn code(&self) -> u32 {
        match &self.exit {
            Ok(exit) => exit.code,
            Err(error) => panic!("{error}: {self:?}"),
        }
    }
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) executor: Arc<dyn Executor>,
    /// Part of all container ids of this world.
    pub(crate) tag: String,
    next: AtomicU32,
}

impl World {
    pub(crate) fn new(kind: Kind) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kiln-executor-")
            .tempdir()
            .unwrap();
        make_root(&dir.path().join("lower"));
        let state = dir.path().join("executor");
        let executor: Arc<dyn Executor> = match kind {
            Kind::runc => Arc::new(
                RuncExecutor::new(RuncConfig {
                    binary: "runc".into(),
                    root: state,
                    cgroup_parent: String::new(),
                    rootless: false,
                })
                .unwrap(),
            ),
            Kind::slots => Arc::new(
                SlotExecutor::new(SlotConfig {
                    program: env!("CARGO_BIN_EXE_kiln-slot").into(),
                    root: state,
                    cgroup_parent: String::new(),
                    idle: 4,
                })
                .unwrap(),
            ),
        };
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let tag = name
            .trim_start_matches("kiln-executor-")
            .bytes()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(u32::from(digit), 16))
            .collect();
        Self {
            dir,
            executor,
            tag,
            next: AtomicU32::new(0),
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The writable layer of a container made by `container`.
    pub(crate) fn upper(&self, container: &ContainerSpec) -> PathBuf {
        self.path("layers").join(&container.id).join("upper")
    }

    /// An overlay over the root; nothing else but what every container has.
    pub(crate) fn container(&self) -> ContainerSpec {
        let id = format!("{}{}", self.tag, self.next.fetch_add(1, Ordering::Relaxed));
        let layer = self.path("layers").join(&id);
        let overlay = overlay(&self.path("lower"), &layer);
        ContainerSpec {
            id,
            root: Mountable::new(vec![overlay], ()),
            readonly_root: false,
            mounts: Vec::new(),
            hostname: "buildkitsandbox".into(),
            etc_hosts: None,
            resolv_conf: None,
            network: Network::None,
            privileged: false,
            cgroup_parent: String::new(),
            ulimits: Vec::new(),
            shm_size: None,
            limits: BTreeMap::new(),
        }
    }

    /// Runs a shell script in a fresh container.
    pub(crate) async fn sh(&self, script: &str) -> Output {
        self.run(self.container(), shell(script)).await
    }

    pub(crate) async fn run(&self, container: ContainerSpec, process: ProcessSpec) -> Output {
        self.run_with(container, process, None).await
    }

    pub(crate) async fn run_with(
        &self,
        container: ContainerSpec,
        process: ProcessSpec,
        stdin: Option<&str>,
    ) -> Output {
        collect(stdin, |io| {
            self.executor
                .run(container, process, io, None, CancellationToken::new())
        })
        .await
    }

    pub(crate) async fn exec(
        &self,
        container: &str,
        process: ProcessSpec,
        stdin: Option<&str>,
    ) -> Output {
        collect(stdin, |io| {
            self.executor
                .exec(container, process, io, CancellationToken::new())
        })
        .await
    }

    /// Starts a container that runs `script`; returns once it runs.
    pub(crate) async fn start(&self, container: ContainerSpec, script: &str) -> Running {
        let (started, ready) = tokio::sync::oneshot::channel();
        let cancel = CancellationToken::new();
        let executor = Arc::clone(&self.executor);
        let (process, token) = (shell(script), cancel.clone());
        let task = tokio::spawn(async move {
            executor
                .run(
                    container,
                    process,
                    ProcessIo::default(),
                    Some(started),
                    token,
                )
                .await
        });
        ready.await.unwrap();
        Running { task, cancel }
    }

    /// Processes of shells that run `: marker`.
    pub(crate) fn processes(marker: &str) -> Vec<i32> {
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                *pid != std::process::id() as i32
                    && String::from_utf8_lossy(&line).contains(&format!(": {marker}"))
            })
            .collect()
    }

    /// Waits until `holds`; the time-out only bounds a failure.
    pub(crate) async fn eventually(&self, limit: Duration, what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// No process, mount, cgroup or directory of a container is there any more.
    pub(crate) async fn nothing_is_left(&self) {
        let limit = Duration::from_secs(5);
        self.eventually(limit, "containers' directories are gone", || {
            fs::read_dir(self.path("executor"))
                .unwrap()
                .flatten()
                .all(|e| !e.file_name().to_string_lossy().starts_with(&self.tag))
        })
        .await;
        let mounts = mounts_below(self.dir.path()).unwrap();
        assert!(mounts.is_empty(), "{mounts:?}");
        let groups = find_groups(Path::new("/sys/fs/cgroup"), &self.tag, 0);
        assert!(groups.is_empty(), "{groups:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A failed test must not leave mounts that keep its directory from being removed.
        let _ = kiln_sys::mount::unmount_below(self.dir.path());
    }
}

/// A container that runs.
pub(crate) struct Running {
    pub(crate) task: tokio::task::JoinHandle<Result<Exit, ExecutorError>>,
    pub(crate) cancel: CancellationToken,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        assert!(matches!(
            self.task.await.unwrap(),
            Err(ExecutorError::Cancelled)
        ));
    }
}

async fn collect<F>(stdin: Option<&str>, run: impl FnOnce(ProcessIo) -> F) -> Output
where
    F: Future<Output = Result<Exit, ExecutorError>>,
{
    use tokio::io::AsyncReadExt;
    let (out_write, mut out_read) = tokio::io::duplex(4096);
    let (err_write, mut err_read) = tokio::io::duplex(4096);
    let io = ProcessIo {
        stdin: stdin.map(|text| {
            let bytes = std::io::Cursor::new(text.as_bytes().to_vec());
            Box::new(bytes) as Box<dyn tokio::io::AsyncRead + Send + Unpin>
        }),
        stdout: Some(Box::new(out_write)),
        stderr: Some(Box::new(err_write)),
        control: None,
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (exit, _, _) = tokio::join!(
        run(io),
        out_read.read_to_end(&mut stdout),
        err_read.read_to_end(&mut stderr)
    );
    Output {
        exit,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// A process that runs a shell script as root.
pub(crate) fn shell(script: &str) -> ProcessSpec {
    program(&["/bin/sh", "-c", script])
}

pub(crate) fn program(args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec!["PATH=/usr/bin:/bin".into()],
        cwd: "/".into(),
        ..ProcessSpec::default()
    }
}

pub(crate) fn mount(target: &str, spec: MountSpec) -> ContainerMount {
    ContainerMount {
        target: target.into(),
        source: Mountable::new(vec![spec], ()),
        subpath: PathBuf::new(),
        readonly: false,
    }
}

pub(crate) fn tmpfs(options: &[&str]) -> MountSpec {
    MountSpec {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        options: options.iter().map(|&o| o.to_owned()).collect(),
    }
}

fn overlay(lower: &Path, layer: &Path) -> MountSpec {
    for dir in ["upper", "work"] {
        fs::create_dir_all(layer.join(dir)).unwrap();
    }
    MountSpec {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}", lower.display()),
            format!("upperdir={}", layer.join("upper").display()),
            format!("workdir={}", layer.join("work").display()),
            "volatile".into(),
        ],
    }
}

fn make_root(root: &Path) {
    for dir in ["bin", "etc", "proc", "dev", "sys", "tmp", "root"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
}

/// Directories of cgroups whose name has `tag`.
fn find_groups(dir: &Path, tag: &str, depth: usize) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if entry.file_name().to_string_lossy().contains(tag) {
                out.push(entry.path());
            } else if depth < 6 {
                out.extend(find_groups(&entry.path(), tag, depth + 1));
            }
        }
    }
    out
}
