//! The form of a new build, made into what the engine is sent and what its session serves.
//!
//! ```text
//!  form ──request──► Request ──prepare──► Prepared ──+ credentials, keyring's secrets, Docker's stream──► Ready
//! ```
//! Invariant: a value that the keyring keeps is read when the build begins and is in no setting, answer or log.

use std::sync::Arc;

use kiln_client::build::{
    BuildRequest as Request, CacheSpec, ContextSource, DockerfileSource, Kept, OutputSpec,
    Prepared, is_remote, parse_secret, parse_ssh,
};
use kiln_client::docker::{DockerEngine, Loading};
use kiln_client::{Logins, Output, Secret};

use crate::view::BuildRequest;
use crate::{Controller, Failure, keys};

/// A build that can start.
pub(crate) struct Ready {
    pub(crate) prepared: Prepared,
    /// Docker, as it takes up the image.
    pub(crate) loading: Option<Loading>,
}

impl Controller {
    /// All that a build of the form needs.
    pub(crate) async fn ready(&self, wanted: BuildRequest) -> Result<Ready, Failure> {
        let mut kept = Vec::new();
        for secret in &wanted.secrets {
            if secret.source == "keyring" {
                kept.push((secret.id.clone(), keys::secret(&secret.value).await?));
            }
        }
        let mut prepared = self.prepare(wanted)?;
        prepared.attachments.secrets.extend(
            kept.into_iter()
                .map(|(id, value)| (id, Secret::Bytes(value.into()))),
        );
        let mut loading = None;
        for (kept, output) in prepared.kept.iter().zip(&mut prepared.attachments.outputs) {
            if let Kept::Docker(_) = kept {
                let (sink, work) = DockerEngine::locate()?.load().await.map_err(|error| {
                    Failure::user(
                        Failure::from(error).message,
                        "Start Docker on this computer, or keep the image in Kiln.",
                    )
                })?;
                *output = Output::Stream(sink);
                loading = Some(work);
            }
        }
        Ok(Ready { prepared, loading })
    }

    /// The form for the engine in use; secrets of the keyring and Docker's stream aren't there yet.
    pub(crate) fn prepare(&self, wanted: BuildRequest) -> Result<Prepared, Failure> {
        let mut prepared = request(wanted)?
            .prepare(self.builder_kind())
            .map_err(|error| Failure::user(error.to_string(), ""))?;
        let logins = Logins::load(keys::passed_over)?;
        prepared.attachments.credentials = Some(Arc::new(logins));
        Ok(prepared)
    }
}

fn request(wanted: BuildRequest) -> Result<Request, Failure> {
    let invalid = |error: kiln_client::build::BuildError| Failure::user(error.to_string(), "");
    let remote = is_remote(&wanted.context);
    let folder = std::path::PathBuf::from(&wanted.context);
    let mut request = Request {
        dockerfile: match wanted.dockerfile.as_str() {
            "" | "Dockerfile" => DockerfileSource::InContext,
            path if remote => DockerfileSource::Path(path.into()),
            path => DockerfileSource::Path(folder.join(path)),
        },
        context: match remote {
            true => ContextSource::Url(wanted.context),
            false => ContextSource::Directory(folder),
        },
        target: (!wanted.target.is_empty()).then_some(wanted.target),
        arguments: wanted
            .args
            .into_iter()
            .map(|arg| (arg.name, arg.value))
            .collect(),
        labels: wanted
            .labels
            .into_iter()
            .map(|label| (label.name, label.value))
            .collect(),
        contexts: wanted
            .contexts
            .into_iter()
            .map(|context| (context.name, context.value))
            .collect(),
        platforms: wanted.platforms,
        no_cache: wanted.no_cache,
        pull: wanted.pull,
        ..Request::default()
    };
    for secret in wanted.secrets {
        let source = match secret.source.as_str() {
            "keyring" => continue,
            "env" => "env",
            _ => "src",
        };
        let (id, secret) = parse_secret(&format!("id={},{source}={}", secret.id, secret.value))
            .map_err(invalid)?;
        request.secrets.insert(id, secret);
    }
    for ssh in wanted.ssh {
        let (id, socket) = parse_ssh(&ssh).map_err(invalid)?;
        request.ssh.insert(id, socket);
    }
    for spec in wanted.cache_from {
        request
            .cache_from
            .extend(CacheSpec::parse(&spec).map_err(invalid)?);
    }
    for spec in wanted.cache_to {
        request
            .cache_to
            .extend(CacheSpec::parse(&spec).map_err(invalid)?);
    }
    let output = match wanted.output.as_str() {
        "store" => Some(OutputSpec::new("image", [])),
        "push" => Some(OutputSpec::new("image", [("push", "true")])),
        "docker" => Some(OutputSpec::load()),
        "oci" | "local" => Some(OutputSpec {
            destination: Some(wanted.destination),
            ..OutputSpec::new(&wanted.output, [])
        }),
        "cache" => None,
        other => return Err(Failure::user(format!("There is no output “{other}”."), "")),
    };
    if let Some(output) = output {
        request.outputs.push(output);
        request.tags = wanted.tags;
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::SecretSource;

    #[test]
    fn a_form_becomes_a_request() {
        let wanted = BuildRequest {
            context: "/src".into(),
            output: "oci".into(),
            destination: "/tmp/x, y.tar".into(),
            tags: vec!["a:1".into()],
            cache_to: vec!["type=registry,ref=r.example/c,mode=max".into()],
            ..Default::default()
        };
        let built = request(wanted.clone()).unwrap();
        assert_eq!(built.outputs[0].kind, "oci");
        assert_eq!(
            built.outputs[0].destination.as_deref(),
            Some("/tmp/x, y.tar")
        );
        assert_eq!(built.tags, ["a:1"]);
        assert_eq!(built.cache_to.len(), 1);
        let with = |output: &str| {
            request(BuildRequest {
                output: output.into(),
                ..wanted.clone()
            })
        };
        assert!(with("cache").unwrap().outputs.is_empty());
        assert_eq!(with("docker").unwrap().outputs[0].kind, "docker");
        assert!(with("push").unwrap().outputs[0].pushes());
        assert_eq!(with("fax").unwrap_err().kind, "user");
    }

    #[test]
    fn a_repository_is_fetched_by_the_engine() {
        let built = request(BuildRequest {
            context: "https://example.com/shop.git#main".into(),
            dockerfile: "deploy/Dockerfile".into(),
            output: "cache".into(),
            ..Default::default()
        })
        .unwrap();
        assert!(matches!(built.context, ContextSource::Url(_)));
        let file = DockerfileSource::Path("deploy/Dockerfile".into());
        assert_eq!(built.dockerfile, file);
    }

    #[test]
    fn secrets_of_the_keyring_are_left_to_it() {
        let secret = |id: &str, source: &str, value: &str| SecretSource {
            id: id.into(),
            source: source.into(),
            value: value.into(),
        };
        let built = request(BuildRequest {
            context: "/src".into(),
            output: "cache".into(),
            secrets: vec![
                secret("token", "keyring", "npm"),
                secret("path", "env", "PATH"),
            ],
            ..Default::default()
        })
        .unwrap();
        let ids: Vec<&String> = built.secrets.keys().collect();
        assert_eq!(ids, ["path"]);
    }
}
