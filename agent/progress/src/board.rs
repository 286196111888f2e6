//! Everything that happened in a build, in the order of its last changes. See [`Hub`](crate::Hub).
//!
//! Invariants: `places` names exactly the versions of `entries` that hold a vertex or a status; `waiting` counts
//! exactly the bytes of the entries that are for the record alone, and there are none unless `is_recorded`.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use bytes::Bytes;
use kiln_oci::Digest;

use crate::hub::{BuildWarning, Output, StatusChange, Update};
use crate::{Audience, Stream, VertexState};

/// Unread output of one stream is joined up to this size.
const JOIN_OUTPUT: usize = 32 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Vertex(Digest),
    Status(Digest, String),
}

#[derive(Debug)]
pub(crate) enum Entry {
    Vertex(VertexState),
    /// A time that a vertex was at work before the one that its entry tells of. Clients take every beginning for
    /// one with an end of its own, so this end must reach them too.
    Earlier(VertexState),
    Status(StatusChange),
    Output {
        vertex: Digest,
        stream: Stream,
        audience: Audience,
        at: SystemTime,
        bytes: Vec<u8>,
    },
    Warning(BuildWarning),
}

#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) entries: BTreeMap<u64, Entry>,
    places: HashMap<Place, u64>,
    pub(crate) version: u64,
    /// The newest version that any reader took: older output is never added to.
    taken: u64,
    pub(crate) finished: bool,
    /// Somebody takes what is for the record alone.
    pub(crate) is_recorded: bool,
    /// Bytes for the record alone that are in `entries`.
    pub(crate) waiting: usize,
}

impl Board {
    pub(crate) fn append(&mut self, entry: Entry) {
        self.version += 1;
        self.entries.insert(self.version, entry);
    }

    pub(crate) fn replace(&mut self, place: Place, entry: Entry) {
        self.version += 1;
        if let Some(old) = self.places.insert(place, self.version) {
            self.entries.remove(&old);
        }
        self.entries.insert(self.version, entry);
    }

    /// Keeps the end of the time before, where the vertex is at work again.
    pub(crate) fn replace_vertex(&mut self, vertex: VertexState) {
        let place = Place::Vertex(vertex.digest);
        if let Some(version) = self.places.get(&place)
            && let Some(entry) = self.entries.get_mut(version)
            && let Entry::Vertex(before) = entry
            && before.completed.is_some()
            && before.started != vertex.started
        {
            *entry = Entry::Earlier(before.clone());
            self.places.remove(&place);
        }
        self.replace(place, Entry::Vertex(vertex));
    }

    /// Something came for a vertex that has ended (a lazy layer, which is fetched when it is needed):
    /// displays open it again, so its end has to be said again.
    pub(crate) fn repeat_end(&mut self, vertex: Digest) {
        let place = Place::Vertex(vertex);
        let Some(version) = self.places.get(&place) else {
            return;
        };
        if let Some(Entry::Vertex(state)) = self.entries.get(version)
            && state.completed.is_some()
        {
            let state = state.clone();
            self.replace(place, Entry::Vertex(state));
        }
    }

    /// Adds output, to the last piece where that is alike and nobody has seen it. Returns whether it began a
    /// piece of its own.
    pub(crate) fn output(&mut self, output: &Output) -> bool {
        if output.audience == Audience::Record {
            if !self.is_recorded {
                return false;
            }
            self.waiting += output.bytes.len();
        }
        if let Some(mut last) = self.entries.last_entry()
            && *last.key() > self.taken
            && let Entry::Output {
                vertex,
                stream,
                audience,
                bytes,
                ..
            } = last.get_mut()
            && (*vertex, *stream, *audience) == (output.vertex, output.stream, output.audience)
            && bytes.len() + output.bytes.len() <= JOIN_OUTPUT
        {
            bytes.extend_from_slice(&output.bytes);
            return false;
        }
        self.append(Entry::Output {
            vertex: output.vertex,
            stream: output.stream,
            audience: output.audience,
            at: output.at,
            bytes: output.bytes.to_vec(),
        });
        true
    }

    /// What a reader gets. The one that writes the record takes what is only for it away.
    pub(crate) fn take_since(&mut self, version: u64, audience: Audience) -> Update {
        let update = self.since(version, audience);
        self.taken = self.version;
        if audience == Audience::Record && self.waiting > 0 {
            self.remove_hidden();
        }
        update
    }

    pub(crate) fn forget_hidden(&mut self) {
        self.is_recorded = false;
        self.remove_hidden();
    }

    fn remove_hidden(&mut self) {
        self.waiting = 0;
        self.entries.retain(|_, entry| {
            !matches!(
                entry,
                Entry::Output {
                    audience: Audience::Record,
                    ..
                }
            )
        });
    }

    pub(crate) fn since(&self, version: u64, reader: Audience) -> Update {
        let mut update = Update::default();
        for entry in self.entries.range(version + 1..).map(|(_, entry)| entry) {
            match entry {
                Entry::Vertex(vertex) | Entry::Earlier(vertex) => {
                    update.vertices.push(vertex.clone());
                }
                Entry::Status(status) => update.statuses.push(status.clone()),
                Entry::Warning(warning) => update.warnings.push(warning.clone()),
                Entry::Output {
                    vertex,
                    stream,
                    audience,
                    at,
                    bytes,
                } if *audience == Audience::Everybody || *audience == reader => {
                    update.output.push(Output {
                        vertex: *vertex,
                        stream: *stream,
                        audience: *audience,
                        at: *at,
                        bytes: Bytes::copy_from_slice(bytes),
                    });
                }
                Entry::Output { .. } => {}
            }
        }
        update
    }
}
