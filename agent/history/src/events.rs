//! Who listens, and to what.

use std::sync::Arc;

use kiln_proto::moby::buildkit::v1 as control;
use tokio::sync::mpsc;

use crate::Filter;

/// Something happened to a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A build began.
    Started(Arc<control::BuildHistoryRecord>),
    /// A build ended, or its record was changed.
    Completed(Arc<control::BuildHistoryRecord>),
    /// The record of this name was removed.
    Deleted(String),
}

impl Event {
    /// The build it is about.
    pub fn reference(&self) -> &str {
        match self {
            Self::Started(record) | Self::Completed(record) => &record.r#ref,
            Self::Deleted(reference) => reference,
        }
    }
}

/// What a listener wants.
#[derive(Debug, Default)]
pub struct Listen {
    /// Only this build, unless empty.
    pub reference: String,
    /// No finished builds to begin with.
    pub active_only: bool,
    /// End after what is there now.
    pub early_exit: bool,
    /// Which of the finished builds.
    pub filter: Filter,
    /// At most this many finished builds, the newest first; 0 for all.
    pub limit: usize,
}

/// What is there, then what happens.
#[derive(Debug)]
pub struct Listener {
    pub(crate) there: std::vec::IntoIter<Event>,
    pub(crate) later: Option<mpsc::UnboundedReceiver<Event>>,
    pub(crate) reference: String,
}

impl Listener {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.there.next() {
            return Some(event);
        }
        let later = self.later.as_mut()?;
        loop {
            let event = later.recv().await?;
            if self.reference.is_empty() || event.reference() == self.reference {
                return Some(event);
            }
        }
    }
}
