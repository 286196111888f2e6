//! Progress of one vertex, told to every build that has it.
//!
//! Each build knows the vertex by the digest, name and inputs of its own definition. A build that
//! comes later is told what has happened so far: the times, the last state of each status, warnings,
//! and the end of the output.
//!
//! Invariants: a build hears of a vertex before anything below it, and of its end after everything
//! below it; output that is kept for late builds is bounded, and what is only for records isn't kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kiln_ids::{BuildRef, SessionId};
use kiln_llb::Vertex;
use kiln_oci::Digest;
use kiln_progress::{Audience, BuildReceiver, Receiver, Status, Stream, VertexState, Warning};
use parking_lot::Mutex;

/// How much output is kept for builds that come late.
const KEPT_OUTPUT: usize = 2 << 20;

/// A build as the vertices see it.
pub(crate) struct BuildHandle {
    pub(crate) number: u64,
    pub(crate) name: BuildRef,
    pub(crate) session: SessionId,
    pub(crate) receiver: Arc<dyn BuildReceiver>,
}

/// A build that has the vertex, and how it knows it.
#[derive(Clone)]
struct Attached {
    build: Arc<BuildHandle>,
    vertex: Arc<Vertex>,
}

#[derive(Default)]
struct Told {
    builds: Vec<Attached>,
    cached: bool,
    started: Option<SystemTime>,
    completed: Option<SystemTime>,
    /// The vertex was done and works again.
    resumed: bool,
    error: String,
    statuses: Vec<Status>,
    warnings: Vec<Warning>,
    output: VecDeque<(Stream, Bytes)>,
    output_bytes: usize,
}

impl Told {
    fn state(&self, attached: &Attached) -> VertexState {
        let vertex = &attached.vertex;
        VertexState {
            digest: vertex.digest,
            inputs: vertex
                .inputs
                .iter()
                .map(|edge| edge.vertex.digest)
                .collect(),
            name: vertex.name(),
            cached: self.cached,
            started: self.started,
            completed: self.completed,
            error: self.error.clone(),
            group: vertex.options.progress_group.clone(),
        }
    }

    /// Keeps the vertex open while something below it is: an image's layers are fetched when a later step reads
    /// them, long after the vertex was done, and displays show that only below a vertex that is at work.
    fn follow(&mut self, status: &Status) {
        if status.completed.is_none() && self.completed.is_some() && self.error.is_empty() {
            self.started = Some(SystemTime::now());
            self.completed = None;
            self.cached = false;
            self.resumed = true;
            self.tell();
        }
    }

    /// Closes it again.
    fn settle(&mut self) {
        if self.resumed
            && self
                .statuses
                .iter()
                .all(|status| status.completed.is_some())
        {
            self.completed = Some(SystemTime::now());
            self.resumed = false;
            self.tell();
        }
    }

    /// Work goes on where it is under way: a client takes every beginning for one that has an end of its own.
    fn begin(&mut self, now: SystemTime) {
        if self.started.is_none() || self.completed.is_some() {
            self.started = Some(now);
        }
        self.completed = None;
    }

