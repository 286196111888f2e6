//! Registries' credentials, as [`kiln_client::Logins`] finds them; a keyring that doesn't serve is told on standard error.

use kiln_client::Logins;
use kiln_keyring::KeyringError;

use crate::console;
use crate::failure::{Outcome, chain};

pub(crate) fn load() -> Outcome<Logins> {
    Ok(Logins::load(pass_over)?)
}

fn pass_over(error: &KeyringError) {
    console::note(&format!(
        "The keyring's logins aren't used: {}",
        chain(error)
    ));
}
