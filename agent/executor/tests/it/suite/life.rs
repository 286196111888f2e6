//! How containers end, and what runs beside their first process.

use std::time::{Duration, Instant};

use kiln_executor::{ExecutorError, ProcessIo};
use kiln_sys::mount::{MountSpec, Mountable};
use tokio_util::sync::CancellationToken;

use crate::world::{World, mount, program, shell};

/// A command line that can be found again.
fn lingering(world: &World) -> String {
    let script = format!(
        "sleep 1{} & setsid sleep 2{} & ",
        world.tag.len(),
        world.tag.len()
    );
    let marked = format!("sh -c 'sleep 600; : {}'", world.tag);
    format!("{script} setsid {marked} & ({marked} &) ; {marked}")
}

pub(crate) async fn cancelling_kills_every_process_soon(world: &World) {
    let running = world.start(world.container(), &lingering(world)).await;
    world
        .eventually(Duration::from_secs(5), "all processes run", || {
            World::processes(&world.tag).len() >= 3
        })
        .await;
    let begin = Instant::now();
    running.stop().await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert!(World::processes(&world.tag).is_empty());
    assert_eq!(
        kiln_sys::mount::mounts_below(world.dir.path())
            .unwrap()
            .len(),
        0
    );
}

pub(crate) async fn cancelling_before_the_start_runs_nothing(world: &World) {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let run = world.executor.run(
        world.container(),
        shell("true"),
        ProcessIo::default(),
        None,
        cancel,
    );
    assert!(matches!(run.await, Err(ExecutorError::Cancelled)));
    // At any time while it is being made.
    for delay in [0, 1, 2, 4, 8, 16, 32] {
        let cancel = CancellationToken::new();
        let process = shell(&lingering(world));
        let run = world.executor.run(
            world.container(),
            process,
            ProcessIo::default(),
            None,
            cancel.clone(),
        );
        let stop = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            cancel.cancel();
        };
        let (exit, ()) = tokio::join!(run, stop);
        assert!(
            matches!(exit, Err(ExecutorError::Cancelled)),
            "{delay}: {exit:?}"
        );
        assert!(World::processes(&world.tag).is_empty(), "{delay}");
    }
}

pub(crate) async fn a_dropped_future_kills_too(world: &World) {
    let running = world.start(world.container(), &lingering(world)).await;
    running.task.abort();
    assert!(running.task.await.unwrap_err().is_cancelled());
    world
        .eventually(Duration::from_secs(1), "no process is left", || {
            World::processes(&world.tag).is_empty()
        })
        .await;
}

pub(crate) async fn grandchildren_end_with_the_first_process(world: &World) {
    let marked = format!("setsid sh -c 'sleep 600; : {}'", world.tag);
    let output = world
        .sh(&format!(
            "({marked} >/dev/null 2>&1 &) ; ({marked} &) ; echo first"
        ))
        .await;
    assert_eq!(output.ok(), "first\n");
    assert!(World::processes(&world.tag).is_empty());
}

pub(crate) async fn many_run_at_once(world: &World) {
    let all = (0..20).map(|n| async move {
        let output = world
            .sh(&format!("echo {n} > /file; cat /file; exit {n}"))
            .await;
        assert_eq!((output.code(), output.stdout.trim()), (n, &*n.to_string()));
    });
    futures::future::join_all(all).await;
}

pub(crate) async fn an_id_is_taken_while_it_runs(world: &World) {
    let container = world.container();
    let running = world.start(container.clone(), "sleep 600").await;
    let again = world.run(container, shell("true")).await;
    assert!(
        again
            .exit
            .unwrap_err()
            .to_string()
            .contains("create container"),
        "taken"
    );
    running.stop().await;
    for id in ["", "../x", "a/b", "A", "a b"] {
        let mut container = world.container();
        container.id = id.into();
        let output = world.run(container, shell("true")).await;
        assert!(output.exit.is_err(), "{id:?}");
    }
}

pub(crate) async fn a_failed_mount_leaves_nothing(world: &World) {
    let absent = MountSpec::bind(world.path("absent"), false);
    let mut container = world.container();
    container
        .mounts
        .push(mount("/ok", crate::world::tmpfs(&[])));
    container.mounts.push(mount("/bad/one", absent.clone()));
    let error = world
        .run(container, shell("true"))
        .await
        .exit
        .unwrap_err()
        .to_string();
    assert!(error.contains("/bad/one"), "{error}");
    let mut container = world.container();
    container.root = Mountable::new(vec![absent], ());
    assert!(world.run(container, shell("true")).await.exit.is_err());
}