    fn tell(&self) {
        for attached in &self.builds {
            attached.build.receiver.vertex(self.state(attached));
        }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Report(Mutex<Told>);

impl Report {
    /// Adds a build and tells it what has happened. Returns false where it was there already.
    pub(crate) fn attach(&self, build: &Arc<BuildHandle>, vertex: &Arc<Vertex>) -> bool {
        let mut told = self.0.lock();
        let known = told.builds.iter().any(|attached| {
            attached.build.number == build.number && attached.vertex.digest == vertex.digest
        });
        if known {
            return false;
        }
        let attached = Attached {
            build: Arc::clone(build),
            vertex: Arc::clone(vertex),
        };
        let receiver = &build.receiver;
        receiver.vertex(VertexState {
            completed: None,
            ..told.state(&attached)
        });
        for status in &told.statuses {
            receiver.status(vertex.digest, status.clone());
        }
        for warning in &told.warnings {
            receiver.warn(Some(vertex.digest), warning.clone());
        }
        for (stream, bytes) in &told.output {
            receiver.log(vertex.digest, *stream, Audience::Everybody, bytes.clone());
        }
        if told.completed.is_some() {
            receiver.vertex(told.state(&attached));
        }
        told.builds.push(attached);
        true
    }

    /// Takes a build off.
    pub(crate) fn detach(&self, build: u64) {
        let mut told = self.0.lock();
        told.builds
            .retain(|attached| attached.build.number != build);
    }

    /// The builds that have the vertex, the first one first.
    pub(crate) fn builds(&self) -> Vec<Arc<BuildHandle>> {
        let told = self.0.lock();
        told.builds
            .iter()
            .map(|attached| Arc::clone(&attached.build))
            .collect()
    }

    /// The digest under which some build knows the vertex.
    pub(crate) fn any_digest(&self) -> Option<Digest> {
        let told = self.0.lock();
        told.builds.first().map(|attached| attached.vertex.digest)
    }

    /// Whether work on the vertex has begun, or a cache had its result.
    pub(crate) fn has_started(&self) -> bool {
        self.0.lock().started.is_some()
    }

    /// Work begins.
    pub(crate) fn started(&self) {
        let mut told = self.0.lock();
        told.begin(SystemTime::now());
        told.cached = false;
        told.resumed = false;
        told.error.clear();
        told.tell();
    }

    /// Work ended; `error` is what clients print, empty if there was none.
    pub(crate) fn completed(&self, error: String) {
        let mut told = self.0.lock();
        let now = SystemTime::now();
        told.started.get_or_insert(now);
        told.completed = Some(now);
        told.error = error;
        told.tell();
    }

    /// A cache had the result.
    pub(crate) fn cached(&self) {
        let mut told = self.0.lock();
        let now = SystemTime::now();
        told.begin(now);
        told.completed = Some(now);
        told.cached = true;
        told.error.clear();
        told.tell();
    }

    /// Tells `later` what this one was told: it is the same work under another vertex.
    pub(crate) fn copy_to(&self, later: &Self) {
        if std::ptr::eq(self, later) {
            return;
        }
        let (statuses, warnings, output) = {
            let told = self.0.lock();
            (
                told.statuses.clone(),
                told.warnings.clone(),
                told.output.clone(),
            )
        };
        for status in statuses {
            later.status(status);
        }
        for warning in warnings {
            later.warn(warning);
        }
        for (stream, bytes) in output {
            later.log(stream, Audience::Everybody, bytes);
        }
    }
}

impl Receiver for Report {
    fn status(&self, status: Status) {
        let mut told = self.0.lock();
        told.follow(&status);
        for attached in &told.builds {
            let receiver = &attached.build.receiver;
            receiver.status(attached.vertex.digest, status.clone());
        }
        match told.statuses.iter_mut().find(|known| known.id == status.id) {
            Some(known) => *known = status,
            None => told.statuses.push(status),
        }
        told.settle();
    }

    fn log(&self, stream: Stream, audience: Audience, bytes: Bytes) {
        let mut told = self.0.lock();
        for attached in &told.builds {
            let receiver = &attached.build.receiver;
            receiver.log(attached.vertex.digest, stream, audience, bytes.clone());
        }
        // It would push out what late builds are to see.
        if audience == Audience::Record {
            return;
        }
        told.output_bytes += bytes.len();
        told.output.push_back((stream, bytes));
        while told.output_bytes > KEPT_OUTPUT {
            match told.output.pop_front() {
                Some((_, oldest)) => told.output_bytes -= oldest.len(),
                None => break,
            }
        }
    }

    fn is_behind(&self) -> bool {
        let told = self.0.lock();
        told.builds
            .iter()
            .any(|attached| attached.build.receiver.is_behind())
    }

    fn warn(&self, warning: Warning) {
        let mut told = self.0.lock();
        for attached in &told.builds {
            let receiver = &attached.build.receiver;
            receiver.warn(Some(attached.vertex.digest), warning.clone());
        }
        told.warnings.push(warning);
    }
}

/// The vertices that share one run of an op.
#[derive(Default)]
pub(crate) struct Members(Mutex<Vec<Arc<Report>>>);

impl Members {
    /// Adds a vertex. Returns false where it was there already.
    pub(crate) fn join(&self, report: &Arc<Report>) -> bool {
        let mut members = self.0.lock();
        if members.iter().any(|member| Arc::ptr_eq(member, report)) {
            return false;
        }
        if let Some(first) = members.first() {
            first.copy_to(report);
        }
        members.push(Arc::clone(report));
        true
    }

    pub(crate) fn reports(&self) -> Vec<Arc<Report>> {
        self.0.lock().clone()
    }

    /// The builds that wait, the first one first.
    pub(crate) fn builds(&self) -> Vec<BuildRef> {
        let mut builds = Vec::new();
        for report in self.reports() {
            for build in report.builds() {
                if !builds.contains(&build.name) {
                    builds.push(build.name.clone());
                }
            }
        }
        builds
    }

    /// Sessions of all builds that wait, each once.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        let mut sessions = Vec::new();
        for report in self.reports() {
            for build in report.builds() {
                if !sessions.contains(&build.session) {
                    sessions.push(build.session.clone());
                }
            }
        }
        sessions
    }
}

impl Receiver for Members {
    fn status(&self, status: Status) {
        for report in self.0.lock().iter() {
            report.status(status.clone());
        }
    }

