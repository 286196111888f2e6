//! Waking, stopping, dying, healing.

use futures::{StreamExt as _, TryStreamExt as _};
use kiln_client::Error;
use kiln_client::host::{Outcome, State};
use tokio::time::timeout;

use crate::bed::{Bed, PATIENCE, is_alive, kill};

#[tokio::test]
async fn the_first_connection_wakes_it_and_a_stop_keeps_the_sockets() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    assert_eq!(host.status().await.unwrap().state(), State::Stopped);
    bed.builder().await.info().await.unwrap();
    let status = host.status().await.unwrap();
    assert_eq!(status.state(), State::Running);
    assert_eq!(status.driver, "native");
    assert!(
        is_alive(status.pid) && status.boot_milliseconds > 0,
        "{status:?}"
    );
    let sockets = status.sockets.unwrap();
    assert_eq!(
        sockets.buildkit,
        bed.paths.buildkit_socket().display().to_string()
    );
    let status = host.stop(true).await.unwrap();
    assert_eq!(status.state(), State::Stopped);
    assert_eq!(status.pid, 0);
    bed.builder().await.info().await.unwrap();
    let before = host.status().await.unwrap().pid;
    let status = host.restart().await.unwrap();
    assert_eq!(status.state(), State::Running);
    assert_ne!(status.pid, before);
    assert!(!is_alive(before));
}

#[tokio::test]
async fn its_use_is_told_while_it_runs_and_keeps_it_not_awake() {
    let bed = Bed::native("idle-stop = \"1s\"");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    let often = std::time::Duration::from_millis(200);
    let refused = host.watch_use(often).await.err().unwrap();
    assert!(refused.to_string().contains("doesn't run"), "{refused}");
    host.start().await.unwrap();
    let mut uses = host.watch_use(often).await.unwrap();
    let mut told = 0;
    // It stops by itself, and the stream ends with it.
    while let Ok(Some(now)) = timeout(PATIENCE, uses.try_next()).await.unwrap() {
        let disk = now.disk.unwrap();
        assert!(now.cpus > 0 && now.busy_cpus <= now.cpus.into(), "{now:?}");
        assert!(
            now.memory_used > 1 << 20 && now.memory_used < now.memory_total,
            "{now:?}"
        );
        assert!(disk.used > 0 && disk.used <= disk.total, "{now:?}");
        told += 1;
    }
    assert!(told > 1, "told {told} times");
    bed.reaches(State::Stopped).await;
}

#[tokio::test]
async fn connections_that_come_while_it_starts_share_one_start() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let clients = (0..8).map(|_| async { bed.builder().await.info().await.map(drop) });
    futures::future::try_join_all(clients).await.unwrap();
    let console = std::fs::read_to_string(bed.paths.console_log()).unwrap();
    assert_eq!(
        console.matches("the engine is starting").count(),
        1,
        "{console}"
    );
}

#[tokio::test]
async fn it_stops_when_idle_and_wakes_again() {
    let bed = Bed::native("idle-stop = \"200ms\"");
    let _vmd = bed.start().await;
    let builder = bed.builder().await;
    builder.info().await.unwrap();
    let status = bed.host().await.status().await.unwrap();
    assert_eq!(
        status.state(),
        State::Running,
        "an open connection keeps it"
    );
    drop(builder);
    let status = bed.reaches(State::Stopped).await;
    assert_eq!(status.reason, "");
    bed.builder().await.info().await.unwrap();
}

#[tokio::test]
async fn a_dead_engine_is_reported_and_healed_by_the_next_use() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    let pid = host.start().await.unwrap().pid;
    kill(pid, "KILL");
    let status = bed.reaches(State::Failed).await;
    assert!(status.reason.contains("signal: 9"), "{}", status.reason);
    bed.builder().await.info().await.unwrap();
    let status = host.status().await.unwrap();
    assert_eq!(
        (status.state(), status.reason.as_str()),
        (State::Running, "")
    );
    assert_ne!(status.pid, pid);
}

#[tokio::test]
async fn its_own_death_leaves_no_orphan_and_the_next_one_cleans_up() {
    let bed = Bed::native("");
    let mut vmd = bed.start().await;
    let pid = bed.host().await.start().await.unwrap().pid;
    vmd.process.kill().await.unwrap();
    // The sockets, the lock file and perhaps the engine, on its way out, are still there.
    assert!(bed.paths.buildkit_socket().exists());
    let _vmd = bed.start().await;
    bed.builder().await.info().await.unwrap();
    assert!(!is_alive(pid));
    assert_ne!(bed.host().await.status().await.unwrap().pid, pid);
}

