//! What is mounted, and that no name inside a root leads out of it.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_sys::mount::{MountSpec, mount_all};

use crate::world::{World, mount, shell, tmpfs};

pub(crate) async fn a_read_only_root_refuses_writes(world: &World) {
    let mut container = world.container();
    container.readonly_root = true;
    container.mounts.push(mount("/tmp", tmpfs(&[])));
    let output = world
        .run(container, shell("echo x > /tmp/f && ! echo x > /f"))
        .await;
    output.ok();
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
}

pub(crate) async fn binds_tmpfs_and_subpaths_are_where_they_belong(world: &World) {
    let source = world.path("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("deep/er/file"), "content").unwrap();
    let mut container = world.container();
    let mut read_only = mount("/in/ro", MountSpec::bind(&source, false));
    read_only.readonly = true;
    let mut part = mount("/in/part", MountSpec::bind(&source, false));
    part.subpath = "deep/er".into();
    let mut file = mount("/in/file", MountSpec::bind(&source, false));
    file.subpath = "/deep/er/file".into();
    container.mounts = vec![
        read_only,
        part,
        file,
        mount("/in/rw", MountSpec::bind(&source, false)),
        mount("/in/tmp", tmpfs(&["size=8k", "mode=700"])),
        mount("/in/tmp/nested", tmpfs(&[])),
    ];
    let script = "cat /in/ro/deep/er/file /in/part/file /in/file; echo; \
        touch /in/ro/x 2>/dev/null && echo wrote; echo new > /in/rw/new; \
        touch /in/tmp/nested/x; dd if=/dev/zero of=/in/tmp/big bs=9000 count=1 2>/dev/null || echo full; \
        stat -c %a /in/tmp";
    let output = world.run(container, shell(script)).await;
    assert_eq!(output.ok(), "contentcontentcontent\nfull\n700\n");
    assert_eq!(fs::read(source.join("new")).unwrap(), b"new\n");
}

pub(crate) async fn a_file_can_be_a_mount(world: &World) {
    let file = world.path("secret");
    fs::write(&file, "token").unwrap();
    let mut container = world.container();
    let upper = world.upper(&container);
    container
        .mounts
        .push(mount("/run/secrets/s", MountSpec::bind(&file, true)));
    container
        .mounts
        .push(mount("/etc/passwd", MountSpec::bind(&file, true)));
    let output = world
        .run(
            container,
            shell("cat /run/secrets/s /etc/passwd; echo > /run/secrets/s"),
        )
        .await;
    assert_eq!(output.stdout, "tokentoken");
    assert_eq!(output.code(), 1);
    // What stands in for a mount while it runs is empty.
    assert_eq!(fs::metadata(upper.join("run/secrets/s")).unwrap().len(), 0);
    assert!(!upper.join("etc/passwd").exists());
}

pub(crate) async fn read_only_mounts_cover_what_is_below(world: &World) {
    let source = world.path("source");
    fs::create_dir_all(source.join("below")).unwrap();
    mount_all(&[tmpfs(&[])], &source.join("below")).unwrap();
    let mut container = world.container();
    let mut entry = mount("/m", MountSpec::bind(&source, false));
    entry.readonly = true;
    container.mounts.push(entry);
    let output = world.run(container, shell("touch /m/below/x")).await;
    kiln_sys::mount::unmount(&source.join("below")).unwrap();
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
}

pub(crate) async fn hostile_targets_stay_inside(world: &World) {
    let outside = world.path("outside");
    fs::create_dir_all(&outside).unwrap();
    let source = world.path("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("mark"), "m").unwrap();
    let container = world.container();
    let upper = world.upper(&container);
    let up = format!("{}{}", "../".repeat(20), outside.display());
    for (name, to) in [
        ("absolute", outside.to_str().unwrap()),
        ("relative", &up),
        ("real", "/dir"),
    ] {
        symlink(to, upper.join(name)).unwrap();
    }
    fs::create_dir(upper.join("dir")).unwrap();
    let cases = ["/absolute/x", "/relative/y", "/real", "/../../../../z"];
    let mut container = container;
    container.mounts = cases
        .iter()
        .map(|target| mount(target, MountSpec::bind(&source, false)))
        .collect();
    let script = "cat /absolute/x/mark /relative/y/mark /dir/mark /z/mark";
    assert_eq!(world.run(container, shell(script)).await.ok(), "mmmm");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

pub(crate) async fn hostile_subpaths_stay_inside(world: &World) {
    let source = world.path("source");
    fs::create_dir_all(source.join("etc")).unwrap();
    fs::write(source.join("etc/passwd"), "inside").unwrap();
    symlink("/etc", source.join("absolute")).unwrap();
    symlink("../../../../../../../../etc", source.join("relative")).unwrap();
    symlink("/proc/self/root/etc", source.join("magic")).unwrap();
    for (path, found) in [
        ("absolute", true),
        ("relative", true),
        ("../../../../etc", true),
        ("magic", false),
        ("absent", false),
    ] {
        let mut container = world.container();
        let mut entry = mount("/m", MountSpec::bind(&source, false));
        entry.subpath = path.into();
        container.mounts.push(entry);
        let output = world.run(container, shell("cat /m/passwd")).await;
        if found {
            assert_eq!(output.ok(), "inside", "{path}");
        } else {
            let error = output.exit.unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("/m"), "{error}");
        }
    }
}

pub(crate) async fn standard_mounts_have_their_options(world: &World) {
    let mut container = world.container();
    container.shm_size = Some(1 << 20);
    let script = "cut -d' ' -f 5,6,9- /proc/self/mountinfo";
    let output = world.run(container, shell(script)).await;
    let expected: [(&str, &[&str]); 6] = [
        ("/proc", &["rw", "nosuid", "nodev", "noexec"]),
        ("/dev", &["nosuid", "size=65536k", "mode=755"]),
        (
            "/dev/pts",
            &["nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"],
        ),
        ("/dev/shm", &["nosuid", "nodev", "noexec", "size=1024k"]),
        ("/dev/mqueue", &["nosuid", "nodev", "noexec"]),
        ("/sys", &["ro", "nosuid", "nodev", "noexec"]),
    ];
    for (target, options) in expected {
        let prefix = format!("{target} ");
        let line = output.ok().lines().find(|line| line.starts_with(&prefix));
        let line = line.unwrap_or_else(|| panic!("no {target} in {}", output.stdout));
        for option in options {
            assert!(
                line.split([' ', ',']).any(|o| o == *option),
                "{option} in {line}"
            );
        }
    }
    let output = world.sh("stat -c %a /dev/shm; ls -l /dev/fd /dev/stdin /dev/ptmx | sed 's/.*-> //'; for d in /sys/fs/cgroup/*/; do mkdir $d/x 2>/dev/null && echo made; done; true").await;
    assert_eq!(
        output.ok(),
        "1777\n/proc/self/fd\npts/ptmx\n/proc/self/fd/0\n"
    );
}

pub(crate) async fn a_mount_of_ones_own_replaces_a_standard_one(world: &World) {
    let mut container = world.container();
    container
        .mounts
        .push(mount("/dev/shm", tmpfs(&["size=64k"])));
    let output = world
        .run(
            container,
            shell("grep -c ' /dev/shm ' /proc/mounts; grep /dev/shm /proc/mounts"),
        )
        .await;
    assert!(
        output.ok().starts_with("1\n") && output.stdout.contains("size=64k"),
        "{output:?}"
    );
}

pub(crate) async fn hosts_and_resolver_are_bound(world: &World) {
    let (hosts, resolver) = (world.path("hosts"), world.path("resolv.conf"));
    fs::write(&hosts, "127.0.0.1 localhost here\n").unwrap();
    fs::write(&resolver, "nameserver 192.0.2.1\n").unwrap();
    let mut container = world.container();
    container.etc_hosts = Some(hosts.clone());
    container.resolv_conf = Some(resolver);
    let output = world
        .run(
            container,
            shell("cat /etc/hosts /etc/resolv.conf; ! echo x >> /etc/hosts"),
        )
        .await;
    assert_eq!(
        output.ok(),
        "127.0.0.1 localhost here\nnameserver 192.0.2.1\n"
    );
    assert_eq!(fs::read(&hosts).unwrap(), b"127.0.0.1 localhost here\n");
}

pub(crate) async fn a_root_without_directories_gets_them(world: &World) {
    let root = world.path("bare");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(world.path("lower/bin/busybox"), root.join("bin/sh")).unwrap();
    let mut container = world.container();
    container.root = kiln_sys::mount::Mountable::new(vec![MountSpec::bind(&root, false)], ());
    container.mounts.push(mount("/deep/inside/m", tmpfs(&[])));
    let output = world
        .run(
            container,
            shell("[ -e /proc/self/exe ] && echo x > /deep/inside/m/f && echo done"),
        )
        .await;
    assert_eq!(output.ok(), "done\n");
    for dir in ["proc", "dev", "sys", "deep/inside/m"] {
        let meta = fs::metadata(root.join(dir)).unwrap();
        assert!(meta.is_dir(), "{dir}");
        assert_eq!(fs::read_dir(root.join(dir)).unwrap().count(), 0, "{dir}");
    }
}
