//! `kiln.agent.v1.Machine`: what the daemon runs on. What only a guest can do, a native daemon refuses.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kiln_errdefs::SharedError;
use kiln_proto::agent as api;
use kiln_proto::agent::machine_server::Machine as Wire;
use tonic::{Request, Response, Status, Streaming};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where a daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is all that runs in a machine of its own.
    Guest,
    /// It is a process among others.
    Native,
}

/// What is to be known of a machine.
#[derive(Debug, Clone)]
pub struct MachineInfo {
    /// The daemon's version.
    pub version: String,
    /// The kernel's.
    pub kernel: String,
    /// Where the daemon runs.
    pub place: Place,
    /// Processors.
    pub cpus: u32,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes that a new process could have.
    pub memory_available: u64,
    /// Bytes of the state's file system.
    pub disk_total: u64,
    /// Bytes of it that are taken.
    pub disk_used: u64,
    /// Bytes that a prune could free.
    pub disk_reclaimable: u64,
    /// When the daemon started.
    pub started: SystemTime,
    /// What went wrong without keeping it from working.
    pub warnings: Vec<String>,
}

/// What a machine uses right now; of a native daemon, what it and its steps do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineUse {
    /// Time that processors were at work; only differences mean something.
    pub cpu: Duration,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the state's file system.
    pub disk_total: u64,
    /// Bytes of it that are taken.
    pub disk_used: u64,
}

/// What goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Builds that run.
    pub builds: u32,
    /// Clients that are connected.
    pub connections: u32,
    /// Collections that freed something, since the start.
    pub disk_changes: u64,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A command to run in the machine.
#[derive(Debug, Clone)]
pub struct ShellCommand {
    /// Empty: a shell.
    pub command: Vec<String>,
    /// With a terminal of this size, or without one.
    pub terminal: Option<TerminalSize>,
}

/// What goes into a command.
#[derive(Debug, Clone)]
pub enum ShellInput {
    /// Standard input.
    Bytes(Bytes),
    /// The terminal's size changed.
    Resize(TerminalSize),
    /// The end of standard input.
    End,
}

/// What comes out of a command.
#[derive(Debug, Clone)]
pub enum ShellOutput {
    /// Standard output, or the terminal.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// The last: how it ended.
    Exit(i32),
}

/// The machine of a daemon. Implementations refuse what their place doesn't allow, with `Kind::Config`.
#[async_trait::async_trait]
pub trait Machine: std::fmt::Debug + Send + Sync {
    /// How it is.
    async fn info(&self) -> Result<MachineInfo, SharedError>;
    /// What it uses. Cheap.
    async fn usage(&self) -> Result<MachineUse, SharedError>;
    /// Sets the clock.
    async fn set_clock(&self, now: SystemTime) -> Result<(), SharedError>;
    /// Gives free blocks back; returns the bytes.
    async fn trim(&self) -> Result<u64, SharedError>;
    /// The file system takes the whole disk; returns its bytes.
    async fn grow_disk(&self) -> Result<u64, SharedError>;
    /// Begins the end: returns before it.
    async fn shut_down(&self) -> Result<(), SharedError>;
    /// What goes on, now and with each change.
    fn activity(&self) -> BoxStream<'static, Activity>;
    /// Runs a command. It is killed when the output is dropped.
    async fn shell(
        &self,
        command: ShellCommand,
        input: BoxStream<'static, ShellInput>,
    ) -> Result<BoxStream<'static, ShellOutput>, SharedError>;
}

/// The service.
#[derive(Debug, Clone)]
pub struct MachineService {
    machine: Arc<dyn Machine>,
}

