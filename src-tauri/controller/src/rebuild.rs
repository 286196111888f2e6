//! What a build of the past began with, as a form holds it, to be built once more.
//!
//! ```text
//!  note of this app (all of it) ──┐
//!  record + provenance ───────────┼──► Rebuild { request, missing, different }
//!  what is on this computer now ──┘
//! ```
//! A build of this app left a note of its whole request. Another client's is put together from its record: that has no
//! destinations of files, no values of secrets and no cache exports.
//!
//! Invariants: what isn't known is named and never guessed; a value of a secret is neither looked up nor told.

use std::path::Path;

use kiln_proto::moby::buildkit::v1 as control;
use serde::Deserialize;

use crate::projects::Local;
use crate::provenance::Facts;
use crate::view::{BuildRequest, BuildSummary, NameValue, Rebuild, SecretSource};
use crate::{Controller, Failure, builds, folder, provenance};

/// Options of a frontend that a form has no place for.
const UNKNOWN_OPTIONS: [(&str, &str); 7] = [
    ("force-network-mode", "network mode"),
    ("add-hosts", "names of hosts"),
    ("shm-size", "size of /dev/shm"),
    ("ulimit", "limits of processes"),
    ("cgroup-parent", "cgroup"),
    ("hostname", "host name"),
    ("source", "frontend"),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Import {
    r#type: String,
    #[serde(default)]
    attrs: std::collections::BTreeMap<String, String>,
}

impl Controller {
    /// The request that a build began with, and what of it isn't known any more.
    pub async fn rebuild(&self, reference: &str) -> Result<Rebuild, Failure> {
        let local = self.notes().local(reference);
        if let Some(request) = local.as_ref().and_then(|local| local.request.clone()) {
            return Ok(checked(Rebuild {
                request,
                ..Rebuild::default()
            }));
        }
        let (record, statement) = self.whole_record(reference).await?;
        let mut summary = self.known_summary(&record);
        if let Some(listed) = self.listed(reference) {
            // What a file of somebody's told besides its record.
            summary.context = listed.context;
        }
        let facts = statement
            .as_deref()
            .map(provenance::facts)
            .unwrap_or_default();
        // A keyring may ask to be unlocked: not for a build without secrets.
        let kept = match facts.secrets.is_empty() {
            true => Vec::new(),
            false => self.kept_secrets().await.unwrap_or_default(),
        };
        Ok(checked(of_record(
            &record,
            &summary,
            local.as_ref(),
            facts,
            &kept,
        )))
    }
}

/// As far as a record tells.
fn of_record(
    record: &control::BuildHistoryRecord,
    summary: &BuildSummary,
    local: Option<&Local>,
    facts: Facts,
    kept: &[String],
) -> Rebuild {
    let detail = builds::detail(summary.clone(), record, None);
    let attr = |key: &str| record.frontend_attrs.get(key).map(String::as_str);
    let mut rebuild = Rebuild {
        request: BuildRequest {
            context: summary.context.clone(),
            dockerfile: dockerfile(summary, local),
            target: summary.target.clone(),
            args: detail.args,
            labels: detail.labels,
            platforms: summary.platforms.clone(),
            tags: summary.tags.clone(),
            ssh: facts.ssh,
            ..BuildRequest::default()
        },
        ..Rebuild::default()
    };
    let (missing, different) = (&mut rebuild.missing, &mut rebuild.different);
    for NameValue { name, value } in detail.contexts {
        if value.starts_with("local:") || value.starts_with("input:") {
            missing.push(format!(
                "The context “{name}” was a folder that the record doesn’t name."
            ));
        } else {
            rebuild.request.contexts.push(NameValue { name, value });
        }
    }
    for id in facts.secrets {
        let source = match kept.contains(&id) {
            true => "keyring",
            false => "file",
        };
        if source == "keyring" {
            different.push(format!(
                "The secret “{id}” comes from the keyring, which has one of that name."
            ));
        }
        rebuild.request.secrets.push(SecretSource {
            value: if source == "keyring" {
                id.clone()
            } else {
                String::new()
            },
            source: source.into(),
            id,
        });
    }
    for id in &rebuild.request.ssh {
        if id != "default" {
            different.push(format!(
                "The ssh agent “{id}” is yours; which keys it was isn’t recorded."
            ));
        }
    }
    if let Some(imports) = attr("cache-imports") {
        rebuild.request.cache_from = imported(imports);
    }
    for (key, words) in UNKNOWN_OPTIONS {
        if let Some(value) = attr(key).filter(|value| !value.is_empty()) {
            different.push(format!("Its {words} ({value}) isn’t set again."));
        }
    }
    outputs(record, &mut rebuild);
    rebuild
}

/// The file's path: beneath the folder where it is there, as the form shows it.
fn dockerfile(summary: &BuildSummary, local: Option<&Local>) -> String {
    let noted = local.map(|local| Path::new(&local.dockerfile));
    match noted.filter(|path| path.is_absolute()) {
        Some(path) => path
            .strip_prefix(&summary.context)
            .unwrap_or(path)
            .display()
            .to_string(),
        None => summary.dockerfile.clone(),
    }
}

/// As `--cache-from` has them.
fn imported(json: &str) -> Vec<String> {
    let all: Vec<Import> = serde_json::from_str(json).unwrap_or_default();
    all.into_iter()
        .map(|import| {
            let attrs = import
                .attrs
                .iter()
                .map(|(key, value)| format!(",{key}={value}"));
            format!("type={}{}", import.r#type, attrs.collect::<String>())
        })
        .collect()
}

fn outputs(record: &control::BuildHistoryRecord, rebuild: &mut Rebuild) {
    let Some(first) = record.exporters.first() else {
        rebuild.request.output = "cache".into();
        return;
    };
    let pushed = first.attrs.get("push").is_some_and(|push| push == "true");
    rebuild.request.output = match first.r#type.as_str() {
        "image" if pushed => "push",
        "image" => "store",
        "docker" | "moby" => "docker",
        "oci" => "oci",
        "local" => "local",
        other => {
            rebuild.different.push(format!(
                "Its output ({other}) is none that the form has; it is built into the cache."
            ));
            "cache"
        }
    }
    .into();
    if let [_, more @ ..] = record.exporters.as_slice()
        && !more.is_empty()
    {
        let kinds: Vec<&str> = more.iter().map(|one| one.r#type.as_str()).collect();
        rebuild.different.push(format!(
            "Only its first output is made; others were {}.",
            kinds.join(", ")
        ));
    }
}

/// Adds what is wrong now: folders that are gone, sources and destinations that aren't known.
fn checked(mut rebuild: Rebuild) -> Rebuild {
    let request = &rebuild.request;
    let missing = &mut rebuild.missing;
    let remote = kiln_client::build::is_remote(&request.context);
    let context = Path::new(&request.context);
    if request.context.is_empty() {
        missing.push("Which folder it was of isn’t recorded.".into());
    } else if !remote && !context.is_dir() {
        missing.push(format!(
            "Its folder {} isn’t on this computer.",
            context.display()
        ));
    } else if !remote && !context.join(&request.dockerfile).is_file() {
        missing.push(format!(
            "Its Dockerfile {} is gone.",
            context.join(&request.dockerfile).display()
        ));
    } else if !remote {
        let info = folder::read(context, &request.dockerfile);
        for id in info.secrets {
            if !request.secrets.iter().any(|secret| secret.id == id) {
                rebuild.different.push(format!(
                    "The Dockerfile has a place for the secret “{id}”, which it gets none for."
                ));
            }
        }
    }
    for secret in &request.secrets {
        match secret.source.as_str() {
            _ if secret.value.is_empty() => missing.push(format!(
                "Where the secret “{}” came from isn’t recorded.",
                secret.id
            )),
            "file" if !Path::new(&secret.value).is_file() => missing.push(format!(
                "The file {} of the secret “{}” is gone.",
                secret.value, secret.id
            )),
            "env" if std::env::var_os(&secret.value).is_none() => missing.push(format!(
                "The variable {} of the secret “{}” isn’t set for the app.",
                secret.value, secret.id
            )),
            _ => {}
        }
    }
    if matches!(request.output.as_str(), "oci" | "local") && request.destination.is_empty() {
        missing.push("Where its files went isn’t recorded.".into());
    }
    rebuild
}

#[cfg(test)]
mod tests;
