//! What the instructions of a Dockerfile do to steps and to the image's configuration.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Archive, Context, Stage};
use serde_json::json;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new(
        "run_sees_environment_and_directory",
        run_sees_environment_and_directory,
    ),
    Scenario::new("arguments_are_scoped", arguments_are_scoped),
    Scenario::new("users_by_name_and_number", users_by_name_and_number),
    Scenario::new("shell_forms", shell_forms),
    Scenario::new("image_configuration", image_configuration),
    Scenario::new("stages_and_targets", stages_and_targets),
    Scenario::new("onbuild_runs_in_the_child", onbuild_runs_in_the_child),
    Scenario::new("run_heredocs", run_heredocs),
    Scenario::new("hosts_and_resolver", hosts_and_resolver),
    Scenario::new(
        "network_none_has_loopback_only",
        network_none_has_loopback_only,
    ),
    Scenario::new("steps_behind_a_bridge", steps_behind_a_bridge)
        .config(BRIDGE)
        .kilnd_only("there it takes programs that Debian doesn't unpack with it")
        // The name of a bridge is one daemon's.
        .new_buildx_only("the network isn't the client's matter"),
    Scenario::new("platform_arguments", platform_arguments),
];

fn run_sees_environment_and_directory(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nENV A=1 B=\"two words\" C=${A}3\nENV D=${A}3\nWORKDIR /deep/er\nWORKDIR below\n\
         RUN echo \"$A/$B/$C/$D/$(pwd)/$HOME\"; umask; ls -ld /deep/er/below | cut -c1-10\n",
    )?;
    let run = stage.build(&context, &[])?.succeeds()?;
    let output = run.step_output("RUN echo")?;
    ensure!(
        output == "1/two words/3/13//deep/er/below//root\n0022\ndrwxr-xr-x",
        "{output}"
    );
    Ok(())
}

fn arguments_are_scoped(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "ARG BASE=busybox\nARG GLOBAL=g\nFROM ${BASE}\nRUN echo \"before:[$GLOBAL][$X]\"\nARG GLOBAL\nARG X=default\n\
         RUN echo \"after:[$GLOBAL][$X]\"\nENV X=env\nRUN echo \"env:[$X]\"\n",
    )?;
    let run = stage
        .build(&context, &["--build-arg", "X=given"])?
        .succeeds()?;
    run.says(&["before:[][]", "after:[g][given]", "env:[env]"])?;
    Ok(())
}

fn users_by_name_and_number(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN mkdir -p /etc && echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd && echo \
         'ann:x:1234:2345::/home/ann:/bin/sh' >> /etc/passwd && printf 'root:x:0:\\nstaff:x:2345:\\nextra:x:77:ann\\n' > \
         /etc/group\nUSER ann\nRUN echo \"name $(id -u):$(id -g):$(id -G) $HOME\"\nUSER 99:98\nRUN echo \"number $(id \
         -u):$(id -g)\"\nUSER ann:extra\nRUN echo \"group $(id -u):$(id -g)\"\nUSER 0\nCOPY --chown=ann:extra f /f\nRUN \
         echo \"owner $(stat -c %u:%g /f)\"\n",
    )?;
    context.put("f", "x")?;
    let run = stage.build(&context, &[])?.succeeds()?;
    run.says(&[
        "name 1234:2345:2345 77 /home/ann",
        "number 99:98",
        "group 1234:77",
        "owner 1234:77",
    ])?;
    let unknown = Context::new("FROM busybox\nUSER nobody-here\nRUN echo unreachable\n")?;
    stage
        .build(&unknown, &[])?
        .fails()?
        .says(&["nobody-here"])?;
    Ok(())
}

fn shell_forms(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN [\"echo\", \"exec $HOME form\"]\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN false || echo handled; echo \
         \"shell $0 $-\" | cut -c1-20\nRUN echo one && \\\n    # a comment in between\n    echo two\n",
    )?;
    let run = stage.build(&context, &[])?.succeeds()?;
    run.says(&["exec $HOME form", "handled"])?;
    ensure!(
        run.step_output("RUN echo one")? == "one\ntwo",
        "{}",
        run.transcript()
    );
    Ok(())
}

