//! What stages start from.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream;
use kiln_llb::VertexOptions;
use kiln_oci::{ImageConfig, Platform, Reference};

use super::error::{At, Problem, Result};
use super::plan::Output;
use super::stage::{StageId, State};
use super::{COMMAND, Converter, SCRATCH, checks, empty_image, name};
use crate::instruction::Instruction;
use crate::parse::Lines;
use crate::suggest::Suggestion;
use crate::ui::{Base, Contexts, NamedContext, image_source, to_pb};

/// How many images are looked up at once.
const PARALLEL: usize = 32;

/// What has to be looked up for a stage.
struct Lookup {
    stage: StageId,
    /// As the Dockerfile names it.
    name: String,
    reference: Reference,
    platform: Platform,
    /// What the stage itself was told to run on.
    own_platform: bool,
    lines: Lines,
    /// The context that stands for the stage.
    stage_context: Option<NamedContext>,
    log_name: String,
}

/// What was found.
enum Found {
    /// A context in the place of the stage.
    Stage(Base, Option<Box<ImageConfig>>),
    /// A context in the place of the image.
    Context(Base, Box<ImageConfig>),
    /// An image with its config.
    Image {
        reference: String,
        config: Box<ImageConfig>,
        original: Box<ImageConfig>,
    },
}

impl Lookup {
    async fn run(&self, contexts: &Contexts) -> Result<Found> {
        if let Some(context) = &self.stage_context {
            let (base, image) = contexts.load(context).await?;
            return Ok(Found::Stage(base, image.map(Box::new)));
        }
        let full_name = self.reference.to_string();
        if let Some(context) = contexts.named(&full_name, Some(&self.platform))? {
            let (base, image) = contexts.load(&context).await?;
            let image = image.unwrap_or_else(|| empty_image(&self.platform));
            return Ok(Found::Context(base, Box::new(image)));
        }
        let mode = contexts.options.resolve_mode.name();
        let source = image_source(&full_name);
        let resolved = contexts
            .images
            .resolve(source, Some(&self.platform), mode, self.log_name.clone())
            .await
            .map_err(|source| Problem::BaseImage {
                name: self.name.clone(),
                suggestion: Suggestion::default(),
                reference: full_name.clone(),
                source,
            })?;
        let original =
            ImageConfig::parse(&resolved.config).map_err(|source| Problem::BaseConfig {
                name: self.name.clone(),
                source,
            })?;
        // A source policy may have put another image in its place.
        let reference = match resolved.reference.parse::<Reference>() {
            Ok(reference) => match resolved.digest {
                Some(digest) => reference.with_digest(digest).to_string(),
                None => reference.to_string(),
            },
            Err(_) => resolved.reference,
        };
        let mut config = original.clone();
        config.created = None;
        Ok(Found::Image {
            reference,
            config: Box::new(config),
            original: Box::new(original),
        })
    }
}

