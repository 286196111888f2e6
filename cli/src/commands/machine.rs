//! Kiln's own machine: start, stop, restart, status, logs, doctor, reset, shell.

use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use kiln_client::HostClient;
use kiln_client::host::{Outcome as CheckOutcome, State, Status};
use kiln_proto::agent as api;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::shell_request::Part as Ask;
use kiln_proto::agent::shell_response::Part as Answer;
use serde_json::{Value, json};

use super::build::interruptible;
use crate::arguments::Global;
use crate::builder::{Builder, paths};
use crate::console::{self, Format};
use crate::failure::{Failure, Kind, Outcome};
use crate::progress::sizes::short;
use crate::wire_time;

/// Start the machine
#[derive(Debug, Args)]
#[command(
    after_help = "The machine starts by itself when a build needs it.\n\nExamples:\n  kiln start\n  kiln start --repair-disk        when it says that its disk is damaged"
)]
pub(crate) struct StartArguments {
    /// Mend a damaged disk first; what is damaged may be lost
    #[arg(long)]
    repair_disk: bool,
}

/// Stop the machine
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln stop\n  kiln stop --force        without waiting for running builds\n  kiln stop --all          its owner (kiln-vmd) too"
)]
pub(crate) struct StopArguments {
    /// Without waiting for running builds
    #[arg(short, long)]
    force: bool,
    /// End the owner of the machine too
    #[arg(long)]
    all: bool,
}

/// Stop the machine and start it again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln restart")]
pub(crate) struct RestartArguments {}

/// Say what the machine is at
#[derive(Debug, Args)]
#[command(
    after_help = "Doesn't wake the machine.\n\nExamples:\n  kiln status\n  kiln status --json"
)]
pub(crate) struct StatusArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Again whenever it changes
    #[arg(short, long)]
    watch: bool,
}

/// Show what the machine printed
#[derive(Debug, Args)]
#[command(
    after_help = "What builds printed: `kiln builds logs`.\n\nExamples:\n  kiln logs --tail 50\n  kiln logs -f"
)]
pub(crate) struct LogsArguments {
    /// Go on
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 0)]
    tail: u32,
}

