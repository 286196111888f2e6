//! `RUN`.

use std::collections::BTreeMap;

use kiln_llb::{Exec, FileChain, Mount, MountKind as LlbMountKind, Secret, VertexOptions};
use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;

use super::dispatch::add_context_path;
use super::env::Masked;
use super::error::{Problem, Result};
use super::image::with_shell;
use super::outline::Need;
use super::plan::Output;
use super::stage::{StageId, StageState};
use super::{COMMAND, Converter, SCRATCH, checks, name};
use crate::instruction::{self, Command, MountKind, Run, Sharing, parse_mount};
use crate::lint::Linter;
use crate::parse::{Lines, chomp, heredoc_of_word};
use crate::shell::{Lexer, Variables};
use crate::text::{base, clean, join};

/// What a step gets beside its root.
#[derive(Default)]
struct Mounts {
    /// Each with the node that it is from.
    dirs: Vec<(Mount, Output)>,
    secrets: Vec<Secret>,
    ssh: Vec<pb::Mount>,
    /// Variables that hold secrets.
    masks: BTreeMap<String, String>,
}

impl Converter<'_> {
    pub(super) fn run(
        &mut self,
        stage: &mut StageState,
        command: &Command,
        run: &Run,
        sources: &[StageId],
        lint: &Linter,
    ) -> Result<()> {
        // A command can read any file.
        stage.paths.add("/");
        let mut mounts = Mounts::default();
        let (mut args, summary) = self.command(stage, run, &mut mounts)?;
        if run.command.shell {
            args = with_shell(stage, &args);
        }
        self.mounts(stage, command, run, sources, &mut mounts, lint)?;

        let env = stage.state.env.clone();
        let shown_env = Masked {
            env: &env,
            masks: std::mem::take(&mut mounts.masks),
        };
        let lexer = Lexer {
            raw_quotes: true,
            keep_unset: true,
            ..self.lexer
        };
        let code = format!("{}{summary}", command.code);
        let shown = name::shown(lexer, &code, &shown_env);
        let platform = stage.state.platform.clone();
        let prefix = platform.as_ref().and_then(|p| self.prefix(p, &env));
        let title = name::numbered(stage, &shown, prefix);
        let mut options = self.vertex_options(title, command.lines);
        let description = (COMMAND.to_owned(), command.code.clone());
        options.description.extend([description]);
        options.ignore_cache = stage.ignore_cache;
        // The engine sets PATH where a step has none.
        options.caps.insert("exec.meta.setsdefaultpath".to_owned());

        let history = history(&args, &stage.build_args, &env);
        let exec = self.exec(stage, run, args, &mut mounts);
        let platform = crate::ui::to_pb(platform.as_ref().unwrap_or(&self.platforms.target));
        let root = stage.state.out;
        let dirs = mounts.dirs;
        stage.state.out = Some(self.plan.make(move |made| {
            let mut exec = exec;
            exec.mounts.push(Mount {
                dest: "/".to_owned(),
                source: made.edge(root),
                ..Mount::default()
            });
            exec.mounts
                .extend(dirs.into_iter().map(|(mount, from)| Mount {
                    source: made.edge(from),
                    ..mount
                }));
            exec.build(Some(platform), options).root()
        }));
        self.commit(stage, format!("RUN {history} # buildkit"), true);
        Ok(())
    }

    /// The command with its heredocs, and what its name says of them.
    fn command(
        &mut self,
        stage: &StageState,
        run: &Run,
        mounts: &mut Mounts,
    ) -> Result<(Vec<String>, String)> {
        let line = &run.command;
        let Some(file) = line.files.first() else {
            return Ok((line.args.clone(), String::new()));
        };
        let ([text], true) = (line.args.as_slice(), line.shell) else {
            return Err(Problem::RunCommand(line.args.clone()).into());
        };
        if heredoc_of_word(text).is_none() {
            // The shell reads the heredocs itself.
            let mut all = text.clone();
            for file in &line.files {
                all.push('\n');
                all.push_str(&file.content);
                all.push_str(&file.name);
            }
            return Ok((vec![all], String::new()));
        }
        let data = if file.chomp {
            chomp(&file.content)
        } else {
            file.content.clone()
        };
        let trimmed = file.content.trim();
        let first = trimmed.lines().next().unwrap_or("");
        let more = if trimmed.contains('\n') { "..." } else { "" };
        let summary = format!(" ({first}{more})");
        if stage.image.platform.os == "windows" || !data.starts_with("#!") {
            return Ok((vec![data], summary));
        }
        // A script with an interpreter of its own is a file.
        let node = self.inline_file(&file.name, 0o755, data.into_bytes());
        mounts.dirs.push((
            Mount {
                dest: "/dev/pipes/".to_owned(),
                selector: "/".to_owned(),
                readonly: true,
                ..Mount::default()
            },
            Some(node),
        ));
        Ok((vec![join(&["/dev/pipes/", &file.name])], summary))
    }

    /// A file with text of the Dockerfile.
    pub(super) fn inline_file(
        &mut self,
        path: &str,
        mode: i32,
        data: Vec<u8>,
    ) -> super::plan::NodeId {
        let mut chain = FileChain::new(None);
        chain.act(Action::Mkfile(pb::FileActionMkFile {
            path: join(&["/", path]),
            mode,
            data,
            owner: None,
            timestamp: -1,
        }));
        let options = VertexOptions::named("[internal] preparing inline document");
        self.plan.ready(Some(chain.build(options)))
    }

    fn exec(&self, stage: &StageState, run: &Run, args: Vec<String>, mounts: &mut Mounts) -> Exec {
        let caps = |cap: &str| self.contexts.bridge.has_cap(cap);
        let options = self.options;
        let mut env = stage.state.env.clone();
        if let Some(first) = mounts.ssh.first()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", &first.dest);
        }
        let mut meta = pb::Meta {
            args,
            env: env.to_list(),
            cwd: stage.state.dir.clone(),
            user: stage.state.user.clone(),
            hostname: stage.state.hostname.clone(),
            extra_hosts: options.extra_hosts.clone(),
            proxy_env: self.proxies.clone(),
            ..pb::Meta::default()
        };
        if caps("exec.meta.ulimit") {
            meta.ulimit.clone_from(&options.ulimits);
        }
        if caps("exec.meta.cgroup.parent") {
            meta.cgroup_parent.clone_from(&options.cgroup_parent);
        }
        if options.shm_size > 0 && caps("exec.mount.tmpfs.size") {
            mounts.dirs.push((
                Mount {
                    dest: "/dev/shm".to_owned(),
                    kind: LlbMountKind::Tmpfs {
                        size: options.shm_size,
                    },
                    ..Mount::default()
                },
                None,
            ));
        }
        let devices = run.devices.iter().filter(|_| caps("exec.meta.cdi"));
        Exec {
            meta,
            network: match run.network.as_str() {
                "none" => pb::NetMode::None,
                "host" => pb::NetMode::Host,
                _ => stage.state.network,
            },
            security: match run.security.as_str() {
                "insecure" => pb::SecurityMode::Insecure,
                _ => pb::SecurityMode::Sandbox,
            },
            mounts: Vec::new(),
            secrets: std::mem::take(&mut mounts.secrets),
            ssh: std::mem::take(&mut mounts.ssh),
            devices: devices
                .map(|device| pb::CdiDevice {
                    name: device.name.clone(),
                    optional: !device.required,
                })
                .collect(),
        }
    }

    fn mounts(
        &mut self,
        stage: &mut StageState,
        command: &Command,
        run: &Run,
        sources: &[StageId],
        mounts: &mut Mounts,
        lint: &Linter,
    ) -> Result<()> {
        let lines = command.lines;
        for (text, source) in run.mounts.iter().zip(sources) {
            let env = &stage.state.env;
            let mut expand = |word: &str| {
                let expanded = self.lexer.expand(word, env)?;
                let args = &stage.build_args;
                checks::undefined(&expanded.unmatched, args, env, lines, lint);
                Ok(expanded.text)
            };
            let mount = parse_mount(text, &mut expand)?;
            match mount.kind {
                MountKind::Secret => secret(stage, mount, lines, mounts)?,
                MountKind::Ssh => ssh(stage, &mount, lines, mounts)?,
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {
                    self.dir(stage, mount, *source, mounts)?;
                }
            }
        }
        Ok(())
    }

    /// A bind, cache or tmpfs mount.
    fn dir(
        &mut self,
        stage: &mut StageState,
        mut mount: instruction::Mount,
        source: StageId,
        mounts: &mut Mounts,
    ) -> Result<()> {
        if mount.from.is_empty() && mount.kind == MountKind::Cache {
            SCRATCH.clone_into(&mut mount.from);
        }
        let mut from = Some(self.main_context);
        if !mount.from.is_empty() {
            let source = &self.stages.all[source];
            if !source.dispatched {
                return Err(Problem::MountOrder {
                    from: mount.from,
                    target: mount.target,
                }
                .into());
            }
            from = source.state.out;
        }
        let mut llb = Mount {
            readonly: mount.readonly,
            ..Mount::default()
        };
        match mount.kind {
            MountKind::Tmpfs => {
                from = None;
                llb.kind = LlbMountKind::Tmpfs { size: mount.size };
            }
            MountKind::Cache => {
                let id = if mount.id.is_empty() {
                    clean(&mount.target)
                } else {
                    mount.id.clone()
                };
                llb.kind = LlbMountKind::Cache {
                    id: format!("{}/{id}", self.options.cache_namespace),
                    sharing: match mount.sharing {
                        None | Some(Sharing::Shared) => pb::CacheSharingOpt::Shared,
                        Some(Sharing::Private) => pb::CacheSharingOpt::Private,
                        Some(Sharing::Locked) => pb::CacheSharingOpt::Locked,
                    },
                };
            }
            _ => {
                let cap = "exec.mount.bind.readwrite-nooutput";
                llb.no_output = !mount.readonly && self.contexts.bridge.has_cap(cap);
            }
        }
        llb.dest = if mount.target.starts_with('/') {
            mount.target.clone()
        } else {
            join(&["/", &stage.state.dir, &mount.target])
        };
        if llb.dest == "/" {
            return Err(Problem::MountTarget(llb.dest).into());
        }
        let path = join(&["/", &mount.source]);
        if path != "/" {
            llb.selector = path;
        } else if mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some() {
            from = Some(self.owned_cache(from, &mount));
            "/cache".clone_into(&mut llb.selector);
        }
        if mount.from.is_empty() {
            add_context_path(stage, &mount.source);
        } else {
            self.stages.all[source].paths.add(&mount.source);
        }
        mounts.dirs.push((llb, from));
        Ok(())
    }

    /// A directory with the owner and mode that a cache mount starts with.
    fn owned_cache(&mut self, from: Output, mount: &instruction::Mount) -> super::plan::NodeId {
        let id = |id: Option<u32>| {
            Some(pb::UserOpt {
                user: Some(pb::user_opt::User::ById(id.unwrap_or(0))),
            })
        };
        let action = pb::FileActionMkDir {
            path: "/cache".to_owned(),
            mode: (mount.mode.unwrap_or(0o755) & 0o777) as i32,
            make_parents: false,
            owner: Some(pb::ChownOpt {
                user: id(mount.uid),
                group: id(mount.gid),
            }),
            timestamp: -1,
        };
        self.plan.make(move |made| {
            let mut chain = FileChain::new(made.edge(from));
            chain.act(Action::Mkdir(action));
            let title = "[internal] setting cache mount permissions";
            Some(chain.build(VertexOptions::named(title)))
        })
    }
}

