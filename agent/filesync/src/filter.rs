//! Which entries of a walk are sent: include and exclude patterns, applied on the way down.
//!
//! An entry that isn't wanted may still have wanted entries below it; then it is walked but only sent
//! when the first of those turns up. Where no pattern could match anything below a directory, it
//! isn't even opened.

use crate::{Error, FilterOptions, MatchInfo, PatternMatcher};

/// A compiled filter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<Side>,
    exclude: Option<Side>,
}

#[derive(Debug, Clone)]
struct Side {
    matcher: PatternMatcher,
    /// What the patterns (the exceptions, for excludes) begin with, if all are plain paths.
    prefixes: Option<Vec<String>>,
}

/// What is known of a directory while its entries are filtered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    include: MatchInfo,
    exclude: MatchInfo,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it.
    Keep,
    /// Don't send it, but something below may be wanted.
    Pass,
    /// Neither it nor anything below.
    Skip,
}

impl Filter {
    /// Compiles patterns. Paths to follow must have been resolved into includes before.
    pub fn new(options: &FilterOptions) -> Result<Self, Error> {
        Ok(Self {
            include: Side::new(&options.includes, false)?,
            exclude: Side::new(&options.excludes, true)?,
        })
    }

    pub(crate) fn check(&self, path: &str, is_dir: bool, above: &Known) -> (Verdict, Known) {
        let mut known = Known::default();
        let mut verdict = Verdict::Keep;
        if let Some(side) = &self.include {
            let (matched, info) = side.matcher.matches_below(path, &above.include);
            known.include = info;
            if !matched {
                if is_dir && !side.may_match_below(path) {
                    return (Verdict::Skip, known);
                }
                verdict = Verdict::Pass;
            }
        }
        if let Some(side) = &self.exclude {
            let (matched, info) = side.matcher.matches_below(path, &above.exclude);
            known.exclude = info;
            if matched {
                if is_dir && !side.may_match_below(path) {
                    return (Verdict::Skip, known);
                }
                verdict = Verdict::Pass;
            }
        }
        if verdict == Verdict::Pass && !is_dir {
            verdict = Verdict::Skip;
        }
        (verdict, known)
    }
}

impl Side {
    fn new(patterns: &[String], exceptions: bool) -> Result<Option<Self>, Error> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let matcher = PatternMatcher::new(patterns)?;
        let mut prefixes = Some(Vec::new());
        for pattern in matcher.patterns() {
            if pattern.is_exception() != exceptions {
                continue;
            }
            let (prefix, plain) = pattern.plain_prefix();
            match &mut prefixes {
                Some(list) if plain => list.push(format!("{prefix}/")),
                _ => prefixes = None,
            }
        }
        Ok(Some(Self { matcher, prefixes }))
    }

    fn may_match_below(&self, dir: &str) -> bool {
        match &self.prefixes {
            None => true,
            Some(prefixes) => {
                let dir = format!("{dir}/");
                prefixes.iter().any(|prefix| prefix.starts_with(&dir))
            }
        }
    }
}
