//! `HEALTHCHECK`.

use super::InstructionError;
use super::flags::{Flags, Kind};
use crate::parse::Statement;
use crate::text::parse_duration;

/// A health check. Durations are nanoseconds; 0 means to inherit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "they are the flags of the Dockerfile reference"
)]
pub struct Healthcheck {
    /// `NONE`, `CMD` and words, or `CMD-SHELL` and a line.
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

const INTERVALS: [&str; 4] = ["interval", "timeout", "start-period", "start-interval"];

impl Healthcheck {
    pub(super) fn parse(statement: &Statement) -> Result<Self, InstructionError> {
        let Some((kind, args)) = statement.args.split_first() else {
            return Err(InstructionError::AtLeastOne("HEALTHCHECK"));
        };
        let kind = kind.to_uppercase();
        if kind == "NONE" {
            if !args.is_empty() {
                return Err(InstructionError::HealthNone);
            }
            return Ok(Self {
                test: vec![kind],
                ..Self::default()
            });
        }
        let mut known: Vec<_> = INTERVALS.map(|name| (name, Kind::Text)).to_vec();
        known.push(("retries", Kind::Text));
        let flags = Flags::parse(&statement.flags, &known)?;
        if kind != "CMD" {
            return Err(InstructionError::HealthType(kind));
        }
        if args.is_empty() {
            return Err(InstructionError::HealthCommand);
        }
        let mut test = if statement.json {
            args.to_vec()
        } else {
            vec![args.join(" ")]
        };
        let form = if statement.json { "CMD" } else { "CMD-SHELL" };
        test.insert(0, form.to_owned());
        let [interval, timeout, start_period, start_interval] = INTERVALS;
        Ok(Self {
            test,
            interval: duration(&flags, interval)?,
            timeout: duration(&flags, timeout)?,
            start_period: duration(&flags, start_period)?,
            start_interval: duration(&flags, start_interval)?,
            retries: retries(&flags)?,
        })
    }
}

fn duration(flags: &Flags, name: &'static str) -> Result<i64, InstructionError> {
    let text = flags.text(name);
    if text.is_empty() {
        return Ok(0);
    }
    match parse_duration(&text) {
        None => Err(InstructionError::Duration(text)),
        Some(0) => Ok(0),
        Some(nanos) if nanos < 1_000_000 => Err(InstructionError::ShortInterval(name)),
        Some(nanos) => Ok(nanos),
    }
}

fn retries(flags: &Flags) -> Result<i64, InstructionError> {
    let text = flags.text("retries");
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<i32>() {
        Err(_) => Err(InstructionError::Retries(text)),
        Ok(number) if number < 0 => Err(InstructionError::NegativeRetries(number.into())),
        Ok(number) => Ok(number.into()),
    }
}
