//! Starting builds: from the form, from the tray, and again while a folder is watched.

use tokio::task::JoinHandle;

use crate::requests::Ready;
use crate::view::BuildRequest;
use crate::{Controller, Failure};

use kiln_client::BuildRef;

/// A build of the app: the engine's, and served by a task of this process as long as it needs files.
pub(crate) struct Begun {
    pub(crate) reference: String,
    /// Ends with the build. A failure is one that the build's record can't tell, such as files that aren't in place.
    pub(crate) end: JoinHandle<Result<(), Failure>>,
}

impl Controller {
    /// Starts a build that the tray offers.
    pub async fn quick_build(&self, name: &str) -> Result<(), Failure> {
        let kept = self.settings().quick_builds;
        let wanted = kept.into_iter().find(|build| build.name == name);
        let Some(wanted) = wanted else {
            return Err(Failure::user(
                format!("There is no quick build “{name}”."),
                "",
            ));
        };
        self.start_build(wanted.request).await.map(drop)
    }

    /// Starts a build and returns its reference when the engine should know of it; the build goes on by itself.
    pub async fn start_build(&self, wanted: BuildRequest) -> Result<String, Failure> {
        let mut known = self.builds();
        let Begun { reference, end } = self.begin(wanted).await?;
        // The window opens the build; by then it should be in the list.
        let wait = async {
            while let Ok(change) = known.recv().await {
                if change.changed.iter().any(|build| build.r#ref == reference) {
                    break;
                }
            }
        };
        drop(tokio::time::timeout(std::time::Duration::from_secs(2), wait).await);
        let controller = self.clone();
        tokio::spawn(async move {
            if let Ok(Err(failure)) = end.await {
                controller.trouble(failure);
            }
        });
        Ok(reference)
    }

    /// Starts a build.
    pub(crate) async fn begin(&self, wanted: BuildRequest) -> Result<Begun, Failure> {
        let client = self.engine().await?;
        let asked = wanted.clone();
        let Ready {
            mut prepared,
            loading,
        } = self.ready(wanted).await?;
        let reference = self.new_reference();
        prepared.options.reference = Some(BuildRef::new(reference.as_str()));
        if let Err(error) = self.notes().keep(&reference, &asked) {
            tracing::info!(%error, "what the build begins with isn't noted");
        }
        let options = std::mem::take(&mut prepared.options);
        let attachments = std::mem::take(&mut prepared.attachments);
        let end = tokio::spawn(async move {
            let solved = match client.solve(options, attachments, |_| {}).await {
                Ok(solved) => solved,
                Err(kiln_client::Error::Status(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if let Some(loading) = loading {
                loading.finish().await?;
            }
            prepared
                .finish(&solved)
                .map_err(|error| Failure::internal(&error))
        });
        Ok(Begun { reference, end })
    }
}
