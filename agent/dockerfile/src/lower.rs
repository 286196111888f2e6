//! From instructions to LLB, field for field as BuildKit's Dockerfile frontend does it: the ops' bytes
//! are part of every cache key, here and in caches that others wrote.
//!
//! ```text
//!  bytes → statements → stages → which stages are needed → their base images (all at once)
//!        → each stage's instructions in order → plan → the main context's paths → vertices
//! ```
//!
//! Stages that the target doesn't need are parsed and never looked up or built.

mod args;
mod base;
mod checks;
mod chmod;
mod copy;
mod dispatch;
mod env;
mod epoch;
mod error;
mod expose;
mod image;
mod name;
mod os_path;
mod outline;
mod plan;
mod run;
mod signal;
mod stage;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use chmod::ChmodError;
pub(crate) use error::Result;
pub use error::{Error, Problem};
pub use expose::PortError;
pub use os_path::PathError;

use args::Platforms;
use env::Env;
pub(crate) use error::At;
use kiln_filesync::PatternMatcher;
use kiln_llb::{Edge, Location, VertexOptions};
use kiln_oci::{ImageConfig, Platform, Timestamp};
use kiln_proto::pb;
pub(crate) use outline::{Need, Outline};
use plan::{NodeId, Plan};
use stage::{Paths, StageId, StageSet, StageState};

use crate::instruction::{self, Stages};
use crate::lint::{LintConfig, Linter, Rule};
use crate::parse::{self, Lines};
use crate::shell::Lexer;
use crate::suggest::Suggestion;
use crate::ui::{Contexts, Options};

/// What is converted.
pub(crate) struct Request<'a> {
    pub contexts: &'a Contexts,
    /// The Dockerfile.
    pub info: Arc<pb::SourceInfo>,
    /// What is built for, where the client said it.
    pub platform: Option<Platform>,
    pub lint: Linter,
    /// Look at all stages, needed or not.
    pub all_stages: bool,
}

/// What a Dockerfile becomes.
#[derive(Debug)]
pub(crate) struct Converted {
    /// The target's file system; `None` is the empty one.
    pub edge: Option<Edge>,
    pub image: ImageConfig,
    pub base_image: Option<ImageConfig>,
    /// The time for everything that the build makes.
    pub epoch: Option<Timestamp>,
    /// What the target takes from outside, its stages' merged.
    pub outline: Outline,
    pub target_name: String,
    pub target_description: String,
}

/// The configuration of checks: the client's, else the Dockerfile's own.
pub(crate) fn lint_config(options: &Options, data: &[u8]) -> Result<LintConfig> {
    if let Some(config) = &options.lint {
        return Ok(config.clone());
    }
    let Some(directive) = parse::directive("check", data) else {
        return Ok(LintConfig::default());
    };
    Ok(LintConfig::parse(directive.first_word())?)
}

/// Parses a Dockerfile into stages.
pub(crate) fn read(data: &[u8], lint: &Linter) -> Result<(Stages, char)> {
    if data.is_empty() {
        return Err(Problem::Empty.into());
    }
    let parsed = parse::parse(data).map_err(|(error, lines)| Error {
        problem: Box::new(error.into()),
        lines: vec![lines],
    })?;
    for lines in &parsed.empty_continuations {
        let message = "Empty continuation line".to_owned();
        lint.report(Rule::NoEmptyContinuation, *lines, message);
    }
    let stages = instruction::stages(&parsed.statements, lint).map_err(|(error, lines)| Error {
        problem: Box::new(error.into()),
        lines: lines.into_iter().collect(),
    })?;
    Ok((stages, parsed.escape))
}

