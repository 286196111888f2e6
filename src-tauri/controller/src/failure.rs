//! Failures as the window shows them: what kind of thing to do, what happened, what next.

use serde::Serialize;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// `unavailable`, `unsupported`, `user` or `internal`.
    pub kind: &'static str,
    /// What happened.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl Failure {
    /// Something that people can change.
    pub fn user(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: "user",
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The engine isn't there.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            kind: "unavailable",
            message: message.into(),
            hint: "Start the machine, then try again.".into(),
        }
    }

    /// A failed call whose causes are told in one line.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self {
            kind: "internal",
            message: chain(error),
            hint: String::new(),
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

impl From<kiln_client::Error> for Failure {
    fn from(error: kiln_client::Error) -> Self {
        use kiln_client::Error;
        match &error {
            Error::Connect { .. } => Self::unavailable(chain(&error)),
            Error::HostNotRunning { .. } | Error::HostProgram | Error::HostStart { .. } => Self {
                kind: "unavailable",
                message: chain(&error),
                hint: String::new(),
            },
            Error::Status(status) => Self::from(status.as_ref().clone()),
            _ => Self::internal(&error),
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let (kind, hint) = match status.code() {
            tonic::Code::Unimplemented => (
                "unsupported",
                "The engine in use doesn’t offer this. Kiln’s own machine may; see Builders.",
            ),
            tonic::Code::Unavailable => ("unavailable", "Start the machine, then try again."),
            tonic::Code::NotFound
            | tonic::Code::InvalidArgument
            | tonic::Code::FailedPrecondition
            | tonic::Code::AlreadyExists => ("user", ""),
            _ => ("internal", ""),
        };
        let message = match status.message() {
            "" => format!("The engine answered {:?}.", status.code()),
            text => text.to_owned(),
        };
        Self {
            kind,
            message,
            hint: hint.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_what_to_do() {
        for (code, kind) in [
            (tonic::Code::Unimplemented, "unsupported"),
            (tonic::Code::Unavailable, "unavailable"),
            (tonic::Code::NotFound, "user"),
            (tonic::Code::Internal, "internal"),
        ] {
            assert_eq!(Failure::from(tonic::Status::new(code, "x")).kind, kind);
        }
        let nameless = Failure::from(tonic::Status::new(tonic::Code::Aborted, ""));
        assert_eq!(nameless.message, "The engine answered Aborted.");
    }
}
