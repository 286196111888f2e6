//! The parts of a record that are blobs, and the form of the log.

use bytes::{BufMut as _, Bytes, BytesMut};
use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;
use prost::Message as _;

/// A log: each message after its length in four bytes, the lowest first.
pub const LOG_MEDIA_TYPE: &str = "application/vnd.buildkit.status.v0";

/// A blob that belongs to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub media_type: String,
    /// What readers need to know before they read it.
    pub annotations: Vec<(String, String)>,
}

impl Blob {
    /// As the API has it.
    pub fn to_wire(&self) -> control::Descriptor {
        control::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.to_string(),
            size: self.size as i64,
            annotations: self.annotations.iter().cloned().collect(),
        }
    }
}

/// The log of a build as one blob.
pub fn encode_log(responses: &[control::StatusResponse]) -> Bytes {
    let size: usize = responses.iter().map(|one| one.encoded_len() + 4).sum();
    let mut log = BytesMut::with_capacity(size);
    for response in responses {
        log.put_u32_le(response.encoded_len() as u32);
        log.put_slice(&response.encode_to_vec());
    }
    log.freeze()
}

/// The messages of a log; stops at the first that is cut short or isn't one.
pub fn read_log(mut log: Bytes) -> Vec<control::StatusResponse> {
    let mut responses = Vec::new();
    while let Some((length, _)) = log.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let _ = log.split_to(4);
        if log.len() < length {
            break;
        }
        match control::StatusResponse::decode(log.split_to(length)) {
            Ok(response) => responses.push(response),
            Err(_) => break,
        }
    }
    responses
}

/// Digests of the blobs that exist only for this record.
pub(crate) fn owned(record: &control::BuildHistoryRecord) -> Vec<Digest> {
    let results = record.result.iter().chain(record.results.values());
    [&record.logs, &record.trace, &record.external_error]
        .into_iter()
        .flatten()
        .chain(results.flat_map(|result| &result.attestations))
        .filter_map(|descriptor| descriptor.digest.parse().ok())
        .collect()
}

/// Digests of the images that the record names.
pub(crate) fn results(record: &control::BuildHistoryRecord) -> Vec<Digest> {
    record
        .result
        .iter()
        .chain(record.results.values())
        .flat_map(|result| result.results.values().chain(&result.result_deprecated))
        .filter_map(|descriptor| descriptor.digest.parse().ok())
        .collect()
}

/// A moment that sorts.
pub(crate) fn moment(at: Option<&kiln_proto::google::protobuf::Timestamp>) -> (i64, i32) {
    at.map_or((0, 0), |at| (at.seconds, at.nanos))
}
