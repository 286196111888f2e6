//! Names that many layers pass: builds, sessions, cache records.
//!
//! Every name is a checked string or number of its own type, so that one can't be given for another.
//! Vertices are named by `kiln_oci::Digest`: the sha256 of the op's bytes as they were sent.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the name as it is.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

name! {
    /// A build, as the client named it in `SolveRequest.ref`.
    BuildRef
}
name! {
    /// A client's session, as it names itself in `x-docker-expose-session-uuid`.
    SessionId
}
name! {
    /// A cache record: one file-system state, mutable or immutable. 25 characters of base 36.
    RefId
}
