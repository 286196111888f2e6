//! The `kiln` command and the owner of the machine: its life from the first start to the end, with the native driver.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::bed::is_alive;
use crate::home::{Home, row};

#[test]
fn a_machine_is_started_looked_at_and_ended() {
    let home = Home::native();
    // Looking starts nothing.
    for row in [
        row(&["status"], 0, &["Machine    stopped", "isn't running"]),
        row(&["stop"], 0, &["The machine isn't running."]),
        row(&["stop", "--all"], 0, &["The machine isn't running."]),
    ] {
        home.expect(&row);
        assert_eq!(home.owner(), None);
    }
    let before = home.json(&["status", "--json"]);
    assert_eq!(before["state"], "stopped");
    assert!(before["disk"].is_null() && before["pid"] == 0, "{before}");

    home.expect(&row(&["start"], 0, &["The machine is running."]));
    // The engine says a moment later how its disk is.
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    let first = loop {
        let status = home.json(&["status", "--json"]);
        if status["disk"]["totalBytes"].as_i64() > Some(0) {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "{status}");
    };
    assert_eq!(first["state"], "running");
    assert_eq!(first["driver"], "native");
    assert!(first["bootMilliseconds"].as_i64() > Some(0), "{first}");
    let socket = home.paths.buildkit_socket().display().to_string();
    assert_eq!(first["sockets"]["buildkit"], socket);
    assert_eq!(first["runningBuilds"], 0);
    home.expect(&row(&["start"], 0, &["The machine is running."]));
    let pid = |status: &serde_json::Value| status["pid"].as_i64().unwrap() as i32;
    assert_eq!(pid(&home.json(&["status", "--json"])), pid(&first));

    for row in [
        row(
            &["status"],
            0,
            &[
                "Machine    running",
                "Driver     native",
                "Disk ",
                "Builds     0 running",
                "BuildKit",
            ],
        ),
        row(&["logs"], 0, &["the engine is starting"]),
        row(&["logs", "--tail", "1"], 0, &[]),
        row(
            &["doctor"],
            0,
            &[
                "ok       The settings can be used",
                "ok       The engine answers",
            ],
        ),
        row(
            &["shell", "--", "true"],
            1,
            &["this daemon is a process of its host"],
        ),
        row(&["images"], 0, &["NAME"]),
        row(&["du"], 0, &["Total:"]),
        row(&["builds", "ls"], 0, &["BUILD"]),
        row(
            &["context", "show"],
            0,
            &["unix://", "no: kiln context install", "BUILDKIT_HOST="],
        ),
        row(
            &["context", "install"],
            0,
            &["buildx has a builder `kiln` at unix://", "--use"],
        ),
        row(&["context", "show"], 0, &["In buildx  yes"]),
        row(&["context", "uninstall"], 0, &[]),
        row(&["context", "show"], 0, &["no: kiln context install"]),
        row(&["reset"], 2, &["nothing was deleted", "--force"]),
    ] {
        home.expect(&row);
    }
    let checks = home.json(&["doctor", "--format", "json"]);
    let ids: Vec<_> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|check| &check["id"])
        .collect();
    assert!(ids.contains(&&"engine".into()), "{checks}");

    home.expect(&row(&["restart"], 0, &["The machine is running."]));
    let second = home.json(&["status", "--json"]);
    assert_ne!(pid(&second), pid(&first));
    assert!(!is_alive(pid(&first)));

    // Stopped, it keeps its owner and its sockets; status wakes nothing, and the next use does.
    let owner = home.owner();
    home.expect(&row(&["stop"], 0, &["The machine is stopped."]));
    home.expect(&row(&["status"], 0, &["Machine    stopped"]));
    assert_eq!(home.owner(), owner);
    home.expect(&row(&["du"], 0, &["Total:", "Starting the machine."]));
    assert_eq!(home.json(&["status", "--json"])["state"], "running");
    for command in [&["builds", "ls"][..], &["images"], &["cache", "plan"]] {
        let awake = home.expect(&row(command, 0, &[]));
        assert!(!awake.stderr.contains("Starting"), "{awake:?}");
        home.expect(&row(&["stop"], 0, &[]));
        home.expect(&row(command, 0, &["Starting the machine."]));
    }

    home.expect(&row(&["reset", "--force"], 0, &["The machine is stopped."]));
    assert!(!home.paths.native_root().join("state.db").exists());
    home.expect(&row(&["stop", "--all"], 0, &["The machine is stopped."]));
    home.expect(&row(&["status"], 0, &["isn't running"]));
    let gone = std::time::Instant::now() + crate::bed::PATIENCE;
    while home.owner().is_some() {
        assert!(std::time::Instant::now() < gone, "the owner goes on");
        std::thread::yield_now();
    }
}

/// What needs a machine that can't be had ends at once, with the reason and the next step.
#[test]
fn commands_say_why_the_machine_does_not_wake() {
    let mut home = Home::new("");
    home.set("KILN_QEMU", "/nonexistent/qemu");
    home.put("app/Dockerfile", "FROM scratch\n");
    for command in [
        &["builds", "ls"][..],
        &["builds", "logs"],
        &["images"],
        &["du"],
        &["build", "app"],
        &["shell"],
    ] {
        let says = ["apt install qemu-system-x86", "`kiln doctor`"];
        home.expect(&row(command, 4, &says));
    }
}

