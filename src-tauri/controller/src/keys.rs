//! The user's keyring: logins of registries, and secrets of builds by a name.
//!
//! Invariant: values go in and to the engine's session; none comes out to the window.

use kiln_keyring::{Keyring, KeyringError};

use crate::{Controller, Failure};

impl From<KeyringError> for Failure {
    fn from(error: KeyringError) -> Self {
        let hint = match &error {
            KeyringError::Absent { .. } => {
                "Log in to a desktop session with a keyring: GNOME’s, KWallet or KeePassXC."
            }
            KeyringError::Locked | KeyringError::Dismissed => "Unlock the keyring, then try again.",
            _ => "",
        };
        Self::user(Self::internal(&error).message, hint)
    }
}

/// Tells of a keyring that a build goes on without.
pub(crate) fn passed_over(error: &KeyringError) {
    tracing::warn!(%error, "the keyring's logins aren't used");
}

/// The value of a secret that the keyring keeps.
pub(crate) async fn secret(name: &str) -> Result<Vec<u8>, Failure> {
    let found = Keyring::open().await?.secret(name).await?;
    found.ok_or_else(|| {
        Failure::user(
            format!("The keyring has no secret “{name}”."),
            "Keep it there in the form of the build, or choose another source.",
        )
    })
}

impl Controller {
    /// Names of the secrets that the keyring keeps for builds; none where there is no keyring.
    pub async fn kept_secrets(&self) -> Result<Vec<String>, Failure> {
        match Keyring::open().await {
            Ok(keyring) => Ok(keyring.secrets().await?),
            Err(KeyringError::Absent { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a secret for builds, in place of one of that name.
    pub async fn keep_secret(&self, name: String, value: String) -> Result<(), Failure> {
        if name.is_empty() || value.is_empty() {
            return Err(Failure::user("Give the secret a name and a value.", ""));
        }
        let keyring = Keyring::open().await?;
        Ok(keyring.put_secret(&name, value.as_bytes()).await?)
    }

    /// Forgets one.
    pub async fn forget_secret(&self, name: String) -> Result<(), Failure> {
        Keyring::open().await?.remove_secret(&name).await?;
        Ok(())
    }
}
