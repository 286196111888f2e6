//! The state of a build, gathered from its stream of statuses.
//!
//! A vertex may work several times (its intervals are merged); vertices of one group are shown as one.
//! Clocks: what the daemon stamps is shifted by the difference that its first moment has to ours.

use std::collections::{BTreeMap, HashMap};

use kiln_proto::google::protobuf::Timestamp;
use kiln_proto::moby::buildkit::v1 as wire;
use kiln_proto::pb;

use super::screen::Screen;

/// Nanoseconds since 1970.
pub(crate) type Moment = i64;

const SECOND: i64 = 1_000_000_000;
/// A failed step shows at most so many bytes of its output again.
const KEPT_OUTPUT: usize = 2 << 20;
/// BuildKit's text of a cancelled step's error.
const CANCELED: &str = "context canceled";

pub(crate) fn moment(at: &Timestamp) -> Moment {
    at.seconds
        .saturating_mul(SECOND)
        .saturating_add(i64::from(at.nanos))
}

pub(crate) fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / SECOND as f64
}

/// Work from a beginning to its end, or still going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) start: Moment,
    pub(crate) stop: Option<Moment>,
}

/// A part of a vertex's work, such as one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: String,
    pub(crate) current: i64,
    pub(crate) total: i64,
    pub(crate) at: Moment,
    pub(crate) started: Option<Moment>,
    pub(crate) completed: Option<Moment>,
    /// It changed since it was printed.
    pub(crate) news: bool,
}

/// How a vertex ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Cached,
    Failed,
    Canceled,
}

/// A step, or a group of steps that is shown as one.
#[derive(Debug)]
pub(crate) struct Vertex {
    pub(crate) name: String,
    pub(crate) cached: bool,
    pub(crate) error: String,
    pub(crate) parts: Vec<Part>,
    pub(crate) warnings: Vec<wire::VertexWarning>,
    /// The end of what it wrote, as a terminal would show it.
    pub(crate) screen: Screen,
    /// Everything it wrote, in lines with their times, as far as it is kept.
    pub(crate) lines: Vec<String>,
    /// The last of `lines` goes on.
    pub(crate) open_line: bool,
    kept: usize,
    intervals: BTreeMap<Moment, Option<Moment>>,
    members: HashMap<String, wire::Vertex>,
    /// Its members are all too unimportant to be shown.
    hidden: bool,
    listed: bool,
}

