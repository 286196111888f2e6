//! Exporters that the client chooses when it knows the result, and its part of finishing them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kiln_proto::session_exporter::exporter_client::ExporterClient;
use kiln_proto::session_exporter::{FinalizeExportRequest, FindExportersRequest};
use tonic::Code;

use crate::connection::origin;
use crate::{Caller, Error};

const FIND: &str = "/moby.exporter.v1.Exporter/FindExporters";
const FINALIZE: &str = "/moby.exporter.v1.Exporter/FinalizeExport";
const TIMEOUT: Duration = Duration::from_mins(10);

/// An exporter by type, with its attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExporterChoice {
    /// Such as `image`.
    pub kind: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Caller {
    /// Exporters that the client wants for a result. Empty if it has no say in it.
    pub async fn find_exporters(
        &self,
        metadata: &BTreeMap<String, Bytes>,
        refs: Vec<String>,
    ) -> Result<Vec<ExporterChoice>, Error> {
        if !self.supports(FIND) {
            return Ok(Vec::new());
        }
        let mut client = ExporterClient::with_origin(self.connection().clone(), origin());
        let request = FindExportersRequest {
            metadata: metadata
                .iter()
                .map(|(key, value)| (key.clone(), value.to_vec()))
                .collect(),
            refs,
        };
        let answer = match self
            .unary(FIND, TIMEOUT, client.find_exporters(request))
            .await
        {
            Ok(answer) => answer,
            Err(error) => match error.code() {
                Some(Code::Unimplemented | Code::Unavailable) => return Ok(Vec::new()),
                _ => return Err(error),
            },
        };
        Ok(answer
            .exporters
            .into_iter()
            .map(|exporter| ExporterChoice {
                kind: exporter.r#type,
                attributes: exporter.attrs.into_iter().collect(),
            })
            .collect())
    }

    /// Tells the client what the exporters answered.
    pub async fn finalize_export(&self, response: BTreeMap<String, String>) -> Result<(), Error> {
        if !self.supports(FINALIZE) {
            return Ok(());
        }
        let mut client = ExporterClient::with_origin(self.connection().clone(), origin());
        let request = FinalizeExportRequest {
            exporter_response: response.into_iter().collect(),
        };
        match self
            .unary(FINALIZE, TIMEOUT, client.finalize_export(request))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(Code::Unimplemented) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