impl MachineService {
    /// Of this machine.
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Self { machine }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
fn status(error: SharedError) -> Status {
    kiln_errdefs::to_status(error.as_ref())
}

fn size(size: api::TerminalSize) -> TerminalSize {
    let most = u32::from(u16::MAX);
    TerminalSize {
        rows: size.rows.min(most) as u16,
        columns: size.columns.min(most) as u16,
    }
}

fn input(request: Result<api::ShellRequest, Status>) -> Option<ShellInput> {
    use api::shell_request::Part;
    Some(match request.ok()?.part? {
        Part::Stdin(bytes) => ShellInput::Bytes(bytes),
        Part::Resize(new) => ShellInput::Resize(size(new)),
        Part::Eof(_) => ShellInput::End,
        // A second command on one call is a mistake; it ends the input.
        Part::Start(_) => return None,
    })
}

fn output(output: ShellOutput) -> api::ShellResponse {
    use api::shell_response::Part;
    let part = match output {
        ShellOutput::Stdout(bytes) => Part::Stdout(bytes),
        ShellOutput::Stderr(bytes) => Part::Stderr(bytes),
        ShellOutput::Exit(code) => Part::ExitCode(code),
    };
    api::ShellResponse { part: Some(part) }
}

#[tonic::async_trait]
impl Wire for MachineService {
    async fn get_info(
        &self,
        _: Request<api::GetInfoRequest>,
    ) -> Result<Response<api::GetInfoResponse>, Status> {
        let info = self.machine.info().await.map_err(status)?;
        let place = match info.place {
            Place::Guest => "guest",
            Place::Native => "native",
        };
        Ok(Response::new(api::GetInfoResponse {
            version: info.version,
            kernel: info.kernel,
            place: place.to_owned(),
            cpus: info.cpus,
            memory_total: info.memory_total as i64,
            memory_available: info.memory_available as i64,
            disk_total: info.disk_total as i64,
            disk_used: info.disk_used as i64,
            disk_reclaimable: info.disk_reclaimable as i64,
            started: Some(info.started.into()),
            now: Some(SystemTime::now().into()),
            warnings: info.warnings,
        }))
    }

    async fn get_use(
        &self,
        _: Request<api::GetUseRequest>,
    ) -> Result<Response<api::GetUseResponse>, Status> {
        let usage = self.machine.usage().await.map_err(status)?;
        Ok(Response::new(api::GetUseResponse {
            cpu_microseconds: usage.cpu.as_micros() as i64,
            memory_used: usage.memory as i64,
            disk_total: usage.disk_total as i64,
            disk_used: usage.disk_used as i64,
        }))
    }

    async fn set_clock(
        &self,
        request: Request<api::SetClockRequest>,
    ) -> Result<Response<api::SetClockResponse>, Status> {
        let now = request.into_inner().now;
        let now = now.and_then(|now| SystemTime::try_from(now).ok());
        let now = now.ok_or_else(|| Status::invalid_argument("SetClock: no time was given"))?;
        self.machine.set_clock(now).await.map_err(status)?;
        Ok(Response::new(api::SetClockResponse {}))
    }

    async fn trim(
        &self,
        _: Request<api::TrimRequest>,
    ) -> Result<Response<api::TrimResponse>, Status> {
        let trimmed_bytes = self.machine.trim().await.map_err(status)? as i64;
        Ok(Response::new(api::TrimResponse { trimmed_bytes }))
    }

    async fn grow_disk(
        &self,
        _: Request<api::GrowDiskRequest>,
    ) -> Result<Response<api::GrowDiskResponse>, Status> {
        let disk_total = self.machine.grow_disk().await.map_err(status)? as i64;
        Ok(Response::new(api::GrowDiskResponse { disk_total }))
    }

    async fn shutdown(
        &self,
        _: Request<api::ShutdownRequest>,
    ) -> Result<Response<api::ShutdownResponse>, Status> {
        self.machine.shut_down().await.map_err(status)?;
        Ok(Response::new(api::ShutdownResponse {}))
    }

    type WatchActivityStream = Messages<api::Activity>;

    async fn watch_activity(
        &self,
        _: Request<api::WatchActivityRequest>,
    ) -> Result<Response<Self::WatchActivityStream>, Status> {
        let changes = self.machine.activity().map(|activity| {
            Ok(api::Activity {
                running_builds: activity.builds,
                connections: activity.connections,
                disk_changes: activity.disk_changes,
            })
        });
        Ok(Response::new(Box::pin(changes)))
    }

    type ShellStream = Messages<api::ShellResponse>;

    async fn shell(
        &self,
        request: Request<Streaming<api::ShellRequest>>,
    ) -> Result<Response<Self::ShellStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.part);
        let Some(api::shell_request::Part::Start(start)) = first else {
            return Err(Status::invalid_argument(
                "Shell: the first message is Start",
            ));
        };
        let command = ShellCommand {
            command: start.command,
            terminal: start.terminal.map(size),
        };
        let inputs = requests.map(input).take_while(|input| {
            let go_on = input.is_some();
            async move { go_on }
        });
        let inputs = inputs.filter_map(|input| async move { input }).boxed();
        let outputs = self.machine.shell(command, inputs).await.map_err(status)?;
        Ok(Response::new(Box::pin(
            outputs.map(|part| Ok(output(part))),
        )))
    }
}