/// Everything that a conversion knows.
pub(crate) struct Converter<'a> {
    contexts: &'a Contexts,
    options: &'a Options,
    info: Arc<pb::SourceInfo>,
    platforms: Platforms,
    /// Arguments that the client gave.
    given: BTreeMap<String, String>,
    /// Arguments before the first `FROM`, and predefined ones.
    global: Env,
    lexer: Lexer,
    lint: Linter,
    stages: StageSet,
    plan: Plan,
    main_context: NodeId,
    /// Clients' directories under other names, to be filled in at the end.
    locals: Vec<(NodeId, crate::ui::LocalBase, Paths)>,
    ignore: Option<PatternMatcher>,
    proxies: Option<pb::ProxyEnv>,
    epoch: Option<Timestamp>,
    all_stages: bool,
}

/// Converts a Dockerfile.
pub(crate) async fn convert(request: Request<'_>) -> Result<Converted> {
    let Request {
        contexts,
        info,
        platform,
        lint,
        all_stages,
    } = request;
    let options = &contexts.options;
    let (mut file, escape) = read(&info.data, &lint)?;
    checks::stage_names(&file.stages, &lint);
    checks::casing(&file.stages, &lint);

    let platforms = Platforms {
        implicit: platform.is_none(),
        target: platform.unwrap_or_else(|| options.build_platform.clone()),
        build: options.build_platform.clone(),
    };
    let last_name = file.stages.last().map_or("", |stage| stage.name.as_str());
    let target_name = instruction::single(&options.target, last_name);
    let mut given = options.build_args.clone();
    let predefined = args::predefined(&platforms, &given, &target_name);
    let lexer = Lexer::new(escape);
    checks::default_bases(&file, lexer, &predefined, &lint);
    let (mut global, global_info) = args::global(predefined, lexer, &file.global_args, &given)?;
    let epoch = epoch::resolve(contexts, &file, &mut given, &mut global, lexer).await?;

    let mut plan = Plan::default();
    let main_context = plan.later();
    let mut converter = Converter {
        contexts,
        options,
        info,
        platforms,
        proxies: args::proxies(&given),
        given,
        global,
        lexer,
        lint,
        stages: StageSet::default(),
        plan,
        main_context,
        locals: Vec::new(),
        ignore: None,
        epoch,
        all_stages,
    };
    let outline = Outline {
        global: Arc::new(global_info),
        ..Outline::default()
    };
    converter.add_stages(std::mem::take(&mut file.stages), &outline)?;
    let target = converter.target()?;
    converter.join_stages()?;
    let reachable = converter.resolve(target).await?;
    converter.dispatch(&reachable, target).await?;
    converter.finish(&reachable, target).await
}

