//! What people set for the machine's engine in forms: how long history is kept, registries, garbage collection.
//!
//! ```text
//!  form ──► buildkitd-toml of the machine's settings (kiln-vmd keeps them) ──► the engine, at its start
//! ```
//! Invariants: the text stays as people wrote it but for what a form sets; what is written was read as a configuration
//! first; an engine that isn't the machine's is told nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_client::login::Reach;
use kiln_config::{
    ConfigError, ConfigText, DiskSpace, GcPolicyConfig, HistoryConfig, ProxySettings,
    RegistryConfig, Seconds,
};

use crate::registries::host_of;
use crate::view::{Policy, Registry, Retention};
use crate::{Controller, Failure};

const DAY: u64 = 86_400;

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::user(
            format!("The engine’s configuration can’t be edited: {error}."),
            "Mend it in Machine, under Resources.",
        )
    }
}

impl Controller {
    /// The machine's engine as it is configured.
    async fn engine_text(&self) -> Result<ConfigText, Failure> {
        let settings = self.host().await?.settings().await?;
        Ok(ConfigText::parse(&settings.buildkitd_toml)?)
    }

    /// Changes it; names of the settings that wait for the next start.
    async fn edit_engine(
        &self,
        edit: impl FnOnce(&mut ConfigText),
    ) -> Result<Vec<String>, Failure> {
        let host = self.host().await?;
        let mut settings = host.settings().await?;
        let mut text = ConfigText::parse(&settings.buildkitd_toml)?;
        edit(&mut text);
        let edited = text.finish()?;
        if edited == settings.buildkitd_toml {
            return Ok(Vec::new());
        }
        settings.buildkitd_toml = edited;
        Ok(host.set_settings(settings).await?)
    }

    /// How long the machine keeps records of builds.
    pub async fn retention(&self) -> Result<Retention, Failure> {
        Ok(retention(&self.engine_text().await?.config().history))
    }

    /// Names of the settings that wait for the next start.
    pub async fn save_retention(&self, retention: Retention) -> Result<Vec<String>, Failure> {
        let history = history(&retention)?;
        self.edit_engine(|text| text.set_history(&history)).await
    }

    /// What the machine is told of registries.
    pub(crate) async fn configured_registries(&self) -> Result<Vec<Registry>, Failure> {
        let text = self.engine_text().await?;
        let all = text.config().registries.iter();
        Ok(all
            .map(|(host, registry)| Registry {
                host: host.clone(),
                mirrors: registry.mirrors.clone(),
                http: registry.http.unwrap_or(false),
                insecure: registry.insecure.unwrap_or(false),
                ca_files: registry
                    .ca
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect(),
                configured: true,
                ..Registry::default()
            })
            .collect())
    }

    /// Tells the machine of a registry. Names of the settings that wait for the next start.
    pub async fn save_registry(&self, registry: Registry) -> Result<Vec<String>, Failure> {
        let host = host_of(&registry.host);
        let mut config = registry_config(&host, &registry)?;
        self.edit_engine(|text| {
            // The form can't say that one of this computer speaks HTTPS; whoever wrote it meant it.
            let written = text.config().registries.get(&host);
            config.http = config
                .http
                .or(written.and_then(|known| known.http.filter(|http| !http)));
            text.set_registry(&host, Some(&config));
        })
        .await
    }

    /// Takes a registry's settings away; its login stays.
    pub async fn forget_registry(&self, host: String) -> Result<Vec<String>, Failure> {
        self.edit_engine(|text| text.set_registry(&host, None))
            .await
    }

    /// How the machine reaches registries.
    pub(crate) async fn reach(&self) -> Result<Reach, Failure> {
        let settings = self.host().await?.settings().await?;
        let text = ConfigText::parse(&settings.buildkitd_toml)?;
        let proxy = settings.proxy.unwrap_or_default();
        Ok(Reach {
            registries: text.config().registries.clone(),
            ca_files: settings.ca_files.into_iter().map(PathBuf::from).collect(),
            proxy: ProxySettings {
                http: proxy.http,
                https: proxy.https,
                no_proxy: proxy.no_proxy,
            },
        })
    }

