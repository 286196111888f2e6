//! Stages while they are lowered, and the images that they name as if they were stages.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_oci::{ImageConfig, Platform};
use kiln_proto::pb;

use super::env::Env;
use super::error::{Problem, Result};
use super::outline::Outline;
use super::plan::Output;
use crate::instruction::{ArgDefinition, Command, Stage};
use crate::parse::Lines;
use crate::ui::NamedContext;

/// A stage by its place.
pub(crate) type StageId = usize;

/// What a step sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// The file system.
    pub out: Output,
    pub env: Env,
    /// Absolute.
    pub dir: String,
    pub user: String,
    /// What steps run on, where the base says it.
    pub platform: Option<Platform>,
    pub hostname: String,
    pub network: pb::NetMode,
}

impl State {
    /// A state with nothing but a file system.
    pub(crate) fn of(out: Output, platform: Option<&Platform>) -> Self {
        Self {
            out,
            dir: "/".to_owned(),
            platform: platform.map(Platform::normalized),
            ..Self::default()
        }
    }
}

/// Paths that are read of something; shared by a stage and those that start from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths(Arc<Mutex<BTreeSet<String>>>);

impl Paths {
    pub(crate) fn add(&self, path: &str) {
        let path = crate::text::join(&["/", path]);
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.insert(path);
    }

    pub(crate) fn get(&self) -> BTreeSet<String> {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.clone()
    }
}

/// An instruction with the stages that it reads.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub command: Command,
    /// One for `COPY --from`, one for each mount of `RUN`.
    pub sources: Vec<StageId>,
    pub from_trigger: bool,
}

/// A stage on its way.
#[derive(Debug, Default)]
pub(crate) struct StageState {
    /// Its `FROM` expanded, its commands moved out.
    pub stage: Stage,
    /// What progress displays call it.
    pub shown_name: String,
    pub state: State,
    pub image: ImageConfig,
    /// The config of the image that it starts from, as that was.
    pub base_image: Option<ImageConfig>,
    /// The context that stands for it.
    pub named: Option<NamedContext>,
    pub platform: Option<Platform>,
    /// The stage that it starts from.
    pub base: Option<StageId>,
    /// Its state is final.
    pub dispatched: bool,
    /// Its base image is known.
    pub resolved: bool,
    pub triggers_taken: bool,
    /// Stages that its instructions read, and where.
    pub deps: Vec<(StageId, Lines)>,
    pub build_args: Vec<ArgDefinition>,
    pub commands: Vec<Planned>,
    /// Paths of the main context that it reads.
    pub context_paths: BTreeSet<String>,
    /// Paths of what it starts from that are read.
    pub paths: Paths,
    pub ignore_cache: bool,
    /// It isn't in the Dockerfile: an image that is copied or mounted from.
    pub unregistered: bool,
    pub command_index: usize,
    pub command_total: usize,
    pub in_trigger: bool,
    pub outline: Outline,
    pub workdir_set: bool,
    pub entrypoint: Option<Lines>,
    pub cmd: Option<Lines>,
    pub healthcheck: Option<Lines>,
}

impl StageState {
    /// An image or context that an instruction names.
    fn unregistered(base: &str, lines: Lines) -> Self {
        Self {
            stage: Stage {
                base: base.to_owned(),
                lines,
                ..Stage::default()
            },
            state: State::of(None, None),
            unregistered: true,
            ..Self::default()
        }
    }

    /// The operating system of what it makes.
    pub(crate) fn os(&self) -> &str {
        self.platform.as_ref().map_or("linux", |p| p.os.as_str())
    }

    pub(crate) fn depends_on(&mut self, stage: StageId, lines: Lines) {
        match self.deps.iter_mut().find(|(known, _)| *known == stage) {
            Some(known) => known.1 = lines,
            None => self.deps.push((stage, lines)),
        }
    }
}

