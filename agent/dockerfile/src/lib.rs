//! Parses, checks and lowers Dockerfiles to LLB.
//!
//! [`DockerfileFrontend`] is the way in for the engine; the parser, the instructions and the check
//! rules can be used by themselves.
//!
//! Invariants: the engine is reached through [`kiln_frontend::Bridge`] only. A Dockerfile is hostile
//! input: nothing here panics on it, recursion is bounded, and so is what variables expand to. Ops
//! have the bytes that BuildKit's frontend gives them (`tests/golden`).

mod frontend;
mod instruction;
mod lint;
mod lower;
mod parse;
mod shell;
mod subrequest;
mod suggest;
mod text;
mod ui;

pub use frontend::{DockerfileFrontend, SYNTAX_VERSION};
pub use instruction::{
    ArgDefinition, Command, CommandLine, Copy, Device, Healthcheck, InlineFile, Instruction,
    InstructionError, Mount, MountKind, Pair, Run, Sharing, Stage, StageError, Stages, stages,
};
pub use lint::{Broken, LintConfig, LintOptionError, Linter, Rule};
pub use lower::{ChmodError, Error, PathError, PortError, Problem};
pub use parse::{
    Directive, Heredoc, Lines, MAX_LINE, ParseError, Parsed, Statement, detect_syntax, directive,
    parse,
};
pub use shell::{ExpandError, WordError};
pub use suggest::Suggestion;
pub use ui::{ContextError, GitError, OptionError};
