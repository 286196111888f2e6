//! Composes exec ops: sorts the mounts, numbers inputs and outputs as BuildKit's clients do.

use std::collections::BTreeMap;

use kiln_proto::pb;

use crate::build::vertex;
use crate::{Edge, VertexOptions};

/// A command and what it sees.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    /// The process. `remove_mount_stubs_recursive` is always set when the op is made.
    pub meta: pb::Meta,
    /// Which network it has.
    pub network: pb::NetMode,
    /// Whether it is confined.
    pub security: pb::SecurityMode,
    /// File systems; one must be at `/`.
    pub mounts: Vec<Mount>,
    /// Secrets as files or variables.
    pub secrets: Vec<Secret>,
    /// Agent sockets.
    pub ssh: Vec<pb::Mount>,
    /// CDI devices.
    pub devices: Vec<pb::CdiDevice>,
}

/// One file system of an exec.
#[derive(Debug, Clone, Default)]
pub struct Mount {
    /// Absolute path in the container.
    pub dest: String,
    /// `None` starts empty.
    pub source: Option<Edge>,
    /// A path inside the source that is mounted in its place.
    pub selector: String,
    /// Not writable, and no output.
    pub readonly: bool,
    /// Writable, but what is written is thrown away.
    pub no_output: bool,
    /// What kind of mount it is.
    pub kind: MountKind,
    /// Whether its content is hashed for cache keys.
    pub content_cache: pb::MountContentCache,
}

/// Kinds of file systems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MountKind {
    /// The source itself.
    #[default]
    Bind,
    /// A directory that is kept between builds.
    Cache {
        /// Its name.
        id: String,
        /// What happens when two steps want it at once.
        sharing: pb::CacheSharingOpt,
    },
    /// Memory; `size` in bytes, 0 for no limit.
    Tmpfs {
        /// The limit.
        size: i64,
    },
}

/// A secret of an exec.
#[derive(Debug, Clone, Default)]
pub struct Secret {
    /// Its name in the client's store.
    pub id: String,
    /// The file that holds it.
    pub target: Option<String>,
    /// The variable that holds it.
    pub env: Option<String>,
    /// Owner, mode of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Mode of the file.
    pub mode: u32,
    /// Whether a missing secret is no error.
    pub optional: bool,
}

/// The outputs of an exec by where they were mounted.
#[derive(Debug, Clone)]
pub struct ExecOutputs(BTreeMap<String, Option<Edge>>);

impl ExecOutputs {
    /// The root file system afterwards.
    pub fn root(&self) -> Option<Edge> {
        self.at("/")
    }

    /// The mount at `dest` afterwards: its source where it was read-only.
    pub fn at(&self, dest: &str) -> Option<Edge> {
        self.0.get(dest).cloned().flatten()
    }
}

impl Exec {
    /// Makes the op. Caps that follow from what is used are added to `options`.
    pub fn build(
        mut self,
        platform: Option<pb::Platform>,
        mut options: VertexOptions,
    ) -> ExecOutputs {
        self.mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
        options
            .caps
            .extend(self.caps().into_iter().map(str::to_owned));
        let mut inputs: Vec<Edge> = Vec::new();
        let mut next_output = 0;
        let mut mounts = Vec::with_capacity(self.mounts.len());
        let mut outputs = Vec::with_capacity(self.mounts.len());
        for mount in &self.mounts {
            let input = mount.source.as_ref().map_or(-1, |source| {
                let known = inputs.iter().position(|input| input.same_output(source));
                known.unwrap_or_else(|| {
                    inputs.push(source.clone());
                    inputs.len() - 1
                }) as i64
            });
            let writes = mount.kind == MountKind::Bind && !mount.readonly && !mount.no_output;
            let output = if writes {
                next_output += 1;
                next_output - 1
            } else {
                -1
            };
            mounts.push(mount.to_pb(input, output));
            outputs.push(output);
        }
        let mut secretenv = Vec::new();
        for secret in &self.secrets {
            secret.add(&mut mounts, &mut secretenv);
        }
        mounts.append(&mut self.ssh);
        self.meta.remove_mount_stubs_recursive = true;
        let op = pb::ExecOp {
            meta: Some(self.meta),
            mounts,
            network: self.network.into(),
            security: self.security.into(),
            secretenv,
            cdi_devices: self.devices,
        };
        let vertex = vertex(pb::op::Op::Exec(op), inputs, platform, options);
        let ends = self.mounts.into_iter().zip(outputs);
        ExecOutputs(
            ends.map(|(mount, output)| {
                let edge = match usize::try_from(output) {
                    Ok(index) => Some(Edge {
                        vertex: vertex.clone(),
                        index,
                    }),
                    Err(_) => mount.source.filter(|_| mount.readonly),
                };
                (mount.dest, edge)
            })
            .collect(),
        )
    }