pub(crate) async fn further_processes_share_the_container(world: &World) {
    let mut container = world.container();
    container.ulimits = vec![("nofile".into(), 99, 99)];
    let id = container.id.clone();
    let running = world
        .start(container, "echo shared > /file; sleep 600")
        .await;
    let mut process = shell(
        "until [ -s /file ]; do sleep 0.01; done; cat /file; cat; ulimit -n; pwd; id -u; echo e >&2; exit 3",
    );
    (process.cwd, process.uid) = ("/tmp".into(), 12);
    let output = world.exec(&id, process, Some("in\n")).await;
    assert_eq!(output.code(), 3, "{output:?}");
    assert_eq!(output.stdout, "shared\nin\n99\n/tmp\n12\n");
    assert_eq!(output.stderr, "e\n");
    // It is in the container's namespaces, seen by its processes and gone with it.
    let output = world
        .exec(&id, shell("tr '\\0' ' ' < /proc/1/cmdline; hostname"), None)
        .await;
    assert!(output.ok().contains("sleep 600"), "{output:?}");
    let mut process = shell("[ -t 0 ] && [ -t 1 ] && echo terminal");
    process.terminal = true;
    assert_eq!(world.exec(&id, process, None).await.ok(), "terminal\r\n");
    let missing = world.exec(&id, program(&["/nope"]), None).await;
    assert!(
        matches!(missing.exit, Err(ExecutorError::Program { .. })),
        "{missing:?}"
    );
    running.stop().await;
}

pub(crate) async fn further_processes_are_as_confined(world: &World) {
    let container = world.container();
    let id = container.id.clone();
    let running = world.start(container, "sleep 600").await;
    let script = "grep -E '^(Cap|Seccomp:)' /proc/self/status; for n in cgroup ipc mnt net pid uts user; do \
        [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo differs $n; done; ls /proc/self/fd; \
        cut -d: -f3 /proc/self/cgroup | sort -u > /tmp/own; cut -d: -f3 /proc/1/cgroup | sort -u | diff - /tmp/own; \
        unshare -U true 2>/dev/null && echo unshared; true";
    let first = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
        CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n0\n1\n2\n3\n";
    let output = world.exec(&id, shell(script), None).await;
    assert_eq!(output.ok(), first);
    running.stop().await;
}

pub(crate) async fn a_further_process_can_be_cancelled(world: &World) {
    let container = world.container();
    let id = container.id.clone();
    let running = world.start(container, "sleep 600").await;
    let cancel = CancellationToken::new();
    let marked = format!("sleep 600; : {}", world.tag);
    let exec = world
        .executor
        .exec(&id, shell(&marked), ProcessIo::default(), cancel.clone());
    let stop = async {
        world
            .eventually(Duration::from_secs(5), "it runs", || {
                !World::processes(&world.tag).is_empty()
            })
            .await;
        cancel.cancel();
    };
    let (exit, ()) = tokio::join!(exec, stop);
    assert!(matches!(exit, Err(ExecutorError::Cancelled)), "{exit:?}");
    world
        .eventually(Duration::from_secs(1), "it is gone", || {
            World::processes(&world.tag).is_empty()
        })
        .await;
    assert_eq!(world.exec(&id, shell("exit 0"), None).await.code(), 0);
    running.stop().await;
}

pub(crate) async fn nothing_runs_in_a_container_that_is_gone(world: &World) {
    let container = world.container();
    let id = container.id.clone();
    world.run(container, shell("true")).await.ok();
    let output = world.exec(&id, shell("true"), None).await;
    assert!(
        matches!(output.exit, Err(ExecutorError::NotRunning(_))),
        "{output:?}"
    );
    // Its end ends what runs beside it.
    let container = world.container();
    let id = container.id.clone();
    let running = world.start(container, "sleep 600").await;
    let exec = world.exec(&id, shell("sleep 600"), None);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.stop().await;
    };
    let (output, ()) = tokio::join!(exec, stop);
    assert!(
        !matches!(&output.exit, Ok(exit) if exit.code == 0),
        "{output:?}"
    );
}

pub(crate) async fn a_further_process_waits_for_the_start(world: &World) {
    let container = world.container();
    let id = container.id.clone();
    let cancel = CancellationToken::new();
    let run = world.executor.run(
        container,
        shell("sleep 600"),
        ProcessIo::default(),
        None,
        cancel.clone(),
    );
    let exec = async {
        tokio::task::yield_now().await;
        let output = world.exec(&id, shell("echo beside"), None).await;
        cancel.cancel();
        output
    };
    let (_, output) = tokio::join!(run, exec);
    assert_eq!(output.ok(), "beside\n");
}

pub(crate) async fn a_loud_process_is_read_to_its_end(world: &World) {
    let output = world
        .sh("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo end >&2")
        .await;
    assert_eq!(output.ok().len(), 20_000_001);
    assert_eq!(output.stderr, "end\n");
}
