//! Stages: what is between one `FROM` and the next.

use super::flags::{Flags, Kind};
use super::{ArgDefinition, Command, Instruction, InstructionError, description};
use crate::lint::{Linter, Rule};
use crate::parse::{Lines, Statement};

/// A stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// Its name in lower case, or nothing.
    pub name: String,
    /// `FROM` as it was written.
    pub keyword: String,
    /// What it starts from, not expanded.
    pub base: String,
    /// `--platform`, not expanded.
    pub platform: String,
    /// Its instructions.
    pub commands: Vec<Command>,
    /// The comment that describes it.
    pub description: String,
    /// The line of its `FROM`.
    pub code: String,
    /// Where its `FROM` is.
    pub lines: Lines,
    /// The comment lines before it.
    pub comments: Vec<String>,
}

/// The instructions of a Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// The stages.
    pub stages: Vec<Stage>,
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<(Vec<ArgDefinition>, Lines)>,
}

/// Why statements are no stages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// An instruction is wrong.
    #[error("dockerfile parse error on line {line}")]
    Instruction {
        /// Its first line.
        line: u32,
        /// In what.
        #[source]
        source: InstructionError,
    },
    /// An instruction before any `FROM`.
    #[error("no build stage in current context")]
    NoStage,
    /// There are only `ARG`s.
    #[error("dockerfile contains no stages to build")]
    Empty,
}

/// Gathers statements into stages.
pub fn stages(
    statements: &[Statement],
    lint: &Linter,
) -> Result<Stages, (StageError, Option<Lines>)> {
    let mut all = Stages::default();
    for statement in statements {
        let at = |source| {
            let line = statement.lines.start;
            (
                StageError::Instruction { line, source },
                Some(statement.lines),
            )
        };
        if statement.keyword.eq_ignore_ascii_case("from") {
            all.stages.push(Stage::parse(statement, lint).map_err(at)?);
            continue;
        }
        let command = Command::parse(statement, lint).map_err(at)?;
        match (all.stages.last_mut(), command.instruction) {
            (Some(stage), instruction) => stage.commands.push(Command {
                instruction,
                ..command
            }),
            (None, Instruction::Arg(args)) => all.global_args.push((args, command.lines)),
            (None, _) => return Err((StageError::NoStage, Some(statement.lines))),
        }
    }
    if all.stages.is_empty() {
        return Err((StageError::Empty, None));
    }
    Ok(all)
}

impl Stage {
    fn parse(statement: &Statement, lint: &Linter) -> Result<Self, InstructionError> {
        let lint = lint.with_comments(&statement.comments);
        check_casing(statement, &lint);
        let (base, name) = match statement.args.as_slice() {
            [base] => (base, String::new()),
            [base, word, name] if word.eq_ignore_ascii_case("as") => {
                let lower = name.to_lowercase();
                let letters = |c: char| {
                    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')
                };
                let good = lower.starts_with(|c: char| c.is_ascii_lowercase());
                if !good || !lower.chars().all(letters) {
                    return Err(InstructionError::StageName(name.clone()));
                }
                (base, lower)
            }
            _ => return Err(InstructionError::From),
        };
        let flags = Flags::parse(&statement.flags, &[("platform", Kind::Text)])?;
        if !name.is_empty() {
            check_description("FROM", &[&name], statement, &lint);
        }
        Ok(Self {
            description: description(&statement.comments, &name),
            name,
            keyword: statement.keyword.clone(),
            base: base.clone(),
            platform: flags.text("platform"),
            commands: Vec::new(),
            code: statement.original.trim().to_owned(),
            lines: statement.lines,
            comments: statement.comments.clone(),
        })
    }
}

fn check_casing(statement: &Statement, lint: &Linter) {
    if let [_, _, name] = statement.args.as_slice()
        && *name != name.to_lowercase()
    {
        lint.report(
            Rule::StageNameCasing,
            statement.lines,
            format!("Stage name '{name}' should be lowercase"),
        );
    }
    if let [_, word, _, ..] = statement.args.as_slice() {
        let keyword = &statement.keyword;
        let wanted = if *keyword == keyword.to_lowercase() {
            word.to_lowercase()
        } else if *keyword == keyword.to_uppercase() {
            word.to_uppercase()
        } else {
            // A keyword of mixed case has a warning of its own.
            return;
        };
        if *word != wanted {
            lint.report(
                Rule::FromAsCasing,
                statement.lines,
                format!("'{word}' and '{keyword}' keywords' casing do not match"),
            );
        }
    }
}

/// The last comment line before a definition should describe it.
pub(super) fn check_description(
    keyword: &str,
    names: &[&str],
    statement: &Statement,
    lint: &Linter,
) {
    let (Some(comment), Some(first)) = (statement.comments.last(), names.first()) else {
        return;
    };
    let word = comment.split(' ').next().unwrap_or("");
    if names.contains(&word) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    lint.report(
        Rule::InvalidDefinitionDescription,
        statement.lines,
        format!("Comment for {keyword} should follow the format: `# {example} <description>`"),
    );
}