impl Vertex {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cached: false,
            error: String::new(),
            parts: Vec::new(),
            warnings: Vec::new(),
            screen: Screen::default(),
            lines: Vec::new(),
            open_line: false,
            kept: 0,
            intervals: BTreeMap::new(),
            members: HashMap::new(),
            hidden: false,
            listed: false,
        }
    }

    /// Its work, without overlaps.
    pub(crate) fn intervals(&self) -> Vec<Interval> {
        let mut merged: Vec<Interval> = Vec::new();
        for (&start, &stop) in &self.intervals {
            match merged.last_mut() {
                Some(last) if last.stop.is_none_or(|end| end >= start) => {
                    last.stop = match (last.stop, stop) {
                        (Some(one), Some(other)) => Some(one.max(other)),
                        _ => None,
                    };
                }
                _ => merged.push(Interval { start, stop }),
            }
        }
        merged
    }

    /// How long it worked until `now`.
    pub(crate) fn duration(&self, now: Moment) -> i64 {
        let length =
            |interval: Interval| interval.stop.unwrap_or(now).max(interval.start) - interval.start;
        self.intervals().into_iter().map(length).sum()
    }

    pub(crate) fn is_started(&self) -> bool {
        !self.intervals.is_empty()
    }

    /// When it ended, if it isn't working.
    pub(crate) fn ended(&self) -> Option<Moment> {
        self.intervals().last()?.stop
    }

    pub(crate) fn outcome(&self) -> Outcome {
        if self.error.ends_with(CANCELED) {
            Outcome::Canceled
        } else if !self.error.is_empty() {
            Outcome::Failed
        } else if self.cached {
            Outcome::Cached
        } else {
            Outcome::Done
        }
    }

    fn begun(&mut self, start: &Timestamp, stop: Option<&Timestamp>) -> bool {
        let (start, stop) = (moment(start), stop.map(moment));
        self.intervals.insert(start, stop) != Some(stop)
    }

    /// A group is as its members together are.
    fn gather(&mut self) -> bool {
        let before = (
            self.cached,
            self.error.clone(),
            self.intervals.clone(),
            self.hidden,
        );
        self.cached = self.members.values().all(|member| member.cached);
        let failed = self
            .members
            .values()
            .find(|member| !member.error.is_empty());
        self.error = failed
            .map(|member| member.error.clone())
            .unwrap_or_default();
        let started: Vec<_> = self
            .members
            .values()
            .filter_map(|member| Some((member.started?, member.completed)))
            .collect();
        for (start, stop) in started {
            self.begun(&start, stop.as_ref());
        }
        let is_strong = |member: &wire::Vertex| {
            let weak = member
                .progress_group
                .as_ref()
                .is_none_or(|group| group.weak);
            (member.started.is_some() && !weak) || !member.error.is_empty()
        };
        if self.members.values().any(is_strong) {
            self.hidden = false;
        }
        before
            != (
                self.cached,
                self.error.clone(),
                self.intervals.clone(),
                self.hidden,
            )
    }

    fn write(&mut self, log: &wire::VertexLog) {
        self.screen.write(&log.msg);
        let start = self.intervals().last().map_or(0, |interval| interval.start);
        let at = log.timestamp.as_ref().map_or(start, moment);
        let stamp = stamp(seconds(at - start));
        let mut rest = log.msg.as_slice();
        while !rest.is_empty() {
            let (line, closed) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let line = &rest[..end];
                    rest = &rest[end + 1..];
                    (line, true)
                }
                None => (std::mem::take(&mut rest), false),
            };
            let text = String::from_utf8_lossy(line);
            self.kept += text.len();
            match self.lines.last_mut() {
                Some(last) if self.open_line => last.push_str(&text),
                _ => self.lines.push(format!("{stamp} {text}")),
            }
            self.open_line = !closed;
        }
    }

    /// Forgets the oldest lines once there are too many; says how many.
    pub(crate) fn trim(&mut self) -> usize {
        if self.kept <= KEPT_OUTPUT {
            return 0;
        }
        let half = self.lines.len() / 2;
        let gone: usize = self.lines.drain(..half).map(|line| line.len()).sum();
        self.kept = self.kept.saturating_sub(gone);
        half
    }
}

/// As many decimals as fit.
fn stamp(seconds: f64) -> String {
    let decimals = match seconds {
        seconds if seconds < 10.0 => 3,
        seconds if seconds < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.decimals$}")
}

/// The state of a build.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    vertices: Vec<Vertex>,
    by_digest: HashMap<String, usize>,
    /// In the order in which they began.
    shown: Vec<usize>,
    first: Option<Moment>,
    shift: Option<i64>,
}

impl Trace {
    /// Takes an update in that came at `now`; gives the vertices that it is about.
    pub(crate) fn update(&mut self, status: &wire::StatusResponse, now: Moment) -> Vec<usize> {
        let mut touched = Vec::new();
        for vertex in &status.vertexes {
            if let Some(started) = &vertex.started {
                let started = moment(started);
                self.first.get_or_insert(started);
                self.shift.get_or_insert(now - started);
            }
            touched.extend(match &vertex.progress_group {
                Some(group) => self.member(group, vertex),
                None => self.vertex(vertex),
            });
        }
        for status in &status.statuses {
            let Some(index) = self.index(&status.vertex) else {
                continue;
            };
            let part = Part {
                id: status.id.clone(),
                current: status.current,
                total: status.total,
                at: status.timestamp.as_ref().map_or(0, moment),
                started: status.started.as_ref().map(moment),
                completed: status.completed.as_ref().map(moment),
                news: true,
            };
            let parts = &mut self.vertices[index].parts;
            match parts.iter_mut().find(|known| known.id == part.id) {
                Some(known) => *known = part,
                None => parts.push(part),
            }
            touched.push(index);
        }
        for warning in &status.warnings {
            if let Some(index) = self.index(&warning.vertex) {
                self.vertices[index].warnings.push(warning.clone());
                touched.push(index);
            }
        }
        for log in &status.logs {
            if let Some(index) = self.index(&log.vertex) {
                self.vertices[index].write(log);
                touched.push(index);
            }
        }
        touched.retain(|index| !self.vertices[*index].hidden);
        touched
    }

