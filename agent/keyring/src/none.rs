//! Systems whose keyring isn't spoken to yet.

use crate::{KeyringError, Login};

/// No keyring.
#[derive(Debug)]
pub struct Keyring(std::convert::Infallible);

impl Keyring {
    /// Says that there is none.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn open() -> Result<Self, KeyringError> {
        Err(KeyringError::Absent {
            reason: "only Linux's Secret Service is spoken to yet".to_owned(),
        })
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn get(&self, _: &str) -> Result<Option<Login>, KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn put(&self, _: &str, _: &Login) -> Result<(), KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn remove(&self, _: &str) -> Result<bool, KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn registries(&self) -> Result<Vec<String>, KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn secret(&self, _: &str) -> Result<Option<Vec<u8>>, KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn secrets(&self) -> Result<Vec<String>, KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn put_secret(&self, _: &str, _: &[u8]) -> Result<(), KeyringError> {
        match self.0 {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "it is async where there is a keyring")]
    pub async fn remove_secret(&self, _: &str) -> Result<bool, KeyringError> {
        match self.0 {}
    }
}
