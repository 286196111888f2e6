//! Instructions with their meaning: flags and arguments checked, nothing expanded yet.

mod copy;
mod error;
mod flags;
mod health;
mod run;
mod stage;

pub use copy::{Copy, InlineFile};
pub use error::InstructionError;
pub use health::Healthcheck;
pub use run::{Device, Mount, MountKind, Run, Sharing};
pub(crate) use run::{parse_mount, single};
pub use stage::{Stage, StageError, Stages, stages};

use crate::lint::{Linter, Rule};
use crate::parse::{Heredoc, Lines, Statement};
use crate::suggest::Suggestion;
use flags::{Flags, Kind};

/// An instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What it does.
    pub instruction: Instruction,
    /// The keyword as it was written.
    pub keyword: String,
    /// The whole line.
    pub code: String,
    /// Where it is.
    pub lines: Lines,
    /// The comment lines before it.
    pub comments: Vec<String>,
}

/// What an instruction does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "they are the instructions of the Dockerfile reference"
)]
pub enum Instruction {
    Add(Copy),
    Arg(Vec<ArgDefinition>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(Vec<Pair>),
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<Pair>),
    Maintainer(String),
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A name with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
    /// It was written with a blank in the place of the equals sign.
    pub legacy: bool,
}

/// An argument of `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDefinition {
    /// The name.
    pub key: String,
    /// The default.
    pub value: Option<String>,
    /// The comment that describes it.
    pub description: String,
}

/// A command with its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// One word where a shell takes it.
    pub args: Vec<String>,
    /// It is for the shell.
    pub shell: bool,
    /// Texts that follow it.
    pub files: Vec<Heredoc>,
}

