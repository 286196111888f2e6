//! The process itself: how it is started, what it sees of its caller, how it ends.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use kiln_executor::{ExecutorError, ProcessControl, ProcessIo};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::world::{World, program, shell};

pub(crate) async fn exit_codes_are_returned(world: &World) {
    for code in [0, 1, 3, 127, 255] {
        let output = world.sh(&format!("exit {code}")).await;
        assert_eq!(output.code(), code, "{output:?}");
        assert!(!output.exit.unwrap().out_of_memory);
    }
}

pub(crate) async fn a_signal_ends_with_128_and_its_number(world: &World) {
    // The first process of a pid namespace ignores signals that it sends to itself, but for a crash.
    let output = world.sh("sh -c 'kill -9 $$'; exit $?").await;
    assert_eq!(output.code(), 137);
    let (request, control) = mpsc::channel(1);
    let (started, ready) = oneshot::channel();
    let io = ProcessIo {
        control: Some(control),
        ..ProcessIo::default()
    };
    let run = world.executor.run(
        world.container(),
        shell("while :; do sleep 1; done"),
        io,
        Some(started),
        CancellationToken::new(),
    );
    let kill = async {
        ready.await.unwrap();
        request.send(ProcessControl::Signal(9)).await.unwrap();
    };
    let (exit, ()) = tokio::join!(run, kill);
    assert_eq!(exit.unwrap().code, 137);
}

pub(crate) async fn streams_are_apart_and_complete(world: &World) {
    let output = world
        .sh("echo out; echo err >&2; printf 'no newline'")
        .await;
    assert_eq!(output.ok(), "out\nno newline");
    assert_eq!(output.stderr, "err\n");
}

pub(crate) async fn stdin_is_read_to_its_end(world: &World) {
    let text = "line\n".repeat(50_000);
    let output = world
        .run_with(world.container(), shell("wc -c"), Some(&text))
        .await;
    assert_eq!(output.ok().trim(), "250000");
    // A process that doesn't read it doesn't wait for it either.
    let output = world
        .run_with(world.container(), shell("exit 4"), Some(&text))
        .await;
    assert_eq!(output.code(), 4);
}

pub(crate) async fn absent_streams_are_null(world: &World) {
    let process = shell("cat; echo out; echo err >&2; [ ! -t 0 ]");
    let run = world.executor.run(
        world.container(),
        process,
        ProcessIo::default(),
        None,
        CancellationToken::new(),
    );
    assert_eq!(run.await.unwrap().code, 0);
}

pub(crate) async fn a_gone_reader_does_not_block_the_process(world: &World) {
    let (write, read) = tokio::io::duplex(16);
    drop(read);
    let io = ProcessIo {
        stdout: Some(Box::new(write)),
        ..ProcessIo::default()
    };
    let process = shell("head -c 1000000 /dev/zero; exit 5");
    let run = world.executor.run(
        world.container(),
        process,
        io,
        None,
        CancellationToken::new(),
    );
    assert_eq!(run.await.unwrap().code, 5);
}

pub(crate) async fn the_working_directory_is_made_with_its_owner(world: &World) {
    let container = world.container();
    let upper = world.upper(&container);
    let mut process = shell("pwd; touch here");
    (process.cwd, process.uid, process.gid) = ("/a/b".into(), 7, 8);
    assert_eq!(world.run(container, process).await.ok(), "/a/b\n");
    for dir in ["a", "a/b"] {
        let meta = upper.join(dir).metadata().unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (7, 8, 0o755),
            "{dir}"
        );
    }
    assert!(upper.join("a/b/here").exists());
}

pub(crate) async fn the_user_and_groups_are_as_given(world: &World) {
    let script = "grep -E '^(Uid|Gid|Groups):' /proc/self/status";
    let mut process = shell(script);
    (process.uid, process.gid, process.additional_gids) = (1000, 50, vec![4, 27]);
    let output = world.run(world.container(), process).await;
    let expected = "Uid:\t1000\t1000\t1000\t1000\nGid:\t50\t50\t50\t50\nGroups:\t4 27 50 \n";
    assert_eq!(output.ok(), expected);
    // The daemon's own groups never come along.
    let output = world.sh(script).await;
    assert!(output.ok().ends_with("Groups:\t0 \n"), "{output:?}");
}

pub(crate) async fn the_environment_is_exactly_what_was_given(world: &World) {
    let mut process = program(&["/bin/busybox", "env"]);
    process.env = vec![
        "B=2".into(),
        "A=1=x".into(),
        "EMPTY=".into(),
        "PATH=/bin".into(),
    ];
    let output = world.run(world.container(), process).await;
    // A runtime may add HOME, which it takes from the image.
    let lines: Vec<&str> = output
        .ok()
        .lines()
        .filter(|l| !l.starts_with("HOME="))
        .collect();
    assert_eq!(lines, ["B=2", "A=1=x", "EMPTY=", "PATH=/bin"]);
}

pub(crate) async fn programs_are_found_in_the_path(world: &World) {
    assert_eq!(
        world
            .run(world.container(), program(&["echo", "x"]))
            .await
            .ok(),
        "x\n"
    );
    let mut process = program(&["./busybox", "pwd"]);
    process.cwd = "/bin".into();
    assert_eq!(world.run(world.container(), process).await.ok(), "/bin\n");
    let mut process = program(&["echo"]);
    process.env = vec!["PATH=/nowhere".into()];
    let output = world.run(world.container(), process).await;
    assert!(
        matches!(output.exit, Err(ExecutorError::Program { .. })),
        "{output:?}"
    );
}

