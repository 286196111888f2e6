//! `RUN --mount` of every type.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use anyhow::{Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Archive, Context, Stage};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("bind_mounts", bind_mounts),
    Scenario::new("cache_mounts_last", cache_mounts_last),
    Scenario::new("cache_mount_options", cache_mount_options),
    Scenario::new("locked_cache_mounts_wait", locked_cache_mounts_wait),
    Scenario::new("tmpfs_mounts", tmpfs_mounts),
    Scenario::new("secrets", secrets),
    Scenario::new("ssh_sockets", ssh_sockets),
    Scenario::new("mounts_leave_no_trace", mounts_leave_no_trace),
];

fn bind_mounts(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS tools\nRUN echo tool > /t\nFROM busybox\nRUN --mount=target=/ctx cat /ctx/f; echo no > /ctx/f \
         || echo read-only\nRUN --mount=from=tools,source=/t,target=/tool cat /tool\nRUN --mount=target=/ctx,rw echo \
         changed > /ctx/f && cat /ctx/f\nRUN --mount=source=f,target=/one cat /one\n",
    )?;
    context.put("f", "context")?;
    let run = stage.build(&context, &[])?.succeeds()?;
    ensure!(
        run.step_output("RUN --mount=target=/ctx cat")?
            .contains("read-only"),
        "{}",
        run.transcript()
    );
    ensure!(
        run.step_output("RUN --mount=from=tools")? == "tool",
        "{}",
        run.transcript()
    );
    ensure!(
        run.step_output("RUN --mount=target=/ctx,rw")? == "changed",
        "{}",
        run.transcript()
    );
    // Writes to a bind mount are gone with the step.
    ensure!(
        run.step_output("RUN --mount=source=f")? == "context",
        "{}",
        run.transcript()
    );
    Ok(())
}

fn cache_mounts_last(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let step = |word: &str| {
        Context::new(&format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/cache echo {word} >> /cache/log && cat /cache/log\n"
        ))
    };
    let first = stage.build(&step("one")?, &[])?.succeeds()?;
    ensure!(first.step_output("RUN --mount")? == "one");
    let second = stage.build(&step("two")?, &[])?.succeeds()?;
    ensure!(
        second.step_output("RUN --mount")? == "one\ntwo",
        "{}",
        second.transcript()
    );
    // Another id is another directory, and the mount isn't in the image.
    let other = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=cache,id=other-{id},target=/cache ls -A /cache | wc -l\nRUN [ ! -e /cache ] && echo gone\n"
    ))?;
    let run = stage.build(&other, &[])?.succeeds()?;
    ensure!(
        run.step_output("RUN --mount")? == "0" && run.step_output("RUN [ !")? == "gone",
        "{}",
        run.transcript()
    );
    let du = stage.client.buildx(["du", "--verbose"])?.succeeds()?;
    du.says(&["exec.cachemount", "cached mount /cache"])?;
    Ok(())
}

fn cache_mount_options(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let context = Context::new(&format!(
        "FROM busybox AS seed\nRUN mkdir /seed && echo seeded > /seed/f\nFROM busybox\nRUN \
         --mount=type=cache,id=a{id},target=/c,mode=0700,uid=12,gid=34 stat -c '%a %u:%g' /c\nRUN \
         --mount=type=cache,id=b{id},target=/c,from=seed,source=/seed cat /c/f\nRUN \
         --mount=type=cache,id=b{id},target=/c,from=seed,source=/seed,readonly touch /c/x || echo read-only\n"
    ))?;
    let run = stage.build(&context, &[])?.succeeds()?;
    run.says(&["700 12:34", "seeded", "read-only"])?;
    // A private mount that is in use is cloned empty. Both steps are there at once: they meet in a shared one.
    let step = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=r{id},target=/r --mount=type=cache,id=p{id},target=/c,sharing=private touch /c/{own} \
             /r/{own}; i=0; while [ ! -e /r/{other} ]; do i=$((i+1)); [ $i -lt 300 ] || exit 7; sleep 0.1; done; ls /c\n"
        )
    };
    let private = Context::new(&format!(
        "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM scratch\nCOPY --from=a /etc/nothing* /a/\nCOPY --from=b \
         /etc/nothing* /b/\n",
        step("x", "y"),
        step("y", "x")
    ))?;
    let run = stage.build(&private, &[])?.succeeds()?;
    for (step, expected) in [("touch /c/x", "x"), ("touch /c/y", "y")] {
        ensure!(run.step_output(step)? == expected, "{}", run.transcript());
    }
    Ok(())
}

