//! What can't be, and what is said about it.

use kiln_client::host::State;

use crate::bed::Bed;

#[tokio::test]
async fn a_second_one_names_the_first() {
    let bed = Bed::native("");
    let vmd = bed.start().await;
    let (status, words) = bed.fails().await;
    assert_eq!(status.code(), Some(3), "{words}");
    let pid = vmd.process.id().unwrap();
    assert!(
        words.contains(&format!("another kiln-vmd (pid {pid})")),
        "{words}"
    );
    // The first one didn't notice.
    bed.host().await.status().await.unwrap();
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_says_what_to_set() {
    let mut bed = Bed::native("");
    bed.paths.runtime = bed.root.path().join("x".repeat(100));
    let (status, words) = bed.fails().await;
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(
        words.contains("set KILN_RUNTIME_DIR to a shorter directory"),
        "{words}"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_used_name_the_line_and_can_be_replaced() {
    let bed = Bed::new("driver = \"native\"\ncpsu = 3\n");
    let _vmd = bed.start().await;
    let host = bed.host().await;
    for error in [
        host.start().await.map(drop).unwrap_err(),
        host.settings().await.map(drop).unwrap_err(),
        bed.builder().await.info().await.map(drop).unwrap_err(),
    ] {
        let text = error.to_string();
        for part in ["settings.toml", "line 2", "cpsu"] {
            assert!(text.contains(part), "{text}");
        }
    }
    let settings = kiln_client::host::Settings {
        driver: "native".into(),
        ..Default::default()
    };
    host.set_settings(settings).await.unwrap();
    assert_eq!(host.start().await.unwrap().state(), State::Running);
    let kept = bed.paths.settings_file().with_extension("toml.unusable");
    assert!(std::fs::read_to_string(kept).unwrap().contains("cpsu"));
}

#[tokio::test]
async fn a_full_disk_names_what_has_no_room_and_what_to_do() {
    let full = tempfile::tempdir().unwrap();
    let mount = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        let status = command.args(arguments).arg(full.path()).status().unwrap();
        assert!(status.success(), "{program}");
    };
    // Room for its root, and for nothing in that.
    mount("mount", &["-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs"]);
    let mut bed = Bed::native("");
    bed.paths.state = full.path().join("state");
    let (status, words) = bed.fails().await;
    mount("umount", &[]);
    assert_eq!(status.code(), Some(1), "{words}");
    let state = bed.paths.state.display().to_string();
    for part in [&state, "No space left", "KILN_STATE_DIR"] {
        assert!(words.contains(part), "{words}");
    }
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named() {
    let mut bed = Bed::native("");
    bed.set("KILN_KILND", "/nonexistent/kilnd");
    let _vmd = bed.start().await;
    let error = bed.builder().await.info().await.unwrap_err().to_string();
    assert!(error.contains("kilnd"), "{error}");
    let status = bed.host().await.status().await.unwrap();
    assert_eq!(status.state(), State::Failed);
}

#[tokio::test]
async fn a_machine_that_cannot_be_names_what_is_missing() {
    let mut bed = Bed::new("");
    bed.set("KILN_QEMU", "/nonexistent/qemu");
    let _vmd = bed.start().await;
    let error = bed.builder().await.info().await.unwrap_err().to_string();
    for part in ["isn't found", "apt install qemu-system-x86", "KILN_QEMU"] {
        assert!(error.contains(part), "{error}");
    }
    let status = bed.host().await.status().await.unwrap();
    assert_eq!(
        (status.state(), status.driver.as_str()),
        (State::Failed, "qemu")
    );
}

#[tokio::test]
async fn a_guest_image_that_is_not_there_or_damaged_is_named() {
    let mut bed = Bed::new("");
    let guest = bed.root.path().join("guest");
    std::fs::create_dir(&guest).unwrap();
    // Any file passes for the emulator: it isn't started.
    bed.set("KILN_QEMU", crate::bed::vmd_program().display().to_string());
    bed.set("KILN_GUEST", guest.display().to_string());
    let _vmd = bed.start().await;
    let host = bed.host().await;
    let error = host.start().await.unwrap_err().to_string();
    assert!(error.contains("cargo xtask guest"), "{error}");
    std::fs::write(guest.join("vmlinux"), "short").unwrap();
    let manifest = r#"{"vmlinux":{"bytes":50},"initrd.zst":{"bytes":5}}"#;
    std::fs::write(guest.join("manifest.json"), manifest).unwrap();
    let error = host.start().await.unwrap_err().to_string();
    assert!(error.contains("vmlinux is missing or damaged"), "{error}");
}