fn secret(
    stage: &mut StageState,
    mount: instruction::Mount,
    lines: Lines,
    mounts: &mut Mounts,
) -> Result<()> {
    let id = [mount.source, mount.id, base(&mount.target).to_owned()]
        .into_iter()
        .find(|id| !id.is_empty())
        .filter(|id| id != ".")
        .ok_or(Problem::SecretName)?;
    let target = match (mount.target.is_empty(), &mount.env) {
        (false, _) => Some(mount.target),
        (true, None) => Some(format!("/run/secrets/{}", base(&id))),
        (true, Some(_)) => None,
    };
    let need = Need {
        required: mount.required,
        lines,
    };
    stage.outline.secrets.entry(id.clone()).or_insert(need);
    if let Some(name) = &mount.env {
        mounts.masks.insert(name.clone(), "****".to_owned());
    }
    mounts.secrets.push(Secret {
        id,
        target,
        env: mount.env,
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o400),
        optional: !mount.required,
    });
    Ok(())
}

fn ssh(
    stage: &mut StageState,
    mount: &instruction::Mount,
    lines: Lines,
    mounts: &mut Mounts,
) -> Result<()> {
    if !mount.source.is_empty() {
        return Err(Problem::SshSource.into());
    }
    let id = instruction::single(&mount.id, "default");
    let need = Need {
        required: mount.required,
        lines,
    };
    stage.outline.ssh.entry(id).or_insert(need);
    let target = if mount.target.is_empty() {
        format!("/run/buildkit/ssh_agent.{}", mounts.ssh.len())
    } else {
        mount.target.clone()
    };
    mounts.ssh.push(pb::Mount {
        input: -1,
        dest: target,
        mount_type: pb::MountType::Ssh.into(),
        ssh_opt: Some(pb::SshOpt {
            id: mount.id.clone(),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            mode: mount.mode.unwrap_or(0o600),
            optional: !mount.required,
        }),
        ..pb::Mount::default()
    });
    Ok(())
}

/// The command as the history shows it, with the arguments that it saw.
fn history(args: &[String], build_args: &[instruction::ArgDefinition], env: &super::Env) -> String {
    let mut seen: Vec<(&str, String)> = Vec::new();
    for arg in build_args {
        let value = env.get(&arg.key).map(str::to_owned);
        let value = value.or_else(|| arg.value.clone()).unwrap_or_default();
        let entry = format!("{}={value}", arg.key);
        match seen.iter_mut().find(|(key, _)| *key == arg.key) {
            Some(known) => known.1 = entry,
            None => seen.push((&arg.key, entry)),
        }
    }
    let mut words = Vec::new();
    if !seen.is_empty() {
        words.push(format!("|{}", seen.len()));
        words.extend(seen.into_iter().map(|(_, entry)| entry));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}
