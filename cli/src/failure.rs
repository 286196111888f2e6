//! How a command fails: a kind, what happened, and what to do next.
//!
//! | kind | exit code |
//! |---|---|
//! | build | 1 |
//! | user | 2 |
//! | config | 3 |
//! | unavailable | 4 |
//! | internal | 5 |
//! | interrupted | 130 |

use std::fmt::Write as _;
use std::process::ExitCode;

use kiln_client::build::BuildError;
use tonic::Code;

use crate::console;

/// Whose fault it is, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A step failed, or what was asked for isn't there.
    Build,
    /// The command line.
    User,
    /// A configuration file.
    Config,
    /// A builder, registry or machine that doesn't answer.
    Unavailable,
    /// Kiln.
    Internal,
    /// Ctrl-C.
    Interrupted,
}

/// A failure as people see it.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    excerpts: Vec<String>,
    hints: Vec<String>,
}

/// The outcome of a command.
pub(crate) type Outcome<T = ExitCode> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            excerpts: Vec::new(),
            hints: Vec::new(),
        }
    }

    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(Kind::User, message)
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says what was being done.
    pub(crate) fn while_doing(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "canceled")
    }

    /// Whether what was asked for isn't there.
    pub(crate) fn is_missing(&self) -> bool {
        self.kind == Kind::Build
    }

    /// Whether a builder that is gone may be behind it.
    pub(crate) fn may_be_the_builder(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Internal)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Build => 1,
            Kind::User => 2,
            Kind::Config => 3,
            Kind::Unavailable => 4,
            Kind::Internal => 5,
            Kind::Interrupted => 130,
        })
    }

    /// Says it on standard error.
    pub(crate) fn report(&self) {
        let mut text = String::new();
        for excerpt in &self.excerpts {
            text.push_str(excerpt);
        }
        let (red, plain) = if crate::progress::colors() {
            ("\x1b[31m", "\x1b[0m")
        } else {
            ("", "")
        };
        let _ = writeln!(text, "{red}ERROR:{plain} {}", self.message);
        for hint in &self.hints {
            let _ = writeln!(text, "Hint: {hint}");
        }
        console::note(text.trim_end());
    }
}

/// The text of an error and of what caused it, without repetitions.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl From<kiln_client::Error> for Failure {
    fn from(error: kiln_client::Error) -> Self {
        use kiln_client::Error;
        let kind = match &error {
            Error::Address { .. } | Error::Metadata { .. } => Kind::User,
            Error::Connect { .. }
            | Error::SessionEnded
            | Error::Session(_)
            | Error::HostNotRunning { .. }
            | Error::HostProgram
            | Error::HostStart { .. }
            | Error::Docker { .. } => Kind::Unavailable,
            Error::DockerConfig { .. } => Kind::Config,
            Error::Status(status) => kind_of(status.code()),
            _ => Kind::Internal,
        };
        let mut failure = Self::new(kind, chain(&error));
        for detail in error.details() {
            if let kiln_errdefs::Detail::Source(source) = detail {
                failure
                    .excerpts
                    .extend(kiln_client::excerpt(&source.info, &source.ranges));
            }
        }
        match &error {
            Error::Status(status) if status.code() == Code::Unimplemented => {
                failure =
                    failure.hint("this builder isn't Kiln's engine and doesn't know that call");
            }
            Error::HostStart { log, .. } => {
                failure = failure.hint(format!("its log is {}", log.display()));
            }
            _ => {}
        }
        failure
    }
}

fn kind_of(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Kind::User,
        Code::Unavailable | Code::DeadlineExceeded | Code::Unauthenticated => Kind::Unavailable,
        Code::Internal | Code::DataLoss | Code::Unimplemented => Kind::Internal,
        Code::Cancelled => Kind::Interrupted,
        _ => Kind::Build,
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        kiln_client::Error::from(status).into()
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let failure = Self::user(chain(&error));
        match error {
            BuildError::NoContext { .. } => {
                failure.hint("give a directory, a git or http URL, or - for standard input")
            }
            BuildError::NoDockerfile { .. } => failure.hint("name it with -f FILE"),
            _ => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}
