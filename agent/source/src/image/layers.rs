//! Layers that are fetched when somebody reads them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use kiln_cache::BlobProvider;
use kiln_content::Writer;
use kiln_errdefs::SharedError;
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Reference};
use kiln_progress::{Status, VertexProgress};
use kiln_registry::Client;
use parking_lot::Mutex;

use super::documents::open_layout;
use super::request::{ImageRequest, Layout};
use super::{ImageError, Parts};
use crate::SessionCredentials;

/// Progress isn't reported more often than this.
const REPORT: Duration = Duration::from_millis(100);

/// Fetches the layers of one image.
pub(super) struct RemoteLayers {
    parts: Arc<Parts>,
    reference: Reference,
    layout: Option<Layout>,
    /// The pull's own vertex, where the download is shown whoever causes it.
    progress: Option<VertexProgress>,
    /// One client for the layers of a build, so that they share its tokens.
    client: Mutex<Option<(Vec<SessionId>, Client)>>,
}

impl RemoteLayers {
    pub(super) fn of_registry(
        parts: &Arc<Parts>,
        reference: &Reference,
        progress: Option<VertexProgress>,
    ) -> Self {
        Self {
            parts: Arc::clone(parts),
            reference: reference.without_tag_and_digest(),
            layout: None,
            progress,
            client: Mutex::new(None),
        }
    }

    pub(super) fn of_request(
        parts: &Arc<Parts>,
        request: &ImageRequest,
        progress: VertexProgress,
    ) -> Self {
        Self {
            layout: request.layout.clone(),
            ..Self::of_registry(parts, &request.reference, Some(progress))
        }
    }

    fn client(&self, sessions: &[SessionId]) -> Client {
        let mut held = self.client.lock();
        if let Some((of, client)) = &*held
            && of == sessions
        {
            return client.clone();
        }
        let credentials = SessionCredentials::new(self.parts.sessions.clone(), sessions);
        let client = self.parts.registry.client(Arc::new(credentials));
        *held = Some((sessions.to_vec(), client.clone()));
        client
    }

    async fn bring(
        &self,
        descriptor: &Descriptor,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<(), ImageError> {
        let content = &self.parts.content;
        let mut resumed = true;
        // A second try from nothing, in case that what an earlier download left is what was wrong.
        while resumed {
            let mut writer = content.writer(&descriptor.digest.to_string()).await?;
            if content.info(&descriptor.digest).is_some() {
                writer.discard().await;
                return Ok(());
            }
            resumed = writer.offset() > 0;
            writer.expect_size(descriptor.size).await?;
            let mut report = Report::begin(
                progress,
                descriptor.digest.to_string(),
                "downloading".to_owned(),
                descriptor.size,
            );
            match &self.layout {
                Some(layout) => {
                    self.copy_layout(layout, descriptor, sessions, &mut writer, &mut report)
                        .await?;
                }
                None => {
                    self.copy_registry(descriptor, sessions, &mut writer, &mut report)
                        .await?;
                }
            }
            match writer
                .commit(Some(descriptor.digest), Some(descriptor.size))
                .await
            {
                Ok(_) => {
                    report.end();
                    break;
                }
                Err(kiln_content::Error::WrongDigest { .. }) if resumed => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.layout.is_none() {
            let name = format!(
                "containerd.io/distribution.source.{}",
                self.reference.domain()
            );
            content
                .set_label(&descriptor.digest, &name, self.reference.path())
                .await?;
        }
        Ok(())
    }

    async fn copy_registry(
        &self,
        descriptor: &Descriptor,
        sessions: &[SessionId],
        writer: &mut Writer,
        report: &mut Report,
    ) -> Result<(), ImageError> {
        if writer.offset() == descriptor.size {
            return Ok(());
        }
        let client = self.client(sessions);
        let mut reader = client
            .fetch(&self.reference, descriptor, writer.offset())
            .await?;
        while let Some(chunk) = reader.chunk().await? {
            push(writer, chunk, report).await?;
        }
        Ok(())
    }

    async fn copy_layout(
        &self,
        layout: &Layout,
        descriptor: &Descriptor,
        sessions: &[SessionId],
        writer: &mut Writer,
        report: &mut Report,
    ) -> Result<(), ImageError> {
        let digest = descriptor.digest.to_string();
        let proxy = open_layout(&self.parts, layout, sessions).await?;
        if proxy.size(&digest).await?.is_none() {
            return Err(ImageError::NotInLayout {
                digest: descriptor.digest,
                store: layout.store.clone(),
            });
        }
        if writer.offset() == descriptor.size {
            return Ok(());
        }
        let mut pieces = proxy.read(&digest, writer.offset(), 0).await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|status| ImageError::Layout {
                store: layout.store.clone(),
                source: Box::new(status),
            })?;
            push(writer, piece, report).await?;
        }
        Ok(())
    }
}

async fn push(writer: &mut Writer, chunk: Bytes, report: &mut Report) -> Result<(), ImageError> {
    writer.push(chunk).await?;
    report.at(writer.offset());
    Ok(())
}

#[async_trait]
impl BlobProvider for RemoteLayers {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<(), SharedError> {
        let progress = self.progress.as_ref().unwrap_or(progress);
        Ok(self.bring(descriptor, sessions, progress).await?)
    }

    fn sources(&self) -> Vec<String> {
        match self.layout {
            Some(_) => Vec::new(),
            None => vec![self.reference.name()],
        }
    }
}

/// One line of a vertex's progress, closed also when the work is dropped.
pub(super) struct Report {
    progress: VertexProgress,
    status: Status,
    last: Instant,
}

impl Report {
    pub(super) fn begin(progress: &VertexProgress, id: String, name: String, total: u64) -> Self {
        let report = Self {
            progress: progress.clone(),
            status: Status {
                id,
                name,
                current: 0,
                total: total.cast_signed(),
                started: Some(SystemTime::now()),
                completed: None,
            },
            last: Instant::now(),
        };
        report.progress.status(report.status.clone());
        report
    }

    fn at(&mut self, current: u64) {
        self.status.current = current.cast_signed();
        if self.last.elapsed() >= REPORT {
            self.last = Instant::now();
            self.progress.status(self.status.clone());
        }
    }

    pub(super) fn end(mut self) {
        self.status.current = self.status.total;
        if !self.status.name.is_empty() {
            "done".clone_into(&mut self.status.name);
        }
        self.close();
    }

    fn close(&mut self) {
        if self.status.completed.is_none() {
            self.status.completed = Some(SystemTime::now());
            self.progress.status(self.status.clone());
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.close();
    }
}