pub(crate) async fn a_missing_program_is_named(world: &World) {
    let cases = [
        (
            "/nope",
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
    ];
    for (name, words) in cases {
        let output = world.run(world.container(), program(&[name])).await;
        match &output.exit {
            Err(ExecutorError::Program { program, source }) => {
                assert_eq!(program, name);
                assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(output.stderr.contains(words), "{output:?}");
    }
}

pub(crate) async fn a_directory_is_no_program(world: &World) {
    for name in ["/etc", "/etc/passwd"] {
        let output = world.run(world.container(), program(&[name])).await;
        match &output.exit {
            Err(ExecutorError::Program { source, .. }) => {
                assert_eq!(
                    source.kind(),
                    std::io::ErrorKind::PermissionDenied,
                    "{output:?}"
                );
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

pub(crate) async fn a_script_without_world_execute_runs_for_root(world: &World) {
    let container = world.container();
    let script = world.upper(&container).join("script");
    std::fs::write(&script, "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(
        world.run(container, program(&["/script"])).await.ok(),
        "ran\n"
    );
}

/// Reads until `wanted` was seen.
async fn read_until(reader: &mut (impl AsyncReadExt + Unpin), wanted: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 256];
    while !seen.contains(wanted) {
        let length = reader.read(&mut buffer).await.unwrap();
        assert_ne!(length, 0, "{seen:?} has no {wanted:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    seen
}

pub(crate) async fn a_terminal_is_one_and_resizes(world: &World) {
    let (write, mut read) = tokio::io::duplex(4096);
    let (request, control) = mpsc::channel(4);
    let io = ProcessIo {
        stdout: Some(Box::new(write)),
        control: Some(control),
        ..ProcessIo::default()
    };
    let mut process = shell(
        "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; tty; \
         trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.01; done",
    );
    process.terminal = true;
    let run = world.executor.run(
        world.container(),
        process,
        io,
        None,
        CancellationToken::new(),
    );
    let drive = async {
        let seen = read_until(&mut read, "ready").await;
        assert!(seen.contains("terminal\r\n"), "{seen:?}");
        assert!(seen.contains("/dev/"), "{seen:?}");
        let size = ProcessControl::Resize {
            rows: 33,
            columns: 77,
        };
        request.send(size).await.unwrap();
        read_until(&mut read, "33 77").await;
    };
    let (exit, ()) = tokio::join!(run, drive);
    assert_eq!(exit.unwrap().code, 6);
}

pub(crate) async fn a_terminal_reads_its_stdin(world: &World) {
    let mut process = shell("read line; echo \"got $line\"");
    process.terminal = true;
    let output = world
        .run_with(world.container(), process, Some("typed\n"))
        .await;
    assert!(output.ok().contains("got typed\r\n"), "{output:?}");
}

pub(crate) async fn signals_reach_the_process(world: &World) {
    let (write, mut read) = tokio::io::duplex(4096);
    let (request, control) = mpsc::channel(4);
    let io = ProcessIo {
        stdout: Some(Box::new(write)),
        control: Some(control),
        ..ProcessIo::default()
    };
    let process =
        shell("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.01; done");
    let run = world.executor.run(
        world.container(),
        process,
        io,
        None,
        CancellationToken::new(),
    );
    let drive = async {
        read_until(&mut read, "ready").await;
        // A number that is no signal changes nothing.
        request.send(ProcessControl::Signal(4000)).await.unwrap();
        request.send(ProcessControl::Signal(15)).await.unwrap();
        read_until(&mut read, "caught").await;
    };
    let (exit, ()) = tokio::join!(run, drive);
    assert_eq!(exit.unwrap().code, 9);
}

pub(crate) async fn limits_hold(world: &World) {
    let mut container = world.container();
    container.ulimits = vec![("nofile".into(), 100, 200), ("core".into(), 0, 0)];
    let output = world
        .run(container, shell("ulimit -n; ulimit -Hn; ulimit -c"))
        .await;
    assert_eq!(output.ok(), "100\n200\n0\n");
    let mut container = world.container();
    container.ulimits = vec![("nonsense".into(), 1, 1)];
    let output = world.run(container, shell("true")).await;
    let error = output.exit.unwrap_err();
    assert!(
        format!("{error:?}").to_lowercase().contains("nonsense"),
        "{error:?}"
    );
}

pub(crate) async fn no_descriptor_leaks_in(world: &World) {
    let output = world
        .run_with(world.container(), shell("ls /proc/self/fd"), Some(""))
        .await;
    // The fourth is the directory that `ls` reads.
    assert_eq!(output.ok(), "0\n1\n2\n3\n");
}

pub(crate) async fn started_is_told_once_it_runs(world: &World) {
    let (started, ready) = oneshot::channel();
    let run = world.executor.run(
        world.container(),
        shell("exit 0"),
        ProcessIo::default(),
        Some(started),
        CancellationToken::new(),
    );
    let (exit, ready) = tokio::join!(run, ready);
    assert_eq!(exit.unwrap().code, 0);
    assert!(ready.is_ok());
    let (started, ready) = oneshot::channel();
    let run = world.executor.run(
        world.container(),
        program(&["/nope"]),
        ProcessIo::default(),
        Some(started),
        CancellationToken::new(),
    );
    let (exit, ready) = tokio::join!(run, ready);
    assert!(exit.is_err() && ready.is_err());
    assert!(!Path::new("/nope").exists());
}
