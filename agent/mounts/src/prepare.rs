//! From the mounts of an op to those of a container.
//!
//! | mount | has an output | gets |
//! |---|---|---|
//! | bind, writable or root | yes | a new state on the input, which becomes the output |
//! | bind, read-only | yes | the input, which is the output too |
//! | bind, writable | no | a new state that is thrown away |
//! | bind, read-only | no | the input |
//! | cache | maybe | a cache mount; an output is its seed |
//! | tmpfs, secret, ssh | no | what they say |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kiln_cache::{CacheManager, MutableRef, OpResult, RecordOptions, Ref};
use kiln_executor::ContainerMount;
use kiln_ids::SessionId;
use kiln_progress::VertexProgress;
use kiln_proto::pb::{self, MountType};
use kiln_session::SessionManager;
use kiln_sys::mount::{MountSpec, Mountable};
use kiln_sys::rootfs::clean;

use crate::cache::{CacheMount, CacheMounts, Wanted};
use crate::{Caches, Error, secrets, ssh};

/// The input of a mount that begins empty.
const EMPTY: i64 = -1;

/// Prepares mounts. One serves the whole daemon, for it knows which cache mounts are in use.
#[derive(Debug)]
pub struct Mounts {
    cache: CacheManager,
    sessions: SessionManager,
    /// Cache mounts in use.
    active: CacheMounts,
}

/// What is to be prepared.
#[derive(Debug)]
pub struct Request<'a> {
    /// The op's mounts.
    pub mounts: &'a [pb::Mount],
    /// Results that the mounts' `input` counts into.
    pub inputs: &'a [OpResult],
    /// Relative targets are below it.
    pub cwd: &'a str,
    /// Who asks, for descriptions of records: `exec /bin/sh -c …`.
    pub user: &'a str,
    /// The build that it is for; empty where that is unknown.
    pub build: &'a str,
    /// Clients that may be asked for secrets and agents.
    pub sessions: &'a [SessionId],
    /// Where fetching lazy layers is reported.
    pub progress: &'a VertexProgress,
}

/// A state that the container writes.
#[derive(Debug)]
pub struct Written {
    /// The number of the mount.
    pub mount: usize,
    /// The number of the output, if it is one.
    pub output: Option<usize>,
    /// The state.
    pub state: MutableRef,
}

/// An output that is known before the container runs.
#[derive(Debug)]
pub struct Passed {
    /// The number of the mount.
    pub mount: usize,
    /// The number of the output.
    pub output: usize,
    /// The result.
    pub result: OpResult,
}

/// Mounts for a container. Dropping it discards what would have been written.
pub struct Prepared {
    /// The root.
    pub root: Mountable,
    /// Refuse writes to it.
    pub readonly_root: bool,
    /// Everything else, parents before what is below them.
    pub mounts: Vec<ContainerMount>,
    /// What is to be committed (outputs), or thrown away.
    pub written: Vec<Written>,
    /// Outputs that are inputs.
    pub passed: Vec<Passed>,
    /// Values that must not show up in logs.
    pub secrets: Vec<Bytes>,
    /// In use until this is dropped.
    _cache_mounts: Vec<(String, Arc<CacheMount>)>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("root", &self.root)
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

impl Mounts {
    /// `scratch` is a directory for passing mounts and sockets; it is made.
    pub fn new(
        cache: CacheManager,
        sessions: SessionManager,
        scratch: PathBuf,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(&scratch).map_err(|source| Error::Io {
            doing: "failed to create",
            path: scratch.clone(),
            source,
        })?;
        Ok(Self {
            active: CacheMounts::new(cache.clone(), scratch),
            cache,
            sessions,
        })
    }

    /// The cache mounts, to look into and to change from outside of steps.
    pub fn caches(&self) -> Caches {
        self.active.caches()
    }

    /// The directory for passing mounts.
    pub fn scratch(&self) -> &Path {
        self.active.scratch()
    }

    /// Environment variables whose values are secrets, as `NAME=value`.
    pub async fn secret_environment(
        &self,
        sessions: &[SessionId],
        wanted: &[pb::SecretEnv],
    ) -> Result<Vec<String>, Error> {
        secrets::environment(&self.sessions, sessions, wanted).await
    }

