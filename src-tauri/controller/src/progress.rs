//! How far running builds are: their steps, counted from their progress.
//!
//! A record in the history has its counts when it is complete; until then they come from here.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use kiln_client::{BuildRef, Client};
use kiln_proto::moby::buildkit::v1 as control;

use crate::view::BuildSummary;

/// Steps of a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    total: i32,
    completed: i32,
    cached: i32,
}

impl Counts {
    /// Whether that changed something.
    pub(crate) fn put_into(self, build: &mut BuildSummary) -> bool {
        let before = (build.total_steps, build.completed_steps, build.cached_steps);
        build.total_steps = self.total;
        build.completed_steps = self.completed;
        build.cached_steps = self.cached;
        before != (self.total, self.completed, self.cached)
    }
}

/// The steps of one build: whether each is complete, and cached.
#[derive(Debug, Default)]
struct Steps(BTreeMap<String, (bool, bool)>);

impl Steps {
    fn take(&mut self, wire: control::StatusResponse) -> Counts {
        for vertex in wire.vertexes {
            let step = self.0.entry(vertex.digest).or_default();
            *step = (
                step.0 || vertex.completed.is_some(),
                step.1 || vertex.cached,
            );
        }
        let count =
            |of: fn(&(bool, bool)) -> bool| self.0.values().filter(|step| of(step)).count() as i32;
        Counts {
            total: self.0.len() as i32,
            completed: count(|step| step.0),
            cached: count(|step| step.1),
        }
    }
}

/// The progress of all running builds.
#[derive(Default)]
pub(crate) struct Following {
    builds: SelectAll<BoxStream<'static, (String, Counts)>>,
}

impl Following {
    /// Adds a build; it leaves by itself when it ends.
    pub(crate) fn follow(&mut self, client: &Client, reference: String) {
        let client = client.clone();
        let events = async move {
            let events = client.status(&BuildRef::new(reference.as_str())).await;
            let mut steps = Steps::default();
            futures::stream::iter(events.ok())
                .flatten()
                .filter_map(|event| std::future::ready(event.ok()))
                .map(move |event| (reference.clone(), steps.take(event)))
        };
        self.builds
            .push(futures::stream::once(events).flatten().boxed());
    }

    /// The next news; waits where there is nothing to follow.
    pub(crate) async fn next(&mut self) -> (String, Counts) {
        match self.builds.next().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_once_however_often_they_are_told() {
        let vertex = |digest: &str, complete: bool, cached: bool| control::Vertex {
            digest: digest.into(),
            completed: complete.then(Default::default),
            cached,
            ..Default::default()
        };
        let mut steps = Steps::default();
        let mut build = BuildSummary::default();
        for (vertices, counts, news) in [
            (vec![vertex("a", false, false)], (1, 0, 0), true),
            (vec![vertex("a", false, false)], (1, 0, 0), false),
            (
                vec![vertex("a", true, false), vertex("b", true, true)],
                (2, 2, 1),
                true,
            ),
            (vec![vertex("b", false, false)], (2, 2, 1), false),
        ] {
            let told = steps.take(control::StatusResponse {
                vertexes: vertices,
                ..Default::default()
            });
            assert_eq!(told.put_into(&mut build), news);
            assert_eq!(
                (build.total_steps, build.completed_steps, build.cached_steps),
                counts
            );
        }
    }
}