/// Look for what is wrong on this machine, and say how to mend it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln doctor\n  kiln doctor --format json")]
pub(crate) struct DoctorArguments {
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Delete the machine's disk: every image, cache record and build
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln reset\n  kiln reset --force")]
pub(crate) struct ResetArguments {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

/// Run a command in the machine
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln shell\n  kiln shell -- df -h")]
pub(crate) struct ShellArguments {
    /// [default: a shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

async fn host() -> Outcome<HostClient> {
    Ok(HostClient::connect_or_start(&paths()?).await?)
}

fn name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Stopped => "stopped",
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Failed => "failed",
    }
}

pub(crate) async fn start(arguments: StartArguments) -> Outcome {
    let host = host().await?;
    let start = async {
        match arguments.repair_disk {
            true => host.start_with_repair().await,
            false => host.start().await,
        }
    };
    let status = interruptible(start)
        .await
        .ok_or_else(Failure::interrupted)??;
    settled(&status, State::Running)
}

pub(crate) async fn stop(arguments: StopArguments) -> Outcome {
    let Ok(host) = HostClient::connect(&paths()?).await else {
        console::note("The machine isn't running.");
        return Ok(ExitCode::SUCCESS);
    };
    let stop = host.stop(arguments.force);
    let status = interruptible(stop)
        .await
        .ok_or_else(Failure::interrupted)??;
    let code = settled(&status, State::Stopped)?;
    if arguments.all {
        host.quit().await?;
    }
    Ok(code)
}

pub(crate) async fn restart(_: RestartArguments) -> Outcome {
    let host = host().await?;
    let status = interruptible(host.restart())
        .await
        .ok_or_else(Failure::interrupted)??;
    settled(&status, State::Running)
}

/// Says where the machine is, and fails if that isn't where it should be.
fn settled(status: &Status, wanted: State) -> Outcome {
    if status.state() == wanted {
        console::note(&format!("The machine is {}.", name(wanted)));
        return Ok(ExitCode::SUCCESS);
    }
    let text = format!("the machine is {}: {}", name(status.state()), status.reason);
    Err(Failure::new(Kind::Unavailable, text)
        .hint("`kiln logs` shows its console, `kiln doctor` looks for causes"))
}

fn status_json(status: &Status) -> Value {
    let disk = status.disk.as_ref().map(|disk| {
        json!({
            "totalBytes": disk.total,
            "usedBytes": disk.used,
            "reclaimableBytes": disk.reclaimable,
            "hostAllocatedBytes": disk.host_allocated,
        })
    });
    let sockets = status.sockets.as_ref().map(|sockets| {
        json!({
            "buildkit": sockets.buildkit,
            "agent": sockets.agent,
            "docker": sockets.docker,
            "host": sockets.host,
        })
    });
    json!({
        "state": name(status.state()),
        "reason": status.reason,
        "driver": status.driver,
        "accelerator": status.accelerator,
        "acceleratorReason": status.accelerator_reason,
        "since": wire_time::json(status.since.as_ref()),
        "cpus": status.cpus,
        "memoryBytes": status.memory_bytes,
        "disk": disk,
        "sockets": sockets,
        "runningBuilds": status.running_builds,
        "connections": status.connections,
        "version": status.version,
        "engineVersion": status.engine_version,
        "notices": status.notices,
        "bootMilliseconds": status.boot_milliseconds,
        "pid": status.pid,
        "idleStopInSeconds": status.idle_stop_in_seconds,
    })
}

fn print_status(status: &Status) -> Outcome<()> {
    let mut lines = vec![("Machine", name(status.state()).to_owned())];
    let mut put = |name, text: String| {
        if !text.is_empty() {
            lines.push((name, text));
        }
    };
    put("Reason", status.reason.clone());
    put(
        "Since",
        status
            .since
            .as_ref()
            .map_or_else(String::new, |at| wire_time::ago(Some(at))),
    );
    let accelerator = match status.accelerator.as_str() {
        "" => String::new(),
        accelerator => format!(" ({accelerator})"),
    };
    put("Driver", format!("{}{accelerator}", status.driver));
    put("", status.accelerator_reason.clone());
    if status.cpus > 0 {
        put(
            "Resources",
            format!(
                "{} CPUs, {} memory",
                status.cpus,
                short(status.memory_bytes)
            ),
        );
    }
    if let Some(disk) = status.disk.as_ref().filter(|disk| disk.total > 0) {
        // An engine without a machine has no disk of its own.
        let on_host = match disk.host_allocated {
            0 => String::new(),
            bytes => format!("; {} on this host", short(bytes)),
        };
        put(
            "Disk",
            format!(
                "{} used of {}, {} reclaimable{on_host}",
                short(disk.used),
                short(disk.total),
                short(disk.reclaimable),
            ),
        );
    }
    put("Builds", format!("{} running", status.running_builds));
    if let Some(sockets) = &status.sockets {
        put("BuildKit", sockets.buildkit.clone());
        put("Docker", sockets.docker.clone());
    }
    if status.boot_milliseconds > 0 {
        put(
            "Booted in",
            format!("{:.1}s", status.boot_milliseconds as f64 / 1000.0),
        );
    }
    for notice in &status.notices {
        put("Notice", notice.clone());
    }
    for (name, text) in lines {
        console::print(&format!("{name:11}{text}"))?;
    }
    Ok(())
}

pub(crate) async fn status(arguments: StatusArguments) -> Outcome {
    let as_json = arguments.json || arguments.format == Format::Json;
    let show = |status: &Status| match as_json {
        true => console::json(&status_json(status)),
        false => print_status(status),
    };
    // Looking must not start anything.
    let Ok(host) = HostClient::connect(&paths()?).await else {
        let stopped = Status {
            state: State::Stopped.into(),
            reason: "its owner (kiln-vmd) isn't running; the first build starts both".to_owned(),
            ..Status::default()
        };
        show(&stopped)?;
        return Ok(ExitCode::SUCCESS);
    };
    if !arguments.watch {
        show(&host.status().await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut changes = host.watch_status().await?;
    let watch = async {
        while let Some(status) = changes.next().await {
            show(&status?)?;
        }
        Ok::<_, Failure>(())
    };
    interruptible(watch).await.unwrap_or(Ok(()))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn logs(arguments: LogsArguments) -> Outcome {
    let mut chunks = host()
        .await?
        .console(arguments.follow, arguments.tail)
        .await?;
    let work = async {
        while let Some(chunk) = chunks.next().await {
            console::write(&chunk?)?;
        }
        Ok::<_, Failure>(())
    };
    interruptible(work).await.unwrap_or(Ok(()))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn doctor(arguments: DoctorArguments) -> Outcome {
    let mut checks = host().await?.diagnose().await?;
    let (mut failed, mut all) = (false, Vec::new());
    while let Some(check) = checks.next().await {
        let check = check?;
        let mark = match check.outcome() {
            CheckOutcome::Ok => "ok",
            CheckOutcome::Warning => "warning",
            CheckOutcome::Failed => "FAILED",
            CheckOutcome::Skipped | CheckOutcome::Unspecified => "skipped",
        };
        failed |= check.outcome() == CheckOutcome::Failed;
        if arguments.format == Format::Table {
            console::print(&format!("{mark:8} {}", check.title))?;
            let is_fine = check.outcome() == CheckOutcome::Ok;
            for (label, text) in [("", &check.detail), ("Fix: ", &check.fix)] {
                let is_noise = is_fine && label.is_empty();
                if !is_noise && !text.is_empty() {
                    console::print(&format!("         {label}{text}"))?;
                }
            }
        }
        all.push(json!({
            "id": check.id,
            "title": check.title,
            "outcome": mark.to_lowercase(),
            "detail": check.detail,
            "fix": check.fix,
        }));
    }
    if arguments.format == Format::Json {
        console::json(&Value::Array(all))?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

pub(crate) async fn reset(arguments: ResetArguments) -> Outcome {
    let question = "This deletes every image, cache record and build of the machine. Go on?";
    if !arguments.force && !console::confirm(question)? {
        return Err(Failure::user("nothing was deleted").hint("--force doesn't ask"));
    }
    let status = host().await?.reset().await?;
    settled(&status, State::Stopped)
}

pub(crate) async fn shell(arguments: ShellArguments, global: &Global) -> Outcome {
    use std::io::IsTerminal as _;
    let builder = Builder::find(global.builder.as_deref())?;
    let client = builder.connect().await?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let terminal = interactive.then(terminal_size);
    let start = Ask::Start(api::ShellStart {
        command: arguments.command,
        terminal,
    });
    let _raw = interactive.then(RawTerminal::enter).transpose()?;
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let send = |part| api::ShellRequest { part: Some(part) };
    let _ = sender.send(send(start)).await;
    let input = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        let mut stdin = tokio::io::stdin();
        let mut piece = vec![0; 8 << 10];
        loop {
            let part = match stdin.read(&mut piece).await {
                Ok(read) if read > 0 => Ask::Stdin(piece[..read].to_vec().into()),
                _ => Ask::Eof(true),
            };
            let ended = matches!(part, Ask::Eof(_));
            if sender.send(send(part)).await.is_err() || ended {
                return;
            }
        }
    });
    let requests = futures::stream::unfold(receiver, |mut receiver| async {
        let message = receiver.recv().await?;
        Some((message, receiver))
    });
    let mut machine = MachineClient::new(client.channel());
    let mut answers = machine.shell(requests).await?.into_inner();
    let mut code = 0;
    while let Some(answer) = answers.next().await {
        match answer?.part {
            Some(Answer::Stdout(bytes)) => console::write(&bytes)?,
            Some(Answer::Stderr(bytes)) => {
                use std::io::Write as _;
                std::io::stderr().write_all(&bytes)?;
            }
            Some(Answer::ExitCode(exit)) => code = exit,
            None => {}
        }
    }
    input.abort();
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn terminal_size() -> api::TerminalSize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()));
    api::TerminalSize { rows, columns }
}

/// The terminal as the machine's own; as it was when this is dropped.
struct RawTerminal(rustix::termios::Termios);

impl RawTerminal {
    fn enter() -> std::io::Result<Self> {
        use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
