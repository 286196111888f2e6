//! Secrets.

use std::io::ErrorKind;
use std::sync::Arc;

use kiln_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use tonic::{Response, Status};

use super::{Attached, Secret};

/// As much as BuildKit's client sends.
const MAX_BYTES: usize = 500 << 10;

pub(super) async fn get(
    attached: Arc<Attached>,
    request: GetSecretRequest,
) -> Result<Response<GetSecretResponse>, Status> {
    let missing = || Status::not_found(format!("secret {}: not found", request.id));
    let secret = attached.secrets.get(&request.id).ok_or_else(missing)?;
    let data = match secret {
        Secret::Bytes(bytes) => bytes.to_vec(),
        Secret::Env(name) => std::env::var_os(name)
            .ok_or_else(missing)?
            .into_encoded_bytes(),
        Secret::File(path) => match tokio::fs::read(path).await {
            Ok(data) => data,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            Err(error) => {
                let id = &request.id;
                return Err(Status::unknown(format!("read secret {id}: {error}")));
            }
        },
    };
    if data.len() > MAX_BYTES {
        return Err(Status::invalid_argument(format!(
            "secret {} is too big: {MAX_BYTES} bytes at most",
            request.id
        )));
    }
    Ok(Response::new(GetSecretResponse { data }))
}
