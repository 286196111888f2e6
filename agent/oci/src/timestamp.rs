//! A time as Go's `time.Time` reads and writes it in JSON: RFC 3339, nanoseconds without trailing zeros.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment with its offset from UTC, which is kept when written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

/// The text isn't a time of RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {text:?}: want RFC 3339, as 2006-01-02T15:04:05Z")]
pub struct TimestampError {
    /// What was given.
    pub text: String,
}

impl Timestamp {
    /// Go's zero time, `0001-01-01T00:00:00Z`, which stands for "not known".
    pub const ZERO: Self = Self(time::macros::datetime!(0001-01-01 00:00 UTC));

    /// Seconds since 1970 in UTC, as `SOURCE_DATE_EPOCH` has them. `None` outside of the years 0–9999.
    pub fn from_unix(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds).ok().map(Self)
    }

    /// The current time in UTC.
    pub fn now() -> Self {
        Self(OffsetDateTime::now_utc())
    }

    /// Whole seconds since 1970.
    pub const fn unix_seconds(&self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Nanoseconds within the second.
    pub const fn nanosecond(&self) -> u32 {
        self.0.nanosecond()
    }

    /// The same moment for the standard library.
    pub fn to_system_time(self) -> SystemTime {
        self.0.into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time.into())
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        // The parser takes any separator between date and time; Go takes only a `T`.
        let time = (text.as_bytes().get(10) == Some(&b'T'))
            .then(|| OffsetDateTime::parse(text, &Rfc3339).ok())
            .flatten();
        time.map(Self).ok_or_else(|| TimestampError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.format(&Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.format(&Rfc3339).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_a_round_trip() {
        for text in [
            "1970-01-01T00:00:01Z",
            "2024-05-18T01:28:04.123456789Z",
            "2024-05-18T01:28:04.1Z",
            "2024-05-18T01:28:04+02:00",
            "0001-01-01T00:00:00Z",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text);
        }
        assert_eq!(
            "2024-05-18T01:28:04.500Z"
                .parse::<Timestamp>()
                .unwrap()
                .to_string(),
            "2024-05-18T01:28:04.5Z"
        );
        assert_eq!(
            Timestamp::from_unix(1).unwrap().to_string(),
            "1970-01-01T00:00:01Z"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "now",
            "2024-05-18",
            "2024-05-18 01:28:04Z",
            "2024-13-18T01:28:04Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
