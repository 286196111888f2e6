//! Moments of the wire, for people and for programs.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment, in whichever of the two generated types it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    seconds: i64,
    nanos: i32,
}

impl From<&prost_types::Timestamp> for Moment {
    fn from(at: &prost_types::Timestamp) -> Self {
        Self {
            seconds: at.seconds,
            nanos: at.nanos,
        }
    }
}

impl From<&kiln_proto::google::protobuf::Timestamp> for Moment {
    fn from(at: &kiln_proto::google::protobuf::Timestamp) -> Self {
        Self {
            seconds: at.seconds,
            nanos: at.nanos,
        }
    }
}

impl Moment {
    fn system(self) -> SystemTime {
        let seconds = Duration::from_secs(self.seconds.unsigned_abs());
        let base = if self.seconds < 0 {
            SystemTime::UNIX_EPOCH - seconds
        } else {
            SystemTime::UNIX_EPOCH + seconds
        };
        base + Duration::from_nanos(self.nanos.unsigned_abs().into())
    }

    /// RFC 3339.
    pub(crate) fn text(self) -> String {
        let at = OffsetDateTime::from(self.system());
        at.format(&Rfc3339).unwrap_or_default()
    }

    /// How long ago it was.
    pub(crate) fn ago(self) -> String {
        format!("{} ago", duration(self.elapsed()))
    }

    /// From this moment to now.
    pub(crate) fn elapsed(self) -> Duration {
        let past = SystemTime::now().duration_since(self.system());
        past.unwrap_or_default()
    }

    /// From this moment to a later one.
    pub(crate) fn until(self, later: Self) -> Duration {
        later
            .system()
            .duration_since(self.system())
            .unwrap_or_default()
    }
}

/// A moment that may be missing, as JSON.
pub(crate) fn json<'a, T: 'a>(at: Option<&'a T>) -> serde_json::Value
where
    Moment: From<&'a T>,
{
    at.map_or(serde_json::Value::Null, |at| Moment::from(at).text().into())
}

/// A moment that may be missing, for people.
pub(crate) fn ago<'a, T: 'a>(at: Option<&'a T>) -> String
where
    Moment: From<&'a T>,
{
    at.map_or_else(|| "–".to_owned(), |at| Moment::from(at).ago())
}

/// With two units at most: `1.2s`, `3m 20s`, `2h 5m`, `4 days`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", length.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short() {
        for (milliseconds, want) in [
            (1_230, "1.2s"),
            (200_000, "3m 20s"),
            (7_500_000, "2h 5m"),
            (345_600_000, "4 days"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), want);
        }
        let at = kiln_proto::google::protobuf::Timestamp {
            seconds: 1,
            nanos: 500_000_000,
        };
        assert_eq!(Moment::from(&at).text(), "1970-01-01T00:00:01.5Z");
    }
}
