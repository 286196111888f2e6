//! Which clients asked for builds. Records don't say it; the engine does, of builds that have ended.
//!
//! A client that names itself only as it ends is known a few seconds after its build: its record changes then, which
//! asks once more. A real `buildkitd` knows none.

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kiln_client::{BuildRef, Client};

use crate::Controller;
use crate::view::BuildsChange;

/// Builds and their clients.
pub(crate) type Named = Vec<(String, String)>;

/// The clients of those builds; of all where none is named.
pub(crate) async fn of(client: &Client, builds: &[BuildRef]) -> Named {
    let known = client.builds().describe(builds).await;
    known
        .unwrap_or_default()
        .into_iter()
        .filter(|build| !build.client.is_empty())
        .map(|build| (build.r#ref, build.client))
        .collect()
}

/// What was asked and isn't answered yet.
#[derive(Default)]
pub(crate) struct Asked(FuturesUnordered<BoxFuture<'static, Named>>);

impl Asked {
    /// Asks of one build.
    pub(crate) fn ask(&self, client: &Client, reference: &str) {
        let (client, build) = (client.clone(), BuildRef::new(reference));
        self.0
            .push(Box::pin(async move { of(&client, &[build]).await }));
    }

    /// The next answer; waits where nothing was asked.
    pub(crate) async fn next(&mut self) -> Named {
        match self.0.next().await {
            Some(named) => named,
            None => std::future::pending().await,
        }
    }
}

impl Controller {
    /// Takes up whose builds they are.
    pub(crate) fn name_clients(&self, named: Named) {
        let mut changed = Vec::new();
        {
            let mut known = self.known();
            for (reference, client) in named {
                if let Some(build) = known.get_mut(&reference)
                    && build.client != client
                {
                    build.client = client;
                    changed.push(build.clone());
                }
            }
        }
        if !changed.is_empty() {
            self.tell_builds(BuildsChange {
                changed,
                ..BuildsChange::default()
            });
        }
    }
}
