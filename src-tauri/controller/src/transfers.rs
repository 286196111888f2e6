//! Images on their way from a registry and to one.
//!
//! ```text
//!  engine: an event per blob and piece ──► what is known of each blob ──► the window, ten times a second at most
//! ```
//! Dropping the future of a transfer cancels it: the engine's work ends with the call.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kiln_client::{CredentialSource as _, Logins, wire_credential};
use kiln_proto::agent;
use kiln_proto::agent::transfer_progress::Event;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use crate::view::{Transfer, TransferBlob};
use crate::{Controller, Failure, keys};

/// What comes within this is one message.
const TOGETHER: Duration = Duration::from_millis(100);

/// The login for a name's registry, from wherever it is kept.
async fn credential(name: &str) -> Option<agent::RegistryCredential> {
    let host = match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "registry-1.docker.io",
    };
    let logins = Logins::load(keys::passed_over).ok()?;
    logins.credentials(host).await.ok()?.map(wire_credential)
}

/// What is known of a transfer, blobs in the order in which they were named.
#[derive(Default)]
struct Known {
    positions: BTreeMap<String, usize>,
    transfer: Transfer,
}

impl Known {
    fn take(&mut self, event: agent::TransferProgress) {
        match event.event {
            Some(Event::Blob(blob)) => {
                let blobs = &mut self.transfer.blobs;
                let position = self.positions.entry(blob.digest.clone());
                let position = *position.or_insert_with(|| {
                    blobs.push(TransferBlob::default());
                    blobs.len() - 1
                });
                blobs[position] = TransferBlob {
                    digest: blob.digest,
                    status: blob.status,
                    current: blob.current,
                    total: blob.total,
                    description: blob.description,
                };
            }
            Some(Event::Finished(digest)) => self.transfer.finished = digest,
            None => {}
        }
    }
}

/// Hands on progress until the transfer ends or nobody listens; the last message has its end.
async fn follow(
    mut events: impl Stream<Item = Result<agent::TransferProgress, Status>> + Unpin,
    mut each: impl FnMut(Transfer) -> bool,
) {
    let mut known = Known::default();
    let mut due: Option<Instant> = None;
    loop {
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A stream that always has something to say must not keep it all to itself.
            biased;
            () = timer => {
                due = None;
                if !each(known.transfer.clone()) {
                    return;
                }
            }
            event = events.next() => match event {
                Some(Ok(event)) => {
                    known.take(event);
                    due = due.or_else(|| Some(Instant::now() + TOGETHER));
                }
                Some(Err(status)) => {
                    end(each, known.transfer, status.into());
                    return;
                }
                None => {
                    if known.transfer.finished.is_empty() {
                        end(each, known.transfer, Failure::unavailable("The engine went away meanwhile."));
                    } else {
                        each(known.transfer);
                    }
                    return;
                }
            },
        }
    }
}

fn end(mut each: impl FnMut(Transfer) -> bool, known: Transfer, failure: Failure) {
    each(Transfer {
        error: failure.message,
        hint: failure.hint,
        ..known
    });
}

/// Follows a transfer that the engine began, or says why it didn't.
async fn run(
    begun: impl Future<Output = Result<Response<Streaming<agent::TransferProgress>>, Failure>>,
    each: impl FnMut(Transfer) -> bool,
) {
    match begun.await {
        Ok(events) => follow(events.into_inner(), each).await,
        Err(failure) => end(each, Transfer::default(), failure),
    }
}

impl Controller {
    /// From its registry.
    pub async fn pull_image(&self, name: String, each: impl FnMut(Transfer) -> bool) {
        let request = agent::PullImageRequest {
            credential: credential(&name).await,
            name,
            ..Default::default()
        };
        run(
            async { Ok(self.image_calls().await?.pull_image(request).await?) },
            each,
        )
        .await;
    }

    /// To its registry.
    pub async fn push_image(&self, name: String, each: impl FnMut(Transfer) -> bool) {
        let request = agent::PushImageRequest {
            credential: credential(&name).await,
            name,
        };
        run(
            async { Ok(self.image_calls().await?.push_image(request).await?) },
            each,
        )
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn blob(digest: &str, status: &str, current: i64) -> agent::TransferProgress {
        agent::TransferProgress {
            event: Some(Event::Blob(agent::BlobProgress {
                digest: digest.into(),
                status: status.into(),
                current,
                total: 1000,
                description: "layer".into(),
            })),
        }
    }

    fn finished() -> agent::TransferProgress {
        agent::TransferProgress {
            event: Some(Event::Finished("sha256:f".into())),
        }
    }

    async fn told(events: Vec<Result<agent::TransferProgress, Status>>) -> Vec<Transfer> {
        let mut all = Vec::new();
        follow(stream::iter(events), |transfer| {
            all.push(transfer);
            true
        })
        .await;
        all
    }

    #[tokio::test]
    async fn a_flood_of_pieces_is_few_messages_and_the_last_has_it_all() {
        let mut events = vec![Ok(blob("b", "waiting", 0)), Ok(blob("a", "waiting", 0))];
        events.extend((1..=1000).map(|current| Ok(blob("b", "transferring", current))));
        events.push(Ok(blob("a", "exists", 1000)));
        events.push(Ok(finished()));
        let all = told(events).await;
        assert!(all.len() < 50, "{} messages", all.len());
        let last = all.last().unwrap();
        assert_eq!(
            (last.finished.as_str(), last.error.as_str()),
            ("sha256:f", "")
        );
        let blobs: Vec<_> = last
            .blobs
            .iter()
            .map(|blob| (blob.digest.as_str(), blob.status.as_str(), blob.current))
            .collect();
        assert_eq!(blobs, [("b", "transferring", 1000), ("a", "exists", 1000)]);
    }

    #[tokio::test]
    async fn an_end_that_is_none_is_told_as_a_failure() {
        let all = told(vec![
            Ok(blob("a", "transferring", 10)),
            Err(Status::not_found("no such image: a")),
        ])
        .await;
        let last = all.last().unwrap();
        assert_eq!(last.error, "no such image: a");
        assert_eq!(last.blobs.len(), 1);
        let all = told(vec![Ok(blob("a", "transferring", 10))]).await;
        assert!(all.last().unwrap().error.contains("went away"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_listens() {
        let events = stream::iter([Ok(blob("a", "transferring", 10))]).chain(stream::pending());
        let mut told = 0;
        follow(Box::pin(events), |_| {
            told += 1;
            false
        })
        .await;
        assert_eq!(told, 1);
    }
}