/// All stages.
#[derive(Debug, Default)]
pub(crate) struct StageSet {
    pub all: Vec<StageState>,
    by_name: HashMap<String, StageId>,
}

impl StageSet {
    /// Adds a stage. It starts from an earlier one if its base is that one's name.
    pub(crate) fn add(&mut self, mut stage: StageState) -> StageId {
        let id = self.all.len();
        stage.base = self.by_name.get(&stage.stage.base).copied();
        if !stage.stage.name.is_empty() {
            self.by_name.insert(stage.stage.name.to_lowercase(), id);
        }
        self.all.push(stage);
        id
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<StageId> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// The stage that `--from=3` means.
    pub(crate) fn by_index(&self, index: i64) -> Result<StageId> {
        match usize::try_from(index) {
            Ok(id) if id < self.all.len() => Ok(id),
            _ => Err(Problem::StageIndex(index).into()),
        }
    }

    /// The stage of this name; an image or context of this name becomes one.
    pub(crate) fn find_or_add(&mut self, name: &str, lines: Lines) -> StageId {
        match self.by_name(name) {
            Some(id) => id,
            None => self.add(StageState::unregistered(name, lines)),
        }
    }

    pub(crate) fn shown_names(&self) -> impl Iterator<Item = &str> {
        let names = self.all.iter().map(|stage| stage.shown_name.as_str());
        names.filter(|name| !name.is_empty())
    }

    /// `target` and all that it needs, in the order of the file.
    pub(crate) fn reachable(&self, target: StageId) -> BTreeSet<StageId> {
        let mut seen = BTreeSet::from([target]);
        let mut pending = vec![target];
        while let Some(id) = pending.pop() {
            let stage = &self.all[id];
            let needs = stage.deps.iter().map(|(dep, _)| *dep).chain(stage.base);
            pending.extend(needs.filter(|dep| seen.insert(*dep)));
        }
        seen
    }

    /// Refuses stages that need themselves.
    pub(crate) fn check_cycles(&self) -> Result<()> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.all.len()];
        for root in 0..self.all.len() {
            if marks[root] != Mark::New {
                continue;
            }
            marks[root] = Mark::Open;
            let mut stack = vec![(root, 0)];
            while let Some((id, next)) = stack.last_mut() {
                let id = *id;
                let Some((dep, _)) = self.all[id].deps.get(*next) else {
                    marks[id] = Mark::Done;
                    stack.pop();
                    continue;
                };
                *next += 1;
                match marks[*dep] {
                    Mark::Done => {}
                    Mark::New => {
                        marks[*dep] = Mark::Open;
                        stack.push((*dep, 0));
                    }
                    Mark::Open => {
                        let at = |(id, next): &(StageId, usize)| self.all[*id].deps[next - 1].1;
                        return Err(super::Error {
                            problem: Box::new(Problem::Circular(self.all[root].shown_name.clone())),
                            lines: stack.iter().map(at).collect(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes over what the base stage made. The `last` one who does takes it away, so that ten
    /// thousand stages on top of each other don't hold ten thousand copies.
    pub(crate) fn inherit(&mut self, id: StageId, last: bool) {
        let Some(base) = self.all[id].base else {
            return;
        };
        let base = &mut self.all[base];
        let state = base.state.clone();
        let platform = base.platform.clone();
        let paths = base.paths.clone();
        let workdir_set = base.workdir_set;
        let (mut image, base_image, args) = if last {
            (
                std::mem::take(&mut base.image),
                base.base_image.take(),
                std::mem::take(&mut base.build_args),
            )
        } else {
            (
                base.image.clone(),
                base.base_image.clone(),
                base.build_args.clone(),
            )
        };
        image.config.on_build.clear();
        let stage = &mut self.all[id];
        stage.state = state;
        stage.platform = platform;
        stage.image = image;
        stage.base_image = base_image;
        stage.paths = paths;
        stage.workdir_set = workdir_set;
        stage.build_args.extend(args);
    }
}
