//! Logging in to registries and out of them.
//!
//! A credential goes to the helper that the docker command's configuration names (`credsStore`,
//! `credHelpers`), else into the system's keyring. It is written as text only if that is asked for.
//!
//! Invariant: where it will be kept is known before anybody is asked for a password.

use std::process::ExitCode;

use clap::Args;
use kiln_client::login::{self, Layer, Reach};
use kiln_client::{Credential, CredentialSource as _, DockerConfig, HUB, registry_of};
use kiln_config::HostSettings;
use kiln_keyring::{Keyring, KeyringError, Login};

use super::build::interruptible;
use crate::builder::paths;
use crate::console;
use crate::failure::{Failure, Kind, Outcome, chain};

/// Log in to a registry, after a test of the login
#[derive(Debug, Args)]
#[command(
    after_help = "The password is kept by the credential helper that ~/.docker/config.json names for the registry,
else in the system's keyring.

Examples:
  kiln login registry.example -u me
  echo $TOKEN | kiln login registry.example -u me --password-stdin
  kiln login registry.example -u me --plain-text      where there is neither helper nor keyring"
)]
pub(crate) struct LoginArguments {
    /// [default: docker.io]
    registry: Option<String>,
    /// Name of the account
    #[arg(short, long)]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Keep the password as text in the docker command's configuration
    #[arg(long)]
    plain_text: bool,
    /// Keep it without a test
    #[arg(long)]
    no_test: bool,
}

/// Log out of a registry
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln logout registry.example")]
pub(crate) struct LogoutArguments {
    /// [default: docker.io]
    registry: Option<String>,
}

fn host(registry: Option<String>) -> String {
    let text = registry.unwrap_or_else(|| HUB.to_owned());
    let text = text
        .split_once("://")
        .map_or(text.as_str(), |(_, rest)| rest);
    let host = text.split('/').next().unwrap_or_default();
    match host {
        "hub.docker.com" => HUB.to_owned(),
        host => registry_of(host).to_owned(),
    }
}

fn config() -> Outcome<DockerConfig> {
    let directory = DockerConfig::default_dir().ok_or_else(|| {
        Failure::new(Kind::Config, "no home directory").hint("set HOME or DOCKER_CONFIG")
    })?;
    Ok(DockerConfig::load(&directory)?)
}

/// Where a login is kept.
enum Place {
    Helper,
    Keyring(Keyring),
    Text,
}

impl Place {
    async fn choose(config: &DockerConfig, registry: &str, as_text: bool) -> Outcome<Self> {
        if config.helper_of(registry).is_some() {
            return Ok(Self::Helper);
        }
        if as_text {
            return Ok(Self::Text);
        }
        let keyring = Keyring::open().await;
        keyring.map(Self::Keyring).map_err(|error| {
            let text = format!("there is nowhere to keep the password: {}", chain(&error));
            Failure::new(Kind::Config, text)
                .hint("log in to a session that has a keyring (GNOME's, KWallet, KeePassXC)")
                .hint("or name a credential helper in ~/.docker/config.json (\"credsStore\": \"pass\")")
                .hint("or keep it as text with --plain-text")
        })
    }
}

fn keyring_failure(error: &KeyringError) -> Failure {
    let failure = Failure::new(Kind::Unavailable, chain(error));
    match error {
        KeyringError::Locked | KeyringError::Dismissed => {
            failure.hint("unlock the keyring and try again; --plain-text does without one")
        }
        _ => failure,
    }
}

/// How the machine reaches registries, by its settings, whether it runs or not.
fn reach() -> Outcome<Reach> {
    let settings = HostSettings::load(&paths()?.settings_file());
    let reach = settings.and_then(|settings| Reach::of(&settings));
    reach.map_err(|error| Failure::new(Kind::Config, chain(&error)))
}

pub(crate) async fn login(arguments: LoginArguments) -> Outcome {
    let registry = host(arguments.registry);
    let mut config = config()?;
    let place = Place::choose(&config, &registry, arguments.plain_text).await?;
    let username = match arguments.username {
        Some(username) => username,
        None => ask("Username: ", true)?,
    };
    let secret = if arguments.password_stdin {
        std::io::read_to_string(std::io::stdin())?
            .trim_end_matches(['\r', '\n'])
            .to_owned()
    } else {
        ask("Password: ", false)?
    };
    if secret.is_empty() {
        return Err(Failure::user("the password is empty"));
    }
    let credential = Credential { username, secret };
    if !arguments.no_test {
        let reach = reach()?;
        let test = interruptible(login::test(&registry, &credential, &reach));
        test.await
            .ok_or_else(Failure::interrupted)?
            .map_err(|error| {
                let kind = match error.layer {
                    Layer::Auth | Layer::Scope => Kind::Build,
                    _ => Kind::Unavailable,
                };
                Failure::new(kind, format!("login failed: {error}")).hint(error.layer.hint())
            })?;
    }
    match place {
        Place::Helper => config.store(&registry, &credential, false).await?,
        Place::Text => {
            config.store(&registry, &credential, true).await?;
            console::note("The password is kept as text in the docker command's configuration.");
        }
        Place::Keyring(keyring) => {
            let login = Login {
                username: credential.username,
                secret: credential.secret,
            };
            let keep = interruptible(Box::pin(keyring.put(&registry, &login)));
            keep.await
                .ok_or_else(Failure::interrupted)?
                .map_err(|error| keyring_failure(&error))?;
            console::note("The password is kept in the system's keyring.");
            // It goes first, wherever a login is looked for.
            if config.credentials(&registry).await?.is_some() {
                console::note(&format!(
                    "The docker command's configuration has a login for {registry} too, and that one is \
                     used first: `docker logout {registry}` removes it."
                ));
            }
        }
    }
    console::print("Login succeeded")?;
    Ok(ExitCode::SUCCESS)
}

/// Forgets it in every place.
pub(crate) async fn logout(arguments: LogoutArguments) -> Outcome {
    let registry = host(arguments.registry);
    let mut any = config()?.erase(&registry).await?;
    match Keyring::open().await {
        Ok(keyring) => {
            let forget = interruptible(Box::pin(keyring.remove(&registry)));
            any |= forget
                .await
                .ok_or_else(Failure::interrupted)?
                .map_err(|error| keyring_failure(&error))?;
        }
        Err(KeyringError::Absent { .. }) => {}
        Err(error) => return Err(keyring_failure(&error)),
    }
    if any {
        console::note(&format!("Logged out of {registry}"));
    } else {
        console::note(&format!("There was no login for {registry}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal; a password isn't shown.
fn ask(question: &str, show: bool) -> Outcome<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    use std::io::{BufRead as _, IsTerminal as _, Write as _};
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::user("there is no terminal to ask on")
            .hint("use -u NAME and --password-stdin"));
    }
    let mut err = std::io::stderr();
    write!(err, "{question}")?;
    err.flush()?;
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    if !show {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &silent).map_err(std::io::Error::from)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if !show {
        tcsetattr(&stdin, OptionalActions::Now, &before).map_err(std::io::Error::from)?;
        console::note("");
    }
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn registries_are_hosts() {
        for (given, want) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("localhost:5000/v2"), "localhost:5000"),
        ] {
            assert_eq!(super::host(given.map(str::to_owned)), want);
        }
    }
}
