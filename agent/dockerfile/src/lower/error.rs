//! What can go wrong between instructions and LLB.

use crate::instruction::{InstructionError, StageError};
use crate::lint::LintOptionError;
use crate::parse::{Lines, ParseError};
use crate::shell::WordError;
use crate::suggest::Suggestion;
use crate::text::quote;
use crate::ui::{ContextError, GitError, OptionError};

use super::chmod::ChmodError;
use super::expose::PortError;
use super::os_path::PathError;

/// Why a Dockerfile can't be built, with the lines that it is about.
#[derive(Debug)]
pub struct Error {
    /// What is wrong.
    pub problem: Box<Problem>,
    /// Where; the innermost first.
    pub lines: Vec<Lines>,
}

/// Results of this crate.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a Dockerfile can't be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each is")]
pub enum Problem {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    #[error(transparent)]
    Word(#[from] WordError),
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Chmod(#[from] ChmodError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("failed to parse check options")]
    CheckOption(#[from] LintOptionError),
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error("lint violation found for rules: {0}")]
    Lint(String),

    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    #[error("failed to parse stage name {}", quote(name))]
    BaseName {
        name: String,
        #[source]
        source: kiln_oci::ReferenceError,
    },
    #[error("{name}{suggestion}: failed to resolve source metadata for {reference}")]
    BaseImage {
        name: String,
        suggestion: Suggestion,
        reference: String,
        #[source]
        source: kiln_frontend::Error,
    },
    #[error("failed to parse the image config of {name}")]
    BaseConfig {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("empty platform value from expression {expression}{suggestion}")]
    EmptyPlatform {
        expression: String,
        suggestion: Suggestion,
    },
    #[error("failed to parse platform {text}{suggestion}")]
    Platform {
        text: String,
        suggestion: Suggestion,
        #[source]
        source: kiln_oci::PlatformError,
    },
    #[error("target stage {} could not be found{suggestion}", quote(name))]
    Target {
        name: String,
        suggestion: Suggestion,
    },
    #[error("invalid stage index {0}")]
    StageIndex(i64),
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    FromVariable,
    #[error(
        "cannot copy from stage {}, it needs to be defined before current stage {}",
        quote(from),
        quote(stage)
    )]
    CopyOrder { from: String, stage: String },
    #[error(
        "cannot mount from stage {} to {}, stage needs to be defined before current command",
        quote(from),
        quote(target)
    )]
    MountOrder { from: String, target: String },
    #[error("invalid mount target {}", quote(.0))]
    MountTarget(String),
    #[error("one of source, target required")]
    SecretName,
    #[error("ssh does not support source")]
    SshSource,
    #[error("onbuild trigger should be a single expression")]
    Trigger,
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("invalid signal: {0}")]
    Signal(String),
    #[error("parsing produced an invalid run command: {0:?}")]
    RunCommand(Vec<String>),

    #[error("checksum can't be specified for COPY")]
    CopyChecksum,
    #[error("checksum can't be specified for multiple sources")]
    ManyChecksums,
    #[error("checksum requires HTTP(S) or Git sources")]
    LocalChecksum,
    #[error("checksum mismatch {} != {}", quote(a), quote(b))]
    ChecksumMismatch { a: String, b: String },
    #[error("{0} is no checksum")]
    Checksum(String, #[source] kiln_oci::DigestError),
    #[error("inconsistent keep-git-dir configuration")]
    KeepGitDir,
    #[error("source can't be a git ref for COPY")]
    CopyGit,
    #[error("source can't be a URL for COPY")]
    CopyUrl,

    #[error("invalid SOURCE_DATE_EPOCH: {0}")]
    Epoch(String),
    #[error("SOURCE_DATE_EPOCH stage must use FROM scratch")]
    EpochBase,
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")]
    EpochAdds,
    #[error(
        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {0} instruction"
    )]
    EpochInstruction(String),
    #[error("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")]
    EpochSource,
    #[error("failed to resolve SOURCE_DATE_EPOCH")]
    EpochLookup(#[source] kiln_frontend::Error),

    #[error("failed with {name} = {value}")]
    Forward {
        name: &'static str,
        value: String,
        #[source]
        source: kiln_frontend::Error,
    },
    #[error(transparent)]
    Engine(kiln_frontend::Error),
    #[error("unsupported request {0}")]
    Request(String),
    #[error("failed to write {what}")]
    Json {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

macro_rules! without_lines {
    ($($problem:ty),+ $(,)?) => {$(
        impl From<$problem> for Error {
            fn from(problem: $problem) -> Self {
                Self {
                    problem: Box::new(problem.into()),
                    lines: Vec::new(),
                }
            }
        }
    )+};
}

without_lines!(
    Problem,
    InstructionError,
    WordError,
    OptionError,
    ContextError,
    GitError,
    ChmodError,
    PortError,
    PathError,
    LintOptionError,
    ParseError,
);

/// Says where an error is.
pub(crate) trait At<T> {
    /// Adds lines.
    fn at(self, lines: Lines) -> Result<T>;
    /// Sets the lines, whatever they were.
    fn only_at(self, lines: Lines) -> Result<T>;
}

impl<T, E: Into<Error>> At<T> for std::result::Result<T, E> {
    fn at(self, lines: Lines) -> Result<T> {
        self.map_err(|error| {
            let mut error = error.into();
            if lines != Lines::default() {
                error.lines.push(lines);
            }
            error
        })
    }

    fn only_at(self, lines: Lines) -> Result<T> {
        self.map_err(|error| Error {
            lines: vec![lines],
            ..error.into()
        })
    }
}