    fn log(&self, stream: Stream, audience: Audience, bytes: Bytes) {
        for report in self.0.lock().iter() {
            report.log(stream, audience, bytes.clone());
        }
    }

    fn is_behind(&self) -> bool {
        self.0.lock().iter().any(|report| report.is_behind())
    }

    fn warn(&self, warning: Warning) {
        for report in self.0.lock().iter() {
            report.warn(warning.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_llb::VertexOptions;
    use kiln_proto::pb;

    use super::*;

    /// Notes whether the vertex is open, and what is told below it.
    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl BuildReceiver for Seen {
        fn vertex(&self, vertex: VertexState) {
            let state = if vertex.completed.is_some() {
                "closed"
            } else {
                "open"
            };
            self.0.lock().push(state.to_owned());
        }
        fn status(&self, _: Digest, status: Status) {
            let state = if status.completed.is_some() {
                "done"
            } else {
                "at"
            };
            self.0.lock().push(format!("{} {state}", status.id));
        }
        fn log(&self, _: Digest, _: Stream, _: Audience, _: Bytes) {}
        fn warn(&self, _: Option<Digest>, _: Warning) {}
    }

    fn status(id: &str, done: bool) -> Status {
        Status {
            id: id.to_owned(),
            name: String::new(),
            current: 0,
            total: 0,
            started: None,
            completed: done.then(SystemTime::now),
        }
    }

    #[test]
    fn a_vertex_is_open_while_something_below_it_is() {
        let seen = Arc::new(Seen::default());
        let build = Arc::new(BuildHandle {
            number: 1,
            name: BuildRef::new("b"),
            session: SessionId::new("s"),
            receiver: Arc::clone(&seen) as _,
        });
        let vertex =
            kiln_llb::source(pb::SourceOp::default(), None, VertexOptions::default()).vertex;
        let report = Report::default();
        report.attach(&build, &vertex);
        report.started();
        report.status(status("resolve", true));
        report.completed(String::new());
        seen.0.lock().clear();

        report.status(status("a", false));
        report.status(status("b", false));
        report.status(status("a", true));
        report.status(status("b", true));
        report.status(status("b", true));
        let want = [
            "open", "a at", "b at", "a done", "b done", "closed", "b done",
        ];
        assert_eq!(*seen.0.lock(), want);
    }

    /// Whether every beginning that a client was told of had an end by the last report.
    #[derive(Default)]
    struct Intervals(Mutex<std::collections::BTreeMap<SystemTime, bool>>);

    impl BuildReceiver for Intervals {
        fn vertex(&self, vertex: VertexState) {
            if let Some(started) = vertex.started {
                self.0.lock().insert(started, vertex.completed.is_some());
            }
        }
        fn status(&self, _: Digest, _: Status) {}
        fn log(&self, _: Digest, _: Stream, _: Audience, _: Bytes) {}
        fn warn(&self, _: Option<Digest>, _: Warning) {}
    }

    #[test]
    fn every_beginning_has_an_end() {
        let ends: [fn(&Report); 2] = [Report::cached, |report| report.completed(String::new())];
        for end in ends {
            let seen = Arc::new(Intervals::default());
            let build = Arc::new(BuildHandle {
                number: 1,
                name: BuildRef::new("b"),
                session: SessionId::new("s"),
                receiver: Arc::clone(&seen) as _,
            });
            let report = Report::default();
            let vertex =
                kiln_llb::source(pb::SourceOp::default(), None, VertexOptions::default()).vertex;
            report.attach(&build, &vertex);
            report.started();
            report.started();
            end(&report);
            report.status(status("pull", false));
            report.status(status("pull", true));
            assert!(
                seen.0.lock().values().all(|ended| *ended),
                "{:?}",
                seen.0.lock()
            );
        }
    }
}