    /// Keeps policies for the engine's next starts, where it is the machine's.
    pub(crate) async fn keep_policies(&self, policies: &[Policy]) -> Result<Vec<String>, Failure> {
        if self.builder_in_use().is_some() {
            return Ok(Vec::new());
        }
        let rules: Vec<GcPolicyConfig> = policies.iter().map(rule).collect();
        let waiting = self
            .edit_engine(|text| text.set_gc_policies(&rules))
            .await?;
        // The engine has rules already; what it takes for its defaults is what it was started with.
        Ok(match rules.is_empty() {
            true => waiting,
            false => Vec::new(),
        })
    }
}

fn retention(history: &HistoryConfig) -> Retention {
    let days = |age: Seconds| age.0.as_secs().div_ceil(DAY);
    Retention {
        max_age_days: history
            .max_age
            .map_or(0, |age| u32::try_from(days(age)).unwrap_or(u32::MAX)),
        max_entries: history
            .max_entries
            .map_or(0, |entries| u32::try_from(entries).unwrap_or(u32::MAX)),
        max_bytes: match history.max_size {
            Some(DiskSpace::Bytes(bytes)) => i64::try_from(bytes).unwrap_or(i64::MAX),
            // A share of a disk has no place in the form, and is replaced when the form is saved.
            Some(DiskSpace::Percent(_)) | None => 0,
        },
    }
}

fn history(retention: &Retention) -> Result<HistoryConfig, Failure> {
    let bytes = u64::try_from(retention.max_bytes)
        .map_err(|_| Failure::user("A size can’t be less than nothing.", ""))?;
    Ok(HistoryConfig {
        max_age: (retention.max_age_days > 0)
            .then(|| Seconds(Duration::from_secs(u64::from(retention.max_age_days) * DAY))),
        max_entries: (retention.max_entries > 0).then_some(retention.max_entries.into()),
        max_size: (bytes > 0).then_some(DiskSpace::Bytes(bytes)),
    })
}

fn rule(policy: &Policy) -> GcPolicyConfig {
    let space = |bytes: i64| {
        u64::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .map(DiskSpace::Bytes)
    };
    let age = u64::try_from(policy.keep_duration_seconds).unwrap_or(0);
    GcPolicyConfig {
        all: policy.all,
        filters: policy.filters.clone(),
        keep_duration: (age > 0).then(|| Seconds(Duration::from_secs(age))),
        reserved_space: space(policy.reserved_space),
        max_used_space: space(policy.max_used_space),
        min_free_space: space(policy.min_free_space),
        keep_bytes: None,
    }
}

/// What a form says, checked: the engine would refuse the rest at its start.
fn registry_config(host: &str, registry: &Registry) -> Result<RegistryConfig, Failure> {
    if !is_host(host) {
        return Err(Failure::user(
            format!("“{host}” isn’t a registry."),
            "Give its host, with a port where it has one: registry.example.com:5000.",
        ));
    }
    let mut mirrors = Vec::new();
    for mirror in registry.mirrors.iter().map(|mirror| mirror.trim()) {
        let bare = mirror
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let bare = bare.trim_end_matches('/');
        if !is_host(bare.split('/').next().unwrap_or_default())
            || bare.contains(char::is_whitespace)
        {
            return Err(Failure::user(
                format!("“{mirror}” isn’t a mirror."),
                "Give host, host:port or host/path; one a line.",
            ));
        }
        mirrors.push(bare.to_owned());
    }
    for path in &registry.ca_files {
        certificate(Path::new(path))?;
    }
    Ok(RegistryConfig {
        mirrors,
        http: registry.http.then_some(true),
        insecure: registry.insecure.then_some(true),
        ca: registry.ca_files.iter().map(PathBuf::from).collect(),
        ..RegistryConfig::default()
    })
}

fn is_host(text: &str) -> bool {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().is_ok()),
        _ => (text, true),
    };
    !name.is_empty() && port && text.chars().all(allowed) && !name.starts_with(['.', '-'])
}

fn certificate(path: &Path) -> Result<(), Failure> {
    let refused = |why: String| {
        Failure::user(
            format!("{} isn’t a certificate: {why}.", path.display()),
            "Give the whole path of a file in PEM form.",
        )
    };
    if !path.is_absolute() {
        return Err(refused("the path isn’t whole".into()));
    }
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let begins = b"-----BEGIN CERTIFICATE-----";
    if !pem.windows(begins.len()).any(|window| window == begins) {
        return Err(refused("no line begins one".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
