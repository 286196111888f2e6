//! The filters of `docker buildx history ls --filter`.
//!
//! One filter is a list of terms joined by commas, all of which must hold; of several filters one must
//! hold. Terms: `ref`, `status` (`running`, `completed`, `error`, `canceled`) and `repository` with `==`,
//! `!=` or `~=` (a regular expression); `startedAt`, `completedAt` (a moment, or a duration before now)
//! and `duration` with `<`, `<=`, `>` or `>=`. A name alone asks whether it is set.

use std::time::{Duration, SystemTime};

use kiln_proto::moby::buildkit::v1 as control;

use crate::record::moment;

/// A filter that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse history filter {term:?}: {reason}")]
pub struct FilterError {
    /// The term.
    pub term: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which records.
#[derive(Debug, Default)]
pub struct Filter(Vec<Vec<Term>>);

#[derive(Debug)]
enum Term {
    Field(Field, Test),
    Number(Number, Compare, i64),
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Ref,
    Status,
    Repository,
    Unknown,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Differs(String),
    Matches(regex::Regex),
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Started,
    Completed,
    Duration,
}

#[derive(Debug, Clone, Copy)]
enum Compare {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    /// Reads filters; `now` is what durations count back from.
    pub fn parse(filters: &[String], now: SystemTime) -> Result<Self, FilterError> {
        filters
            .iter()
            .map(|filter| {
                fields(filter)
                    .iter()
                    .map(|term| parse_term(term, now))
                    .collect()
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the record passes.
    pub fn matches(&self, record: &control::BuildHistoryRecord) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|terms| terms.iter().all(|term| term.holds(record)))
    }
}

/// Comma-separated fields; a field in double quotes may hold commas.
fn fields(filter: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in filter.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => {
                if let Some(last) = fields.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    fields.retain(|field| !field.is_empty());
    fields
}

fn parse_term(term: &str, now: SystemTime) -> Result<Term, FilterError> {
    let bad = |reason: &str| FilterError {
        term: term.to_owned(),
        reason: reason.to_owned(),
    };
    if let Some(numeric) = parse_number(term, now).transpose()? {
        return Ok(numeric);
    }
    let (name, test) = if let Some((name, value)) = term.split_once("==") {
        (name, Test::Equal(value.to_owned()))
    } else if let Some((name, value)) = term.split_once("!=") {
        (name, Test::Differs(value.to_owned()))
    } else if let Some((name, value)) = term.split_once("~=") {
        let expression = regex::Regex::new(value).map_err(|error| bad(&error.to_string()))?;
        (name, Test::Matches(expression))
    } else if term.contains('=') {
        return Err(bad("operators are ==, != and ~="));
    } else {
        (term, Test::Present)
    };
    let field = match name {
        "ref" => Field::Ref,
        "status" => Field::Status,
        "repository" => Field::Repository,
        _ => Field::Unknown,
    };
    Ok(Term::Field(field, test))
}

fn parse_number(term: &str, now: SystemTime) -> Option<Result<Term, FilterError>> {
    let operators = [
        (">=", Compare::GreaterOrEqual),
        ("<=", Compare::LessOrEqual),
        (">", Compare::Greater),
        ("<", Compare::Less),
    ];
    let ((name, value), compare) = operators
        .into_iter()
        .find_map(|(operator, compare)| Some((term.split_once(operator)?, compare)))?;
    let number = match name {
        "startedAt" => Number::Started,
        "completedAt" => Number::Completed,
        "duration" => Number::Duration,
        _ => return None,
    };
    let bad = |reason: &str| {
        Err(FilterError {
            term: term.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let limit = match (number, parse_duration(value)) {
        (Number::Duration, Some(length)) => length.as_nanos() as i64,
        (Number::Duration, None) => return Some(bad("a duration is wanted, such as 1m30s")),
        (_, Some(ago)) => now
            .checked_sub(ago)
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |at| at.as_secs() as i64),
        (_, None) => {
            match time::OffsetDateTime::parse(value, &time::format_description::well_known::Rfc3339)
            {
                Ok(at) => at.unix_timestamp(),
                Err(_) => return Some(bad("a duration or a moment (RFC 3339) is wanted")),
            }
        }
    };
    Some(Ok(Term::Number(number, compare, limit)))
}

/// Go's durations: `1h2m3.5s`, `300ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
}

impl Term {
    fn holds(&self, record: &control::BuildHistoryRecord) -> bool {
        match self {
            Self::Field(field, test) => {
                let value = field.of(record);
                match test {
                    Test::Present => value.is_some(),
                    Test::Equal(wanted) => value == Some(wanted),
                    Test::Differs(wanted) => value != Some(wanted),
                    Test::Matches(expression) => {
                        value.is_some_and(|value| expression.is_match(value))
                    }
                }
            }
            Self::Number(number, compare, limit) => {
                let value = number.of(record);
                match compare {
                    Compare::Less => value < *limit,
                    Compare::LessOrEqual => value <= *limit,
                    Compare::Greater => value > *limit,
                    Compare::GreaterOrEqual => value >= *limit,
                }
            }
        }
    }
}

impl Field {
    fn of(self, record: &control::BuildHistoryRecord) -> Option<&str> {
        match self {
            Self::Ref => Some(record.r#ref.as_str()),
            Self::Status => Some(match (&record.completed_at, &record.error) {
                (None, _) => "running",
                (Some(_), None) => "completed",
                (Some(_), Some(error)) if error.message.contains("context canceled") => "canceled",
                (Some(_), Some(_)) => "error",
            }),
            Self::Repository => record
                .frontend_attrs
                .get("vcs:source")
                .or_else(|| {
                    record
                        .frontend_attrs
                        .get("context")
                        .filter(|context| is_git(context))
                })
                .map(|url| url.split('#').next().unwrap_or_default()),
            Self::Unknown => None,
        }
    }
}

fn is_git(url: &str) -> bool {
    let repository = url.split('#').next().unwrap_or_default();
    ["git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| repository.starts_with(scheme))
        || (repository.starts_with("https://") || repository.starts_with("http://"))
            && std::path::Path::new(repository)
                .extension()
                .is_some_and(|extension| extension == "git")
}

impl Number {
    fn of(self, record: &control::BuildHistoryRecord) -> i64 {
        let started = moment(record.created_at.as_ref());
        let completed = moment(record.completed_at.as_ref());
        match self {
            Self::Started => started.0,
            Self::Completed => completed.0,
            Self::Duration if record.completed_at.is_none() => 0,
            Self::Duration => {
                (completed.0 - started.0) * 1_000_000_000 + i64::from(completed.1 - started.1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_proto::google::protobuf::Timestamp;

    #[test]
    fn filters() {
        let record = control::BuildHistoryRecord {
            r#ref: "abc".into(),
            frontend_attrs: [("context".into(), "https://example.com/a.git#main".into())].into(),
            created_at: Some(Timestamp {
                seconds: 1000,
                nanos: 0,
            }),
            completed_at: Some(Timestamp {
                seconds: 1090,
                nanos: 0,
            }),
            ..Default::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2000);
        for (filters, matches) in [
            (&[][..], true),
            (&["ref==abc"], true),
            (&["ref==abd"], false),
            (&["ref!=abd,status==completed"], true),
            (&["ref==abd", "status~=^comp"], true),
            (&["status==error"], false),
            (&["repository==https://example.com/a.git"], true),
            (&["repository"], true),
            (&["nonsense"], false),
            (&["duration>1m"], true),
            (&["duration<=1m30s"], true),
            (&["startedAt<500s"], true),
            (&["startedAt>500s"], false),
            (&["completedAt>1970-01-01T00:18:00Z"], true),
            (&["\"ref~=a,?b\""], true),
        ] {
            let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
            let parsed = Filter::parse(&filters, now).expect("a filter");
            assert_eq!(parsed.matches(&record), matches, "{filters:?}");
        }
        for bad in ["ref=abc", "ref~=(", "duration>x", "startedAt>never"] {
            let error = Filter::parse(&[bad.to_owned()], now).expect_err(bad);
            assert_eq!(error.term, bad);
        }
    }
}
