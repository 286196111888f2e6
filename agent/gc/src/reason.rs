//! Why a record goes, or why it stayed after all, in words for people.

use std::fmt;
use std::time::Duration;

/// Why a record would be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The policy means it and has no bounds.
    Meant,
    /// It wasn't used for longer than the policy keeps things, and the policy has no bound on bytes.
    Unused {
        /// For so long.
        since: Duration,
    },
    /// More bytes are used than may stay.
    OverLimit {
        /// Used at this point of the plan.
        used: u64,
        /// May stay.
        keep: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meant => f.write_str("the rule takes everything that it means"),
            Self::Unused { since } => write!(f, "not used for {}", Age(*since)),
            Self::OverLimit { used, keep } => {
                write!(f, "{} are used and {} may stay", Bytes(*used), Bytes(*keep))
            }
        }
    }
}

/// Why a planned removal didn't happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is gone already.
    Gone,
    /// A build or another client uses it.
    InUse,
    /// It was used after the plan was made.
    UsedSince,
    /// Somebody pinned it.
    Pinned,
    /// Something that stays is built on it.
    BuiltUpon,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "it is gone already",
            Self::InUse => "it is in use",
            Self::UsedSince => "it was used after the plan was made",
            Self::Pinned => "it is pinned",
            Self::BuiltUpon => "something that stays is built on it",
        })
    }
}

/// A number of bytes in decimal units, as BuildKit's clients show them.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}

/// A time in its largest unit.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (number, unit) = match seconds {
            0..120 => (seconds, "seconds"),
            120..7200 => (seconds / 60, "minutes"),
            7200..172_800 => (seconds / 3600, "hours"),
            _ => (seconds / 86_400, "days"),
        };
        write!(f, "{number} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_words() {
        for (reason, words) in [
            (Reason::Meant, "the rule takes everything that it means"),
            (
                Reason::Unused {
                    since: Duration::from_hours(72),
                },
                "not used for 3 days",
            ),
            (
                Reason::Unused {
                    since: Duration::from_secs(90),
                },
                "not used for 90 seconds",
            ),
            (
                Reason::OverLimit {
                    used: 12_340_000_000,
                    keep: 999,
                },
                "12.3 GB are used and 999 B may stay",
            ),
        ] {
            assert_eq!(reason.to_string(), words);
        }
    }
}
