//! gRPC status with details, both ways.

use std::error::Error;

use kiln_proto::google;
use prost::Message;
use tonic::{Code, Status};

use crate::{Detail, details, kind, text};

/// The status of a failed call: code by kind, the whole text, every detail of the chain.
pub fn to_status(error: &(dyn Error + 'static)) -> Status {
    status_with(error, kind(error).code())
}

/// The status of a failed build. BuildKit gives most failures of a build no code of their own, and
/// clients print any other code before the text; so only those codes stay that clients act on.
pub fn to_build_status(error: &(dyn Error + 'static)) -> Status {
    let code = kind(error).code();
    let acted_on = code == Code::Cancelled
        || code == Code::Unimplemented
            && details(error).iter().any(|detail| {
                matches!(
                    detail,
                    Detail::FrontendCap { .. } | Detail::Subrequest { .. }
                )
            });
    status_with(error, if acted_on { code } else { Code::Unknown })
}

fn status_with(error: &(dyn Error + 'static), code: Code) -> Status {
    let message = text(error);
    let details: Vec<_> = details(error).iter().map(any).collect();
    if details.is_empty() {
        return Status::new(code, message);
    }
    let bytes = google::rpc::Status {
        code: code as i32,
        message: message.clone(),
        details,
    }
    .encode_to_vec();
    Status::with_details(code, message, bytes.into())
}

/// The details that a status carries; unknown ones are passed over.
pub fn details_of_status(status: &Status) -> Vec<Detail> {
    if status.code() == Code::Ok || status.details().is_empty() {
        return Vec::new();
    }
    google::rpc::Status::decode(status.details()).map_or_else(
        |_| Vec::new(),
        |status| {
            let known = status
                .details
                .iter()
                .map(|any| Detail::parse(&any.type_url, &any.value));
            known.flatten().collect()
        },
    )
}

fn any(detail: &Detail) -> google::protobuf::Any {
    google::protobuf::Any {
        type_url: detail.type_url(),
        value: detail.to_json().to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, WithDetail};

    #[test]
    fn a_status_carries_code_text_and_details() {
        let error = WithDetail::message(Kind::User, "bad line").and(Detail::Vertex {
            digest: "sha256:1".into(),
        });
        let status = to_status(&error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "bad line")
        );
        assert_eq!(
            details_of_status(&status),
            [Detail::Vertex {
                digest: "sha256:1".into()
            }]
        );
    }

    #[test]
    fn details_that_are_no_status_are_passed_over() {
        let status = Status::with_details(Code::Unknown, "x", vec![0xff, 0xff].into());
        assert_eq!(details_of_status(&status), []);
    }
}
