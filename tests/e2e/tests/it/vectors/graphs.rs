//! The graphs. Every step has the host's network, because the real daemon has no other here.

use kiln_llb::Edge;
use kiln_proto::pb;
use pb::file_action::Action;
use pb::op::Op;

use super::vertex;

mod files;
mod mounts;

/// All graphs by name.
pub(super) fn all(web: &str, git: &str) -> Vec<(&'static str, Edge)> {
    let busybox = &image("busybox");
    let mut all = sources(web, git, busybox);
    all.extend(mounts::all(busybox));
    all.extend(steps(busybox));
    all.extend(files::all(busybox));
    all.extend(combined(busybox));
    all
}

fn platform() -> pb::Platform {
    pb::Platform {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        ..pb::Platform::default()
    }
}

pub(crate) fn source(identifier: &str, attributes: &[(&str, &str)]) -> Edge {
    let source = pb::SourceOp {
        identifier: identifier.to_owned(),
        attrs: attributes
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    };
    let platform = identifier.starts_with("docker-image://").then(platform);
    vertex(Op::Source(source), &[], platform)
}

pub(crate) fn image(name: &str) -> Edge {
    source(
        &format!("docker-image://docker.io/library/{name}:latest"),
        &[],
    )
}

pub(crate) fn meta(command: &str) -> pb::Meta {
    pb::Meta {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin:/usr/bin".to_owned()],
        cwd: "/".to_owned(),
        ..pb::Meta::default()
    }
}

pub(crate) fn root() -> pb::Mount {
    pb::Mount {
        input: 0,
        dest: "/".to_owned(),
        output: 0,
        ..pb::Mount::default()
    }
}

/// A mount of another input that makes no output.
pub(crate) fn bind(input: i64, selector: &str, dest: &str, readonly: bool) -> pb::Mount {
    pb::Mount {
        input,
        selector: selector.to_owned(),
        dest: dest.to_owned(),
        output: -1,
        readonly,
        ..pb::Mount::default()
    }
}

pub(crate) fn of_type(kind: pb::MountType, dest: &str) -> pb::Mount {
    pb::Mount {
        mount_type: kind as i32,
        ..bind(-1, "", dest, false)
    }
}

pub(crate) fn exec(meta: pb::Meta, mounts: Vec<pb::Mount>) -> pb::ExecOp {
    pb::ExecOp {
        meta: Some(meta),
        mounts,
        network: pb::NetMode::Host as i32,
        ..pb::ExecOp::default()
    }
}

pub(crate) fn run_op(op: pb::ExecOp, inputs: &[&Edge]) -> Edge {
    vertex(Op::Exec(op), inputs, Some(platform()))
}

pub(crate) fn run(command: &str, mounts: Vec<pb::Mount>, inputs: &[&Edge]) -> Edge {
    let mounts = std::iter::once(root()).chain(mounts).collect();
    run_op(exec(meta(command), mounts), inputs)
}

pub(crate) fn file_op(actions: Vec<pb::FileAction>, inputs: &[&Edge]) -> Edge {
    vertex(Op::File(pb::FileOp { actions }), inputs, None)
}

pub(crate) fn action(input: i64, secondary: i64, output: i64, action: Action) -> pb::FileAction {
    pb::FileAction {
        input,
        secondary_input: secondary,
        output,
        action: Some(action),
    }
}

pub(crate) fn make_file(path: &str, data: &[u8]) -> pb::FileActionMkFile {
    pb::FileActionMkFile {
        path: path.to_owned(),
        mode: 0o644,
        data: data.to_vec(),
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    }
}

pub(crate) fn file(path: &str, data: &[u8]) -> Edge {
    file_op(
        vec![action(-1, -1, 0, Action::Mkfile(make_file(path, data)))],
        &[],
    )
}

pub(crate) fn copy(from: &str, to: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: from.to_owned(),
        dest: to.to_owned(),
        mode: -1,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    }
}

fn sources(web: &str, git: &str, busybox: &Edge) -> Vec<(&'static str, Edge)> {
    let host = git.trim_start_matches("http://");
    let git = |fragment: &str, attributes: &[(&str, &str)]| {
        let mut all = vec![("git.fullurl", git)];
        all.extend(attributes);
        source(&format!("git://{host}{fragment}"), &all)
    };
    let used = |source: Edge| {
        let action = action(0, 1, 0, Action::Copy(copy("/", "/copied")));
        file_op(vec![action], &[busybox, &source])
    };
    vec![
        ("http", used(source(web, &[]))),
        (
            "http-attributes",
            used(source(
                web,
                &[
                    ("http.filename", "named"),
                    ("http.perm", "0640"),
                    ("http.uid", "3"),
                    ("http.gid", "4"),
                ],
            )),
        ),
        ("git", used(git("#main", &[]))),
        ("git-tag", used(git("#v1", &[]))),
        ("git-subdirectory", used(git("#main:sub", &[]))),
        // By its own key only: the contents of `.git` aren't the same twice.
        (
            "git-kept",
            run(
                "true",
                vec![pb::Mount {
                    content_cache: pb::MountContentCache::Off as i32,
                    ..bind(1, "", "/in", true)
                }],
                &[busybox, &git("#main", &[("git.keepgitdir", "true")])],
            ),
        ),
        (
            "git-without-submodules",
            used(git("#main", &[("git.skipsubmodules", "true")])),
        ),
        (
            "image-layer-limit",
            run(
                "true",
                Vec::new(),
                &[&source(
                    "docker-image://docker.io/library/busybox:latest",
                    &[("image.layerlimit", "1")],
                )],
            ),
        ),
    ]
}

