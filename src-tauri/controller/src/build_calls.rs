//! What the window asks of builds: their records, logs and reasons; starting, cancelling and forgetting them.

use futures::StreamExt as _;
use kiln_client::BuildRef;
use kiln_client::build::{
    BuildRequest as Request, BuilderKind, ContextSource, DockerfileSource, OutputSpec,
    parse_secret, parse_ssh,
};
use kiln_proto::moby::buildkit::v1 as control;
use prost::Message as _;

use crate::builds::{detail, merge, update};
use crate::provenance;
use crate::view::{BuildDetail, BuildRequest, BuildUpdate, Difference, Explanation};
use crate::{Controller, Failure};

impl Controller {
    /// A record with all that hangs on it.
    pub async fn build_detail(&self, reference: &str) -> Result<BuildDetail, Failure> {
        let client = self.engine().await?;
        let request = control::BuildHistoryRequest {
            r#ref: reference.into(),
            early_exit: true,
            ..Default::default()
        };
        let mut events = client.history(request).await?;
        let mut found = None;
        while let Some(event) = events.next().await {
            if let Some(record) = event?.record {
                found = Some(record);
            }
        }
        let mut record = found
            .ok_or_else(|| Failure::user("There is no such build.", "It may have been deleted."))?;
        // The record has the message; the error with its details (vertex, source, lines) is kept beside it.
        if let Some(whole) = &record.external_error
            && let Ok(bytes) = client.builds().attachment(&whole.digest).await
            && let Ok(status) = kiln_proto::google::rpc::Status::decode(bytes.as_slice())
        {
            record.error = Some(status);
        }
        let provenance = provenance::of(&client, &record).await;
        Ok(detail(
            self.known_summary(&record),
            &record,
            provenance.as_deref(),
        ))
    }

    /// Calls `each` with a build's progress until it ends or `each` says that nobody listens. What comes
    /// within 50 ms is one message.
    pub async fn watch_build(
        &self,
        reference: &str,
        mut each: impl FnMut(BuildUpdate) -> bool,
    ) -> Result<(), Failure> {
        const TOGETHER: std::time::Duration = std::time::Duration::from_millis(50);
        const LINES: usize = 1000;
        let client = self.engine().await?;
        let mut events = client.status(&build_ref(reference)).await?;
        let mut pending = BuildUpdate::default();
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            let wait = due;
            let timer = async move {
                match wait {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => {
                        merge(&mut pending, update(event?));
                        due = due.or_else(|| Some(tokio::time::Instant::now() + TOGETHER));
                        if pending.logs.len() < LINES {
                            continue;
                        }
                    }
                    None => {
                        pending.end = true;
                        each(pending);
                        return Ok(());
                    }
                },
                () = timer => {}
            }
            due = None;
            if !each(std::mem::take(&mut pending)) {
                return Ok(());
            }
        }
    }

    /// Ends it, whichever client began it.
    pub async fn cancel_build(&self, reference: &str) -> Result<(), Failure> {
        Ok(self
            .engine()
            .await?
            .builds()
            .cancel(&build_ref(reference))
            .await?)
    }

    /// Keeps it from being dropped.
    pub async fn pin_build(&self, reference: &str, pinned: bool) -> Result<(), Failure> {
        let request = control::UpdateBuildHistoryRequest {
            r#ref: reference.into(),
            pinned,
            ..Default::default()
        };
        Ok(self.engine().await?.update_history(request).await?)
    }

    /// Deletes records.
    pub async fn delete_builds(&self, references: &[String]) -> Result<(), Failure> {
        let client = self.engine().await?;
        for reference in references {
            let request = control::UpdateBuildHistoryRequest {
                r#ref: reference.clone(),
                delete: true,
                ..Default::default()
            };
            client.update_history(request).await?;
        }
        Ok(())
    }

    /// Why steps ran.
    pub async fn explain_build(&self, reference: &str) -> Result<Vec<Explanation>, Failure> {
        let answer = self
            .engine()
            .await?
            .builds()
            .explain(&build_ref(reference), None, None)
            .await?;
        Ok(answer.explanations.into_iter().map(explanation).collect())
    }

    /// Starts a build that the tray offers.
    pub async fn quick_build(&self, name: &str) -> Result<(), Failure> {
        let kept = self.settings().quick_builds;
        let wanted = kept.into_iter().find(|build| build.name == name);
        let Some(wanted) = wanted else {
            return Err(Failure::user(
                format!("There is no quick build “{name}”."),
                "",
            ));
        };
        self.start_build(wanted.request).await.map(drop)
    }

    /// Starts a build and returns its reference at once; the build is the engine's, and goes on in a task
    /// of its own until its session isn't needed any more.
    pub async fn start_build(&self, wanted: BuildRequest) -> Result<String, Failure> {
        let client = self.engine().await?;
        let folder = std::path::PathBuf::from(&wanted.context);
        let mut prepared = request(wanted)?
            .prepare(BuilderKind::BuildKit)
            .map_err(|error| Failure::user(error.to_string(), ""))?;
        let reference = self.new_reference();
        prepared.options.reference = Some(build_ref(&reference));
        if let Err(error) = self.notes().keep(&reference, &folder) {
            tracing::info!(%error, "the build's folder isn't noted");
        }
        let options = std::mem::take(&mut prepared.options);
        let attachments = std::mem::take(&mut prepared.attachments);
        let mut known = self.builds();
        tokio::spawn(async move {
            match client.solve(options, attachments, |_| {}).await {
                Ok(solved) => {
                    if let Err(error) = prepared.finish(&solved) {
                        tracing::warn!(%error, "a build's files aren't in place");
                    }
                }
                Err(error) => tracing::info!(%error, "a build of the app failed"),
            }
        });
        // The window opens the build; by then the engine should know of it.
        let wait = async {
            while let Ok(change) = known.recv().await {
                if change.changed.iter().any(|build| build.r#ref == reference) {
                    break;
                }
            }
        };
        drop(tokio::time::timeout(std::time::Duration::from_secs(2), wait).await);
        Ok(reference)
    }
}

