//! Forwards connections to ssh agents.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kiln_filesync::MessageIo;
use kiln_proto::moby::sshforward::v1::{CheckAgentRequest, CheckAgentResponse};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::Attached;
use super::serve::{Answers, answers};

const SSH_ID: &str = "buildkit.ssh.id";
const DEFAULT: &str = "default";

fn socket(attached: &Attached, id: &str) -> Result<PathBuf, Status> {
    let id = if id.is_empty() { DEFAULT } else { id };
    attached
        .ssh
        .get(id)
        .cloned()
        .ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
}

pub(super) fn check(
    attached: &Attached,
    request: &CheckAgentRequest,
) -> Result<Response<CheckAgentResponse>, Status> {
    socket(attached, &request.id)?;
    Ok(Response::new(CheckAgentResponse {}))
}

pub(super) async fn forward(
    attached: Arc<Attached>,
    request: Request<Streaming<Bytes>>,
) -> Answers<Bytes> {
    let id = request
        .metadata()
        .get(SSH_ID)
        .and_then(|value| value.to_str().ok())
        .unwrap_or(DEFAULT)
        .to_owned();
    let path = socket(&attached, &id)?;
    let mut agent = UnixStream::connect(&path)
        .await
        .map_err(|error| Status::unavailable(format!("connect to the ssh agent: {error}")))?;
    let (outgoing, receiver) = mpsc::channel(16);
    let mut caller = MessageIo::new(request.into_inner(), outgoing);
    let work = tokio::spawn(async move {
        tokio::io::copy_bidirectional(&mut caller, &mut agent)
            .await
            .map(drop)
            .map_err(|error| Status::unknown(format!("forward to the ssh agent: {error}")))
    });
    Ok(answers(receiver, work))
}