fn steps(busybox: &Edge) -> Vec<(&'static str, Edge)> {
    let plain = |meta: pb::Meta| exec(meta, vec![root()]);
    let with = |meta: pb::Meta| run_op(plain(meta), &[busybox]);
    let on =
        |platform: pb::Platform| vertex(Op::Exec(plain(meta("true"))), &[busybox], Some(platform));
    vec![
        ("plain", with(meta("true && echo '<>&' \u{2028}"))),
        (
            "network-none",
            run_op(
                pb::ExecOp {
                    network: pb::NetMode::None as i32,
                    ..plain(meta("true"))
                },
                &[busybox],
            ),
        ),
        (
            "security-insecure",
            run_op(
                pb::ExecOp {
                    security: pb::SecurityMode::Insecure as i32,
                    ..plain(meta("true"))
                },
                &[busybox],
            ),
        ),
        (
            "secret-variable",
            run_op(
                pb::ExecOp {
                    secretenv: vec![pb::SecretEnv {
                        id: "s".to_owned(),
                        name: "S".to_owned(),
                        optional: true,
                    }],
                    ..plain(meta("true"))
                },
                &[busybox],
            ),
        ),
        (
            "meta",
            with(pb::Meta {
                cwd: "/tmp".to_owned(),
                user: "12:34".to_owned(),
                hostname: "named".to_owned(),
                ulimit: vec![pb::Ulimit {
                    name: "nofile".to_owned(),
                    soft: 100,
                    hard: 200,
                }],
                ..meta("true")
            }),
        ),
        (
            "hosts",
            with(pb::Meta {
                extra_hosts: vec![pb::HostIp {
                    host: "other".to_owned(),
                    ip: "10.1.2.3".to_owned(),
                }],
                ..meta("true")
            }),
        ),
        (
            "proxies",
            with(pb::Meta {
                proxy_env: Some(pb::ProxyEnv {
                    http_proxy: "http://proxy".to_owned(),
                    ..pb::ProxyEnv::default()
                }),
                ..meta("true")
            }),
        ),
        (
            "exit-codes",
            with(pb::Meta {
                valid_exit_codes: vec![0, 7],
                ..meta("exit 7")
            }),
        ),
        (
            "stubs",
            with(pb::Meta {
                remove_mount_stubs_recursive: true,
                ..meta("true")
            }),
        ),
        (
            "platform-version",
            on(pb::Platform {
                os_version: "1.2".to_owned(),
                os_features: vec!["a".to_owned(), "b".to_owned()],
                ..platform()
            }),
        ),
        (
            "platform-none",
            vertex(Op::Exec(plain(meta("true"))), &[busybox], None),
        ),
        (
            "two-steps",
            run("echo 2", Vec::new(), &[&with(meta("echo 1"))]),
        ),
    ]
}

fn combined(busybox: &Edge) -> Vec<(&'static str, Edge)> {
    let merge = |inputs: &[&Edge]| {
        let op = pb::MergeOp {
            inputs: (0..inputs.len() as i64)
                .map(|input| pb::MergeInput { input })
                .collect(),
        };
        vertex(Op::Merge(op), inputs, None)
    };
    let diff = |lower: i64, upper: i64, inputs: &[&Edge]| {
        let op = pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: lower }),
            upper: Some(pb::UpperDiffInput { input: upper }),
        };
        vertex(Op::Diff(op), inputs, None)
    };
    let (one, two) = (&file("/1", b"1"), &file("/2", b"2"));
    let changed = &run("echo changed > /changed", Vec::new(), &[busybox]);
    let nested = kiln_llb::definition_bytes(&kiln_llb::definition(Some(changed)));
    let build = |attributes: &[(&str, &str)], path: &str| {
        let input = (
            "buildkit.llb.definition".to_owned(),
            pb::BuildInput { input: 0 },
        );
        let op = pb::BuildOp {
            builder: -1,
            inputs: [input].into(),
            def: None,
            attrs: attributes
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        let definition = file(path, &nested);
        vertex(Op::Build(op), &[&definition], None)
    };
    vec![
        ("merge", merge(&[busybox, one])),
        ("merge-of-three", merge(&[one, two, changed])),
        (
            "merge-then-run",
            run("true", Vec::new(), &[&merge(&[busybox, one])]),
        ),
        ("diff", diff(0, 1, &[busybox, changed])),
        ("diff-from-nothing", diff(-1, 0, &[one])),
        ("diff-to-nothing", diff(0, -1, &[one])),
        ("diff-unrelated", diff(0, 1, &[one, two])),
        (
            "merge-of-diff",
            merge(&[one, &diff(0, 1, &[busybox, changed])]),
        ),
        ("build", build(&[], "/buildkit.llb.definition")),
        (
            "build-of-a-file",
            build(&[("llbbuild.filename", "other.llb")], "/other.llb"),
        ),
    ]
}
