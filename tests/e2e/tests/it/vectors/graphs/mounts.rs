//! Every kind of mount.

use kiln_llb::Edge;
use kiln_proto::pb;
use pb::file_action::Action;

use super::{action, bind, exec, file_op, make_file, meta, of_type, root, run, run_op};

pub(super) fn all(busybox: &Edge) -> Vec<(&'static str, Edge)> {
    use pb::{CacheSharingOpt, MountContentCache, MountType};
    let data = &file_op(
        vec![
            action(
                -1,
                -1,
                -1,
                Action::Mkdir(pb::FileActionMkDir {
                    path: "/dir/deep".to_owned(),
                    mode: 0o755,
                    make_parents: true,
                    timestamp: -1,
                    ..pb::FileActionMkDir::default()
                }),
            ),
            action(0, -1, 0, Action::Mkfile(make_file("/dir/deep/f", b"f"))),
        ],
        &[],
    );
    let two = [busybox, data];
    let cache = |dest: &str, id: &str, sharing: CacheSharingOpt| pb::Mount {
        cache_opt: Some(pb::CacheOpt {
            id: id.to_owned(),
            sharing: sharing as i32,
        }),
        ..of_type(MountType::Cache, dest)
    };
    let with_content = |content: MountContentCache, mount: pb::Mount| pb::Mount {
        content_cache: content as i32,
        ..mount
    };
    let read_only_root = pb::Mount {
        readonly: true,
        output: -1,
        ..root()
    };
    vec![
        (
            "bind-readonly",
            run("true", vec![bind(1, "", "/in", true)], &two),
        ),
        (
            "bind-selector",
            run("true", vec![bind(1, "/dir/deep", "/in", true)], &two),
        ),
        (
            "bind-unclean-selector",
            run("true", vec![bind(1, "dir/./deep/", "/in", true)], &two),
        ),
        (
            "bind-two-selectors",
            run(
                "true",
                vec![
                    bind(1, "/dir", "/in", true),
                    bind(1, "/dir/deep", "/in2", true),
                ],
                &two,
            ),
        ),
        (
            "bind-writable",
            run("true", vec![bind(1, "/dir", "/in", false)], &two),
        ),
        (
            "bind-output",
            Edge {
                index: 1,
                ..run(
                    "touch /out/new",
                    vec![pb::Mount {
                        output: 1,
                        ..bind(1, "", "/out", false)
                    }],
                    &two,
                )
            },
        ),
        (
            "scratch-output",
            Edge {
                index: 1,
                ..run(
                    "touch /out/new",
                    vec![pb::Mount {
                        output: 1,
                        ..bind(-1, "", "/out", false)
                    }],
                    &[busybox],
                )
            },
        ),
        (
            "root-readonly",
            Edge {
                index: 0,
                ..run_op(
                    exec(
                        meta("touch /out/new"),
                        vec![
                            read_only_root,
                            pb::Mount {
                                output: 0,
                                ..bind(-1, "", "/out", false)
                            },
                        ],
                    ),
                    &[busybox],
                )
            },
        ),
        (
            "content-on",
            run(
                "true",
                vec![with_content(
                    MountContentCache::On,
                    bind(1, "/dir", "/in", false),
                )],
                &two,
            ),
        ),
        (
            "content-off",
            run(
                "true",
                vec![with_content(
                    MountContentCache::Off,
                    bind(1, "/dir", "/in", true),
                )],
                &two,
            ),
        ),
        (
            "cache-of-its-path",
            run(
                "true",
                vec![cache("/c", "/c", CacheSharingOpt::Shared)],
                &[busybox],
            ),
        ),
        (
            "cache-named",
            run(
                "true",
                vec![cache("/c", "vectors", CacheSharingOpt::Shared)],
                &[busybox],
            ),
        ),
        (
            "cache-locked",
            run(
                "true",
                vec![cache("/c", "/c", CacheSharingOpt::Locked)],
                &[busybox],
            ),
        ),
        (
            "cache-private",
            run(
                "true",
                vec![cache("/c", "vectors-p", CacheSharingOpt::Private)],
                &[busybox],
            ),
        ),
        (
            "cache-seeded",
            run(
                "true",
                vec![pb::Mount {
                    input: 1,
                    selector: "/dir".to_owned(),
                    ..cache("/c", "vectors-s", CacheSharingOpt::Shared)
                }],
                &two,
            ),
        ),
        (
            "tmpfs",
            run("true", vec![of_type(MountType::Tmpfs, "/t")], &[busybox]),
        ),
        (
            "tmpfs-size",
            run(
                "true",
                vec![pb::Mount {
                    tmpfs_opt: Some(pb::TmpfsOpt { size: 1 << 20 }),
                    ..of_type(MountType::Tmpfs, "/t")
                }],
                &[busybox],
            ),
        ),
        (
            "secret",
            run(
                "true",
                vec![pb::Mount {
                    secret_opt: Some(pb::SecretOpt {
                        id: "s".to_owned(),
                        uid: 1,
                        gid: 2,
                        mode: 0o400,
                        optional: true,
                    }),
                    ..of_type(MountType::Secret, "/s")
                }],
                &[busybox],
            ),
        ),
        (
            "ssh",
            run(
                "true",
                vec![pb::Mount {
                    ssh_opt: Some(pb::SshOpt {
                        id: "default".to_owned(),
                        mode: 0o600,
                        optional: true,
                        ..pb::SshOpt::default()
                    }),
                    ..of_type(MountType::Ssh, "/ssh")
                }],
                &[busybox],
            ),
        ),
    ]
}
