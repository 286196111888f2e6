//! Credentials: kept by a helper, by a real keyring, or as text, and used by pulls, pushes and builds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Result, ensure};
use kiln_harness::{Context, Keyring, Registry, Run, Stage};

use super::{piped_says, run};

/// The command, in a session with that keyring.
fn in_session(stage: &Stage<'_>, keyring: &Keyring, arguments: &[&str]) -> Result<Command> {
    let mut command = stage.kiln(arguments)?;
    command.envs(keyring.environment());
    Ok(command)
}

/// Its exit code and words, with that password on standard input.
fn log_in(mut command: Command, password: &str, code: i32, words: &str) -> Result<()> {
    piped_says(&mut command, password.as_bytes(), code, words)
}

pub(super) fn keeps_logins_in_a_keyring(stage: &mut Stage<'_>) -> Result<()> {
    let registry = Registry::start_guarded()?;
    let host = registry.host().to_owned();
    let keyring = Keyring::start()?;
    let login = ["login", &host, "-u", "me", "--password-stdin"];
    let image = registry.image("kept:1");
    let context = Context::new("FROM busybox\nRUN echo kept > /x\n")?;
    let push = |words: &[&str], code: i32| {
        let mut build = stage.kiln_build(&context, &["--push", "-t", &image])?;
        let ended = run(build.envs(keyring.environment()))?;
        ensure!(ended.code == Some(code), "{}", ended.transcript());
        ended.says(words).map(drop)
    };
    // Nothing is kept that doesn't work, and nothing that isn't kept works.
    log_in(
        in_session(stage, &keyring, &login)?,
        "wrong\n",
        1,
        "authentication",
    )?;
    push(&["require authorization"], 1)?;
    log_in(
        in_session(stage, &keyring, &login)?,
        "right\n",
        0,
        "system's keyring",
    )?;
    let kept = keyring.search("registry", &host)?;
    for part in [
        "secret = right",
        "username = me",
        "schema = org.kiln.RegistryLogin",
    ] {
        ensure!(kept.contains(part), "{part}: {kept}");
    }
    let text = fs::read_to_string(stage.path("home/docker/config.json")).unwrap_or_default();
    ensure!(!text.contains(&host), "{text}");
    push(&["Pushed"], 0)?;
    let again = Context::new(&format!("FROM {image}\nRUN echo again-$(cat /x)\n"))?;
    let mut build = stage.kiln_build(&again, &["--no-cache", "--pull"])?;
    run(build.envs(keyring.environment()))?
        .succeeds()?
        .says(&["again-kept"])?;
    run(&mut in_session(stage, &keyring, &["pull", "-q", &image])?)?.succeeds()?;
    // Another account takes the place of the one before.
    let other = [
        "login",
        &host,
        "-u",
        "other",
        "--password-stdin",
        "--no-test",
    ];
    log_in(
        in_session(stage, &keyring, &other)?,
        "second\n",
        0,
        "Login succeeded",
    )?;
    let kept = keyring.search("registry", &host)?;
    ensure!(
        kept.contains("secret = second") && !kept.contains("right"),
        "{kept}"
    );
    log_in(
        in_session(stage, &keyring, &login)?,
        "right\n",
        0,
        "Login succeeded",
    )?;
    // A locked one is told and holds up nothing; nobody is there to unlock it.
    keyring.lock()?;
    push(
        &[
            "The keyring's logins aren't used: the keyring is locked",
            "require authorization",
        ],
        1,
    )?;
    log_in(
        in_session(stage, &keyring, &login)?,
        "right\n",
        4,
        "unlock the keyring and try again",
    )?;
    drop(keyring);
    let keyring = Keyring::start()?;
    log_in(
        in_session(stage, &keyring, &login)?,
        "right\n",
        0,
        "Login succeeded",
    )?;
    for words in ["Logged out of", "There was no login for"] {
        let out = run(&mut in_session(stage, &keyring, &["logout", &host])?)?.succeeds()?;
        out.says(&[words])?;
    }
    ensure!(!keyring.search("registry", &host)?.contains("right"));
    // Without a session nothing is kept, unless text is asked for.
    log_in(
        stage.kiln(&login)?,
        "right\n",
        3,
        "there is nowhere to keep the password",
    )?;
    log_in(stage.kiln(&login)?, "right\n", 3, "--plain-text")?;
    let plain = [
        "login",
        &host,
        "-u",
        "me",
        "--password-stdin",
        "--plain-text",
    ];
    log_in(stage.kiln(&plain)?, "right\n", 0, "kept as text")?;
    run(&mut stage.kiln(&["pull", "-q", &image])?)?.succeeds()?;
    // What the docker command's configuration has goes first, and that is said.
    log_in(
        in_session(stage, &keyring, &login)?,
        "right\n",
        0,
        "is used first",
    )?;
    run(&mut in_session(stage, &keyring, &["logout", &host])?)?.succeeds()?;
    let text = fs::read_to_string(stage.path("home/docker/config.json"))?;
    ensure!(!text.contains(&host), "{text}");
    Ok(())
}

/// A credential helper of the docker command, as a script with a file.
pub(super) fn keeps_logins_with_a_helper(stage: &mut Stage<'_>) -> Result<()> {
    let registry = Registry::start_guarded()?;
    let host = registry.host().to_owned();
    let (programs, kept) = (stage.path("programs"), stage.path("kept"));
    let helper = programs.join("docker-credential-file");
    fs::create_dir_all(&programs)?;
    let script = format!(
        "#!/bin/sh\nkept={}\ncase $1 in\nstore) cat > $kept;;\nget) read -r url; grep -qF \"$url\" $kept && cat $kept;;\n\
         erase) rm $kept;;\nesac\n",
        kept.display()
    );
    fs::write(&helper, script)?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let docker = stage.path("home/docker");
    fs::create_dir_all(&docker)?;
    let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
    let with_helper = |arguments: &[&str]| -> Result<Command> {
        let mut command = stage.kiln(arguments)?;
        command.env("PATH", &path);
        Ok(command)
    };
    let login = ["login", &host, "-u", "me", "--password-stdin"];
    registry.push_guarded()?;
    // Of this registry, and of all that have none of their own.
    for config in [
        serde_json::json!({"credHelpers": {(host.as_str()): "file"}}),
        serde_json::json!({"credsStore": "file"}),
    ] {
        fs::write(docker.join("config.json"), config.to_string())?;
        log_in(with_helper(&login)?, "right\n", 0, "Login succeeded")?;
        ensure!(fs::read_to_string(&kept)?.contains("\"Secret\":\"right\""));
        run(&mut with_helper(&[
            "pull",
            "-q",
            &registry.image("busybox:latest"),
        ])?)?
        .succeeds()?;
        Run::of(&mut with_helper(&["logout", &host])?)?.succeeds()?;
        ensure!(!kept.exists());
        run(&mut with_helper(&[
            "pull",
            "-q",
            &registry.image("busybox:latest"),
        ])?)?
        .fails()?;
    }
    // One that isn't installed is named.
    log_in(
        stage.kiln(&login)?,
        "right\n",
        5,
        "docker-credential-file: it isn't installed",
    )
}
