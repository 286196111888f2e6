//! `kiln shell`: a command in the machine, with a terminal where there is one.
//!
//! ```text
//! keys ──► Stdin │ SIGWINCH ──► Resize ──► machine ──► Stdout, Stderr ──► here; ExitCode ──► ours
//! ```
//! Invariant: however it ends, the terminal is as it was before.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use kiln_proto::agent as api;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::shell_request::Part as Ask;
use kiln_proto::agent::shell_response::Part as Answer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::arguments::Global;
use crate::builder::Builder;
use crate::console;
use crate::failure::{Failure, Kind, Outcome};

const HELP: &str = "\
The shell is that of the machine itself, not of a build's container: its processes, its disk and its
network, with busybox's programs. Its end is this command's end, with its exit code. On a terminal
Ctrl-C and Ctrl-D go to the shell; `exit` or Ctrl-D leaves it.

Examples:
  kiln shell                             a shell
  kiln shell -- df -h /var/lib/kiln      one command
  kiln shell -- dmesg | tail             its output, here
  tar c . | kiln shell -- tar t          its input, from here";

/// Run a command in the machine
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ShellArguments {
    /// [default: a shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(arguments: ShellArguments, global: &Global) -> Outcome {
    let builder = Builder::find(global.builder.as_deref())?;
    let client = builder.connect().await?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let start = Ask::Start(api::ShellStart {
        command: arguments.command,
        terminal: interactive.then(terminal_size),
    });
    let (sender, receiver) = mpsc::channel(16);
    // The first message has room.
    let _ = sender.send(message(start)).await;
    let mut machine = MachineClient::new(client.channel());
    let raw = interactive.then(RawTerminal::enter).transpose()?;
    if interactive {
        tokio::spawn(pass_sizes(sender.clone()));
    }
    let input = tokio::spawn(pass_input(sender));
    let requests = stream_of(receiver);
    let work = async { listen(machine.shell(requests).await?.into_inner()).await };
    let code = tokio::select! {
        code = work => code,
        () = ended_from_outside() => Err(Failure::interrupted()),
    };
    input.abort();
    drop(raw);
    Ok(ExitCode::from(u8::try_from(code?).unwrap_or(1)))
}

fn message(part: Ask) -> api::ShellRequest {
    api::ShellRequest { part: Some(part) }
}

fn stream_of(
    receiver: mpsc::Receiver<api::ShellRequest>,
) -> impl futures::Stream<Item = api::ShellRequest> {
    futures::stream::unfold(receiver, |mut receiver| async {
        let message = receiver.recv().await?;
        Some((message, receiver))
    })
}

/// Passes on what comes out; the exit code.
async fn listen(mut answers: tonic::Streaming<api::ShellResponse>) -> Outcome<i32> {
    let mut code = None;
    while let Some(answer) = answers.next().await {
        match answer?.part {
            Some(Answer::Stdout(bytes)) => console::write(&bytes)?,
            Some(Answer::Stderr(bytes)) => std::io::stderr().write_all(&bytes)?,
            Some(Answer::ExitCode(exit)) => code = Some(exit),
            None => {}
        }
    }
    let lost = || {
        Failure::new(
            Kind::Unavailable,
            "the machine went away before the command ended",
        )
        .hint("`kiln status` says what it is at")
    };
    code.ok_or_else(lost)
}

async fn pass_input(sender: mpsc::Sender<api::ShellRequest>) {
    use tokio::io::AsyncReadExt as _;
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; 8 << 10];
    loop {
        let part = match stdin.read(&mut piece).await {
            Ok(read) if read > 0 => Ask::Stdin(piece[..read].to_vec().into()),
            _ => Ask::Eof(true),
        };
        let ended = matches!(part, Ask::Eof(_));
        if sender.send(message(part)).await.is_err() || ended {
            return;
        }
    }
}

async fn pass_sizes(sender: mpsc::Sender<api::ShellRequest>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    while changes.recv().await.is_some() {
        let resized = Ask::Resize(terminal_size());
        if sender.send(message(resized)).await.is_err() {
            return;
        }
    }
}

/// Of a raw terminal no key does that, but somebody may, or may close its window.
async fn ended_from_outside() {
    let all = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let waits = all.map(|kind| {
        Box::pin(async move {
            match signal(kind) {
                Ok(mut signals) => drop(signals.recv().await),
                Err(_) => std::future::pending().await,
            }
        })
    });
    futures::future::select_all(waits).await;
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
