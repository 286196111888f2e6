//! A command in the machine, with a terminal or without, whose streams go to a client.

use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_agent_api::{ShellCommand, ShellInput, ShellOutput};
use kiln_sys::polled::Polled;
use kiln_sys::pty::Pty;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Where the guest's shell is.
const SHELL: &str = "/bin/sh";
const CHUNK: usize = 32 << 10;
/// Chunks that a slow client may be behind.
const BEHIND: usize = 16;

type Outputs = mpsc::Sender<ShellOutput>;

/// Starts it. It is killed when the output is dropped.
pub(super) fn run(
    shell: &ShellCommand,
    input: BoxStream<'static, ShellInput>,
) -> anyhow::Result<BoxStream<'static, ShellOutput>> {
    let mut words = shell.command.iter().map(String::as_str);
    let program = words.next().unwrap_or(SHELL);
    let mut command = Command::new(program);
    command.args(words).kill_on_drop(true).current_dir("/");
    let (outputs, receiver) = mpsc::channel(BEHIND);
    if let Some(size) = shell.terminal {
        let pty = Pty::open().context("terminal")?;
        kiln_sys::pty::resize(&pty.controller, size.rows, size.columns)?;
        command.env("TERM", "xterm-256color");
        kiln_sys::pty::on_terminal(command.as_std_mut(), pty.terminal)?;
        let child = command.spawn().with_context(|| program.to_owned())?;
        // The command holds the terminal now, and it alone: its end is the end of the output.
        drop(command);
        let terminal = Arc::new(Polled::new(pty.controller)?);
        tokio::spawn(with_terminal(child, terminal, input, outputs));
    } else {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().with_context(|| program.to_owned())?;
        tokio::spawn(with_pipes(child, input, outputs));
    }
    Ok(ReceiverStream::new(receiver).boxed())
}

async fn with_terminal(
    mut child: Child,
    terminal: Arc<Polled>,
    mut input: BoxStream<'static, ShellInput>,
    outputs: Outputs,
) {
    let feed = async {
        while let Some(input) = input.next().await {
            let fed = match input {
                ShellInput::Bytes(bytes) => terminal.write_all(&bytes).await,
                ShellInput::Resize(size) => {
                    kiln_sys::pty::resize(terminal.as_fd(), size.rows, size.columns)
                }
                // Ctrl-D, which is what a terminal has for it.
                ShellInput::End => terminal.write_all(&[4]).await,
            };
            if fed.is_err() {
                break;
            }
        }
        // A client that says nothing more may still listen.
        std::future::pending::<()>().await;
    };
    let drain = async {
        let mut buffer = vec![0; CHUNK];
        // A terminal without a program is an error to read from.
        while let Ok(read @ 1..) = terminal.read(&mut buffer).await {
            let bytes = Bytes::copy_from_slice(&buffer[..read]);
            if outputs.send(ShellOutput::Stdout(bytes)).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = feed => {}
        () = drain => {}
        () = outputs.closed() => {}
    }
    end(child.wait(), &outputs).await;
}

async fn with_pipes(mut child: Child, mut input: BoxStream<'static, ShellInput>, outputs: Outputs) {
    use tokio::io::AsyncWriteExt as _;
    let mut stdin = child.stdin.take();
    let feed = async {
        while let Some(input) = input.next().await {
            match (input, &mut stdin) {
                (ShellInput::Bytes(bytes), Some(pipe)) => {
                    if pipe.write_all(&bytes).await.is_err() {
                        stdin = None;
                    }
                }
                (ShellInput::End, _) => stdin = None,
                (ShellInput::Resize(_) | ShellInput::Bytes(_), _) => {}
            }
        }
        drop(stdin);
        std::future::pending::<()>().await;
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let drain = async {
        tokio::join!(
            copy(stdout, &outputs, ShellOutput::Stdout),
            copy(stderr, &outputs, ShellOutput::Stderr)
        );
    };
    tokio::select! {
        () = feed => {}
        () = drain => {}
        () = outputs.closed() => {}
    }
    end(child.wait(), &outputs).await;
}

async fn copy(
    pipe: Option<impl tokio::io::AsyncRead + Unpin>,
    outputs: &Outputs,
    kind: impl Fn(Bytes) -> ShellOutput,
) {
    use tokio::io::AsyncReadExt as _;
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..read]);
        if outputs.send(kind(bytes)).await.is_err() {
            return;
        }
    }
}

/// Waits for the command, unless the client has gone: then dropping it kills it.
async fn end(
    wait: impl Future<Output = std::io::Result<std::process::ExitStatus>>,
    outputs: &Outputs,
) {
    use std::os::unix::process::ExitStatusExt as _;
    let status = tokio::select! {
        status = wait => status,
        () = outputs.closed() => return,
    };
    let code = status.map_or(-1, |status| {
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    });
    // A client that has gone doesn't want to know.
    let _ = outputs.send(ShellOutput::Exit(code)).await;
}
