//! The machine itself: real boots of the guest image under QEMU, by translation, so that they run anywhere.
//!
//! The image is `target/guest/image` (`cargo xtask guest`) or `KILN_GUEST`. One boot takes seconds: the tests here are few
//! and run one after the other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt as _;
use kiln_client::host::{Outcome, State};
use kiln_vm::driver::qemu::{ENGINE_READY, KvmHost, Qemu, TCG_HELLO};
use tokio::sync::Mutex;

mod add_on;
#[path = "../it/bed.rs"]
mod bed;
#[path = "../it/contract.rs"]
mod contract;
mod disk;
mod hang;
#[path = "../it/home.rs"]
mod home;

use bed::{Bed, Buildx, is_alive, kill, vmd_program};
use contract::{start, suite};

const SETTINGS: &str = "accelerator = \"tcg\"\ncpus = 2\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n";

/// Two machines at once would only slow each other down.
static ONE: Mutex<()> = Mutex::const_new(());

fn guest() -> PathBuf {
    let path = std::env::var_os("KILN_GUEST").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest/image"),
        PathBuf::from,
    );
    assert!(
        path.join("manifest.json").is_file(),
        "no guest image in {}: cargo xtask guest",
        path.display()
    );
    path
}

fn emulator() -> PathBuf {
    std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join("qemu-system-x86_64"))
        .find(|path| path.is_file())
        .unwrap()
}

fn qemu() -> Qemu {
    Qemu {
        own: vmd_program().to_owned(),
        qemu: Some(emulator()),
        guest: Some(guest()),
        kvm: KvmHost::default(),
        kvm_hello: Duration::from_secs(15),
        tcg_hello: TCG_HELLO,
        ready: ENGINE_READY,
        silence: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn qemu_keeps_the_contract() {
    let _one = ONE.lock().await;
    suite(&qemu(), SETTINGS).await;
}

/// A host whose virtualisation looks well, passes the probe, and then does nothing.
#[tokio::test]
async fn a_machine_that_never_says_hello_is_started_by_translation_and_one_that_hangs_is_ended() {
    let _one = ONE.lock().await;
    let bed = Bed::new("cpus = 2\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n");
    let script = bed.root.path().join("qemu");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in\n*isa-debug-exit*) exit 65 ;;\n*'-accel kvm'*) exec sleep 600 ;;\nesac\nexec {} \"$@\"\n",
        emulator().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| bed.root.path().join(name);
    std::fs::write(at("kvm"), "").unwrap();
    std::fs::write(at("cpuinfo"), "flags : fpu vmx").unwrap();
    let driver = Qemu {
        qemu: Some(script),
        kvm: KvmHost {
            device: at("kvm"),
            cpuinfo: at("cpuinfo"),
            modules: at("modules"),
        },
        kvm_hello: Duration::from_secs(1),
        silence: Duration::from_secs(10),
        ..qemu()
    };
    let machine = start(&driver, &bed).await;
    let facts = machine.facts();
    assert_eq!(facts.accelerator, "tcg");
    assert!(
        facts.accelerator_reason.contains("never said hello"),
        "{facts:?}"
    );
    assert!(facts.notices.concat().contains("translation"), "{facts:?}");
    let verdicts = std::fs::read_to_string(bed.paths.verdicts()).unwrap();
    assert!(verdicts.contains("never said hello"), "{verdicts}");

    // One that hangs while it runs is found out, too.
    kill(facts.pid, "STOP");
    let reason = tokio::time::timeout(bed::PATIENCE, machine.ended()).await;
    let reason = reason.unwrap();
    assert!(reason.contains("no sign of life for 10 s"), "{reason}");
    assert!(!is_alive(facts.pid));
}

