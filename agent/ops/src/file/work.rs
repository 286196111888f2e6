//! Running a plan: states are opened, actions done on a thread for blocking work, results committed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{CacheManager, MutableRef, OpResult, RecordOptions, RootPath};
use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;
use kiln_proto::pb::user_opt::User;
use kiln_solver::op::{OpContext, OpError};
use kiln_sys::mount::{Mountable, detached};
use kiln_sys::rootfs::RootDir;
use tokio_util::sync::CancellationToken;

use super::actions::{self, Roots};
use super::copy::{Linked, Target};
use super::error::{ActionError, FileError};
use super::plan::{From, Plan, Planned};

/// What an action has made.
enum Made {
    Committed(OpResult),
    InPlace(Writable),
}

/// A state that is being written.
struct Writable {
    state: MutableRef,
    linked: Linked,
}

/// A state to read. It is kept, or mounted, as long as this lives.
enum Readable {
    Empty,
    Committed(RootPath),
    InPlace(Mountable),
}

/// See the module.
pub(super) struct Work<'a> {
    cache: &'a CacheManager,
    scratch: &'a Path,
    name: &'a str,
    inputs: Vec<OpResult>,
    cx: &'a OpContext,
    made: Vec<Option<Made>>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        cache: &'a CacheManager,
        scratch: &'a Path,
        name: &'a str,
        inputs: Vec<OpResult>,
        cx: &'a OpContext,
    ) -> Self {
        Self {
            cache,
            scratch,
            name,
            inputs,
            cx,
            made: Vec::new(),
        }
    }

    /// Does what the plan says. One result per output.
    pub(super) async fn run(
        mut self,
        plan: &Plan,
        op: &pb::FileOp,
    ) -> Result<Vec<OpResult>, OpError> {
        self.made.resize_with(op.actions.len(), || None);
        for step in &plan.steps {
            let made = self.step(plan, step, &op.actions[step.action]).await?;
            self.made[step.action] = Some(made);
        }
        let outputs = plan.outputs.iter().map(|action| match &self.made[*action] {
            Some(Made::Committed(result)) => Ok(result.clone()),
            _ => Err(shared(FileError::Interrupted)),
        });
        outputs.collect()
    }

    async fn step(
        &mut self,
        plan: &Plan,
        step: &Planned,
        action: &pb::FileAction,
    ) -> Result<Made, OpError> {
        let kind = action.action.clone();
        let kind = kind.ok_or_else(|| shared(FileError::UnknownAction(step.action)))?;
        let mut work = self.open(plan, step, &kind).await.map_err(shared)?;
        let cancel = self.cx.cancel.clone();
        let (scratch, index) = (self.scratch.to_owned(), step.action);
        let done = tokio::task::spawn_blocking(move || {
            let result = work.run(&kind, index, &scratch, &cancel);
            // Mounts go before the state they show is committed.
            let Opened { target, .. } = work;
            (target, result)
        });
        let (target, result) = done.await.map_err(|_| shared(FileError::Interrupted))?;
        if let Err(error) = result {
            return Err(self.failed(step.action, error, target).await);
        }
        if !step.commits {
            return Ok(Made::InPlace(target));
        }
        let committed = target.state.commit(self.options()).await;
        Ok(Made::Committed(Some(
            committed.map_err(|e| shared(e.into()))?,
        )))
    }

    /// Opens everything that an action works with.
    async fn open(
        &mut self,
        plan: &Plan,
        step: &Planned,
        kind: &Action,
    ) -> Result<Opened, FileError> {
        let (owner, reads) = match kind {
            Action::Copy(copy) => (copy.owner.as_ref(), true),
            Action::Mkdir(dir) => (dir.owner.as_ref(), false),
            Action::Mkfile(file) => (file.owner.as_ref(), false),
            Action::Symlink(link) => (link.owner.as_ref(), false),
            Action::Rm(_) => (None, false),
        };
        let source = if reads {
            Some(self.readable(step.secondary).await?)
        } else {
            None
        };
        let user = self
            .named(plan, step, owner.and_then(|owner| owner.user.as_ref()))
            .await?;
        let group = self
            .named(plan, step, owner.and_then(|owner| owner.group.as_ref()))
            .await?;
        Ok(Opened {
            target: self.writable(step.input).await?,
            source,
            user,
            group,
        })
    }

    /// The state that a name is looked up in.
    async fn named(
        &self,
        plan: &Plan,
        step: &Planned,
        user: Option<&pb::UserOpt>,
    ) -> Result<Option<Lookup>, FileError> {
        let Some(User::ByName(named)) = user.and_then(|user| user.user.as_ref()) else {
            return Ok(None);
        };
        let from = plan.user_input(named.input, self.inputs.len())?;
        if from == step.input {
            return Ok(Some(Lookup::Target));
        }
        Ok(Some(Lookup::Other(self.readable(from).await?)))
    }

    async fn readable(&self, from: From) -> Result<Readable, FileError> {
        let state = match from {
            From::Scratch => None,
            From::Input(index) => self.inputs[index].as_ref(),
            From::Action(index) => match &self.made[index] {
                Some(Made::Committed(state)) => state.as_ref(),
                Some(Made::InPlace(writable)) => {
                    return Ok(Readable::InPlace(writable.state.mountable(true)?));
                }
                None => return Err(FileError::Interrupted),
            },
        };
        match state {
            None => Ok(Readable::Empty),
            Some(state) => {
                let root = state
                    .root_path(&self.cx.sessions(), &self.cx.progress)
                    .await?;
                Ok(Readable::Committed(root))
            }
        }
    }

    async fn writable(&mut self, from: From) -> Result<Writable, FileError> {
        let parent = match from {
            From::Scratch => None,
            From::Input(index) => self.inputs[index].clone(),
            From::Action(index) => match self.made[index].take() {
                Some(Made::InPlace(writable)) => return Ok(writable),
                Some(Made::Committed(state)) => {
                    self.made[index] = Some(Made::Committed(state.clone()));
                    state
                }
                None => return Err(FileError::Interrupted),
            },
        };
        if let Some(parent) = &parent {
            parent
                .extract(&self.cx.sessions(), &self.cx.progress)
                .await?;
        }
        let state = self
            .cache
            .new_mutable(parent.as_ref(), self.options())
            .await?;
        Ok(Writable {
            state,
            linked: Linked::default(),
        })
    }

    fn options(&self) -> RecordOptions {
        RecordOptions::described(self.name)
    }

    /// Keeps what the failed action left, for debuggers.
    async fn failed(&self, action: usize, error: FileError, target: Writable) -> OpError {
        let cancelled = matches!(error, FileError::Cancelled);
        if cancelled {
            // The state goes with its handle.
            return kiln_errdefs::WithDetail::kind(Arc::new(error), kiln_errdefs::Kind::Cancelled)
                .shared();
        }
        Arc::new(ActionError {
            source: shared(error),
            action,
            inputs: self.inputs.clone(),
            state: target.state.commit(self.options()).await.ok().map(Some),
        })
    }
}