#[test]
fn a_build_wakes_the_machine_and_says_where_its_result_is() {
    let home = Home::native();
    home.put("app/Dockerfile", "FROM scratch\nCOPY f /f\n");
    home.put("app/f", "words\n");
    for row in [
        row(
            &["build", "app"],
            0,
            &["building with kiln", "build cache only", "-t NAME"],
        ),
        row(
            &["build", "-t", "app", "app"],
            0,
            &[
                "CACHED",
                "Image app:latest is in Kiln's image store: sha256:",
            ],
        ),
        row(&["images"], 0, &["app", "latest"]),
        row(&["build", "-o", "out", "app"], 0, &["The result is in out"]),
        row(&["builds", "logs"], 0, &["COPY f /f"]),
    ] {
        home.expect(&row);
    }
    assert_eq!(
        std::fs::read_to_string(home.path("out/f")).unwrap(),
        "words\n"
    );
    // What was built is there after a restart, in the cache and by its name.
    home.expect(&row(&["restart"], 0, &[]));
    home.expect(&row(&["build", "app"], 0, &["CACHED"]));
    let images = home.json(&["images", "--format", "json"]);
    assert_eq!(
        images[0]["names"][0], "docker.io/library/app:latest",
        "{images}"
    );
    let builds = home.json(&["builds", "ls", "--format", "json"]);
    assert_eq!(builds.as_array().map(Vec::len), Some(4), "{builds}");
    let pruned = home.json(&["prune", "--all", "--force", "--format", "json"]);
    assert!(pruned["freedBytes"].is_i64(), "{pruned}");
    home.expect(&row(&["rmi", "app"], 0, &["Untagged: app:latest"]));
    assert_eq!(
        home.json(&["images", "--format", "json"]),
        serde_json::json!([])
    );
}

#[test]
fn two_commands_at_once_share_one_owner() {
    let home = Home::native();
    let mut running: Vec<_> = (0..3)
        .map(|_| {
            let mut command = home.command(&["start"]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for process in &mut running {
        assert!(process.wait().unwrap().success());
    }
    let owner = home.owner().unwrap();
    // A second owner, started by hand, names the first and leaves it alone.
    let mut second = Command::new(crate::bed::vmd_program());
    let of_kiln = home.command(&[]);
    second.env_clear();
    for (name, value) in of_kiln.get_envs() {
        second.env(name, value.unwrap_or_default());
    }
    let output = second.process_group(0).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(
        words.contains(&format!("another kiln-vmd (pid {owner})")),
        "{words}"
    );
    assert!(words.contains("use it, or stop it first"), "{words}");
    assert_eq!(home.json(&["status", "--json"])["state"], "running");
}

#[test]
fn status_tells_of_every_change_while_it_is_watched() {
    use std::io::{BufRead as _, BufReader};
    let home = Home::native();
    home.expect(&row(&["start"], 0, &[]));
    let mut watch = home
        .command(&["status", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line == "Machine    running"));
    home.expect(&row(&["stop"], 0, &[]));
    assert!(lines.any(|line| line == "Machine    stopped"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_dead_engine_is_told_and_the_next_command_heals_it() {
    let home = Home::native();
    home.expect(&row(&["start"], 0, &[]));
    let pid = home.json(&["status", "--json"])["pid"].as_i64().unwrap() as i32;
    crate::bed::kill(pid, "KILL");
    let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
    while home.json(&["status", "--json"])["state"] != "failed" {
        assert!(std::time::Instant::now() < deadline, "nobody noticed");
    }
    home.expect(&row(&["status"], 0, &["Machine    failed", "signal: 9"]));
    home.expect(&row(
        &["doctor"],
        1,
        &[
            "FAILED   The machine is well",
            "Fix: kiln start tries again",
        ],
    ));
    home.expect(&row(&["du"], 0, &["Total:"]));
    home.expect(&row(&["status"], 0, &["Machine    running"]));
}

#[test]
fn a_build_whose_machine_ends_says_why() {
    let home = Home::native();
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let dockerfile = format!("FROM scratch\nADD http://{address}/file /\n");
    home.put("slow/Dockerfile", &dockerfile);
    let ended = std::thread::scope(|scope| {
        let build = scope.spawn(|| home.run(&["build", "slow"]));
        let pid = loop {
            let status = home.json(&["status", "--json"]);
            if status["runningBuilds"] == 1 {
                break status["pid"].as_i64().unwrap() as i32;
            }
            assert!(!build.is_finished(), "{:?}", build.join());
        };
        crate::bed::kill(pid, "KILL");
        build.join().unwrap()
    });
    let why = "build failed: the engine ended (signal: 9";
    assert!(
        ended.code == Some(4) && ended.stderr.contains(why) && ended.stderr.contains("kiln logs"),
        "{ended:?}"
    );
}