#[tokio::test]
async fn a_signal_stops_it_in_order() {
    let bed = Bed::native("");
    let mut vmd = bed.start().await;
    let pid = bed.host().await.start().await.unwrap().pid;
    let own = i32::try_from(vmd.process.id().unwrap()).unwrap();
    kill(own, "TERM");
    let status = timeout(PATIENCE, vmd.process.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success(), "{status}: {}", bed.log());
    assert!(!is_alive(pid));
    assert!(!bed.paths.host_socket().exists() && !bed.paths.buildkit_socket().exists());
}

#[tokio::test]
async fn a_client_starts_it_and_quit_ends_it() {
    let bed = Bed::native("");
    let program = crate::bed::vmd_program();
    let (first, second) = tokio::join!(
        kiln_client::HostClient::connect_or_start_program(&bed.paths, program),
        kiln_client::HostClient::connect_or_start_program(&bed.paths, program),
    );
    first.unwrap().status().await.unwrap();
    let host = second.unwrap();
    host.status().await.unwrap();
    host.quit().await.unwrap();
    let gone = async {
        while kiln_client::HostClient::connect(&bed.paths).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn settings_are_taken_over_while_it_runs() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    host.start().await.unwrap();
    let mut settings = host.settings().await.unwrap();
    assert_eq!(settings.driver, "native");
    settings.idle_stop_seconds = 1;
    assert_eq!(host.set_settings(settings.clone()).await.unwrap(), [""; 0]);
    bed.reaches(State::Stopped).await;
    settings.idle_stop_seconds = -1;
    settings.buildkitd_toml = "[worker.oci]\nmax-parallelism = 3".into();
    let waiting = host.set_settings(settings.clone()).await.unwrap();
    assert_eq!(waiting, ["buildkitd-toml"]);
    settings.memory_bytes = 1;
    let error = host.set_settings(settings).await.unwrap_err().to_string();
    assert!(error.contains("memory: 1 isn't between"), "{error}");
    bed.builder().await.info().await.unwrap();
}

#[tokio::test]
async fn a_reset_wants_to_be_meant_and_deletes_the_state() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    host.start().await.unwrap();
    let state = bed.paths.native_root().join("state.db");
    assert!(state.exists());
    let request = kiln_proto::host::ResetRequest {
        confirm: "yes".into(),
    };
    let refused = host.calls().reset(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(state.exists());
    assert_eq!(host.reset().await.unwrap().state(), State::Stopped);
    assert!(!state.exists());
    bed.builder().await.info().await.unwrap();
}

#[tokio::test]
async fn checks_and_the_console_tell_how_it_is() {
    let bed = Bed::native("");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    host.start().await.unwrap();
    let checks: Vec<_> = host.diagnose().await.unwrap().try_collect().await.unwrap();
    let outcome = |id: &str| {
        checks
            .iter()
            .find(|check| check.id == id)
            .unwrap()
            .outcome()
    };
    for id in ["settings", "sockets", "kilnd", "machine", "engine"] {
        assert_eq!(outcome(id), Outcome::Ok, "{checks:?}");
    }
    for id in ["qemu", "guest"] {
        assert_eq!(outcome(id), Outcome::Skipped, "{checks:?}");
    }
    let whole: Vec<Vec<u8>> = host
        .console(false, 0)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let whole = String::from_utf8(whole.concat()).unwrap();
    assert!(whole.contains("the engine is starting"), "{whole}");
    let mut live = host.console(true, 1).await.unwrap();
    host.stop(true).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("stopp") {
        let chunk = timeout(PATIENCE, live.next()).await.unwrap().unwrap();
        seen += &String::from_utf8_lossy(&chunk.unwrap());
    }
}

#[tokio::test]
async fn an_engine_that_ends_at_once_says_why_to_the_tool() {
    let mut bed = Bed::native("");
    let engine = bed.root.path().join("engine");
    std::fs::write(&engine, "#!/bin/sh\necho no room for state >&2\nexit 7\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&engine, executable).unwrap();
    bed.set("KILN_KILND", engine.display().to_string());
    let _vmd = bed.start().await;
    let error = bed.builder().await.info().await.unwrap_err();
    let Error::Status(status) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(status.code(), tonic::Code::Unavailable);
    for part in ["exit status: 7", "no room for state"] {
        assert!(status.message().contains(part), "{status:?}");
    }
    assert_eq!(
        bed.host().await.status().await.unwrap().state(),
        State::Failed
    );
}