    /// Prepares all mounts of a container. Lazy inputs are fetched. Waits for locked cache mounts.
    pub async fn prepare(&self, request: &Request<'_>) -> Result<Prepared, Error> {
        let mut preparing = Preparing {
            owner: self,
            request,
            root: None,
            mounts: Vec::new(),
            written: Vec::new(),
            passed: Vec::new(),
            secrets: Vec::new(),
            cache_mounts: Vec::new(),
        };
        for (number, mount) in request.mounts.iter().enumerate() {
            preparing.take(number, mount).await?;
        }
        preparing.finish()
    }
}

struct Preparing<'a> {
    owner: &'a Mounts,
    request: &'a Request<'a>,
    root: Option<(Mountable, bool)>,
    mounts: Vec<ContainerMount>,
    written: Vec<Written>,
    passed: Vec<Passed>,
    secrets: Vec<Bytes>,
    cache_mounts: Vec<(String, Arc<CacheMount>)>,
}

impl Preparing<'_> {
    async fn take(&mut self, number: usize, mount: &pb::Mount) -> Result<(), Error> {
        let kind = MountType::try_from(mount.mount_type)
            .map_err(|_| Error::UnknownType(mount.mount_type))?;
        let is_root = mount.dest == "/";
        if is_root && kind != MountType::Bind {
            return Err(Error::RootType {
                kind: kind.as_str_name(),
                target: mount.dest.clone(),
            });
        }
        let input = match mount.input {
            EMPTY => None,
            input => usize::try_from(input)
                .ok()
                .and_then(|input| self.request.inputs.get(input))
                .ok_or(Error::MissingInput(input))?
                .clone(),
        };
        let source = match kind {
            MountType::Bind => self.bind(number, mount, input, is_root).await?,
            MountType::Cache => self.cache(number, mount, input).await?,
            MountType::Tmpfs => tmpfs(mount),
            MountType::Secret => match self.secret(mount).await? {
                Some(source) => source,
                None => return Ok(()),
            },
            MountType::Ssh => match self.agent(mount).await? {
                Some(source) => source,
                None => return Ok(()),
            },
        };
        if is_root {
            self.root = Some((source, mount.readonly));
            return Ok(());
        }
        let target = clean(&Path::new("/").join(self.request.cwd).join(&mount.dest));
        let subpath = clean(&Path::new("/").join(&mount.selector));
        let entry = ContainerMount {
            target,
            source,
            subpath: if subpath == Path::new("/") {
                PathBuf::new()
            } else {
                subpath
            },
            readonly: mount.readonly,
        };
        // A later mount takes an earlier one's place.
        match self.mounts.iter_mut().find(|m| m.target == entry.target) {
            Some(earlier) => *earlier = entry,
            None => self.mounts.push(entry),
        }
        Ok(())
    }

    async fn bind(
        &mut self,
        number: usize,
        mount: &pb::Mount,
        input: OpResult,
        is_root: bool,
    ) -> Result<Mountable, Error> {
        let request = self.request;
        let output = usize::try_from(mount.output).ok();
        if mount.readonly
            && !is_root
            && let Some(input) = &input
        {
            if let Some(output) = output {
                self.passed.push(Passed {
                    mount: number,
                    output,
                    result: Some(input.clone()),
                });
            }
            return Ok(input
                .mountable(true, request.sessions, request.progress)
                .await?);
        }
        let options =
            RecordOptions::described(format!("mount {} from {}", mount.dest, request.user));
        let state = self.owner.on(input.as_ref(), options, request).await?;
        let mountable = state.mountable(false)?;
        self.written.push(Written {
            mount: number,
            output,
            state,
        });
        Ok(mountable)
    }

    async fn cache(
        &mut self,
        number: usize,
        mount: &pb::Mount,
        input: OpResult,
    ) -> Result<Mountable, Error> {
        let options = mount
            .cache_opt
            .as_ref()
            .ok_or(Error::MissingOptions { kind: "cache" })?;
        if let Some(seed) = &input {
            // A new state can't be put on layers that aren't here.
            seed.extract(self.request.sessions, self.request.progress)
                .await?;
        }
        let key = format!(
            "{}\0{}",
            options.id,
            input.as_ref().map_or("", |seed| seed.id().as_str())
        );
        let held = self.cache_mounts.iter().find(|(held, _)| *held == key);
        let cache = match held {
            // A step that names one twice must not wait for itself.
            Some((_, cache)) => Arc::clone(cache),
            None => {
                let wanted = Wanted {
                    id: &options.id,
                    target: &mount.dest,
                    sharing: options.sharing,
                    seed: input.as_ref(),
                    user: self.request.user,
                    build: self.request.build,
                };
                let cache = self.owner.active.get(&wanted).await?;
                self.cache_mounts.push((key, Arc::clone(&cache)));
                cache
            }
        };
        if let (Ok(output), Some(seed)) = (usize::try_from(mount.output), input) {
            self.passed.push(Passed {
                mount: number,
                output,
                result: Some(seed),
            });
        }
        cache.mountable(self.owner.scratch(), Path::new(&mount.dest))
    }

    async fn secret(&mut self, mount: &pb::Mount) -> Result<Option<Mountable>, Error> {
        let options = mount
            .secret_opt
            .as_ref()
            .ok_or(Error::MissingOptions { kind: "secret" })?;
        if options.id.is_empty() {
            return Err(Error::NoSecretId);
        }
        let owner = self.owner;
        let data = secrets::fetch(
            &owner.sessions,
            self.request.sessions,
            &options.id,
            options.optional,
        )
        .await?;
        let Some(data) = data else {
            return Ok(None);
        };
        let mountable = secrets::mountable(&data, options, owner.scratch())?;
        self.secrets.push(data);
        Ok(Some(mountable))
    }

    async fn agent(&self, mount: &pb::Mount) -> Result<Option<Mountable>, Error> {
        let options = mount
            .ssh_opt
            .as_ref()
            .ok_or(Error::MissingOptions { kind: "ssh" })?;
        let caller = ssh::find(&self.owner.sessions, self.request.sessions, options).await?;
        caller
            .map(|caller| ssh::mountable(caller, options, self.owner.scratch()))
            .transpose()
    }

    fn finish(mut self) -> Result<Prepared, Error> {
        let (root, readonly_root) = self.root.ok_or(Error::NoRoot)?;
        self.mounts
            .sort_by(|a, b| a.target.as_os_str().cmp(b.target.as_os_str()));
        Ok(Prepared {
            root,
            readonly_root,
            mounts: self.mounts,
            written: self.written,
            passed: self.passed,
            secrets: self.secrets,
            _cache_mounts: self.cache_mounts,
        })
    }
}

