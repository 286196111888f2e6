//! How the machine is, in words, and how it is woken.

use std::io::{IsTerminal as _, Write as _};

use futures::StreamExt as _;
use kiln_client::HostClient;
use kiln_client::host::{State, Status};

use crate::console;
use crate::failure::{Failure, Kind, Outcome};

pub(crate) fn name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Stopped => "stopped",
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Failed => "failed",
    }
}

/// Fails if the machine isn't where it should be.
pub(crate) fn expect(status: &Status, wanted: State) -> Outcome<()> {
    if status.state() == wanted {
        return Ok(());
    }
    let text = format!("the machine is {}: {}", name(status.state()), status.reason);
    Err(Failure::new(Kind::Unavailable, text)
        .hint("`kiln logs` shows its console, `kiln doctor` looks for causes"))
}

/// Starts the machine unless it runs, and says so: that takes seconds, and a command that waits in silence looks
/// as if it hung. On a terminal each step of the start is shown, in one line that goes away.
pub(crate) async fn wake(host: &HostClient) -> Outcome<()> {
    if host.status().await?.state() == State::Running {
        return Ok(());
    }
    console::note("Starting the machine.");
    let steps = async {
        let mut changes = host.watch_status().await?;
        while let Some(status) = changes.next().await {
            let status = status?;
            if status.state() == State::Starting {
                replace_line(&status.reason);
            }
        }
        std::future::pending::<Outcome<Status>>().await
    };
    let start = async {
        let started = host.start().await;
        started.map_err(|error| {
            Failure::from(error).hint("`kiln status` and `kiln doctor` say what the machine is at")
        })
    };
    let status = tokio::select! {
        started = start => started,
        failed = steps => failed,
    };
    replace_line("");
    expect(&status?, State::Running)
}

/// Writes over the line of the cursor, where there is a terminal.
fn replace_line(text: &str) {
    let mut err = std::io::stderr().lock();
    if err.is_terminal() {
        let text: String = text.chars().take(70).collect();
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }
}
