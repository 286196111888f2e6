//! What sort of failure it is: the one place that maps to gRPC codes and exit codes.

use tonic::Code;

/// Decides the gRPC code and the exit code of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was asked for can't be right: bad syntax, bad arguments.
    User,
    /// A step of the build failed.
    Build,
    /// A setting of the daemon is in the way.
    Config,
    /// Something named doesn't exist.
    NotFound,
    /// Something named exists already, or is in use.
    Conflict,
    /// Not allowed: an entitlement, a policy, a login.
    Denied,
    /// A registry, a client or a service can't be reached.
    Unavailable,
    /// The disk, or another resource, is full.
    Exhausted,
    /// The client left or said stop.
    Cancelled,
    /// Known, and not built in.
    Unimplemented,
    /// A defect of Kiln's.
    Internal,
}

impl Kind {
    /// The code that BuildKit's clients expect for it.
    pub fn code(self) -> Code {
        match self {
            Self::User => Code::InvalidArgument,
            Self::Build => Code::Unknown,
            Self::Config => Code::FailedPrecondition,
            Self::NotFound => Code::NotFound,
            Self::Conflict => Code::AlreadyExists,
            Self::Denied => Code::PermissionDenied,
            Self::Unavailable => Code::Unavailable,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Cancelled => Code::Cancelled,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }

    /// The exit code of `kiln`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Build => 1,
            Self::User | Self::Config => 2,
            Self::NotFound | Self::Conflict | Self::Denied => 3,
            Self::Unavailable => 4,
            Self::Exhausted => 5,
            Self::Cancelled => 130,
            Self::Unimplemented | Self::Internal => 70,
        }
    }
}

impl From<Code> for Kind {
    fn from(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::User,
            Code::Ok | Code::Unknown => Self::Build,
            Code::FailedPrecondition => Self::Config,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists | Code::Aborted => Self::Conflict,
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable,
            Code::ResourceExhausted => Self::Exhausted,
            Code::Cancelled => Self::Cancelled,
            Code::Unimplemented => Self::Unimplemented,
            Code::Internal | Code::DataLoss => Self::Internal,
        }
    }
}
