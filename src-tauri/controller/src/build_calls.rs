//! What the window asks of builds: their records, logs and reasons; cancelling and forgetting them.

use futures::StreamExt as _;
use kiln_client::BuildRef;
use kiln_proto::moby::buildkit::v1 as control;
use prost::Message as _;

use crate::builds::{detail, is_large, merge, part, update};
use crate::provenance;
use crate::view::{BuildDetail, BuildResult, BuildUpdate, Difference, Explanation, PreviousSize};
use crate::{Controller, Failure};

impl Controller {
    /// A record with all that hangs on it.
    pub async fn build_detail(&self, reference: &str) -> Result<BuildDetail, Failure> {
        let (record, provenance) = self.whole_record(reference).await?;
        let summary = match self.listed(reference).filter(|build| build.imported) {
            Some(imported) => imported,
            None => self.known_summary(&record),
        };
        let mut detail = detail(summary, &record, provenance.as_deref());
        if !detail.summary.imported && !detail.results.is_empty() {
            self.weigh(reference, &mut detail.results).await;
        }
        Ok(detail)
    }

    /// Adds what results weigh. An engine that can't say leaves a detail without.
    async fn weigh(&self, reference: &str, results: &mut [BuildResult]) {
        let Ok(client) = self.engine().await else {
            return;
        };
        let sizes = client.builds().sizes(&build_ref(reference)).await;
        for size in sizes.unwrap_or_default() {
            for result in results.iter_mut().filter(|it| it.digest == size.digest) {
                result.bytes = Some(size.bytes);
                if !size.previous_ref.is_empty() {
                    result.previous = Some(PreviousSize {
                        r#ref: size.previous_ref.clone(),
                        bytes: size.previous_bytes,
                    });
                }
            }
        }
    }

    /// A record with its whole error, and its provenance: the engine's, or that of a file that was taken in.
    pub(crate) async fn whole_record(
        &self,
        reference: &str,
    ) -> Result<(control::BuildHistoryRecord, Option<Vec<u8>>), Failure> {
        if let Some(imported) = self.imported_record(reference) {
            return Ok(imported);
        }
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
        Ok((record, provenance))
    }

    /// Calls `each` with a build's progress until it ends or `each` says that nobody listens; what it prints is left out
    /// where `logs` says so. What comes within 50 ms is one message, but for what a window would stumble over.
    pub async fn watch_build(
        &self,
        reference: &str,
        logs: bool,
        mut each: impl FnMut(BuildUpdate) -> bool,
    ) -> Result<(), Failure> {
        const TOGETHER: std::time::Duration = std::time::Duration::from_millis(50);
        if let Some(updates) = self.imported_log(reference) {
            let mut pending = BuildUpdate::default();
            for update in updates {
                merge(&mut pending, part(update, logs));
                if is_large(&pending) && !each(std::mem::take(&mut pending)) {
                    return Ok(());
                }
            }
            pending.end = true;
            each(pending);
            return Ok(());
        }
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
                        merge(&mut pending, part(update(event?), logs));
                        due = due.or_else(|| Some(tokio::time::Instant::now() + TOGETHER));
                        if !is_large(&pending) {
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
        if self.is_imported(reference) {
            return Err(Failure::user(
                "A record that was imported stays until you delete it.",
                "",
            ));
        }
        let request = control::UpdateBuildHistoryRequest {
            r#ref: reference.into(),
            pinned,
            ..Default::default()
        };
        Ok(self.engine().await?.update_history(request).await?)
    }

    /// Deletes records.
    pub async fn delete_builds(&self, references: &[String]) -> Result<(), Failure> {
        let own: Vec<&String> = references
            .iter()
            .filter(|reference| !self.forget_imported(reference))
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        let client = self.engine().await?;
        for reference in own {
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
        if self.is_imported(reference) {
            // Why its steps ran is known where they ran.
            return Ok(Vec::new());
        }
        let answer = self
            .engine()
            .await?
            .builds()
            .explain(&build_ref(reference), None, None)
            .await?;
        Ok(answer.explanations.into_iter().map(explanation).collect())
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
