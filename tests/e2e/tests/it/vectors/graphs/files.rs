//! Every file action.

use kiln_llb::Edge;
use kiln_proto::pb;
use pb::file_action::Action;

use super::{action, copy, file_op, make_file, run};

fn named(name: &str, input: i64) -> pb::UserOpt {
    pb::UserOpt {
        user: Some(pb::user_opt::User::ByName(pb::NamedUserOpt {
            name: name.to_owned(),
            input,
        })),
    }
}

fn numbered(id: u32) -> pb::UserOpt {
    pb::UserOpt {
        user: Some(pb::user_opt::User::ById(id)),
    }
}

pub(super) fn all(busybox: &Edge) -> Vec<(&'static str, Edge)> {
    let data = &run(
        "mkdir -p /d/e && echo a > /d/a && echo b > /d/e/b && ln -s a /d/l && mkdir /etc 2>/dev/null; echo 'u:x:7:8::/:/bin/sh' > \
         /etc/passwd; echo 'g:x:9:' > /etc/group",
        Vec::new(),
        &[busybox],
    );
    let copied = |copy: pb::FileActionCopy| {
        file_op(vec![action(0, 1, 0, Action::Copy(copy))], &[busybox, data])
    };
    let alone = |one: Action| file_op(vec![action(0, -1, 0, one)], &[busybox]);
    vec![
        ("copy-file", copied(copy("/d/a", "/x"))),
        ("copy-directory", copied(copy("/d", "/x"))),
        (
            "copy-contents",
            copied(pb::FileActionCopy {
                dir_copy_contents: true,
                create_dest_path: true,
                ..copy("/d/", "/x/y/")
            }),
        ),
        (
            "copy-followed",
            copied(pb::FileActionCopy {
                follow_symlink: true,
                ..copy("/d/l", "/x")
            }),
        ),
        ("copy-link", copied(copy("/d/l", "/x"))),
        (
            "copy-owner",
            copied(pb::FileActionCopy {
                owner: Some(pb::ChownOpt {
                    user: Some(numbered(0)),
                    group: Some(numbered(5)),
                }),
                mode: 0o600,
                ..copy("/d/a", "/x")
            }),
        ),
        (
            "copy-owner-by-name",
            file_op(
                vec![action(
                    0,
                    1,
                    0,
                    Action::Copy(pb::FileActionCopy {
                        owner: Some(pb::ChownOpt {
                            user: Some(named("u", 0)),
                            group: Some(named("g", 0)),
                        }),
                        ..copy("/d/a", "/x")
                    }),
                )],
                &[data, data],
            ),
        ),
        (
            "copy-mode-text",
            copied(pb::FileActionCopy {
                mode_str: "u+x,g-r".to_owned(),
                ..copy("/d/a", "/x")
            }),
        ),
        (
            "copy-unpacked",
            copied(pb::FileActionCopy {
                attempt_unpack_docker_compatibility: true,
                ..copy("/d/a", "/x")
            }),
        ),
        (
            "copy-replacing",
            copied(pb::FileActionCopy {
                always_replace_existing_dest_paths: true,
                timestamp: 1_000_000_000,
                ..copy("/d", "/x")
            }),
        ),
        (
            "copy-missing-wildcard",
            copied(pb::FileActionCopy {
                allow_wildcard: true,
                allow_empty_wildcard: true,
                ..copy("/nothing*", "/x")
            }),
        ),
        (
            "copy-from-itself",
            file_op(
                vec![action(0, 0, 0, Action::Copy(copy("/d/a", "/x")))],
                &[data],
            ),
        ),
        (
            "make-file",
            alone(Action::Mkfile(pb::FileActionMkFile {
                owner: Some(pb::ChownOpt {
                    user: Some(numbered(3)),
                    group: None,
                }),
                timestamp: 5,
                ..make_file("/made", b"<data>\0\xff")
            })),
        ),
        (
            "make-directory",
            alone(Action::Mkdir(pb::FileActionMkDir {
                path: "/made/deep".to_owned(),
                mode: 0o700,
                make_parents: true,
                timestamp: -1,
                ..pb::FileActionMkDir::default()
            })),
        ),
        (
            "remove",
            alone(Action::Rm(pb::FileActionRm {
                path: "/nothing*".to_owned(),
                allow_not_found: true,
                allow_wildcard: true,
            })),
        ),
        (
            "several-outputs",
            Edge {
                index: 1,
                ..file_op(
                    vec![
                        action(0, -1, 0, Action::Mkfile(make_file("/one", b"1"))),
                        action(2, 1, 1, Action::Copy(copy("/d/a", "/two"))),
                        action(-1, 1, 2, Action::Copy(copy("/d/e/b", "/three"))),
                    ],
                    &[busybox, data],
                )
            },
        ),
        (
            "chained",
            file_op(
                vec![
                    action(0, -1, -1, Action::Mkfile(make_file("/one", b"1"))),
                    action(2, 1, -1, Action::Copy(copy("/d/a", "/two"))),
                    action(3, 1, 0, Action::Copy(copy("/d/e", "/three"))),
                ],
                &[busybox, data],
            ),
        ),
    ]
}