    fn caps(&self) -> Vec<&'static str> {
        let mut caps = vec!["exec.meta.base"];
        let mut need = |wanted: bool, cap| {
            if wanted {
                caps.push(cap);
            }
        };
        need(!self.meta.valid_exit_codes.is_empty(), "exec.validexitcode");
        need(!self.meta.ulimit.is_empty(), "exec.meta.ulimit");
        need(self.network != pb::NetMode::Unset, "exec.meta.network");
        need(
            self.security != pb::SecurityMode::Sandbox,
            "exec.meta.security",
        );
        need(self.meta.proxy_env.is_some(), "exec.meta.proxyenv");
        for mount in &self.mounts {
            need(!mount.selector.is_empty(), "exec.mount.selector");
            match &mount.kind {
                MountKind::Cache { .. } => {
                    need(true, "exec.mount.cache");
                    need(true, "exec.mount.cache.sharing");
                }
                MountKind::Tmpfs { size } => {
                    need(true, "exec.mount.tmpfs");
                    need(*size > 0, "exec.mount.tmpfs.size");
                }
                MountKind::Bind => need(mount.source.is_some(), "exec.mount.bind"),
            }
            need(
                mount.content_cache != pb::MountContentCache::Default,
                "exec.mount.cache.content",
            );
        }
        need(!self.secrets.is_empty(), "exec.mount.secret");
        let env = self.secrets.iter().any(|secret| secret.env.is_some());
        need(env, "exec.secretenv");
        need(!self.ssh.is_empty(), "exec.mount.ssh");
        need(!self.devices.is_empty(), "exec.meta.cdi");
        caps
    }
}

impl Mount {
    fn to_pb(&self, input: i64, output: i64) -> pb::Mount {
        let mut mount = pb::Mount {
            input,
            output,
            dest: self.dest.clone(),
            readonly: self.readonly,
            selector: self.selector.clone(),
            content_cache: self.content_cache.into(),
            ..pb::Mount::default()
        };
        match &self.kind {
            MountKind::Bind => {}
            MountKind::Cache { id, sharing } => {
                mount.mount_type = pb::MountType::Cache.into();
                mount.cache_opt = Some(pb::CacheOpt {
                    id: id.clone(),
                    sharing: (*sharing).into(),
                });
            }
            MountKind::Tmpfs { size } => {
                mount.mount_type = pb::MountType::Tmpfs.into();
                mount.tmpfs_opt = Some(pb::TmpfsOpt { size: *size });
            }
        }
        mount
    }
}

impl Secret {
    fn add(&self, mounts: &mut Vec<pb::Mount>, secretenv: &mut Vec<pb::SecretEnv>) {
        if let Some(name) = &self.env {
            secretenv.push(pb::SecretEnv {
                id: self.id.clone(),
                name: name.clone(),
                optional: self.optional,
            });
        }
        if let Some(target) = &self.target {
            mounts.push(pb::Mount {
                input: -1,
                dest: target.clone(),
                mount_type: pb::MountType::Secret.into(),
                secret_opt: Some(pb::SecretOpt {
                    id: self.id.clone(),
                    uid: self.uid,
                    gid: self.gid,
                    mode: self.mode,
                    optional: self.optional,
                }),
                ..pb::Mount::default()
            });
        }
    }
}
