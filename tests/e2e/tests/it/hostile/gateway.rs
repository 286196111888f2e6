//! Calls of the gateway that make no sense.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kiln_client::{Attachments, Session};
use kiln_harness::Stage;
use kiln_proto::google::rpc;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::frontend as gateway;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::graphs::{malformed, single, source};
use crate::client::{connect, run};

const BUILD_ID: &str = "buildkit-controlapi-buildid";

pub(crate) fn of_build<T>(message: T, build: &str) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert(BUILD_ID, MetadataValue::try_from(build)?);
    Ok(request)
}

pub(super) fn gateway_calls_without_a_build(stage: &mut Stage<'_>) -> Result<()> {
    run(async {
        let client = connect(stage).await?;
        let mut bridge = client.bridge();
        let nameless = bridge.ping(gateway::PingRequest {}).await;
        ensure!(nameless.is_err(), "a call without a build: {nameless:?}");
        let call = of_build(gateway::PingRequest {}, "no-such-build")?;
        let ping = tokio::time::timeout(Duration::from_secs(30), bridge.ping(call));
        let Err(status) = ping.await.context("no answer")? else {
            bail!("there is no such build")
        };
        ensure!(status.message().contains("no such job"), "{status}");
        client.info().await?;
        Ok(())
    })
}

pub(super) fn gateway_calls_of_nonsense(stage: &mut Stage<'_>) -> Result<()> {
    run(async {
        let client = connect(stage).await?;
        let session = Session::open(&client, Attachments::default())?;
        let build = format!("hostile-{}", session.id());
        let outer = control::SolveRequest {
            r#ref: build.clone(),
            session: session.id().to_string(),
            ..control::SolveRequest::default()
        };
        let mut solver = client.control();
        let outer = async { solver.solve(outer).await };
        let inner = async {
            ask_nonsense(&client, &build).await?;
            let error = rpc::Status {
                code: Code::Unknown as i32,
                message: "enough of that".to_owned(),
                details: Vec::new(),
            };
            let end = gateway::ReturnRequest {
                result: None,
                error: Some(error),
            };
            client.bridge().r#return(of_build(end, &build)?).await?;
            Ok::<_, anyhow::Error>(())
        };
        tokio::select! {
            ended = session.serve() => bail!("the session ended: {ended:?}"),
            (outer, inner) = async { tokio::join!(outer, inner) } => {
                inner?;
                let Err(status) = outer else { bail!("the frontend failed") };
                ensure!(status.message().contains("enough of that"), "{status}");
            }
        }
        // Its build is over, and with it its name.
        let mut bridge = client.bridge();
        let late = bridge.ping(of_build(gateway::PingRequest {}, &build)?);
        ensure!(late.await.is_err());
        Ok(())
    })
}

pub(super) async fn ask_nonsense(client: &kiln_client::Client, build: &str) -> Result<()> {
    let refused = |what: &str, status: Option<Status>| {
        let Some(status) = status else {
            bail!("{what}: it should be refused")
        };
        ensure!(!status.message().contains("panic"), "{what}: {status}");
        Ok(())
    };
    let mut bridge = client.bridge();
    bridge
        .ping(of_build(gateway::PingRequest {}, build)?)
        .await?;
    for (what, definition, _) in malformed() {
        let request = gateway::SolveRequest {
            definition: Some(definition),
            evaluate: true,
            allow_result_return: true,
            ..gateway::SolveRequest::default()
        };
        let answer = bridge.solve(of_build(request, build)?).await;
        refused(what, answer.err())?;
    }
    let request = gateway::SolveRequest {
        frontend: "nonsense".to_owned(),
        ..gateway::SolveRequest::default()
    };
    refused(
        "frontend",
        bridge.solve(of_build(request, build)?).await.err(),
    )?;
    let nowhere = "no-such-ref".to_owned();
    let request = gateway::ReadFileRequest {
        r#ref: nowhere.clone(),
        file_path: "/etc/passwd".to_owned(),
        ..gateway::ReadFileRequest::default()
    };
    refused(
        "ref",
        bridge.read_file(of_build(request, build)?).await.err(),
    )?;

    let request = gateway::SolveRequest {
        definition: Some(single(source(
            "docker-image://docker.io/library/busybox:latest",
        ))),
        allow_result_return: true,
        ..gateway::SolveRequest::default()
    };
    let solved = bridge.solve(of_build(request, build)?).await?.into_inner();
    let Some(gateway::Result {
        result: Some(result),
        ..
    }) = solved.result
    else {
        bail!("no result")
    };
    let reference = match result {
        gateway::result::Result::RefDeprecated(id) => id,
        gateway::result::Result::Ref(reference) => reference.id,
        other => bail!("{other:?}"),
    };
    for path in [
        "../../../../../../../../etc/shadow",
        "no/such/file",
        "/bin",
        "bin/\0",
    ] {
        let request = gateway::ReadFileRequest {
            r#ref: reference.clone(),
            file_path: path.to_owned(),
            ..gateway::ReadFileRequest::default()
        };
        refused(
            path,
            bridge.read_file(of_build(request, build)?).await.err(),
        )?;
    }
    for range in [(-1, 5), (5, -1)] {
        let request = gateway::ReadFileRequest {
            r#ref: reference.clone(),
            file_path: "/bin/sh".to_owned(),
            range: Some(gateway::FileRange {
                offset: range.0,
                length: range.1,
            }),
            ..gateway::ReadFileRequest::default()
        };
        // Refused or empty: nothing that a frontend could use.
        if let Ok(answer) = bridge.read_file(of_build(request, build)?).await {
            ensure!(answer.get_ref().data.len() <= 5 || range.0 >= 0);
        }
    }
    Ok(())
}