fn build_ref(reference: &str) -> BuildRef {
    BuildRef::new(reference)
}

fn explanation(wire: kiln_client::Explanation) -> Explanation {
    use kiln_client::Cause;
    let cause = match wire.cause() {
        Cause::Cached => "cached",
        Cause::FirstBuild => "first",
        Cause::Instruction => "instruction",
        Cause::Argument => "argument",
        Cause::Base => "base",
        Cause::Files => "files",
        Cause::Evicted => "evicted",
        Cause::NoCache => "no-cache",
        Cause::Parent => "parent",
        Cause::Unknown | Cause::Unspecified => "unknown",
    };
    Explanation {
        vertex: wire.vertex,
        cause: cause.into(),
        summary: wire.summary,
        differences: wire
            .differences
            .into_iter()
            .map(|d| Difference {
                kind: d.kind,
                name: d.name,
                before: d.before,
                after: d.after,
            })
            .collect(),
    }
}

fn request(wanted: BuildRequest) -> Result<Request, Failure> {
    let invalid = |error: kiln_client::build::BuildError| Failure::user(error.to_string(), "");
    let context = std::path::PathBuf::from(&wanted.context);
    let mut request = Request {
        dockerfile: match wanted.dockerfile.as_str() {
            "" | "Dockerfile" => DockerfileSource::InContext,
            path => DockerfileSource::Path(context.join(path)),
        },
        context: ContextSource::Directory(context),
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
        platforms: wanted.platforms,
        no_cache: wanted.no_cache,
        pull: wanted.pull,
        ..Request::default()
    };
    for secret in wanted.secrets {
        let source = if secret.source == "env" { "env" } else { "src" };
        let (id, secret) = parse_secret(&format!("id={},{source}={}", secret.id, secret.value))
            .map_err(invalid)?;
        request.secrets.insert(id, secret);
    }
    for ssh in wanted.ssh {
        let (id, socket) = parse_ssh(&ssh).map_err(invalid)?;
        request.ssh.insert(id, socket);
    }
    let output = match wanted.output.as_str() {
        "store" => Some("type=image".to_owned()),
        "push" => Some("type=image,push=true".to_owned()),
        "oci" | "local" => Some(format!(
            "type={},dest={}",
            wanted.output, wanted.destination
        )),
        "cache" => None,
        other => return Err(Failure::user(format!("There is no output “{other}”."), "")),
    };
    if let Some(output) = output {
        request
            .outputs
            .push(OutputSpec::parse(&output).map_err(invalid)?);
        request.tags = wanted.tags;
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_a_request() {
        let wanted = BuildRequest {
            context: "/src".into(),
            output: "oci".into(),
            destination: "/tmp/x.tar".into(),
            tags: vec!["a:1".into()],
            ..Default::default()
        };
        let built = request(wanted.clone()).unwrap();
        assert_eq!(built.outputs[0].kind, "oci");
        assert_eq!(built.tags, ["a:1"]);
        assert!(
            request(BuildRequest {
                output: "cache".into(),
                ..wanted.clone()
            })
            .unwrap()
            .outputs
            .is_empty()
        );
        assert_eq!(
            request(BuildRequest {
                output: "fax".into(),
                ..wanted
            })
            .unwrap_err()
            .kind,
            "user"
        );
    }
}
