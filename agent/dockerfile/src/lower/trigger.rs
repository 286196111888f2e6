//! `ONBUILD` triggers of images and stages.

use super::Converter;
use super::error::{Problem, Result};
use super::stage::{Planned, StageId};
use crate::instruction::Command;
use crate::lint::Linter;
use crate::parse::parse;

impl Converter<'_> {
    /// Puts triggers in front of a stage's instructions. Whether they read other stages.
    pub(super) fn add_triggers(&mut self, id: StageId, triggers: &[String]) -> Result<bool> {
        let lines = self.stages.all[id].stage.lines;
        let quiet = Linter::default();
        let mut more = false;
        let mut planned = Vec::with_capacity(triggers.len());
        for trigger in triggers {
            let mut parsed = parse(trigger.as_bytes()).map_err(|(error, _)| error)?;
            let (Some(mut statement), true) =
                (parsed.statements.pop(), parsed.statements.is_empty())
            else {
                return Err(Problem::Trigger.into());
            };
            // What it does is seen at the line that brought it in.
            statement.lines = lines;
            let mut command = Planned {
                command: Command::parse(&statement, &quiet)?,
                sources: Vec::new(),
                from_trigger: true,
            };
            self.join(id, &mut command)?;
            more |= !command.sources.is_empty();
            planned.push(command);
        }
        let stage = &mut self.stages.all[id];
        stage.command_total += planned.len();
        planned.append(&mut stage.commands);
        stage.commands = planned;
        Ok(more)
    }
}
