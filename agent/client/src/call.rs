//! Questions to a frontend in place of a build: check, outline, targets.
//!
//! The client plays the frontend: its build has none of its own, and asks through the gateway. What it
//! hands back as the build's result is what the real frontend answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_ids::BuildRef;
use kiln_proto::google::rpc;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::frontend as gateway;

use crate::client::random_id;
use crate::session::{Attachments, Session};
use crate::{Client, Error, SolveOptions};

/// By this the daemon knows which build a call of the gateway belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
const SUBREQUESTS: &str = "moby.buildkit.frontend.subrequests+forward";

impl Client {
    /// Asks the frontend: `lint`, `outline`, `targets`, `subrequests.describe`. The answer's parts are
    /// `result.json`, `result.txt`, `version`, …
    pub async fn call_frontend(
        &self,
        question: &str,
        mut options: SolveOptions,
        attachments: Attachments,
        mut on_status: impl FnMut(control::StatusResponse),
    ) -> Result<BTreeMap<String, Bytes>, Error> {
        let caps = options
            .frontend_attrs
            .entry("frontend.caps".into())
            .or_default();
        if !caps.is_empty() {
            caps.push(',');
        }
        caps.push_str(SUBREQUESTS);
        let request_id = format!("frontend.{question}");
        options
            .frontend_attrs
            .insert("requestid".into(), request_id);
        let reference = match &options.reference {
            Some(reference) => reference.clone(),
            None => BuildRef::new(random_id()?),
        };
        let session = Session::open(self, attachments)?;
        let outer = control::SolveRequest {
            r#ref: reference.to_string(),
            session: session.id().to_string(),
            entitlements: options.entitlements.clone(),
            // Frontends see the options of the build that they belong to.
            frontend_attrs: options.frontend_attrs.clone().into_iter().collect(),
            internal: true,
            ..control::SolveRequest::default()
        };
        let mut control = self.control();
        let outer = async { Ok::<_, Error>(control.solve(outer).await?.into_inner()) };
        let inner = self.ask(&reference, options);
        let watch = async {
            use futures::StreamExt as _;
            let Ok(mut events) = self.status(&reference).await else {
                return;
            };
            while let Some(Ok(event)) = events.next().await {
                on_status(event);
            }
        };
        let mut serve = std::pin::pin!(session.serve());
        let mut work = std::pin::pin!(async {
            let (answer, outer, ()) = tokio::join!(inner, outer, watch);
            // The gateway's own error says more than the build's.
            let answer = answer?;
            outer?;
            Ok(answer)
        });
        tokio::select! {
            result = &mut work => result,
            ended = &mut serve => {
                ended?;
                Err(Error::SessionEnded)
            }
        }
    }

    async fn ask(
        &self,
        reference: &BuildRef,
        options: SolveOptions,
    ) -> Result<BTreeMap<String, Bytes>, Error> {
        let id = reference.to_string();
        let id = tonic::metadata::MetadataValue::try_from(id.as_str())
            .map_err(|_| Error::Metadata { text: id.clone() })?;
        let mut bridge = self.bridge();
        let mut request = tonic::Request::new(gateway::SolveRequest {
            frontend: options.frontend,
            frontend_opt: options.frontend_attrs.into_iter().collect(),
            frontend_inputs: options.frontend_inputs.into_iter().collect(),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..gateway::SolveRequest::default()
        });
        request.metadata_mut().insert(BUILD_ID, id.clone());
        let answer = bridge.solve(request).await;
        // The build waits for this, whatever became of the question.
        let (result, error) = match &answer {
            Ok(answer) => (answer.get_ref().result.clone(), None),
            Err(status) => (None, Some(status)),
        };
        let mut end = tonic::Request::new(gateway::ReturnRequest {
            result,
            error: error.map(|status| rpc::Status {
                code: status.code().into(),
                message: status.message().to_owned(),
                details: Vec::new(),
            }),
        });
        end.metadata_mut().insert(BUILD_ID, id);
        let ended = bridge.r#return(end).await;
        let answer = answer?.into_inner();
        ended?;
        let result = answer.result.unwrap_or_default();
        Ok(result
            .metadata
            .into_iter()
            .map(|(key, value)| (key, Bytes::from(value)))
            .collect())
    }
}
