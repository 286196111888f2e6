//! What a step can't do, with the published escapes by name.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_executor::{Network, ProcessSpec};

use crate::world::{World, program, shell};

pub(crate) async fn capabilities_are_the_default_ones(world: &World) {
    let script = "grep -E '^(Cap|Seccomp:)' /proc/self/status";
    let root = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
        CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n";
    assert_eq!(world.sh(script).await.ok(), root);
    let mut process = shell(script);
    process.uid = 1000;
    let user = root.replace("Prm:\t00000000a80425fb", "Prm:\t0000000000000000");
    let user = user.replace("Eff:\t00000000a80425fb", "Eff:\t0000000000000000");
    assert_eq!(world.run(world.container(), process).await.ok(), user);
}

pub(crate) async fn dangerous_calls_are_refused(world: &World) {
    let cases = [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "unshare -U true",
        "unshare -m true",
        "hostname other",
        "swapoff -a /dev/zero",
        "mknod /tmp/disk b 254 0 && cat /tmp/disk",
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "chroot /proc/1/root/../../.. ls /nonexistent-outside",
        "dmesg",
    ];
    for script in cases {
        let output = world.sh(script).await;
        assert_ne!(output.code(), 0, "{script}: {output:?}");
    }
    // What builds do need.
    let output = world
        .sh("mknod /tmp/p p && mknod /tmp/null c 1 3 && echo x > /tmp/null && chown 1:1 /tmp/p && chroot / true")
        .await;
    output.ok();
}

pub(crate) async fn masked_paths_are_hidden(world: &World) {
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do \
        [ -e $f ] && wc -c < $f; done; for d in /proc/acpi /proc/scsi /sys/firmware; do \
        [ -d $d ] && ls $d; done; \
        grep -c -E ' /proc/(bus|fs|irq|sys|sysrq-trigger) ro' /proc/self/mountinfo; \
        echo 1 > /proc/sys/kernel/panic; true";
    let output = world.sh(script).await;
    let read_only = output.ok().lines().last().unwrap();
    assert!(read_only.parse::<u32>().unwrap() >= 4, "{output:?}");
    let shown = output.stdout.trim_end().trim_end_matches(read_only);
    assert!(shown.lines().all(|line| line == "0"), "{output:?}");
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
}

/// CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: targets that an image's links redirect.
pub(crate) async fn a_masked_path_cannot_be_redirected(world: &World) {
    let outside = world.path("victim");
    fs::write(&outside, "untouched").unwrap();
    for (link, to) in [
        ("dev", "/proc"),
        ("dev", "/etc"),
        ("proc", "/etc"),
        ("sys", "/proc"),
        ("proc", outside.to_str().unwrap()),
    ] {
        let container = world.container();
        let upper = world.upper(&container);
        // An opaque whiteout can't replace a directory of the layer below, so it goes there too.
        let lower = world.path("lower").join(link);
        fs::remove_dir(&lower).unwrap();
        symlink(to, upper.join(link)).unwrap();
        let output = world
            .run(
                container,
                shell("cat /proc/sys/kernel/ostype; echo x > /proc/sys/kernel/panic"),
            )
            .await;
        fs::create_dir(&lower).unwrap();
        // Refusing the root and running it safely inside are both fine.
        if let Ok(exit) = &output.exit {
            assert_ne!(exit.code, 0, "{link} -> {to}: {output:?}");
        }
        assert_eq!(fs::read(&outside).unwrap(), b"untouched");
        assert!(
            kiln_sys::mount::mounts_below(world.dir.path())
                .unwrap()
                .is_empty(),
            "{link} -> {to}"
        );
    }
}

pub(crate) async fn the_host_is_not_visible(world: &World) {
    let output = world
        .sh("echo $$; ls /proc | grep -c '^[0-9]'; ls /; cat /proc/1/cmdline | tr '\\0' ' '")
        .await;
    assert!(output.ok().starts_with("1\n"), "{output:?}");
    let table = world
        .sh("wc -l < /proc/self/mountinfo; grep -c kiln-executor /proc/self/mountinfo")
        .await;
    // The root's own line names its layers; nothing else of the host may show.
    let count: u32 = table.stdout.lines().nth(1).unwrap().parse().unwrap();
    assert!(count <= 1, "{table:?}");
}

pub(crate) async fn the_network_can_be_absent_or_shared(world: &World) {
    let script = "ls /sys/class/net; readlink /proc/self/ns/net; ifconfig lo | grep -c UP";
    let none = world.sh(script).await;
    assert!(
        none.ok().starts_with("lo\nnet:") && none.ok().ends_with("\n1\n"),
        "{none:?}"
    );
    let mut container = world.container();
    container.network = Network::Host;
    let host = world
        .run(container, shell("readlink /proc/self/ns/net"))
        .await;
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(host.ok().trim(), own.to_str().unwrap());
    let mut container = world.container();
    container.network = Network::Namespace("/proc/self/ns/net".into());
    let named = world
        .run(container, shell("readlink /proc/self/ns/net"))
        .await;
    assert_eq!(named.ok().trim(), own.to_str().unwrap());
}

