//! Kiln's own machine: start, stop, restart, status, logs, doctor, reset.

use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use kiln_client::HostClient;
use kiln_client::host::{Outcome as CheckOutcome, State, Status};
use serde_json::{Value, json};

use super::build::interruptible;
use crate::builder::paths;
use crate::console::{self, Format};
use crate::failure::{Failure, Outcome};
use crate::machine::{expect, name};
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

async fn host() -> Outcome<HostClient> {
    Ok(HostClient::connect_or_start(&paths()?).await?)
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
    expect(status, wanted)?;
    console::note(&format!("The machine is {}.", name(wanted)));
    Ok(ExitCode::SUCCESS)
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
