//! Registry credentials, and secrets of builds, in the system's keyring: on Linux the Secret Service (gnome-keyring, KWallet, KeePassXC).
//!
//! ```text
//! open ─► a bus? ──no──► Absent          get     asks nothing of a person: a locked item is Locked
//!           │ yes                        put     may prompt, to unlock or to make the keyring
//!           ▼                            remove  may prompt, to unlock
//!         a Secret Service? ──no──► Absent
//! ```
//! An item is found by its attributes, which no keyring keeps secret: `xdg:schema` with `registry` and `username`, or
//! with the `name` of a build's secret. The password, token or value is its secret; it crosses the bus encrypted
//! (Diffie-Hellman, AES).
//!
//! Invariants: nothing is asked of a bus that isn't there, so that a build on a server pays nothing; every call
//! ends in time, whatever the service does; there is one item for a registry, and one for a name.

use std::time::Duration;

#[cfg(target_os = "linux")]
mod secret_service;
#[cfg(target_os = "linux")]
pub use secret_service::Keyring;

#[cfg(not(target_os = "linux"))]
mod none;
#[cfg(not(target_os = "linux"))]
pub use none::Keyring;

/// For a service that has nobody to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a person in front of a prompt.
const PROMPT_PATIENCE: Duration = Duration::from_mins(2);

/// What is kept for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Empty where the secret is an identity token.
    pub username: String,
    /// Password or token.
    pub secret: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Why a keyring doesn't serve.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is none.
    #[error("this session has no keyring: {reason}")]
    Absent {
        /// What is missing.
        reason: String,
    },
    /// It has what was asked for, behind its lock.
    #[error("the keyring is locked")]
    Locked,
    /// The person said no, or nobody could be asked.
    #[error("the keyring stays locked: its prompt was dismissed or couldn't be shown")]
    Dismissed,
    /// No answer.
    #[error("the keyring doesn't answer")]
    Silent,
    /// What it keeps isn't text.
    #[error("the keyring's item for {registry} isn't a password")]
    NotText {
        /// Of which registry.
        registry: String,
    },
    /// Anything else that goes wrong on the bus.
    #[cfg(target_os = "linux")]
    #[error("the keyring's service failed")]
    Service(#[source] ::secret_service::Error),
}
