//! Secrets that the client holds.

use std::time::Duration;

use bytes::Bytes;
use kiln_proto::moby::buildkit::secrets::v1::GetSecretRequest;
use kiln_proto::moby::buildkit::secrets::v1::secrets_client::SecretsClient;
use tonic::Code;

use crate::connection::origin;
use crate::{Caller, Error};

const METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const TIMEOUT: Duration = Duration::from_mins(1);

impl Caller {
    /// The secret's bytes. [`Error::NoSecret`] if the client hasn't got it or serves no secrets.
    pub async fn secret(&self, id: &str) -> Result<Bytes, Error> {
        let mut client = SecretsClient::with_origin(self.connection().clone(), origin());
        let request = GetSecretRequest {
            id: id.to_owned(),
            ..GetSecretRequest::default()
        };
        match self
            .unary(METHOD, TIMEOUT, client.get_secret(request))
            .await
        {
            Ok(answer) => Ok(answer.data.into()),
            Err(error) => match error.code() {
                Some(Code::NotFound | Code::Unimplemented) => {
                    Err(Error::NoSecret { id: id.to_owned() })
                }
                _ => Err(error),
            },
        }
    }
}
