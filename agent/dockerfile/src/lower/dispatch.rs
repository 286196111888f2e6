//! Runs through the instructions of each needed stage.

use std::collections::BTreeSet;

use kiln_filesync::PatternMatcher;

use super::error::{At, Result};
use super::stage::{Planned, StageId, StageState};
use super::{Converter, DEFAULT_PATH, checks, env};
use crate::instruction::{Instruction, Pair};
use crate::lint::Linter;
use crate::parse::Lines;
use crate::shell::{Lexer, WordError};

impl Converter<'_> {
    /// Lowers all needed stages in the order of the file.
    pub(super) async fn dispatch(
        &mut self,
        reachable: &BTreeSet<StageId>,
        target: StageId,
    ) -> Result<()> {
        let ignore = self.contexts.ignore_patterns().await?;
        if !ignore.is_empty() {
            // A pattern that can't be read fails where the files are asked for.
            self.ignore = PatternMatcher::new(&ignore).ok();
        }
        let wanted: Vec<StageId> = (0..self.stages.all.len())
            .filter(|id| {
                let needed = reachable.contains(id) && !self.stages.all[*id].dispatched;
                self.all_stages || needed
            })
            .collect();
        let mut uses = vec![0_usize; self.stages.all.len()];
        // The target is used by the image that is made of it.
        uses[target] += 1;
        for id in &wanted {
            if let Some(base) = self.stages.all[*id].base {
                uses[base] += 1;
            }
        }
        for id in wanted {
            let base = self.stages.all[id].base;
            let last = base.is_some_and(|base| {
                uses[base] -= 1;
                uses[base] == 0
            });
            self.stages.inherit(id, last);
            // Taken out, so that it can be changed while the others are read.
            let mut stage = std::mem::take(&mut self.stages.all[id]);
            let result = self.dispatch_stage(&mut stage);
            stage.dispatched = true;
            if uses[id] == 0 {
                stage.image = kiln_oci::ImageConfig::default();
            }
            self.stages.all[id] = stage;
            result?;
        }
        self.stages.all[target].paths.add("/");
        Ok(())
    }

    fn dispatch_stage(&mut self, stage: &mut StageState) -> Result<()> {
        let platform = stage.platform.get_or_insert(self.platforms.target.clone());
        let config = &mut stage.image.config;
        let has_path = config.env.iter().any(|entry| env::split(entry).0 == "PATH");
        if !has_path && platform.os != "windows" {
            config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in &config.env {
            let (key, value) = env::split(entry);
            stage.state.env.set(key, value);
        }
        if !self.options.hostname.is_empty() {
            stage.state.hostname.clone_from(&self.options.hostname);
        }
        let dir = config.working_dir.clone();
        let user = config.user.clone();
        if !dir.is_empty() {
            super::image::set_workdir(stage, &dir).at(stage.stage.lines)?;
        }
        if !user.is_empty() {
            stage.state.user = user;
        }
        stage.state.network = self.options.network;
        let mut commands = std::mem::take(&mut stage.commands);
        for planned in &mut commands {
            let lines = planned.command.lines;
            stage.in_trigger = planned.from_trigger;
            self.dispatch_command(stage, planned).at(lines)?;
        }
        stage.commands = commands;
        Ok(())
    }

    fn dispatch_command(&mut self, stage: &mut StageState, planned: &Planned) -> Result<()> {
        let command = &planned.command;
        let lint = self.lint.with_comments(&command.comments);
        let lines = command.lines;
        let mut instruction = command.instruction.clone();
        self.expand(stage, &mut instruction, lines, &lint)?;
        match &mut instruction {
            Instruction::Add(copy) => {
                self.copy(stage, command, copy, None, &lint)?;
                for source in &copy.sources {
                    if !source.starts_with("http://") && !source.starts_with("https://") {
                        add_context_path(stage, source);
                    }
                }
            }
            Instruction::Copy(copy) => {
                let from = planned.sources.first().copied();
                self.copy(stage, command, copy, from, &lint)?;
                for source in &copy.sources {
                    match from {
                        Some(from) => self.stages.all[from].paths.add(source),
                        None => add_context_path(stage, source),
                    }
                }
            }
            Instruction::Run(run) => self.run(stage, command, run, &planned.sources, &lint)?,
            Instruction::Workdir(path) => self.workdir(stage, command, path, &lint)?,
            Instruction::Arg(args) => self.arg(stage, args, lines, &lint)?,
            Instruction::Expose(ports) => self.expose(stage, ports, lines, &lint)?,
            _ => self.configure(stage, command, instruction, &lint)?,
        }
        Ok(())
    }

    /// Puts values in the place of variables, where the instruction allows them.
    fn expand(
        &self,
        stage: &StageState,
        instruction: &mut Instruction,
        lines: Lines,
        lint: &Linter,
    ) -> Result<(), WordError> {
        let env = &stage.state.env;
        let with = |lexer: Lexer, word: &mut String| {
            let expanded = lexer.expand(word, env)?;
            checks::undefined(&expanded.unmatched, &stage.build_args, env, lines, lint);
            *word = expanded.text;
            Ok::<(), WordError>(())
        };
        let word = |word: &mut String| with(self.lexer, word);
        let pairs = |pairs: &mut Vec<Pair>| {
            pairs.iter_mut().try_for_each(|pair| {
                word(&mut pair.key)?;
                word(&mut pair.value)
            })
        };
        match instruction {
            Instruction::Env(list) | Instruction::Label(list) => pairs(list)?,
            Instruction::Add(copy) | Instruction::Copy(copy) => {
                word(&mut copy.chown)?;
                word(&mut copy.chmod)?;
                word(&mut copy.checksum)?;
                copy.sources.iter_mut().try_for_each(word)?;
                word(&mut copy.dest)?;
                let text = Lexer {
                    plain_quotes: true,
                    ..Lexer::new('\\')
                };
                for file in copy.inline.iter_mut().filter(|file| file.expand) {
                    with(text, &mut file.data)?;
                }
            }
            Instruction::Workdir(text)
            | Instruction::User(text)
            | Instruction::StopSignal(text) => word(text)?,
            Instruction::Volume(list) => list.iter_mut().try_for_each(word)?,
            _ => {}
        }
        Ok(())
    }
}

pub(super) fn add_context_path(stage: &mut StageState, path: &str) {
    let path = crate::text::join(&["/", path]);
    stage.context_paths.insert(path);
}