fn image_configuration(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nLABEL a=1 \"b c\"='two words'\nENV K=v\nEXPOSE 80 53/udp\nVOLUME /data /more\nSTOPSIGNAL \
         SIGQUIT\nHEALTHCHECK --interval=5s --retries=3 CMD [\"true\"]\nWORKDIR /w\nUSER 7:8\nENTRYPOINT [\"/bin/x\", \
         \"-a\"]\nCMD echo hi\nMAINTAINER somebody\n",
    )?;
    let archive = Archive::open(&stage.build_oci(&context, &["--provenance=false"])?)?;
    let image = archive.image()?;
    let config = &image.config["config"];
    let expected = [
        ("Labels", json!({"a": "1", "b c": "two words"})),
        ("ExposedPorts", json!({"80/tcp": {}, "53/udp": {}})),
        ("Volumes", json!({"/data": {}, "/more": {}})),
        ("StopSignal", json!("SIGQUIT")),
        ("WorkingDir", json!("/w")),
        ("User", json!("7:8")),
        ("Entrypoint", json!(["/bin/x", "-a"])),
        ("Cmd", json!(["/bin/sh", "-c", "echo hi"])),
        (
            "Healthcheck",
            json!({"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "Retries": 3}),
        ),
    ];
    for (key, value) in expected {
        ensure!(
            config[key] == value,
            "{key}: {} instead of {value}",
            config[key]
        );
    }
    let environment = config["Env"].to_string();
    ensure!(
        environment.contains("\"K=v\"") && environment.contains("PATH="),
        "{environment}"
    );
    ensure!(image.config["author"] == "somebody", "{}", image.config);
    ensure!(
        image.config["os"] == "linux" && image.config["architecture"].is_string(),
        "{}",
        image.config
    );
    let history = image.config["history"].to_string();
    ensure!(history.contains("buildkit.dockerfile.v0"), "{history}");
    let diff_ids = image.config["rootfs"]["diff_ids"]
        .as_array()
        .map_or(0, Vec::len);
    let layers = image.manifest["layers"].as_array().map_or(0, Vec::len);
    ensure!(
        diff_ids == layers && layers == 2,
        "{diff_ids} diff ids, {layers} layers"
    );
    Ok(())
}

fn stages_and_targets(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS one\nRUN echo first > /f\nFROM busybox AS unused\nRUN echo never-needed; false\nFROM busybox AS \
         two\nCOPY --from=one /f /g\nRUN cat /g > /h\nFROM scratch AS three\nCOPY --from=1 /etc/nothing* /\nFROM scratch \
         AS last\nCOPY --from=two /h /h\nCOPY --from=busybox /bin/busybox /bb\n",
    )?;
    let run = stage
        .build(
            &context,
            &[
                "-o",
                &format!("type=local,dest={}", stage.path("out").display()),
            ],
        )?
        .succeeds()?;
    run.never_says(&["never-needed"])?;
    ensure!(std::fs::read_to_string(stage.path("out/h"))? == "first\n");
    ensure!(stage.path("out/bb").is_file());
    let files = stage.build_files(&context, &["--target", "one"])?;
    ensure!(std::fs::read_to_string(files.join("f"))? == "first\n");
    stage
        .build(&context, &["--target", "four"])?
        .fails()?
        .says(&["target stage \"four\" could not be found"])?;
    Ok(())
}

fn onbuild_runs_in_the_child(stage: &mut Stage<'_>) -> Result<()> {
    let name = stage
        .bed
        .registry
        .image(&format!("onbuild-{}", stage.client.version().name()));
    let parent =
        Context::new("FROM busybox\nONBUILD RUN echo from-parent > /made\nONBUILD ENV SEEN=yes\n")?;
    let output = format!("type=image,name={name},push=true,registry.insecure=true");
    stage
        .build(&parent, &["-o", &output])?
        .succeeds()?
        .never_says(&["from-parent >"])?;
    let child = Context::new(&format!("FROM {name}\nRUN echo \"$(cat /made) $SEEN\"\n"))?;
    stage
        .build(&child, &[])?
        .succeeds()?
        .says(&["from-parent yes"])?;
    Ok(())
}