impl Converter<'_> {
    fn add_stages(&mut self, stages: Vec<instruction::Stage>, outline: &Outline) -> Result<()> {
        for (index, stage) in stages.into_iter().enumerate() {
            let state = self.new_stage(index, stage, outline)?;
            let is_context = state.named.is_some();
            let id = self.stages.add(state);
            let state = &mut self.stages.all[id];
            if is_context {
                // The context takes the place of whatever the stage starts from.
                state.base = None;
                continue;
            }
            let from_image = state.base.is_none() && state.stage.base != SCRATCH;
            let steps = state.commands.iter().filter(|planned| {
                use instruction::Instruction as I;
                matches!(
                    planned.command.instruction,
                    I::Add(_) | I::Copy(_) | I::Run(_) | I::Workdir(_)
                )
            });
            state.command_total = usize::from(from_image) + steps.count();
        }
        Ok(())
    }

    fn new_stage(
        &mut self,
        index: usize,
        mut stage: instruction::Stage,
        outline: &Outline,
    ) -> Result<StageState> {
        let lint = self.lint.with_comments(&stage.comments);
        let lines = stage.lines;
        let base = self.lexer.expand(&stage.base, &self.global).at(lines)?;
        let global = self.global.clone();
        let check = |unmatched: &BTreeSet<String>| {
            if unmatched.is_empty() {
                return;
            }
            let declared = outline.global.keys().map(String::as_str);
            let declared: Vec<&str> = declared.chain(global.keys()).collect();
            checks::undeclared(&declared, unmatched, lines, &lint);
        };
        check(&base.unmatched);
        if base.text.is_empty() {
            return Err(Problem::BlankBase(stage.base)).at(lines);
        }
        let mut used = base.matched;
        let mut platform = None;
        if !stage.platform.is_empty() {
            let expanded = self.lexer.expand(&stage.platform, &self.global).at(lines)?;
            check(&expanded.unmatched);
            checks::stage_platform(&stage, &expanded, &self.global, &lint);
            let unmatched = expanded.unmatched.iter().next();
            let suggestion = unmatched.map_or_else(Suggestion::default, |name| {
                Suggestion::of(name, self.global.keys())
            });
            if expanded.text.is_empty() {
                return Err(Problem::EmptyPlatform {
                    expression: stage.platform,
                    suggestion,
                })
                .at(lines);
            }
            let parsed = expanded.text.parse::<Platform>();
            let parsed = parsed.map_err(|source| Problem::Platform {
                text: stage.platform.clone(),
                suggestion,
                source,
            });
            platform = Some(parsed.at(lines)?);
            used.extend(expanded.matched);
        }
        stage.base = base.text;
        let named = if stage.name.is_empty() {
            None
        } else {
            let wanted = platform.clone().or_else(|| self.said_platform());
            self.contexts
                .named(&stage.name, wanted.as_ref())
                .at(lines)?
        };
        let mut outline = outline.clone();
        outline.used_args = used;
        Ok(StageState {
            shown_name: if stage.name.is_empty() {
                format!("stage-{index}")
            } else {
                stage.name.clone()
            },
            ignore_cache: self.options.is_no_cache(&stage.name),
            commands: std::mem::take(&mut stage.commands)
                .into_iter()
                .map(|command| stage::Planned {
                    command,
                    sources: Vec::new(),
                    from_trigger: false,
                })
                .collect(),
            state: stage::State::of(None, None),
            named,
            platform,
            outline,
            stage,
            ..StageState::default()
        })
    }

    /// What is built for, if the client said it.
    fn said_platform(&self) -> Option<Platform> {
        (!self.platforms.implicit).then(|| self.platforms.target.clone())
    }

    fn target(&self) -> Result<StageId> {
        let name = &self.options.target;
        if name.is_empty() {
            return Ok(self.stages.all.len() - 1);
        }
        self.stages.by_name(name).ok_or_else(|| {
            let suggestion = Suggestion::of(name, self.stages.shown_names());
            Problem::Target {
                name: name.clone(),
                suggestion,
            }
            .into()
        })
    }

    /// Finds which stages read which.
    fn join_stages(&mut self) -> Result<()> {
        for id in 0..self.stages.all.len() {
            let mut commands = std::mem::take(&mut self.stages.all[id].commands);
            for planned in &mut commands {
                self.join(id, planned)?;
            }
            self.stages.all[id].commands = commands;
        }
        self.stages.check_cycles()?;
        if let [only] = self.stages.all.as_mut_slice() {
            only.shown_name.clear();
        }
        Ok(())
    }

    fn join(&mut self, id: StageId, planned: &mut stage::Planned) -> Result<()> {
        use instruction::Instruction as I;
        let lines = planned.command.lines;
        planned.sources = match &planned.command.instruction {
            I::Copy(copy) if !copy.from.is_empty() => {
                let none = crate::shell::NoVariables;
                let expanded = self.lexer.expand(&copy.from, &none)?;
                if expanded.text != copy.from {
                    return Err(Problem::FromVariable.into());
                }
                vec![match copy.from.parse::<i64>() {
                    Ok(index) => self.stages.by_index(index)?,
                    Err(_) => self.stages.find_or_add(&copy.from, lines),
                }]
            }
            I::Run(run) => {
                let froms = run.mount_froms.iter();
                let names = froms.map(|from| instruction::single(from, SCRATCH));
                let names: Vec<String> = names.collect();
                // What a mount names has no lines of its own.
                let find = |name: &String| self.stages.find_or_add(name, Lines::default());
                names.iter().map(find).collect()
            }
            _ => Vec::new(),
        };
        for source in &planned.sources {
            self.stages.all[id].depends_on(*source, lines);
        }
        Ok(())
    }

    async fn finish(mut self, reachable: &BTreeSet<StageId>, target: StageId) -> Result<Converted> {
        let labels = self.options.labels.clone();
        self.stages.all[target].image.config.labels.extend(labels);
        if let Some(rules) = self.lint.failures() {
            return Err(Problem::Lint(rules).into());
        }
        let mut paths = BTreeSet::new();
        for stage in &self.stages.all {
            paths.extend(stage.context_paths.iter().cloned());
        }
        let context = self.contexts.main_context(&paths).await?;
        self.plan.fill(self.main_context, context);
        for (node, local, paths) in std::mem::take(&mut self.locals) {
            let follow = crate::ui::follow_paths(&paths.get());
            let edge = local.edge(self.contexts, follow);
            self.plan.fill(node, Some(edge));
        }
        let outline = self.outline(reachable);
        let stage = &mut self.stages.all[target];
        if !self.platforms.implicit {
            let to = &self.platforms.target;
            let image = &mut stage.image.platform;
            let same = to.os == image.os && to.architecture == image.architecture;
            image.os.clone_from(&to.os);
            image.architecture.clone_from(&to.architecture);
            if !to.variant.is_empty() || !same {
                image.variant.clone_from(&to.variant);
            }
            if !to.os_version.is_empty() || !same {
                image.os_version.clone_from(&to.os_version);
            }
            if !to.os_features.is_empty() {
                image.os_features.clone_from(&to.os_features);
            }
        }
        let platform = stage.image.platform.normalized();
        stage.image.platform = platform;
        let edge = self.plan.finish(&[stage.state.out]).pop().flatten();
        Ok(Converted {
            edge,
            image: std::mem::take(&mut stage.image),
            base_image: stage.base_image.take(),
            epoch: self.epoch,
            outline,
            target_name: stage.stage.name.clone(),
            target_description: stage.stage.description.clone(),
        })
    }

    fn outline(&mut self, reachable: &BTreeSet<StageId>) -> Outline {
        let mut all = Outline::default();
        for id in reachable {
            let mut own = std::mem::take(&mut self.stages.all[*id].outline);
            own.close();
            for name in &own.used_args {
                if let Some(arg) = own.arg(name) {
                    all.args.entry(name.clone()).or_insert_with(|| arg.clone());
                }
            }
            for (name, need) in own.secrets {
                all.secrets.entry(name).or_insert(need);
            }
            for (name, need) in own.ssh {
                all.ssh.entry(name).or_insert(need);
            }
        }
        all
    }

    /// Options of a vertex that `lines` of the Dockerfile made.
    fn vertex_options(&self, name: String, lines: Lines) -> VertexOptions {
        VertexOptions {
            locations: vec![Location {
                info: Arc::clone(&self.info),
                ranges: lines.to_ranges(),
            }],
            ..VertexOptions::named(name)
        }
    }

    /// The platform for names of steps, where there are several.
    fn prefix<'p>(&self, platform: &'p Platform, env: &'p Env) -> Option<(&'p Platform, &'p Env)> {
        self.options.multi_platform.then_some((platform, env))
    }
}

/// The name of the empty file system.
pub(crate) const SCRATCH: &str = "scratch";
/// The description of a vertex that holds its instruction.
pub(crate) const COMMAND: &str = "com.docker.dockerfile.v1.command";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image of no instructions at all.
pub(crate) fn empty_image(platform: &Platform) -> ImageConfig {
    let mut image = ImageConfig {
        platform: platform.clone(),
        ..ImageConfig::default()
    };
    "layers".clone_into(&mut image.rootfs.kind);
    "/".clone_into(&mut image.config.working_dir);
    if platform.os != "windows" {
        image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
    }
    image
}
