//! Where the files of a build come from, and what the client gives to its steps.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Context, Repository, Stage, on_path};

use super::{piped_says, run};

pub(super) fn takes_contexts(stage: &mut Stage<'_>) -> Result<()> {
    let words = "FROM busybox\nRUN echo stdin-file\n";
    let network = stage.engine.build_arguments();
    let with = |rest: &[&'static str]| {
        let mut all = vec!["build"];
        all.extend(network);
        all.extend(rest);
        all
    };
    piped_says(
        &mut stage.kiln(&with(&["-"]))?,
        words.as_bytes(),
        0,
        "stdin-file",
    )?;
    let context = Context::new("FROM scratch\n")?;
    context.put("f", "x")?;
    let dockerfile = "FROM busybox\nCOPY f /\nRUN test -e /f && echo has-f\n";
    let mut command = stage.kiln(&with(&["-f", "-", "."]))?;
    command.current_dir(context.path());
    piped_says(&mut command, dockerfile.as_bytes(), 0, "has-f")?;
    let archive = archive("tar", "g1")?;
    piped_says(&mut stage.kiln(&with(&["-"]))?, &archive, 0, "tar-g1")?;
    let words = "neither a Dockerfile nor an archive";
    piped_says(&mut stage.kiln(&with(&["-"]))?, b"", 2, words)
}

/// A context whose step says `WORD-TEXT`.
fn archive(word: &str, text: &str) -> Result<Vec<u8>> {
    let dockerfile = format!("FROM busybox\nCOPY g /\nRUN echo {word}-$(cat /g)\n");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("Dockerfile", dockerfile.as_str()), ("g", text)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

/// A repository, its subdirectory, an archive and a Dockerfile on web servers.
pub(super) fn takes_remote_contexts(stage: &mut Stage<'_>) -> Result<()> {
    let web = &stage.bed.web;
    let own = format!("cli-{}", stage.seconds(1));
    let repository = Repository::create(web, &own)?;
    repository.commit(&[
        (
            "Dockerfile",
            "FROM busybox\nCOPY g /\nRUN echo git-$(cat /g)\n",
        ),
        ("g", "top"),
        (
            "sub/Dockerfile",
            "FROM busybox\nCOPY g /\nRUN echo sub-$(cat /g)\n",
        ),
        ("sub/g", "below"),
        ("sub/other", "FROM busybox\nRUN echo other-$((6 * 7))\n"),
    ])?;
    let (top, sub) = (
        format!("{}#main", repository.url()),
        format!("{}#main:sub", repository.url()),
    );
    let tar = web.put(&format!("{own}.tar"), archive("web", "g2")?)?;
    let dockerfile = web.put(
        &format!("{own}/Dockerfile"),
        "FROM busybox\nRUN echo fetched-$((6 * 7))\n",
    )?;
    let missing = web.url(&format!("{own}/nothing"));
    for (arguments, code, words) in [
        (vec![top.as_str()], 0, "git-top"),
        (vec![sub.as_str()], 0, "sub-below"),
        (vec!["-f", "other", &sub], 0, "other-42"),
        (vec![tar.as_str()], 0, "web-g2"),
        (vec![dockerfile.as_str()], 0, "fetched-42"),
        (vec!["-f", &dockerfile, "."], 0, "fetched-42"),
        (vec!["-f", &missing, "."], 2, "the server answers 404"),
        (vec!["-f", "nothing", &top], 1, "nothing"),
    ] {
        let mut all = vec!["build", "--progress", "plain", "--no-cache"];
        all.extend(stage.engine.build_arguments());
        all.extend(arguments.iter());
        let ended = run(&mut stage.kiln(&all)?)?;
        ensure!(
            ended.code == Some(code),
            "{arguments:?}\n{}",
            ended.transcript()
        );
        ended.says(&[words])?;
    }
    Ok(())
}

/// Puts a program of this machine and its libraries into `probe/`, to be run where there are none: `probe/run NAME`.
fn put_program(context: &Context, name: &str) -> Result<()> {
    let program = on_path(name)?;
    let listed = Command::new("ldd").arg(&program).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let put = |path: &Path, name: &str| {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        context.put(&format!("probe/{name}"), bytes)?;
        context.mode(&format!("probe/{name}"), 0o755).map(drop)
    };
    put(&program, name)?;
    for path in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let path = Path::new(path);
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.context("a library's name")?;
        put(
            path,
            if name.starts_with("ld-") {
                "loader"
            } else {
                name
            },
        )?;
    }
    let run = "#!/bin/sh\nprogram=$1; shift\nexec /probe/loader --library-path /probe /probe/$program \"$@\"\n";
    context.put("probe/run", run)?.mode("probe/run", 0o755)?;
    Ok(())
}

/// A step sees the key's agent; the key stays here.
pub(super) fn serves_ssh_keys(stage: &mut Stage<'_>) -> Result<()> {
    let key = stage.path("key");
    let made = Command::new("ssh-keygen")
        .args([
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "key-of-the-test",
            "-f",
        ])
        .arg(&key)
        .status()?;
    ensure!(made.success(), "ssh-keygen");
    let context = Context::new(
        "FROM busybox\nCOPY probe /probe\nRUN --mount=type=ssh /probe/run ssh-add -l\n\
         RUN --mount=type=ssh,id=other,required=true true\n",
    )?;
    put_program(&context, "ssh-add")?;
    let (given, other) = (
        format!("--ssh=default={}", key.display()),
        format!("--ssh=other={}", key.display()),
    );
    let built = run(&mut stage.kiln_build(&context, &[&given, &other])?)?.succeeds()?;
    built.says(&["key-of-the-test (ED25519)"])?;
    for (ssh, words) in [
        ("default=/no/such/key", "look at /no/such/key"),
        ("default", "SSH_AUTH_SOCK isn't set"),
        ("default=Dockerfile", "ssh-add: "),
    ] {
        let failed = run(&mut stage.kiln_build(&context, &["--ssh", ssh])?)?;
        ensure!(failed.code == Some(2), "{}", failed.transcript());
        failed.says(&[words])?;
    }
    Ok(())
}

/// The docker command's proxies are its builds', too; they don't change what is cached.
pub(super) fn gives_proxies(stage: &mut Stage<'_>) -> Result<()> {
    let context =
        Context::new("FROM busybox\nRUN echo via-$HTTP_PROXY-$http_proxy-but-$NO_PROXY\n")?;
    let configure = |proxy: &str| {
        let directory = stage.path("home/docker");
        fs::create_dir_all(&directory)?;
        let json = serde_json::json!({"proxies": {"default": {"httpProxy": proxy, "noProxy": "here.example"}}});
        fs::write(directory.join("config.json"), json.to_string())
    };
    configure("http://one.example:1")?;
    run(&mut stage.kiln_build(&context, &["--no-cache"])?)?
        .succeeds()?
        .says(&["via-http://one.example:1-http://one.example:1-but-here.example"])?;
    configure("http://two.example:2")?;
    run(&mut stage.kiln_build(&context, &[])?)?
        .succeeds()?
        .is_cached("RUN echo via")?;
    let own = [
        "--no-cache",
        "--build-arg",
        "HTTP_PROXY=http://three.example:3",
    ];
    run(&mut stage.kiln_build(&context, &own)?)?
        .succeeds()?
        .says(&["via-http://three.example:3-", "-but-here.example"])?;
    Ok(())
}
