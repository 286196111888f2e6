//! A graph for each cap of LLB, which says that it needs it and does.

use std::sync::Arc;

use kiln_llb::{Edge, VertexOptions};
use kiln_proto::pb;
use pb::file_action::Action;
use pb::op::Op;

use crate::vectors::graphs::{
    action, bind, copy, exec, file, file_op, image, make_file, meta, of_type, root, run, run_op,
    source,
};
use crate::vectors::vertex;

/// What graphs need that only the daemon's surroundings know.
pub(super) struct Places {
    pub(super) web: String,
    pub(super) git: String,
    pub(super) commit: String,
    pub(super) session: String,
    /// Of the image `busybox`.
    pub(super) digest: String,
}

/// How far a graph is taken.
pub(super) enum Use {
    /// Made.
    Made(Edge),
    /// Read and accepted only, since making it needs what isn't here: a password, a layout.
    Read(Edge),
}

/// The graph that uses the cap; `None` for what isn't of graphs.
pub(super) fn using(cap: &str, places: &Places) -> Option<Use> {
    let used = sources(cap, places)
        .or_else(|| steps(cap).map(Use::Made))
        .or_else(|| files(cap).map(Use::Made))?;
    Some(match used {
        Use::Made(edge) => Use::Made(needing(edge, cap)),
        Use::Read(edge) => Use::Read(needing(edge, cap)),
    })
}

/// The graph with a claim on the cap.
pub(super) fn needing(mut edge: Edge, cap: &str) -> Edge {
    options(&mut edge).caps.insert(cap.to_owned());
    edge
}

/// The options of a vertex that was just made.
#[expect(
    clippy::expect_used,
    reason = "a test may panic where it is wrong itself"
)]
fn options(edge: &mut Edge) -> &mut VertexOptions {
    let vertex = Arc::get_mut(&mut edge.vertex);
    &mut vertex.expect("nobody else has the vertex yet").options
}

/// A step that needs nothing.
pub(super) fn plain() -> Edge {
    run("true", Vec::new(), &[&image("busybox")])
}