impl Converter<'_> {
    /// Looks up what the target's stages start from, and the triggers in it, until there is nothing new.
    pub(super) async fn resolve(&mut self, target: StageId) -> Result<BTreeSet<StageId>> {
        loop {
            let reachable = self.stages.reachable(target);
            self.resolve_bases(&reachable).await?;
            let mut more = false;
            for id in &reachable {
                more |= self.take_triggers(*id)?;
            }
            if !more {
                return Ok(reachable);
            }
        }
    }

    async fn resolve_bases(&mut self, reachable: &BTreeSet<StageId>) -> Result<()> {
        let mut lookups = Vec::new();
        for id in 0..self.stages.all.len() {
            let wanted = self.all_stages || reachable.contains(&id);
            if let Some(lookup) = self.prepare(id, wanted)? {
                lookups.push(lookup);
            }
        }
        let contexts = self.contexts;
        let found: Vec<_> = stream::iter(lookups)
            .map(|lookup| async move {
                let found = lookup.run(contexts).await;
                (lookup, found)
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        for (lookup, found) in found {
            let lines = lookup.lines;
            let found = found
                .map_err(|error| self.with_suggestion(error))
                .at(lines)?;
            self.take_base(lookup, found);
        }
        Ok(())
    }

    /// The lookup of a stage that needs one.
    fn prepare(&mut self, id: StageId, wanted: bool) -> Result<Option<Lookup>> {
        let target = self.platforms.target.clone();
        let said = self.said_platform();
        let multi_platform = self.options.multi_platform;
        let stage = &mut self.stages.all[id];
        if stage.base.is_some() || stage.dispatched || stage.resolved {
            return Ok(None);
        }
        stage.resolved = wanted;
        let lines = stage.stage.lines;
        if stage.stage.base == SCRATCH && stage.named.is_none() {
            stage.state = State::of(None, None);
            stage.image = empty_image(&target);
            stage.platform = Some(target);
            stage.dispatched |= stage.unregistered;
            return Ok(None);
        }
        let name = stage.stage.base.clone();
        let parsed = name.parse::<Reference>();
        let reference = parsed
            .map_err(|source| Problem::BaseName {
                name: name.clone(),
                source,
            })
            .at(lines)?
            .with_default_tag();
        if !wanted {
            return Ok(None);
        }
        let platform = stage.platform.clone().unwrap_or(target);
        let prefix = if multi_platform {
            format!("[{} internal]", platform.format_all())
        } else {
            "[internal]".to_owned()
        };
        let mut stage_context = stage.named.clone();
        if let Some(context) = &mut stage_context {
            context.platform = stage.platform.clone().or(said);
        }
        Ok(Some(Lookup {
            log_name: format!("{prefix} load metadata for {reference}"),
            stage: id,
            own_platform: stage.platform.is_some(),
            name,
            reference,
            platform,
            lines,
            stage_context,
        }))
    }

    fn with_suggestion(&self, mut error: super::Error) -> super::Error {
        if let Problem::BaseImage {
            name, suggestion, ..
        } = &mut *error.problem
        {
            let common = [
                "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
            ];
            let options = self.stages.shown_names().chain(common);
            *suggestion = Suggestion::of(name, options);
        }
        error
    }

    fn take_base(&mut self, lookup: Lookup, found: Found) {
        let id = lookup.stage;
        let Lookup {
            name, mut platform, ..
        } = lookup;
        match found {
            Found::Stage(base, image) => {
                let out = self.place(id, base);
                let stage = &mut self.stages.all[id];
                stage.state = State::of(out, None);
                stage.dispatched = true;
                if let Some(image) = image {
                    if !image.platform.architecture.is_empty() && !image.platform.os.is_empty() {
                        stage.platform = Some(image.platform.clone());
                        stage.state.platform = Some(image.platform.normalized());
                    }
                    take_config(&mut stage.state, &image);
                    stage.image = *image;
                }
            }
            Found::Context(base, image) => {
                let out = self.place(id, base);
                let stage = &mut self.stages.all[id];
                stage.state = State::of(out, Some(&platform));
                take_config(&mut stage.state, &image);
                stage.base_image = Some((*image).clone());
                stage.image = *image;
                stage.platform = Some(platform);
            }
            Found::Image {
                reference,
                config,
                original,
            } => {
                if !lookup.own_platform && self.platforms.implicit {
                    platform = self.detected(&config.platform, platform);
                }
                let empty = config.rootfs.diff_ids.is_empty()
                    && config.history.iter().all(|entry| entry.empty_layer);
                let out = if empty {
                    None
                } else {
                    let lines = lookup.lines;
                    let actual = &config.platform;
                    checks::base_platform(&name, &platform, actual, lines, &self.lint);
                    Some(self.image_node(id, &reference, &platform))
                };
                let stage = &mut self.stages.all[id];
                stage.state = State::of(out, Some(&platform).filter(|_| out.is_some()));
                stage.stage.base = reference;
                stage.image = *config;
                stage.base_image = Some(*original);
                stage.platform = Some(platform);
            }
        }
        let stage = &mut self.stages.all[id];
        stage.dispatched |= stage.unregistered;
    }

    /// An image for another platform than the build's is taken for what it is, if that can be run.
    fn detected(&self, image: &Platform, wanted: Platform) -> Platform {
        let same = |p: &Platform| p.os == image.os && p.architecture == image.architecture;
        if !same(&wanted) && same(&self.platforms.build) {
            return self.platforms.build.clone();
        }
        wanted
    }

    fn image_node(
        &mut self,
        id: StageId,
        reference: &str,
        platform: &Platform,
    ) -> super::plan::NodeId {
        let env = super::Env::default();
        let prefix = self.prefix(platform, &env);
        let stage = &mut self.stages.all[id];
        let title = name::numbered(stage, &format!("FROM {reference}"), prefix);
        let (code, lines) = (stage.stage.code.clone(), stage.stage.lines);
        let mut options = self.vertex_options(title, lines);
        if lines == Lines::default() {
            options = VertexOptions {
                locations: Vec::new(),
                ..options
            };
        }
        options.description.insert(COMMAND.to_owned(), code);
        options.caps.insert("source.image".to_owned());
        let mut source = image_source(reference);
        let mode = self.options.resolve_mode;
        if mode != crate::ui::ResolveMode::Default {
            let key = "image.resolvemode".to_owned();
            source.attrs.insert(key, mode.name().to_owned());
            if mode == crate::ui::ResolveMode::Pull {
                let cap = "source.image.resolvemode".to_owned();
                options.caps.insert(cap);
            }
        }
        let edge = kiln_llb::source(source, Some(&to_pb(platform)), options);
        self.plan.ready(Some(edge))
    }

    /// Puts a context into the plan.
    fn place(&mut self, id: StageId, base: Base) -> Output {
        match base {
            Base::Edge(None) => None,
            Base::Edge(edge) => Some(self.plan.ready(edge)),
            Base::Local(local) => {
                let node = self.plan.later();
                let paths = self.stages.all[id].paths.clone();
                self.locals.push((node, local, paths));
                Some(node)
            }
        }
    }

    /// Instructions that the base of a stage wants to run in it. Whether they read other stages.
    fn take_triggers(&mut self, id: StageId) -> Result<bool> {
        let stage = &mut self.stages.all[id];
        let lines = stage.stage.lines;
        if stage.unregistered || std::mem::replace(&mut stage.triggers_taken, true) {
            // Nothing runs on top of what is only copied from. An image whose trigger copies from
            // that same image would have no end.
            return Ok(false);
        }
        let mut triggers = std::mem::take(&mut stage.image.config.on_build);
        if let Some(base) = stage.base {
            let commands = self.stages.all[base].commands.iter();
            triggers.extend(
                commands.filter_map(|planned| match &planned.command.instruction {
                    Instruction::Onbuild(text) => Some(text.clone()),
                    _ => None,
                }),
            );
        }
        if triggers.is_empty() {
            return Ok(false);
        }
        self.add_triggers(id, &triggers).only_at(lines)
    }
}

/// A context that is an image brings its variables and directory along.
fn take_config(state: &mut State, image: &ImageConfig) {
    for entry in &image.config.env {
        let (key, value) = super::env::split(entry);
        if !key.is_empty() {
            state.env.set(key, value);
        }
    }
    if !image.config.working_dir.is_empty() {
        state.dir = crate::text::join(&[&state.dir, &image.config.working_dir]);
        if image.config.working_dir.starts_with('/') {
            state.dir.clone_from(&image.config.working_dir);
        }
    }
}