#[tokio::test]
async fn an_image_that_does_not_boot_says_what_the_kernel_said() {
    let _one = ONE.lock().await;
    let mut bed = Bed::new(SETTINGS);
    let image = bed.root.path().join("guest");
    std::fs::create_dir(&image).unwrap();
    std::os::unix::fs::symlink(guest().join("vmlinux"), image.join("vmlinux")).unwrap();
    std::fs::write(image.join("initrd.zst"), "no archive").unwrap();
    let kernel = std::fs::metadata(image.join("vmlinux")).unwrap().len();
    let manifest = format!(r#"{{"vmlinux":{{"bytes":{kernel}}},"initrd.zst":{{"bytes":10}}}}"#);
    std::fs::write(image.join("manifest.json"), manifest).unwrap();
    bed.set("KILN_GUEST", image.display().to_string());
    let _vmd = bed.start().await;
    let error = bed.host().await.start().await.unwrap_err().to_string();
    assert!(error.contains("its kernel: "), "{error}");
}

#[tokio::test]
async fn buildx_wakes_the_machine_and_its_cache_outlives_stops_and_kills() {
    let _one = ONE.lock().await;
    let mut bed = Bed::new(SETTINGS);
    bed.set("KILN_GUEST", guest().display().to_string());
    let vmd = bed.start().await;
    let context = bed.root.path().join("context");
    std::fs::create_dir(&context).unwrap();
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c echo a >> /c/a && wc -l < /c/a\nCOPY hello /\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(context.join("hello"), "hello").unwrap();
    let buildx = Buildx::on(&bed).await;
    let first = buildx.build(&context, &["."]).await;
    assert!(!first.contains("CACHED"), "{first}");
    let host = bed.host().await;
    let status = host.status().await.unwrap();
    assert_eq!(
        (status.state(), status.driver.as_str()),
        (State::Running, "qemu")
    );
    assert_eq!((status.accelerator.as_str(), status.cpus), ("tcg", 2));
    let disk = status.disk.unwrap();
    assert!(
        disk.host_allocated > 0 && disk.host_allocated < 2 << 30,
        "{disk:?}"
    );
    let checks: Vec<_> = host.diagnose().await.unwrap().try_collect().await.unwrap();
    let failed = checks
        .iter()
        .find(|check| check.outcome() == Outcome::Failed);
    assert!(failed.is_none(), "{failed:?}");

    // An orderly stop keeps all.
    let stopped = host.stop(false).await.unwrap();
    assert_eq!(stopped.state(), State::Stopped);
    assert!(!is_alive(status.pid));
    let second = buildx.build(&context, &["."]).await;
    assert!(second.contains("CACHED"), "{second}");

    // A kill is told, and healed by the next build.
    let pid = host.status().await.unwrap().pid;
    kill(pid, "KILL");
    let status = bed.reaches(State::Failed).await;
    assert!(status.reason.contains("signal: 9"), "{}", status.reason);
    buildx.build(&context, &["."]).await;

    // With its owner the machine is gone.
    let pid = host.status().await.unwrap().pid;
    drop(vmd);
    let gone = async {
        while is_alive(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(bed::PATIENCE, gone).await.unwrap();
}

/// A port of the host's loopback that says so.
fn on_the_hosts_loopback() -> u16 {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in service.incoming().flatten() {
            // A step that went away is not a failure of this side.
            let _ = stream.write_all(b"the host\n");
        }
    });
    port
}

/// One boot for all that steps get of the host, and what they don't.
#[tokio::test]
async fn steps_reach_what_is_allowed_and_idleness_ends_the_machine() {
    let _one = ONE.lock().await;
    let (allowed, proxy, closed) = (
        on_the_hosts_loopback(),
        on_the_hosts_loopback(),
        on_the_hosts_loopback(),
    );
    let mut bed = Bed::new("");
    let served = bed.root.path().join("served");
    let dockerfile = "FROM busybox\nCOPY Dockerfile /f\nRUN echo from git: $(wc -l < /f) lines\n";
    add_on::repository(&served, "Dockerfile", dockerfile);
    let git = add_on::serve(served);
    let authority = bed.root.path().join("authority.pem");
    std::fs::write(
        &authority,
        "-----BEGIN CERTIFICATE-----\nb3VycwU=\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let settings = format!(
        "{}ca-files = [\"{}\"]\n[proxy]\nhttp = \"http://localhost:{proxy}\"\nno-proxy = \"corp.example\"\n\
        [[allow]]\nname = \"test\"\nport = {allowed}\n[[allow]]\nname = \"git\"\nport = {git}\n",
        SETTINGS,
        authority.display()
    );
    std::fs::write(bed.paths.settings_file(), settings).unwrap();
    bed.set("KILN_GUEST", guest().display().to_string());
    let _vmd = bed.start().await;
    let context = bed.root.path().join("context");
    std::fs::create_dir(&context).unwrap();
    let ask = |name: &str, address: &str, port: u16| {
        format!(
            "echo \"{name}: $(nc -w 9 {address} {port} </dev/null 2>/dev/null || echo closed)\"; "
        )
    };
    let script = [
        ask("allowed", "host.kiln.internal", allowed),
        ask("proxy", "host.kiln.internal", proxy),
        ask("not allowed", "host.kiln.internal", closed),
        ask("gateway", "10.0.2.2", closed),
        ask("guest", "10.0.2.15", closed),
        ask("names", "10.0.2.3", closed),
        "echo \"via: $http_proxy not: $NO_PROXY\"; ".to_owned(),
        "echo \"trusts: $(grep -c b3VycwU= $SSL_CERT_FILE)\"; ".to_owned(),
        "echo \"interfaces: $(ls /sys/class/net | xargs)\"".to_owned(),
    ]
    .concat();
    let dockerfile = format!("FROM busybox\nRUN {script}\nRUN ls /dev /etc\n");
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let buildx = Buildx::on(&bed).await;
    let said = buildx.build(&context, &["."]).await;
    for expected in [
        "allowed: the host\n".to_owned(),
        "proxy: the host\n".to_owned(),
        "not allowed: closed\n".to_owned(),
        "gateway: closed\n".to_owned(),
        "guest: closed\n".to_owned(),
        "names: closed\n".to_owned(),
        format!("via: http://host.kiln.internal:{proxy} not: corp.example,host.kiln.internal\n"),
        "trusts: 1\n".to_owned(),
        "interfaces: eth0 lo\n".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected}{said}");
    }
    let notices = bed.host().await.status().await.unwrap().notices.concat();
    assert!(!notices.contains("allow"), "{notices}");

    // Another name for the host, by Kiln's own command.
    let named = bed.root.path().join("named");
    std::fs::create_dir(&named).unwrap();
    let step = ask("named", "db", allowed);
    let dockerfile = format!("FROM busybox\nRUN {step}true\n");
    std::fs::write(named.join("Dockerfile"), dockerfile).unwrap();
    let arguments = ["build", "--add-host", "db:host-gateway", "."];
    let (code, said) = bed.kiln(&named, &arguments).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("named: the host"), "{said}");

    // The add-on: git, and an emulator.
    let address = format!("http://host.kiln.internal:{git}/app.git");
    let said = buildx.build(&context, &[&address]).await;
    assert!(said.contains("from git: 3 lines"), "{said}");
    let foreign = bed.root.path().join("foreign");
    add_on::arm64_context(&foreign, "from another processor\n");
    let said = buildx
        .build(&foreign, &["--platform", "linux/arm64", "."])
        .await;
    assert!(said.contains("from another processor"), "{said}");

    // Without anybody it ends, and the next client starts it again.
    let host = bed.host().await;
    let mut settings = host.settings().await.unwrap();
    settings.idle_stop_seconds = 1;
    host.set_settings(settings.clone()).await.unwrap();
    bed.reaches(State::Stopped).await;
    settings.idle_stop_seconds = -1;
    host.set_settings(settings).await.unwrap();
    let said = buildx.build(&context, &["."]).await;
    assert!(said.contains("CACHED"), "{said}");
    let status = host.stop(false).await.unwrap();
    assert_eq!(status.state(), State::Stopped);
}