fn sources(cap: &str, places: &Places) -> Option<Use> {
    const BUSYBOX: &str = "docker-image://docker.io/library/busybox:latest";
    let host = places.git.trim_start_matches("http://");
    let git = |fragment: &str, attributes: &[(&str, &str)]| {
        let mut all = vec![("git.fullurl", places.git.as_str())];
        all.extend(attributes);
        source(&format!("git://{host}{fragment}"), &all)
    };
    let local = |attributes: &[(&str, &str)]| source("local://context", attributes);
    let web = |attributes: &[(&str, &str)]| source(&places.web, attributes);
    let contents = kiln_oci::Digest::of("from the web").to_string();
    Some(Use::Made(match cap {
        "source.image" => source(BUSYBOX, &[]),
        "source.image.resolvemode" => source(BUSYBOX, &[("image.resolvemode", "local")]),
        "source.image.layerlimit" => source(BUSYBOX, &[("image.layerlimit", "1")]),
        "source.image.checksum" => source(BUSYBOX, &[("image.checksum", &places.digest)]),
        "source.ocilayout" => {
            let layout = format!("oci-layout://context/layout@{}", places.digest);
            return Some(Use::Read(source(&layout, &[("oci.store", "layout")])));
        }
        "source.local" => local(&[]),
        "source.local.unique" => local(&[("local.unique", "u")]),
        "source.local.sessionid" => local(&[("local.session", &places.session)]),
        "source.local.includepatterns" => local(&[("local.includepattern", r#"["f"]"#)]),
        "source.local.followpaths" => local(&[("local.followpaths", r#"["f"]"#)]),
        "source.local.excludepatterns" => local(&[("local.excludepatterns", r#"["g"]"#)]),
        "source.local.sharedkeyhint" => local(&[("local.sharedkeyhint", "hint")]),
        "source.local.differ" => local(&[("local.differ", "none")]),
        "source.local.metadatatransfer" => local(&[
            ("local.metadatatransfer", "true"),
            ("local.metadatatransferexclude", r#"["f"]"#),
        ]),
        "source.git" | "source.git.fullurl" => git("#main", &[]),
        "source.git.keepgitdir" => git("#main", &[("git.keepgitdir", "true")]),
        "source.git.httpauth" => {
            return Some(Use::Read(git("#main", &[("git.authtokensecret", "t")])));
        }
        "source.git.knownsshhosts" => git("#main", &[("git.knownsshhosts", "")]),
        "source.git.mountsshsock" => {
            return Some(Use::Read(git("#main", &[("git.mountsshsock", "default")])));
        }
        "source.git.subdir" => git("#main:sub", &[]),
        "source.git.checksum" => git("#main", &[("git.checksum", &places.commit)]),
        "source.git.skipsubmodules" => git("#main", &[("git.skipsubmodules", "true")]),
        "source.git.mtime" => git("#main", &[("git.mtime", "commit")]),
        "source.git.fetchbycommit" => git(
            "#main",
            &[
                ("git.checksum", &places.commit),
                ("git.fetchbycommit", "true"),
            ],
        ),
        "source.http" => web(&[]),
        "source.http.auth" => {
            return Some(Use::Read(web(&[("http.authheadersecret", "t")])));
        }
        "source.http.header" => web(&[("http.header.accept", "*/*")]),
        "source.http.checksum" => web(&[("http.checksum", &contents)]),
        "source.http.perm" => web(&[("http.perm", "0600")]),
        "soruce.http.uidgid" => web(&[("http.uid", "3"), ("http.gid", "4")]),
        "source.buildop.llbfilename" => nested(),
        _ => return None,
    }))
}

/// A definition in a file of a name of its own.
fn nested() -> Edge {
    let inner = kiln_llb::definition_bytes(&kiln_llb::definition(Some(&file("/f", b"f"))));
    let input = (
        "buildkit.llb.definition".to_owned(),
        pb::BuildInput { input: 0 },
    );
    let op = pb::BuildOp {
        builder: -1,
        inputs: [input].into(),
        def: None,
        attrs: [("llbbuild.filename".to_owned(), "/other.llb".to_owned())].into(),
    };
    vertex(Op::Build(op), &[&file("/other.llb", &inner)], None)
}

fn steps(cap: &str) -> Option<Edge> {
    use pb::{CacheSharingOpt, MountContentCache, MountType};
    let busybox = &image("busybox");
    let data = &file("/f", b"f");
    let with = |meta: pb::Meta| run_op(exec(meta, vec![root()]), &[busybox]);
    let mounting = |mount: pb::Mount| run("true", vec![mount], &[busybox, data]);
    let cache = |sharing: CacheSharingOpt| pb::Mount {
        cache_opt: Some(pb::CacheOpt {
            id: "caps".to_owned(),
            sharing: sharing as i32,
        }),
        ..of_type(MountType::Cache, "/in")
    };
    let plain = || exec(meta("true"), vec![root()]);
    Some(match cap {
        "exec.meta.base" | "exec.meta.security.devices.v1" | "constraints" | "platform" => {
            with(meta("true"))
        }
        "exec.meta.cgroup.parent" => with(pb::Meta {
            cgroup_parent: "caps".to_owned(),
            ..meta("true")
        }),
        "exec.meta.proxyenv" => with(pb::Meta {
            proxy_env: Some(pb::ProxyEnv {
                no_proxy: "x".to_owned(),
                ..pb::ProxyEnv::default()
            }),
            ..meta("true")
        }),
        "exec.meta.network" => run_op(
            pb::ExecOp {
                network: pb::NetMode::None as i32,
                ..plain()
            },
            &[busybox],
        ),
        "exec.meta.setsdefaultpath" => with(pb::Meta {
            env: Vec::new(),
            ..meta("true")
        }),
        "exec.meta.security" => run_op(
            pb::ExecOp {
                security: pb::SecurityMode::Insecure as i32,
                ..plain()
            },
            &[busybox],
        ),
        "exec.meta.ulimit" => with(pb::Meta {
            ulimit: vec![pb::Ulimit {
                name: "nofile".to_owned(),
                soft: 100,
                hard: 200,
            }],
            ..meta("[ $(ulimit -n) = 100 ]")
        }),
        "exec.meta.removemountstubs.recursive" => with(pb::Meta {
            remove_mount_stubs_recursive: true,
            ..meta("true")
        }),
        "exec.mount.bind" => run(
            "[ -f /in/f ]",
            vec![bind(1, "", "/in", true)],
            &[busybox, data],
        ),
        "exec.mount.bind.readwrite-nooutput" => run(
            "rm /in/f",
            vec![bind(1, "", "/in", false)],
            &[busybox, data],
        ),
        "exec.mount.cache" => mounting(cache(CacheSharingOpt::Shared)),
        "exec.mount.cache.sharing" => mounting(cache(CacheSharingOpt::Locked)),
        "exec.mount.selector" => run(
            "[ -f /in ]",
            vec![bind(1, "/f", "/in", true)],
            &[busybox, data],
        ),
        "exec.mount.tmpfs" => mounting(of_type(MountType::Tmpfs, "/in")),
        "exec.mount.tmpfs.size" => mounting(pb::Mount {
            tmpfs_opt: Some(pb::TmpfsOpt { size: 1 << 20 }),
            ..of_type(MountType::Tmpfs, "/in")
        }),
        "exec.mount.secret" => run(
            "[ -s /in ]",
            vec![pb::Mount {
                secret_opt: Some(pb::SecretOpt {
                    id: "s".to_owned(),
                    mode: 0o400,
                    ..pb::SecretOpt::default()
                }),
                ..of_type(MountType::Secret, "/in")
            }],
            &[busybox],
        ),
        "exec.mount.ssh" => mounting(pb::Mount {
            ssh_opt: Some(pb::SshOpt {
                id: "default".to_owned(),
                optional: true,
                ..pb::SshOpt::default()
            }),
            ..of_type(MountType::Ssh, "/in")
        }),
        "exec.mount.cache.content" => mounting(pb::Mount {
            content_cache: MountContentCache::On as i32,
            ..bind(1, "", "/in", true)
        }),
        "exec.cgroup" => with(meta("[ -d /sys/fs/cgroup ]")),
        "exec.secretenv" => run_op(
            pb::ExecOp {
                secretenv: vec![pb::SecretEnv {
                    id: "s".to_owned(),
                    name: "S".to_owned(),
                    optional: false,
                }],
                ..exec(meta("[ -n \"$S\" ]"), vec![root()])
            },
            &[busybox],
        ),
        "exec.validexitcode" => with(pb::Meta {
            valid_exit_codes: vec![7],
            ..meta("exit 7")
        }),
        "meta.ignorecache" | "meta.description" | "meta.exportcache" => {
            let mut edge = with(meta("true"));
            let options = options(&mut edge);
            options.ignore_cache = cap == "meta.ignorecache";
            options.description = [("llb.customname".to_owned(), cap.to_owned())].into();
            options.export_cache = Some(true);
            edge
        }
        "mergeop" => {
            let inputs = vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }];
            vertex(Op::Merge(pb::MergeOp { inputs }), &[busybox, data], None)
        }
        "diffop" => {
            let op = pb::DiffOp {
                lower: Some(pb::LowerDiffInput { input: -1 }),
                upper: Some(pb::UpperDiffInput { input: 0 }),
            };
            vertex(Op::Diff(op), &[data], None)
        }
        _ => return None,
    })
}

fn files(cap: &str) -> Option<Edge> {
    let (busybox, data) = (&image("busybox"), &file("/f", b"f"));
    let one = |action_: Action| file_op(vec![action(0, -1, 0, action_)], &[data]);
    let copied = |copy: pb::FileActionCopy| {
        file_op(vec![action(0, 1, 0, Action::Copy(copy))], &[busybox, data])
    };
    let remove = |path: &str, wildcard: bool| {
        one(Action::Rm(pb::FileActionRm {
            path: path.to_owned(),
            allow_wildcard: wildcard,
            ..pb::FileActionRm::default()
        }))
    };
    Some(match cap {
        "file.base" => one(Action::Mkfile(make_file("/g", b"g"))),
        "file.rm.wildcard" => remove("/*", true),
        "file.rm.nofollowsymlink" => remove("/f", false),
        "file.copy.includeexcludepatterns" => copied(pb::FileActionCopy {
            include_patterns: vec!["f".to_owned()],
            exclude_patterns: vec!["g".to_owned()],
            dir_copy_contents: true,
            ..copy("/", "/in")
        }),
        "file.copy.requiredpaths" => copied(pb::FileActionCopy {
            required_paths: vec!["f".to_owned()],
            dir_copy_contents: true,
            ..copy("/", "/in")
        }),
        "file.copy.alwaysreplaceexistingdestpaths" => copied(pb::FileActionCopy {
            always_replace_existing_dest_paths: true,
            ..copy("/f", "/bin/sh")
        }),
        "file.copy.modestring" => copied(pb::FileActionCopy {
            mode_str: "u+x".to_owned(),
            ..copy("/f", "/x")
        }),
        "file.symlink.create" => one(Action::Symlink(pb::FileActionSymlink {
            oldpath: "f".to_owned(),
            newpath: "/l".to_owned(),
            timestamp: -1,
            ..pb::FileActionSymlink::default()
        })),
        _ => return None,
    })
}