fn shared(error: FileError) -> OpError {
    error.shared()
}

enum Lookup {
    /// The state that is written.
    Target,
    Other(Readable),
}

/// What an action works with.
struct Opened {
    target: Writable,
    source: Option<Readable>,
    user: Option<Lookup>,
    group: Option<Lookup>,
}

impl Opened {
    fn run(
        &mut self,
        kind: &Action,
        index: usize,
        scratch: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), FileError> {
        let target = WriteRoot::open(&self.target.state, scratch)?;
        let source = match &self.source {
            Some(source) => Some(ReadRoot::open(source, scratch)?),
            None => None,
        };
        let (user, group) = (
            other(self.user.as_ref(), scratch)?,
            other(self.group.as_ref(), scratch)?,
        );
        self.target.linked.next_source();
        let roots = Roots {
            target: Target {
                root: &target.root,
                upper: target.upper.as_ref(),
                linked: &mut self.target.linked,
            },
            source: source.as_ref().map(|source| &source.0),
            user: looked_up(self.user.as_ref(), &target.root, user.as_ref()),
            group: looked_up(self.group.as_ref(), &target.root, group.as_ref()),
        };
        actions::run(kind, index, roots, cancel)
    }
}

fn other(lookup: Option<&Lookup>, scratch: &Path) -> Result<Option<ReadRoot>, FileError> {
    match lookup {
        Some(Lookup::Other(state)) => ReadRoot::open(state, scratch).map(Some),
        Some(Lookup::Target) | None => Ok(None),
    }
}

fn looked_up<'a>(
    lookup: Option<&Lookup>,
    target: &'a RootDir,
    other: Option<&'a ReadRoot>,
) -> Option<&'a RootDir> {
    match lookup {
        Some(Lookup::Target) => Some(target),
        _ => other.map(|root| &root.0),
    }
}

/// A root that is read.
struct ReadRoot(RootDir);

impl ReadRoot {
    fn open(state: &Readable, scratch: &Path) -> Result<Self, FileError> {
        let root = match state {
            Readable::Empty => {
                // A directory without entries; nothing is ever written to it.
                let empty = scratch.join("empty");
                std::fs::create_dir_all(&empty).map_err(FileError::at("mkdir", &empty))?;
                RootDir::open(&empty).map_err(FileError::at("open", &empty))?
            }
            Readable::Committed(path) => {
                RootDir::open(path.path()).map_err(FileError::at("open", path.path()))?
            }
            Readable::InPlace(mountable) => RootDir::from_fd(detached(&mountable.specs, scratch)?),
        };
        Ok(Self(root))
    }
}

/// A root that is written to, with the directory that the writes end up in.
struct WriteRoot {
    root: RootDir,
    upper: Option<RootDir>,
    /// The state isn't taken away while it is mounted.
    _mountable: Option<Mountable>,
}

impl WriteRoot {
    fn open(state: &MutableRef, scratch: &Path) -> Result<Self, FileError> {
        let open = |path: &Path| RootDir::open(path).map_err(FileError::at("open", path));
        if let Some(path) = state.root_path() {
            return Ok(Self {
                root: open(&path)?,
                upper: Some(open(&path)?),
                _mountable: None,
            });
        }
        let mountable = state.mountable(false)?;
        let root: OwnedFd = detached(&mountable.specs, scratch)?;
        let upper = upper_of(&mountable).and_then(|path| RootDir::open(&path).ok());
        Ok(Self {
            root: RootDir::from_fd(root),
            upper,
            _mountable: Some(mountable),
        })
    }
}

/// Where an overlay writes to.
fn upper_of(mountable: &Mountable) -> Option<PathBuf> {
    let [spec] = mountable.specs.as_slice() else {
        return None;
    };
    let options = spec.options.iter();
    let upper = options
        .filter_map(|option| option.strip_prefix("upperdir="))
        .next_back()?;
    // Escaped names aren't worth unescaping: files are copied then.
    (!upper.contains('\\')).then(|| PathBuf::from(upper))
}
