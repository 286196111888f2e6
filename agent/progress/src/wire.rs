//! Updates as BuildKit's `StatusResponse`, for the control API and for the log blobs of history.

use std::time::SystemTime;

use kiln_oci::Digest;
use kiln_proto::google::protobuf::Timestamp;
use kiln_proto::moby::buildkit::v1 as control;

use crate::{Output, Update};

/// A response carries at most about this much output, far below the message limit of 16 MiB.
const RESPONSE_OUTPUT: usize = 1024 * 1024;

/// A moment as the wire has it.
pub fn timestamp(at: SystemTime) -> Timestamp {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Timestamp {
            seconds: after.as_secs() as i64,
            nanos: after.subsec_nanos() as i32,
        },
        Err(before) => Timestamp {
            seconds: -(before.duration().as_secs() as i64) - 1,
            nanos: 1_000_000_000 - before.duration().subsec_nanos().max(1) as i32,
        },
    }
}

/// The update as messages to be sent in order: vertices first, since clients drop what refers to
/// a vertex that they haven't heard of. The end of a vertex comes with the last of its output: displays end a
/// line there, in the middle of it or not.
pub fn responses(update: Update) -> Vec<control::StatusResponse> {
    let mut message = control::StatusResponse {
        vertexes: update.vertices.into_iter().map(vertex).collect(),
        statuses: update.statuses.into_iter().map(status).collect(),
        warnings: update.warnings.into_iter().map(warning).collect(),
        logs: Vec::new(),
    };
    let mut all = Vec::new();
    let mut size = 0;
    for output in update.output {
        if size > RESPONSE_OUTPUT {
            all.push(std::mem::take(&mut message));
            size = 0;
        }
        size += output.bytes.len();
        message.logs.push(log(&output));
    }
    all.push(message);
    if let [first, .., last] = all.as_mut_slice() {
        last.vertexes = take_ends(&mut first.vertexes);
    }
    all
}

/// Makes running ones of the vertices that have ended, and returns them as they were.
fn take_ends(vertices: &mut [control::Vertex]) -> Vec<control::Vertex> {
    let mut ends = Vec::new();
    for index in 0..vertices.len() {
        let (one, later) = vertices[index..].split_at_mut(1);
        let one = &mut one[0];
        // A vertex may have been at work before; that end stays where it is.
        let is_last = later.iter().all(|other| other.digest != one.digest);
        if is_last && one.started.is_some() && one.completed.is_some() {
            ends.push(one.clone());
            one.completed = None;
            one.error.clear();
        }
    }
    ends
}

fn vertex(state: crate::VertexState) -> control::Vertex {
    control::Vertex {
        digest: state.digest.to_string(),
        inputs: state.inputs.iter().map(Digest::to_string).collect(),
        name: state.name,
        cached: state.cached,
        started: state.started.map(timestamp),
        completed: state.completed.map(timestamp),
        error: state.error,
        progress_group: state.group,
    }
}

fn status(change: crate::StatusChange) -> control::VertexStatus {
    let status = change.status;
    control::VertexStatus {
        id: status.id,
        vertex: change.vertex.to_string(),
        name: status.name,
        current: status.current,
        total: status.total,
        timestamp: Some(timestamp(change.at)),
        started: status.started.map(timestamp),
        completed: status.completed.map(timestamp),
    }
}

fn log(output: &Output) -> control::VertexLog {
    control::VertexLog {
        vertex: output.vertex.to_string(),
        timestamp: Some(timestamp(output.at)),
        stream: output.stream as i64,
        msg: output.bytes.to_vec(),
    }
}

fn warning(of: crate::BuildWarning) -> control::VertexWarning {
    let warning = of.warning;
    control::VertexWarning {
        vertex: of
            .vertex
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        level: warning.level,
        short: warning.short.to_vec(),
        detail: warning.detail.iter().map(|line| line.to_vec()).collect(),
        url: warning.url,
        info: warning.source,
        ranges: warning.ranges,
    }
}
