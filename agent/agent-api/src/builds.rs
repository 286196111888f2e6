//! `kiln.agent.v1.Builds`: cancel from anywhere, projects, clients, sizes, why steps ran, attachments of records.

use std::collections::HashMap;
use std::io::Read as _;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use kiln_engine::Engine;
use kiln_history::explain::{self, Ingredients};
use kiln_history::{Finished, ResultSize};
use kiln_ids::BuildRef;
use kiln_oci::Digest;
use kiln_proto::agent as api;
use kiln_proto::agent::builds_server::Builds;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::status;

/// Attachments come in pieces of this size.
const CHUNK: usize = 256 * 1024;

/// Whoever changed more wants to know no more.
const MOST_DIFFERENCES: usize = 1000;

/// Pieces that wait for the client.
const QUEUE: usize = 4;

/// The builds of one daemon.
#[derive(Debug, Clone)]
pub struct BuildsService {
    engine: Engine,
}

impl BuildsService {
    /// Over the engine that runs and remembers them.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }

    fn finished(&self, reference: &str) -> Result<Finished, Status> {
        let history = self.engine.history();
        history.finished(reference).ok_or_else(|| {
            if history.running().iter().any(|one| one == reference) {
                Status::failed_precondition(format!("build {reference:?} is still running"))
            } else {
                Status::not_found(format!("no record of a build {reference:?}"))
            }
        })
    }

    /// A finished build, with its ingredients where they are known.
    async fn remembered(&self, reference: &str) -> Result<(Finished, Option<Ingredients>), Status> {
        let history = self.engine.history();
        // They are stored a moment after the build's end.
        history.detailed(reference).await;
        let finished = self.finished(reference)?;
        let ingredients = history.ingredients(&finished).await.map_err(status)?;
        Ok((finished, ingredients))
    }