    fn index(&self, digest: &str) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }

    fn slot(&mut self, digest: &str, name: &str) -> usize {
        if let Some(index) = self.index(digest) {
            return index;
        }
        self.vertices.push(Vertex::new(name));
        self.by_digest
            .insert(digest.to_owned(), self.vertices.len() - 1);
        self.vertices.len() - 1
    }

    fn list(&mut self, index: usize) {
        let vertex = &mut self.vertices[index];
        if !vertex.listed && !vertex.hidden && vertex.is_started() {
            vertex.listed = true;
            self.shown.push(index);
        }
    }

    fn vertex(&mut self, news: &wire::Vertex) -> Option<usize> {
        let index = self.slot(&news.digest, &news.name);
        let vertex = &mut self.vertices[index];
        let mut changed = vertex.name != news.name;
        // A late announcement doesn't take back what is known of a vertex that began.
        if news.started.is_some() || !vertex.is_started() {
            changed |= vertex.cached != news.cached || vertex.error != news.error;
            vertex.name.clone_from(&news.name);
            vertex.cached = news.cached;
            vertex.error.clone_from(&news.error);
        }
        if let Some(start) = &news.started {
            changed |= vertex.begun(start, news.completed.as_ref());
        }
        self.list(index);
        (changed && self.vertices[index].is_started()).then_some(index)
    }

    fn member(&mut self, group: &pb::ProgressGroup, news: &wire::Vertex) -> Option<usize> {
        let is_new = self.index(&group.id).is_none();
        let index = self.slot(&group.id, &group.name);
        self.by_digest.insert(news.digest.clone(), index);
        let vertex = &mut self.vertices[index];
        vertex.hidden |= is_new;
        vertex.members.insert(news.digest.clone(), news.clone());
        let changed = vertex.gather();
        self.list(index);
        let vertex = &self.vertices[index];
        (changed && vertex.is_started() && !vertex.hidden).then_some(index)
    }

    /// The vertices that began, in that order.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (usize, &Vertex)> {
        self.shown
            .iter()
            .map(|index| (*index, &self.vertices[*index]))
    }

    pub(crate) fn get(&self, index: usize) -> &Vertex {
        &self.vertices[index]
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> &mut Vertex {
        &mut self.vertices[index]
    }

    /// How many vertices there are, and how many of them have ended.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let all = self.vertices.iter().filter(|vertex| !vertex.hidden);
        let ended = all.clone().filter(|vertex| vertex.ended().is_some());
        (all.count(), ended.count())
    }

    /// Our moment `now` on the daemon's clock.
    pub(crate) fn daemons(&self, now: Moment) -> Moment {
        now - self.shift.unwrap_or(0)
    }

    /// How long the build has gone on at our moment `now`.
    pub(crate) fn elapsed(&self, now: Moment) -> i64 {
        self.first
            .map_or(0, |first| (self.daemons(now) - first).max(0))
    }

    /// All warnings.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &wire::VertexWarning> {
        self.vertices.iter().flat_map(|vertex| &vertex.warnings)
    }

    /// Vertices that failed by themselves.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Vertex> {
        let shown = self.shown().map(|(_, vertex)| vertex);
        shown.filter(|vertex| vertex.outcome() == Outcome::Failed)
    }
}