fn run_heredocs(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nENV V=value\nRUN <<EOF\necho \"script $V\"\necho second\nEOF\nRUN <<'QUOTED'\necho \"quoted \
         $V\"\nQUOTED\nRUN <<-TABS\n\t\techo tabs\n\tTABS\nRUN <<PY\n#!/bin/cat\nprinted by the interpreter\nPY\nRUN cat \
         <<A - <<B\nfirst $V\nA\nB\nCOPY <<one <<two /files/\ncontent $V\none\nmore\ntwo\nRUN cat /files/one /files/two\n",
    )?;
    let run = stage.build(&context, &[])?.succeeds()?;
    run.says(&[
        "script value",
        "quoted value",
        "printed by the interpreter",
        "content value",
    ])?;
    Ok(())
}

fn hosts_and_resolver(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN cat /etc/hosts; test -s /etc/resolv.conf && echo resolver\n",
    )?;
    let run = stage
        .build(&context, &["--add-host", "kiln.test:192.0.2.7"])?
        .succeeds()?;
    run.says(&[
        "127.0.0.1",
        "localhost",
        "192.0.2.7",
        "kiln.test",
        "resolver",
    ])?;
    // What the engine put there for the step isn't part of the image.
    let archive = Archive::open(&stage.build_oci(&context, &["--provenance=false"])?)?;
    let top = archive.image()?.top_layer()?;
    ensure!(
        !top.names()
            .iter()
            .any(|name| name.contains("hosts") || name.contains("resolv")),
        "{:?}",
        top.names()
    );
    Ok(())
}

fn network_none_has_loopback_only(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox\nRUN --network=none cat /proc/net/dev | grep -c :; ls /sys/class/net\n",
    )?;
    let run = stage.build(&context, &[])?.succeeds()?;
    let output = run.step_output("RUN --network=none")?;
    ensure!(output == "1\nlo", "{output}");
    Ok(())
}

const BRIDGE: &str = "[worker.oci]\nnetworkMode = \"bridge\"\nbridgeName = \"kilntest0\"\nbridgeSubnet = \"10.208.77.0/24\"\n";

/// Each step has a network of its own, from which it reaches neither this machine nor another step.
fn steps_behind_a_bridge(stage: &mut Stage<'_>) -> Result<()> {
    let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = service.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in service.incoming().flatten() {
            // A step that went away is not a failure of this side.
            let _ = stream.write_all(b"reached\n");
        }
    });
    let ask =
        |address: &str| format!("(nc -w 5 {address} {port} </dev/null 2>/dev/null || echo closed)");
    let context = Context::new(&format!(
        "FROM busybox AS base\n\
        FROM base AS one\nRUN ls /sys/class/net | xargs; {bridge}; {loopback}; echo 1 > /1\n\
        FROM base AS two\nRUN --network=host {loopback}; echo 2 > /2\n\
        FROM base AS three\nRUN --network=none {bridge}; echo 3 > /3\n\
        FROM base\nCOPY --from=one /1 /\nCOPY --from=two /2 /\nCOPY --from=three /3 /\n",
        bridge = ask("10.208.77.1"),
        loopback = ask("127.0.0.1"),
    ))?;
    let run = stage
        .build(&context, &["--allow", "network.host"])?
        .succeeds()?;
    for (step, expected) in [
        ("RUN ls", "eth0 lo\nclosed\nclosed"),
        ("RUN --network=host", "reached"),
        ("RUN --network=none", "closed"),
    ] {
        let output = run.step_output(step)?;
        ensure!(output == expected, "{step}: {output}");
    }
    Ok(())
}

fn platform_arguments(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETOS TARGETARCH TARGETPLATFORM BUILDARCH\nRUN echo \
         \"for $TARGETOS/$TARGETARCH/$TARGETPLATFORM\" | tee /said\nFROM scratch\nCOPY --from=build /said /\n",
    )?;
    let run = stage
        .build(&context, &["--platform", "linux/arm64"])?
        .succeeds()?;
    run.says(&["for linux/arm64/linux/arm64"])?;
    Ok(())
}