pub(crate) async fn the_host_name_is_set(world: &World) {
    let mut container = world.container();
    container.hostname = "builder".into();
    assert_eq!(
        world.run(container, shell("hostname")).await.ok(),
        "builder\n"
    );
    assert_ne!(fs::read("/proc/sys/kernel/hostname").unwrap(), b"builder\n");
}

pub(crate) async fn privileged_means_everything(world: &World) {
    let mut container = world.container();
    container.privileged = true;
    let script = "mount -t tmpfs none /tmp && touch /tmp/x && umount /tmp && \
        grep -E '^(CapEff|CapAmb|Seccomp:)' /proc/self/status && [ -c /dev/fuse ] && [ -b /dev/loop0 ] && \
        mkdir -p /sys/fs/cgroup/memory/x 2>/dev/null; rmdir /sys/fs/cgroup/memory/x 2>/dev/null; \
        grep ' /sys ' /proc/mounts";
    let output = world.run(container, shell(script)).await;
    let all = fs::read_to_string("/proc/self/status").unwrap();
    let all = all
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:\t"))
        .unwrap();
    let known = u64::from_str_radix(all, 16).unwrap() & ((1 << 41) - 1);
    assert!(
        output.ok().starts_with(&format!(
            "CapEff:\t{known:016x}\nCapAmb:\t{known:016x}\nSeccomp:\t0\n"
        )),
        "{output:?}"
    );
    assert!(output.stdout.contains("sysfs rw,"), "{output:?}");
}

/// CVE-2019-5736: the runtime's own binary, reached through the process that becomes the step's.
pub(crate) async fn the_daemon_binary_is_out_of_reach(world: &World) {
    let binary = fs::canonicalize("/proc/self/exe").unwrap();
    let before = fs::metadata(&binary).unwrap().len();
    let output = world
        .run(world.container(), program(&["/proc/self/exe"]))
        .await;
    // It is either not there or runs as a copy that knows it isn't the daemon; it never ends well.
    assert!(
        !matches!(&output.exit, Ok(exit) if exit.code == 0),
        "{output:?}"
    );
    let script =
        "for p in /proc/[0-9]*/exe; do (echo x > $p) 2>/dev/null && readlink $p; done; true";
    let output = world.sh(script).await;
    assert_eq!(output.ok(), "");
    assert_eq!(fs::metadata(&binary).unwrap().len(), before);
}

/// CVE-2024-21626: a working directory through a descriptor that the runtime left open.
pub(crate) async fn a_leaked_working_directory_is_refused(world: &World) {
    for number in 3..12 {
        let process = ProcessSpec {
            cwd: format!("/proc/self/fd/{number}").into(),
            ..shell("cat ../../../../../../etc/hostname; ls ../../../../..")
        };
        let output = world.run(world.container(), process).await;
        if let Ok(exit) = &output.exit {
            let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
            assert!(
                host.is_empty() || !output.stdout.contains(&host),
                "{number}: {exit:?} {output:?}"
            );
            assert!(!output.stdout.contains("work\n"), "{number}: {output:?}");
        }
    }
}

pub(crate) async fn devices_are_the_standard_ones(world: &World) {
    let script = "cd /dev && ls | grep -v -e core -e console | tr '\\n' ' '; \
        head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 1 /dev/urandom | wc -c; echo x > /dev/full";
    let output = world.sh(script).await;
    assert_eq!(
        output.stdout,
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3\n1\n"
    );
    assert!(output.stderr.contains("No space left"), "{output:?}");
}

pub(crate) async fn memory_is_limited_and_its_end_is_told(world: &World) {
    let mut container = world.container();
    container.limits = [("memory.max", "33554432"), ("memory.swap.max", "0")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    container
        .mounts
        .push(crate::world::mount("/big", crate::world::tmpfs(&[])));
    let output = world
        .run(
            container,
            shell("dd if=/dev/zero of=/big/f bs=1M count=100; exit $?"),
        )
        .await;
    let exit = output.exit.as_ref().unwrap();
    assert!(exit.out_of_memory && exit.code == 137, "{output:?}");
}

pub(crate) async fn the_number_of_processes_is_limited(world: &World) {
    let mut container = world.container();
    container.limits.insert("pids.max".into(), "8".into());
    let script = "i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done; echo all";
    let output = world.run(container, shell(script)).await;
    assert!(!output.stdout.contains("all"), "{output:?}");
}