/// All keywords, for suggestions.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Command {
    /// Reads a statement that isn't a `FROM`.
    pub(crate) fn parse(statement: &Statement, lint: &Linter) -> Result<Self, InstructionError> {
        let lint = lint.with_comments(&statement.comments);
        let keyword = statement.keyword.to_ascii_lowercase();
        let flags = |known: &[(&'static str, Kind)]| Flags::parse(&statement.flags, known);
        let no_flags = || flags(&[]).map(|_| ());
        let args = &statement.args;
        let instruction = match keyword.as_str() {
            "add" => Instruction::Add(Copy::parse(statement, true)?),
            "copy" => Instruction::Copy(Copy::parse(statement, false)?),
            "arg" => {
                if args.is_empty() {
                    return Err(InstructionError::AtLeastOne("ARG"));
                }
                let arguments = args
                    .iter()
                    .map(|arg| ArgDefinition::parse(arg, &statement.comments))
                    .collect::<Result<Vec<_>, _>>()?;
                let keys: Vec<&str> = arguments.iter().map(|arg| arg.key.as_str()).collect();
                stage::check_description("ARG", &keys, statement, &lint);
                Instruction::Arg(arguments)
            }
            "cmd" => {
                no_flags()?;
                Instruction::Cmd(CommandLine::of(statement, args))
            }
            "entrypoint" => {
                no_flags()?;
                Instruction::Entrypoint(CommandLine::of(statement, args))
            }
            "env" => {
                no_flags()?;
                Instruction::Env(pairs(args, "ENV")?)
            }
            "label" => {
                no_flags()?;
                Instruction::Label(pairs(args, "LABEL")?)
            }
            "expose" => {
                if args.is_empty() {
                    return Err(InstructionError::AtLeastOne("EXPOSE"));
                }
                no_flags()?;
                let mut ports = args.clone();
                ports.sort();
                Instruction::Expose(ports)
            }
            "healthcheck" => Instruction::Healthcheck(Healthcheck::parse(statement)?),
            "maintainer" => {
                lint.report(
                    Rule::MaintainerDeprecated,
                    statement.lines,
                    "Maintainer instruction is deprecated in favor of using label".to_owned(),
                );
                let name = one(args, "MAINTAINER")?;
                no_flags()?;
                Instruction::Maintainer(name)
            }
            "onbuild" => {
                if args.is_empty() {
                    return Err(InstructionError::AtLeastOne("ONBUILD"));
                }
                no_flags()?;
                Instruction::Onbuild(trigger(statement)?)
            }
            "run" => Instruction::Run(Run::parse(statement)?),
            "shell" => {
                no_flags()?;
                if args.is_empty() {
                    return Err(InstructionError::AtLeastOne("SHELL"));
                }
                if !statement.json {
                    return Err(InstructionError::NotJson("SHELL"));
                }
                Instruction::Shell(args.clone())
            }
            "stopsignal" => Instruction::StopSignal(one(args, "STOPSIGNAL")?),
            "user" => {
                let user = one(args, "USER")?;
                no_flags()?;
                Instruction::User(user)
            }
            "volume" => {
                if args.is_empty() {
                    return Err(InstructionError::AtLeastOne("VOLUME"));
                }
                no_flags()?;
                let volumes: Vec<String> = args.iter().map(|v| v.trim().to_owned()).collect();
                if volumes.iter().any(String::is_empty) {
                    return Err(InstructionError::EmptyVolume);
                }
                Instruction::Volume(volumes)
            }
            "workdir" => {
                let path = one(args, "WORKDIR")?;
                no_flags()?;
                Instruction::Workdir(path)
            }
            _ => {
                return Err(InstructionError::Unknown {
                    suggestion: Suggestion::ignoring_case(&statement.keyword, KEYWORDS),
                    keyword: statement.keyword.clone(),
                });
            }
        };
        Ok(Self {
            instruction,
            keyword: statement.keyword.clone(),
            code: statement.original.trim().to_owned(),
            lines: statement.lines,
            comments: statement.comments.clone(),
        })
    }
}

impl CommandLine {
    fn of(statement: &Statement, args: &[String]) -> Self {
        Self {
            args: if statement.json || args.is_empty() {
                args.to_vec()
            } else {
                vec![args.join(" ")]
            },
            shell: !statement.json,
            files: statement.heredocs.clone(),
        }
    }
}

impl ArgDefinition {
    fn parse(text: &str, comments: &[String]) -> Result<Self, InstructionError> {
        let (key, value) = match text.split_once('=') {
            Some(("", _)) => return Err(InstructionError::BlankName("ARG")),
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        Ok(Self {
            key: key.to_owned(),
            value,
            description: description(comments, key),
        })
    }
}

impl Pair {
    /// `key=value`
    pub(crate) fn joined(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

/// The comment line that starts with a name and a blank, without them.
fn description(comments: &[String], name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let rest = |line: &String| {
        let rest = line.strip_prefix(name)?.strip_prefix(' ')?;
        Some(rest.to_owned())
    };
    comments.iter().find_map(rest).unwrap_or_default()
}

fn one(args: &[String], keyword: &'static str) -> Result<String, InstructionError> {
    match args {
        [arg] => Ok(arg.clone()),
        _ => Err(InstructionError::ExactlyOne(keyword)),
    }
}

fn pairs(args: &[String], keyword: &'static str) -> Result<Vec<Pair>, InstructionError> {
    if args.is_empty() {
        return Err(InstructionError::AtLeastOne(keyword));
    }
    let triples = args.chunks_exact(3).map(|triple| {
        if triple[0].is_empty() {
            return Err(InstructionError::BlankName(keyword));
        }
        Ok(Pair {
            key: triple[0].clone(),
            value: triple[1].clone(),
            legacy: triple[2].is_empty(),
        })
    });
    triples.collect()
}

/// The trigger as a Dockerfile of one instruction.
fn trigger(statement: &Statement) -> Result<String, InstructionError> {
    let keyword = statement.args[0].trim().to_uppercase();
    match keyword.as_str() {
        "ONBUILD" => return Err(InstructionError::OnbuildChain),
        "MAINTAINER" | "FROM" => return Err(InstructionError::OnbuildTrigger(keyword)),
        _ => {}
    }
    let text = statement.original.trim_start();
    let mut text = text["onbuild".len()..].trim_start().to_owned();
    for heredoc in &statement.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
