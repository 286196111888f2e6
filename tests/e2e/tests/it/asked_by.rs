//! Which client a build is said to be of.

use anyhow::{Context as _, Result, ensure};
use kiln_client::Client;
use kiln_e2e::Scenario;
use kiln_harness::{Context, Run, Stage};
use kiln_ids::BuildRef;

use crate::history::{connect, references, run};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("a_build_has_its_client", a_build_has_its_client).kilnd_only("kiln.agent.v1")];

/// Builds, and tells what the daemon takes for its client once it has said all of itself.
fn client_of(stage: &Stage<'_>, build: impl FnOnce() -> Result<()>) -> Result<String> {
    let before = run(async { references(&connect(stage).await?, false).await })?;
    build()?;
    run(async {
        let client = connect(stage).await?;
        let all = references(&client, false).await?;
        let new = all.iter().find(|build| !before.contains(build));
        let new = BuildRef::new(new.context("a record")?.as_str());
        // Waits until nothing is added to the record any more.
        let finalize = kiln_proto::moby::buildkit::v1::UpdateBuildHistoryRequest {
            r#ref: new.to_string(),
            finalize: true,
            ..Default::default()
        };
        client.update_history(finalize).await?;
        let described = client.builds().describe(&[new]).await?;
        Ok(described.first().context("a description")?.client.clone())
    })
}

fn a_build_has_its_client(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY f /\n")?;
    context.put("f", "1")?;
    let buildx = client_of(stage, || {
        stage.build(&context, &[])?.succeeds()?;
        Ok(())
    })?;
    ensure!(buildx == "buildx", "{buildx:?}");
    // Also where it fails.
    let broken = Context::new("FROM scratch\nCOPY nothing /\n")?;
    let failed = client_of(stage, || {
        stage.build(&broken, &[])?.fails()?;
        Ok(())
    })?;
    ensure!(failed == "buildx", "{failed:?}");
    let kiln = client_of(stage, || {
        Run::of(&mut stage.kiln_build(&context, &[])?)?.succeeds()?;
        Ok(())
    })?;
    ensure!(kiln == "kiln", "{kiln:?}");
    // One that says nothing of itself.
    let other = client_of(stage, || {
        run(async {
            let address = format!("unix://{}", stage.engine.socket().display());
            let channel = tonic::transport::Endpoint::from_shared(address)?
                .connect()
                .await?;
            let options = kiln_client::SolveOptions {
                frontend: "dockerfile.v0".into(),
                ..Default::default()
            };
            let attachments = kiln_client::Attachments {
                dirs: ["context", "dockerfile"]
                    .map(|name| (name.to_owned(), context.path().to_path_buf()))
                    .into(),
                ..Default::default()
            };
            Client::from_channel(channel)
                .solve(options, attachments, |_| {})
                .await?;
            Ok(())
        })
    })?;
    ensure!(other.is_empty(), "{other:?}");
    Ok(())
}
