//! How long records stay.

use std::time::{Duration, SystemTime};

use kiln_proto::moby::buildkit::v1 as control;

use crate::record::moment;

/// A record goes once it is both beyond the number and beyond the age, or once all records together are
/// beyond the size: then the oldest go first. Pinned ones stay and count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Since the build ended.
    pub max_age: Duration,
    /// The newest ones stay whatever their age.
    pub max_entries: usize,
    /// Bytes of logs, traces and provenance.
    pub max_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(48 * 60 * 60),
            max_entries: 50,
            max_bytes: 1 << 30,
        }
    }
}

/// A record, and what it costs to keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) record: &'a control::BuildHistoryRecord,
    pub(crate) bytes: u64,
}

impl Retention {
    /// The names of the records that go.
    pub(crate) fn expired<'a>(
        self,
        records: impl Iterator<Item = Kept<'a>>,
        now: SystemTime,
    ) -> Vec<String> {
        let mut open: Vec<_> = records.filter(|kept| !kept.record.pinned).collect();
        open.sort_by_key(|kept| std::cmp::Reverse(moment(kept.record.completed_at.as_ref())));
        let oldest = now
            .checked_sub(self.max_age)
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |at| at.as_secs() as i64);
        let mut bytes = 0_u64;
        open.iter()
            .enumerate()
            .filter(|(index, kept)| {
                bytes = bytes.saturating_add(kept.bytes);
                let is_old = moment(kept.record.completed_at.as_ref()).0 < oldest;
                // The newest stays, however large it is: somebody may be looking at it.
                (*index >= self.max_entries && is_old) || (*index > 0 && bytes > self.max_bytes)
            })
            .map(|(_, kept)| kept.record.r#ref.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_number_and_bytes_decide_together() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let record = |name: &str, completed: i64, pinned: bool| control::BuildHistoryRecord {
            r#ref: name.to_owned(),
            pinned,
            completed_at: Some(kiln_proto::google::protobuf::Timestamp {
                seconds: completed,
                nanos: 0,
            }),
            ..Default::default()
        };
        let records = [
            record("new", 990, false),
            record("middle", 500, false),
            record("pinned", 1, true),
            record("old", 10, false),
        ];
        for (max_age, max_entries, max_bytes, want) in [
            (100, 10, 100, vec![]),
            (100, 2, 100, vec!["old"]),
            (100, 1, 100, vec!["middle", "old"]),
            (900, 1, 100, vec!["old"]),
            (900, 10, 20, vec!["old"]),
            (900, 10, 5, vec!["middle", "old"]),
            (900, 10, 0, vec!["middle", "old"]),
        ] {
            let retention = Retention {
                max_age: Duration::from_secs(max_age),
                max_entries,
                max_bytes,
            };
            let kept = records.iter().map(|record| Kept { record, bytes: 10 });
            let expired = retention.expired(kept, now);
            assert_eq!(expired, want, "{retention:?}");
        }
    }
}
