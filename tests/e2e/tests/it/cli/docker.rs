//! Docker on this machine: images loaded into a real one, and a builder for its command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use kiln_harness::{Authority, Bed, Buildx, Context, Engine, KilndOptions, Moby, Run, Stage};

use super::run;

pub(super) fn installs_a_builder(stage: &mut Stage<'_>) -> Result<()> {
    let directory = stage.path("buildx");
    fs::create_dir_all(&directory)?;
    let current = r#"{"Key":"k","Name":"mine","Global":false}"#;
    fs::write(directory.join("current"), current)?;
    let mut install = stage.kiln(&["context", "install"])?;
    run(install.env("BUILDX_CONFIG", &directory))?.succeeds()?;
    ensure!(fs::read_to_string(directory.join("current"))? == current);
    let mut inspect = stage.client.command(["inspect", "kiln"]);
    let inspected = Run::of(inspect.env("BUILDX_CONFIG", &directory))?.succeeds()?;
    let socket = stage.engine.socket().display().to_string();
    inspected.says(&["remote", &socket, "running"])?;
    Ok(())
}

/// What kilnd builds a real Docker runs; and what Docker's own BuildKit builds for us.
pub(super) fn loads_into_docker(bed: &Bed) -> Result<()> {
    bed.on_moby(Buildx::New, false, |stage| {
        let Engine::Moby(moby) = &stage.engine else {
            bail!("the real one");
        };
        let socket = moby.docker_socket().display().to_string();
        let address = format!("unix://{socket}");
        let docker = |arguments: &[&str]| {
            let mut command = Command::new(bed.tools.docker());
            Run::of(command.args(arguments).env("DOCKER_HOST", &address))?.succeeds()
        };
        let context = Context::new("FROM busybox\nRUN echo in-docker > /x\nENV A=b\n")?;
        bed.on_kilnd(Buildx::New, KilndOptions::default(), |stage| {
            let arguments = ["--load", "-t", "kiln/loaded:1", "-t", "kiln/loaded:2"];
            let mut build = stage.kiln_build(&context, &arguments)?;
            run(build.env("DOCKER_HOST", &address))?
                .succeeds()?
                .says(&["Docker has kiln/loaded:1"])?;
            Ok(())
        })?;
        for name in ["kiln/loaded:1", "kiln/loaded:2"] {
            let script = "echo $A-$(cat /x)";
            let ran = docker(&["run", "--rm", "--network=none", name, "sh", "-c", script])?;
            ensure!(ran.stdout == "b-in-docker\n", "{}", ran.transcript());
        }
        // A Docker that is reached by ssh, which here goes no further than this machine.
        let programs = stage.path("programs");
        let cli = bed.tools.docker();
        let cli = cli.parent().context("a directory")?;
        fs::create_dir_all(&programs)?;
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = me@there ] || exit 255\nshift 2\n\
             PATH={}:$PATH DOCKER_HOST={address} exec \"$@\"\n",
            cli.display()
        );
        fs::write(programs.join("ssh"), script)?;
        fs::set_permissions(programs.join("ssh"), fs::Permissions::from_mode(0o755))?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
        bed.on_kilnd(Buildx::New, KilndOptions::default(), |stage| {
            let mut build = stage.kiln_build(&context, &["--load", "-t", "kiln/far:1"])?;
            build.env("PATH", &path).env("DOCKER_HOST", "ssh://me@there:2222");
            run(&mut build)?.succeeds()?.says(&["Docker has kiln/far:1"])?;
            build = stage.kiln_build(&context, &["--load", "-t", "kiln/far:1"])?;
            build.env("PATH", &path).env("DOCKER_HOST", "ssh://nobody@there");
            run(&mut build)?.fails()?.says(&["docker at ssh://nobody@there"])?;
            Ok(())
        })?;
        docker(&["image", "rm", "kiln/far:1"])?;
        // Without a name it is there by its id.
        let builder = format!("docker://{socket}");
        let arguments = ["--builder", &builder, "-q"];
        let built = run(&mut stage.kiln_build(&context, &arguments)?)?.succeeds()?;
        let id = built.stdout.trim();
        let ran = docker(&["run", "--rm", "--network=none", id, "cat", "/x"])?;
        ensure!(ran.stdout == "in-docker\n", "{}", ran.transcript());
        docker(&["image", "rm", "kiln/loaded:1", "kiln/loaded:2", id])?;
        Ok(())
    })
}

/// A Docker that asks who comes, and whom its clients ask the same; each way to get that wrong is told apart.
pub(super) fn loads_into_docker_over_tls(bed: &Bed) -> Result<()> {
    let certificates = tempfile::tempdir()?;
    let at = |name: &str| certificates.path().join(name);
    let (ours, others) = (Authority::new()?, Authority::new()?);
    ours.write(&at("ours"), &["localhost", "127.0.0.1"])?;
    others.write(&at("others"), &["localhost"])?;
    fs::create_dir(at("stranger"))?;
    fs::create_dir(at("nobody"))?;
    for directory in ["stranger", "nobody"] {
        fs::copy(at("ours/ca.pem"), at(directory).join("ca.pem"))?;
    }
    for file in ["cert.pem", "key.pem"] {
        fs::copy(at("others").join(file), at("stranger").join(file))?;
    }
    let (moby, port) = Moby::start_with_tls(&bed.tools, &bed.registry, &at("ours"))?;
    let context = Context::new("FROM busybox\nRUN echo over-tls > /x\n")?;
    let address = format!("tcp://localhost:{port}");
    bed.on_kilnd(Buildx::New, KilndOptions::default(), |stage| {
        let load = |directory: &str, verify: &str| {
            let mut build = stage.kiln_build(&context, &["--load", "-t", "kiln/tls:1"])?;
            build.env("DOCKER_HOST", &address);
            build.env("DOCKER_TLS_VERIFY", verify);
            build.env("DOCKER_CERT_PATH", at(directory));
            run(&mut build)
        };
        load("ours", "1")?
            .succeeds()?
            .says(&["Docker has kiln/tls:1"])?;
        for (directory, verify, words) in [
            ("others", "1", "its certificate isn't what"),
            ("stranger", "1", "it doesn't take"),
            ("nobody", "1", "it doesn't take"),
            ("missing", "1", "missing/ca.pem"),
            ("ours", "", "set DOCKER_TLS_VERIFY=1"),
        ] {
            let failed = load(directory, verify)?;
            ensure!(
                failed.code == Some(4),
                "{directory}: {}",
                failed.transcript()
            );
            failed.says(&[words])?;
        }
        Ok(())
    })?;
    let plain = format!("unix://{}", moby.docker_socket().display());
    let mut docker = Command::new(bed.tools.docker());
    docker.args(["run", "--rm", "--network=none", "kiln/tls:1", "cat", "/x"]);
    let ran = Run::of(docker.env("DOCKER_HOST", plain))?.succeeds()?;
    ensure!(ran.stdout == "over-tls\n", "{}", ran.transcript());
    Ok(())
}