impl Mounts {
    /// A new state on `input`, whose layers are fetched first.
    async fn on(
        &self,
        input: Option<&Ref>,
        options: RecordOptions,
        request: &Request<'_>,
    ) -> Result<MutableRef, Error> {
        if let Some(input) = input {
            input.extract(request.sessions, request.progress).await?;
        }
        Ok(self.cache.new_mutable(input, options).await?)
    }
}

fn tmpfs(mount: &pb::Mount) -> Mountable {
    let mut options = vec!["nosuid".to_owned()];
    if let Some(size) = mount
        .tmpfs_opt
        .as_ref()
        .map(|o| o.size)
        .filter(|size| *size > 0)
    {
        options.push(format!("size={size}"));
    }
    let spec = MountSpec {
        fstype: "tmpfs".into(),
        source: "tmpfs".into(),
        options,
    };
    Mountable::new(vec![spec], ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_has_a_size_only_if_one_is_given() {
        let sized = |size| {
            let mount = pb::Mount {
                tmpfs_opt: Some(pb::TmpfsOpt { size }),
                ..pb::Mount::default()
            };
            tmpfs(&mount).specs[0].options.clone()
        };
        assert_eq!(sized(0), ["nosuid"]);
        assert_eq!(sized(4096), ["nosuid", "size=4096"]);
    }
}