fn locked_cache_mounts_wait(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let step = "[ ! -e /c/busy ] && touch /c/busy && sleep 1 && rm /c/busy && echo alone";
    let context = Context::new(&format!(
        "FROM busybox AS a\nRUN --mount=type=cache,id={id},target=/c,sharing=locked echo a; {step}\nFROM busybox AS b\nRUN \
         --mount=type=cache,id={id},target=/c,sharing=locked echo b; {step}\nFROM scratch\nCOPY --from=a /etc/nothing* \
         /a/\nCOPY --from=b /etc/nothing* /b/\n"
    ))?;
    let run = stage.build(&context, &[])?.succeeds()?;
    ensure!(
        run.step_output("echo a;")?.ends_with("alone")
            && run.step_output("echo b;")?.ends_with("alone")
    );
    Ok(())
}

fn tmpfs_mounts(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=tmpfs,target=/scratch,size=1048576 grep ' /scratch tmpfs' /proc/mounts | cut -d' ' \
         -f3; dd if=/dev/zero of=/scratch/big bs=64k count=64 2>/dev/null || echo full\nRUN [ ! -e /scratch ] && echo gone\n",
    )?;
    let run = stage.build(&context, &[])?.succeeds()?;
    ensure!(
        run.step_output("RUN --mount")? == "tmpfs\nfull",
        "{}",
        run.transcript()
    );
    ensure!(run.step_output("RUN [ !")? == "gone");
    Ok(())
}

fn secrets(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token; stat -c '%a \
         %u:%g' /run/secrets/token\nRUN --mount=type=secret,id=token,target=/etc/tok,mode=0444,uid=5 stat -c '%a %u' \
         /etc/tok\nRUN --mount=type=secret,id=token,env=TOKEN echo \"env ${#TOKEN}\"\nRUN \
         --mount=type=secret,id=absent ls /run/secrets 2>/dev/null | wc -l\nRUN find / -xdev -name token 2>/dev/null | \
         wc -l\n",
    )?;
    std::fs::write(stage.path("token"), "s3cr3t-value")?;
    let secret = format!("id=token,src={}", stage.path("token").display());
    let output = format!("type=oci,dest={}", stage.path("image.tar").display());
    let run = stage
        .build(&context, &["--secret", &secret, "-o", &output])?
        .succeeds()?;
    run.says(&["400 0:0", "444 5", " 12", "env 12"])?;
    ensure!(run.step_output("RUN find")? == "0", "{}", run.transcript());
    let image = std::fs::read(stage.path("image.tar"))?;
    ensure!(
        !image.windows(12).any(|window| window == b"s3cr3t-value"),
        "the secret is in the image"
    );
    let required =
        Context::new("FROM busybox\nRUN --mount=type=secret,id=absent,required=true true\n")?;
    stage
        .build(&required, &[])?
        .fails()?
        .says(&["absent", "not found"])?;
    // Another value doesn't run the step again.
    std::fs::write(stage.path("token"), "another-one")?;
    stage
        .build(&context, &["--secret", &secret])?
        .succeeds()?
        .is_cached("env=TOKEN")?;
    Ok(())
}

fn ssh_sockets(stage: &mut Stage<'_>) -> Result<()> {
    // The simplest agent there is: it answers every request with "failure", which is 5.
    let socket = stage.path("agent.sock");
    let listener = UnixListener::bind(&socket)?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 5];
            if stream.read_exact(&mut request).is_ok() {
                let _ = stream.write_all(&[0, 0, 0, 1, 5]);
            }
        }
    });
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=ssh [ -S \"$SSH_AUTH_SOCK\" ] && stat -c '%F %a' $SSH_AUTH_SOCK\nRUN \
         --mount=type=ssh,id=default,target=/my.sock,mode=0666 stat -c '%a' /my.sock\nRUN [ -z \"$SSH_AUTH_SOCK\" ] && \
         echo gone\n",
    )?;
    let ssh = format!("default={}", socket.display());
    let run = stage.build(&context, &["--ssh", &ssh])?.succeeds()?;
    run.says(&["socket 600", " 666", "gone"])?;
    let required = Context::new("FROM busybox\nRUN --mount=type=ssh,required=true true\n")?;
    stage.build(&required, &[])?.fails()?.says(&["ssh"])?;
    Ok(())
}

fn mounts_leave_no_trace(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,target=/new/cache --mount=type=tmpfs,target=/new/tmp \
         --mount=type=bind,target=/new/bind --mount=type=secret,id=s,target=/new/secret echo > /made\n",
    )?;
    std::fs::write(stage.path("s"), "s")?;
    let secret = format!("id=s,src={}", stage.path("s").display());
    let archive =
        Archive::open(&stage.build_oci(&context, &["--provenance=false", "--secret", &secret])?)?;
    let image = archive.image()?;
    let layer = image.top_layer()?;
    // The base has none of the first three; whatever runs containers makes them.
    ensure!(
        layer.names() == ["dev", "made", "proc", "sys"],
        "{:?}",
        layer.names()
    );
    Ok(())
}