    /// The last build of the same project that says what its steps were made from.
    async fn previous(
        &self,
        mut finished: Finished,
    ) -> Result<Option<(Finished, Ingredients)>, Status> {
        while let Some(previous) = self.engine.history().previous(&finished) {
            let (previous, ingredients) = self.remembered(&previous.record.r#ref).await?;
            if let Some(ingredients) = ingredients {
                return Ok(Some((previous, ingredients)));
            }
            finished = previous;
        }
        Ok(None)
    }
}

fn explanation(of: explain::Explanation) -> api::Explanation {
    use explain::Cause;
    use kiln_proto::agent::explanation::Cause as Wire;
    let cause = match of.cause {
        Cause::Cached => Wire::Cached,
        Cause::FirstBuild => Wire::FirstBuild,
        Cause::Instruction => Wire::Instruction,
        Cause::Argument => Wire::Argument,
        Cause::Base => Wire::Base,
        Cause::Files => Wire::Files,
        Cause::Evicted => Wire::Evicted,
        Cause::NoCache => Wire::NoCache,
        Cause::Parent => Wire::Parent,
    };
    api::Explanation {
        vertex: of.vertex,
        name: of.name,
        cause: cause as i32,
        summary: of.summary,
        differences: of
            .differences
            .into_iter()
            .take(MOST_DIFFERENCES)
            .map(difference)
            .collect(),
    }
}

fn difference(of: explain::Difference) -> api::Difference {
    use explain::DifferenceKind;
    let kind = match of.kind {
        DifferenceKind::Instruction => "instruction",
        DifferenceKind::Argument => "argument",
        DifferenceKind::Base => "base",
        DifferenceKind::File => "file",
        DifferenceKind::Parent => "parent",
    };
    api::Difference {
        kind: kind.to_owned(),
        name: of.name,
        before: of.before,
        after: of.after,
    }
}

fn description(of: &Finished) -> api::Description {
    api::Description {
        r#ref: of.record.r#ref.clone(),
        client: of.details.client.clone(),
    }
}

fn result_size(of: ResultSize) -> api::ResultSize {
    let (previous_ref, previous_bytes) = of.previous.unwrap_or_default();
    api::ResultSize {
        digest: of.digest.to_string(),
        bytes: wire_bytes(of.bytes),
        previous_ref,
        previous_bytes: wire_bytes(previous_bytes),
    }
}

/// Sizes that a registry made up may be larger than any.
fn wire_bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Builds for BuildsService {
    async fn cancel(
        &self,
        request: Request<api::CancelRequest>,
    ) -> Result<Response<api::CancelResponse>, Status> {
        let reference = request.into_inner().r#ref;
        if self.engine.cancel(&BuildRef::new(reference.clone())) {
            return Ok(Response::new(api::CancelResponse {}));
        }
        Err(Status::not_found(format!("no build {reference:?} runs")))
    }

    async fn explain(
        &self,
        request: Request<api::ExplainRequest>,
    ) -> Result<Response<api::ExplainResponse>, Status> {
        let request = request.into_inner();
        let history = self.engine.history();
        let (finished, now) = self.remembered(&request.r#ref).await?;
        let Some(now) = now else {
            return Err(Status::failed_precondition(format!(
                "the record of build {:?} doesn't say what its steps were made from",
                request.r#ref
            )));
        };
        let before = if request.against.is_empty() {
            self.previous(finished).await?
        } else {
            let (against, ingredients) = self.remembered(&request.against).await?;
            ingredients.map(|ingredients| (against, ingredients))
        };
        let needed = explain::needed_files(before.iter().map(|(_, before)| before).chain([&now]));
        let files = history.file_lists(&needed).await;
        let vertex = (!request.vertex.is_empty()).then_some(request.vertex.as_str());
        let (previous, before) = before.unzip();
        let explanations = explain::explain(before.as_ref(), &now, &files, vertex);
        if let Some(vertex) = vertex
            && explanations.is_empty()
        {
            return Err(Status::not_found(format!(
                "build {:?} has no step {vertex:?}",
                request.r#ref
            )));
        }
        Ok(Response::new(api::ExplainResponse {
            previous_ref: previous.map_or_else(String::new, |one| one.record.r#ref.clone()),
            explanations: explanations.into_iter().map(explanation).collect(),
        }))
    }

    async fn list_projects(
        &self,
        _: Request<api::ListProjectsRequest>,
    ) -> Result<Response<api::ListProjectsResponse>, Status> {
        let mut projects: Vec<api::Project> = Vec::new();
        let mut positions = HashMap::new();
        for finished in self.engine.history().all() {
            let Some(project) = &finished.details.project else {
                continue;
            };
            let position = *positions.entry(project.key.clone()).or_insert_with(|| {
                projects.push(api::Project {
                    key: project.key.clone(),
                    name: project.name.clone(),
                    refs: Vec::new(),
                });
                projects.len() - 1
            });
            projects[position].refs.push(finished.record.r#ref.clone());
        }
        Ok(Response::new(api::ListProjectsResponse { projects }))
    }

    async fn describe(
        &self,
        request: Request<api::DescribeRequest>,
    ) -> Result<Response<api::DescribeResponse>, Status> {
        let refs = request.into_inner().refs;
        let history = self.engine.history();
        let finished = if refs.is_empty() {
            history.all()
        } else {
            refs.iter()
                .filter_map(|one| history.finished(one))
                .collect()
        };
        Ok(Response::new(api::DescribeResponse {
            builds: finished.iter().map(description).collect(),
        }))
    }

    async fn sizes(
        &self,
        request: Request<api::SizesRequest>,
    ) -> Result<Response<api::SizesResponse>, Status> {
        let reference = request.into_inner().r#ref;
        let history = self.engine.history();
        let finished = self.finished(&reference)?;
        let sizes = history.sizes(&finished).await;
        Ok(Response::new(api::SizesResponse {
            results: sizes.into_iter().map(result_size).collect(),
        }))
    }

    type ReadAttachmentStream =
        Pin<Box<dyn Stream<Item = Result<api::AttachmentChunk, Status>> + Send>>;

    async fn read_attachment(
        &self,
        request: Request<api::ReadAttachmentRequest>,
    ) -> Result<Response<Self::ReadAttachmentStream>, Status> {
        let text = request.into_inner().digest;
        let digest: Digest = text
            .parse()
            .map_err(|_| Status::invalid_argument(format!("{text:?} is no digest")))?;
        // Only what records name: the store's other blobs have an API of their own.
        if !self.engine.history().holds(&digest) {
            return Err(Status::not_found(format!("no record has {digest}")));
        }
        let mut blob = self.engine.content().open_blob(&digest).map_err(status)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut data = Vec::with_capacity(CHUNK);
                let read = (&mut blob).take(CHUNK as u64).read_to_end(&mut data);
                let chunk = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(api::AttachmentChunk {
                        data: Bytes::from(data),
                    }),
                    Err(error) => Err(Status::internal(format!("reading {digest}: {error}"))),
                };
                let failed = chunk.is_err();
                // A client that left needs no more.
                if sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
