//! Durations and sizes as `buildkitd.toml` writes them: a number, or a text with a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Why a text is neither a duration nor a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Wants `48h`, `1h30m`, `500ms` or a number of seconds.
    #[error("invalid duration {0:?}: want a number of seconds or a text such as \"48h\"")]
    Duration(String),
    /// Wants `10%`, `512MB`, `20GiB` or a number of bytes.
    #[error(
        "invalid disk space {0:?}: want a number of bytes, a text such as \"512MB\", or \"10%\""
    )]
    DiskSpace(String),
}

/// A duration; a bare number counts seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub Duration);

/// An amount of disk, absolute or as a share of the whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskSpace {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk.
    Percent(u8),
}

impl DiskSpace {
    /// The amount on a disk of `total` bytes. A share is rounded up to the next 10⁹ bytes, as
    /// BuildKit does it.
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(0) => 0,
            Self::Percent(percent) => {
                let share = u128::from(total) * u128::from(percent) / 100;
                let units = (share >> 30) + 1;
                u64::try_from(units * 1_000_000_000).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for Seconds {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let invalid = || UnitError::Duration(text.to_owned());
        if let Ok(seconds) = text.parse::<u64>() {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        let mut rest = text;
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(invalid)?;
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let seconds = match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(invalid()),
            };
            let number: f64 = number.parse().map_err(|_| invalid())?;
            let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
            total = total.checked_add(part).ok_or_else(invalid)?;
            rest = next;
        }
        Ok(Self(total))
    }
}

impl FromStr for DiskSpace {
    type Err = UnitError;

    /// Units are binary (`1KB` = 1024 bytes), as BuildKit reads them.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let invalid = || UnitError::DiskSpace(text.to_owned());
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.trim().parse().map_err(|_| invalid())?;
            return if percent <= 100 {
                Ok(Self::Percent(percent))
            } else {
                Err(invalid())
            };
        }
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let unit = unit.trim().to_ascii_lowercase();
        let unit = unit.strip_suffix('b').unwrap_or(&unit);
        let power = match unit.strip_suffix('i').unwrap_or(unit) {
            "" => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            "p" => 5,
            _ => return Err(invalid()),
        };
        let bytes = number * 1024_f64.powi(power);
        if bytes.is_finite() && bytes < 9.0e18 {
            Ok(Self::Bytes(bytes as u64))
        } else {
            Err(invalid())
        }
    }
}

struct Unit<T>(std::marker::PhantomData<T>, fn(u64) -> T);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Unit<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a text with a unit")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let number =
            u64::try_from(number).map_err(|_| E::custom(format_args!("{number} is negative")))?;
        Ok((self.1)(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Ok((self.1)(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unit(std::marker::PhantomData, |n| {
            Self(Duration::from_secs(n))
        }))
    }
}

impl<'de> Deserialize<'de> for DiskSpace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unit(std::marker::PhantomData, Self::Bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("172800", 172_800.0),
            ("48h", 172_800.0),
            ("1h30m", 5400.0),
            ("500ms", 0.5),
            ("1.5s", 1.5),
        ] {
            let want = std::time::Duration::from_secs_f64(seconds);
            assert_eq!(text.parse(), Ok(Seconds(want)), "{text}");
        }
        for text in ["", "h", "12x", "-1s", "1h2", "1e400h"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }

    #[test]
    fn disk_space() {
        for (text, want) in [
            ("512MB", DiskSpace::Bytes(512 << 20)),
            ("20GiB", DiskSpace::Bytes(20 << 30)),
            ("1.5g", DiskSpace::Bytes(3 << 29)),
            ("1024", DiskSpace::Bytes(1024)),
            ("10%", DiskSpace::Percent(10)),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in ["", "MB", "101%", "-1", "1x", "10 % of it"] {
            assert!(text.parse::<DiskSpace>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_round_up_as_buildkit_does() {
        assert_eq!(DiskSpace::Percent(10).bytes_of(100 << 30), 11_000_000_000);
        assert_eq!(DiskSpace::Percent(0).bytes_of(100 << 30), 0);
        assert_eq!(DiskSpace::Bytes(7).bytes_of(1), 7);
    }
}
