//! Connections that break off, or carry something else.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kiln_client::Output;
use kiln_harness::{Context, Stage};
use tokio::io::AsyncWrite;
use tokio::sync::watch;

use crate::client::{connect, dockerfile_build, run};

pub(super) fn a_client_dies_while_it_sends(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY big /\n")?;
    // Holes: much to send, little to write for the test.
    let big = std::fs::File::create(context.path().join("big"))?;
    big.set_len(400 << 20)?;
    for _ in 0..3 {
        let mut running = stage.start_build(&context, &[])?;
        running.wait_for("transferring context", Duration::from_secs(30))?;
        running.kill()?;
        running.wait()?.fails()?;
        stage.engine.check_idle()?;
    }
    big.set_len(1 << 20)?;
    let out = stage.build_files(&context, &[])?;
    ensure!(std::fs::metadata(out.join("big"))?.len() == 1 << 20);
    Ok(())
}

/// Takes some bytes and then no more.
pub(super) struct Stuck {
    taken: usize,
    is_stuck: watch::Sender<bool>,
}

impl AsyncWrite for Stuck {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.taken > 1 << 20 {
            self.is_stuck.send_replace(true);
            return Poll::Pending;
        }
        self.taken += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(super) fn a_client_dies_while_it_receives(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN head -c 40000000 /dev/urandom > /big\n")?;
    for kind in ["oci", "tar"] {
        run(async {
            let client = connect(stage).await?;
            let (is_stuck, mut stuck) = watch::channel(false);
            let (mut options, mut attachments) = dockerfile_build(stage, &context);
            options.exporters.push((kind.to_owned(), [].into()));
            attachments
                .outputs
                .push(Output::Stream(Box::pin(Stuck { taken: 0, is_stuck })));
            let stuck =
                tokio::time::timeout(Duration::from_secs(60), stuck.wait_for(|stuck| *stuck));
            tokio::select! {
                built = client.solve(options, attachments, |_| {}) => bail!("it should hang: {built:?}"),
                stuck = stuck => drop(stuck.context("the export doesn't come")?),
            }
            Ok(())
        })?;
        stage.engine.check_idle()?;
    }
    let out = stage.path("out.tar").display().to_string();
    let output = format!("type=oci,dest={out}");
    stage.build(&context, &["-o", &output])?.succeeds()?;
    Ok(())
}

pub(super) fn connections_of_nonsense(stage: &mut Stage<'_>) -> Result<()> {
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let socket = stage.engine.socket().to_path_buf();
    let noise = [0xa5_u8; 4096];
    let mut open = Vec::new();
    for words in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &preface[..10],
        &[preface, &noise[..]].concat(),
        &[
            preface,
            &[
                0, 0, 0, 4, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 1,
            ][..],
        ]
        .concat(),
        &noise,
    ] {
        for _ in 0..20 {
            let mut stream = UnixStream::connect(&socket)?;
            // The daemon may have hung up already, which is its right.
            let _ = stream.write_all(words);
            open.push(stream);
        }
    }
    let build = Context::new("FROM busybox\nRUN true\n")?;
    stage.build(&build, &[])?.succeeds()?;
    drop(open);
    stage.build(&build, &[])?.succeeds()?;
    stage.engine.check_idle()
}
