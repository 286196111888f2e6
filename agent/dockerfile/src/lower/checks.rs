//! Check rules that need more than one instruction.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use kiln_filesync::PatternMatcher;
use kiln_oci::{Platform, Reference};
use regex::Regex;

use super::args;
use super::env::Env;
use crate::instruction::{ArgDefinition, Stage, Stages};
use crate::lint::{Linter, Rule};
use crate::parse::Lines;
use crate::shell::{Expanded, Lexer, Variables};
use crate::suggest::Suggestion;
use crate::text::{clean, quote};

/// Arguments that steps don't see.
pub(crate) const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

pub(crate) fn stage_names(stages: &[Stage], lint: &Linter) {
    let mut seen = HashSet::new();
    for stage in stages.iter().filter(|stage| !stage.name.is_empty()) {
        let name = &stage.name;
        if name == "context" || name == "scratch" {
            let message = format!(
                "Stage name should not use the same name as reserved stage {}",
                quote(name)
            );
            lint.report(Rule::ReservedStageName, stage.lines, message);
        }
        if !seen.insert(name) {
            let message = format!(
                "Duplicate stage name {}, stage names should be unique",
                quote(name)
            );
            lint.report(Rule::DuplicateStageName, stage.lines, message);
        }
    }
}

pub(crate) fn casing(stages: &[Stage], lint: &Linter) {
    let keywords = || {
        stages.iter().flat_map(|stage| {
            let commands = stage.commands.iter();
            let inner = commands.map(|command| (command.keyword.as_str(), command.lines));
            std::iter::once((stage.keyword.as_str(), stage.lines)).chain(inner)
        })
    };
    let (mut lower, mut upper) = (0, 0);
    for (keyword, _) in keywords() {
        if keyword == keyword.to_lowercase() {
            lower += 1;
        } else if keyword == keyword.to_uppercase() {
            upper += 1;
        }
    }
    for (keyword, lines) in keywords() {
        let (wanted, name) = if lower > upper {
            (keyword.to_lowercase(), "lowercase")
        } else {
            (keyword.to_uppercase(), "uppercase")
        };
        if keyword != wanted {
            let message = format!(
                "Command '{keyword}' should match the case of the command majority ({name})"
            );
            lint.report(Rule::ConsistentInstructionCasing, lines, message);
        }
    }
}

/// Base images should be names even when nobody gives arguments.
pub(crate) fn default_bases(stages: &Stages, lexer: Lexer, predefined: &Env, lint: &Linter) {
    let none = std::collections::BTreeMap::new();
    let Ok((env, _)) = args::global(predefined.clone(), lexer, &stages.global_args, &none) else {
        // The build fails with the same error.
        return;
    };
    for stage in &stages.stages {
        let Ok(expanded) = lexer.expand(&stage.base, &env) else {
            return;
        };
        if expanded.text.parse::<Reference>().is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base
            );
            lint.report(Rule::InvalidDefaultArgInFrom, stage.lines, message);
        }
    }
}

/// Variables of `FROM` that no `ARG` declares.
pub(crate) fn undeclared(
    known: &[&str],
    unmatched: &BTreeSet<String>,
    lines: Lines,
    lint: &Linter,
) {
    for name in unmatched {
        if known.contains(&name.as_str()) {
            continue;
        }
        let suggestion = Suggestion::of(name, known.iter().copied());
        let message = format!("FROM argument '{name}' is not declared{suggestion}");
        lint.report(Rule::UndefinedArgInFrom, lines, message);
    }
}

/// `--platform=$TARGETPLATFORM` and `--platform=linux/amd64`.
pub(crate) fn stage_platform(stage: &Stage, expanded: &Expanded, env: &Env, lint: &Linter) {
    let (matched, unmatched) = (&expanded.matched, &expanded.unmatched);
    if matched.len() == 1 && unmatched.is_empty() {
        let target = "TARGETPLATFORM";
        if matched.contains(target) && env.get(target) == Some(&expanded.text) {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                stage.platform
            );
            lint.report(Rule::RedundantTargetPlatform, stage.lines, message);
        }
    }
    if !matched.is_empty() || !unmatched.is_empty() {
        return;
    }
    let Ok(platform) = expanded.text.parse::<Platform>() else {
        return;
    };
    if stage.name.contains(&platform.os) || stage.name.contains(&platform.architecture) {
        return;
    }
    let message = format!(
        "FROM --platform flag should not use constant value {}",
        quote(&expanded.text)
    );
    lint.report(Rule::FromPlatformFlagConstDisallowed, stage.lines, message);
}

/// Variables of an instruction that nothing sets.
pub(crate) fn undefined(
    unmatched: &BTreeSet<String>,
    args: &[ArgDefinition],
    env: &Env,
    lines: Lines,
    lint: &Linter,
) {
    for name in unmatched {
        let declared = args.iter().any(|arg| arg.key == *name);
        if declared || NOT_IN_ENV.contains(&name.as_str()) {
            continue;
        }
        let suggestion = match Suggestion::of(name, env.keys()).name() {
            Some(meant) => format!(" (did you mean ${meant}?)"),
            None => String::new(),
        };
        let message = format!("Usage of undefined variable '${name}'{suggestion}");
        lint.report(Rule::UndefinedVar, lines, message);
    }
}

/// An instruction of which only the last one counts.
pub(crate) fn used_once(before: &mut Option<Lines>, keyword: &str, lines: Lines, lint: &Linter) {
    if let Some(earlier) = before.replace(lines) {
        let message = format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
        );
        lint.report(Rule::MultipleInstructionsDisallowed, earlier, message);
    }
}

pub(crate) fn legacy_pair(keyword: &str, lines: Lines, lint: &Linter) {
    let message = format!(
        "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
    );
    lint.report(Rule::LegacyKeyValueFormat, lines, message);
}

pub(crate) fn shell_form(keyword: &str, lines: Lines, lint: &Linter) {
    let message = format!(
        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
    );
    lint.report(Rule::JSONArgsRecommended, lines, message);
}

pub(crate) fn secret_name(keyword: &str, name: &str, lines: Lines, lint: &Linter) {
    #[expect(clippy::expect_used, reason = "the patterns are constant and tested")]
    static SECRET: LazyLock<[Regex; 2]> = LazyLock::new(|| {
        let words = |words: &str| {
            Regex::new(&format!("(?i)(?:_|^)(?:{words})(?:_|$)"))
                .expect("alternatives of plain words, compiled by every test of an ARG")
        };
        [
            words("apikey|auth|credential|credentials|key|password|pword|passwd|secret|token"),
            words("public|file|version"),
        ]
    });
    if SECRET[0].is_match(name) && !SECRET[1].is_match(name) {
        let message = format!(
            "Do not use ARG or ENV instructions for sensitive data ({keyword} {})",
            quote(name)
        );
        lint.report(Rule::SecretsUsedInArgOrEnv, lines, message);
    }
}

/// A file that the ignore file keeps out of the context.
pub(crate) fn ignored_source(
    source: &str,
    add: bool,
    ignore: Option<&PatternMatcher>,
    lines: Lines,
    lint: &Linter,
) {
    // With exceptions one can't tell without looking at the files.
    let Some(ignore) = ignore.filter(|ignore| !ignore.has_exceptions()) else {
        return;
    };
    let source = clean(source);
    if source == "." || source == "/" {
        let all = ["*", "**", "**/*"];
        if !ignore.patterns().iter().any(|p| all.contains(&p.text())) {
            return;
        }
    }
    if ignore.matches(&source) {
        let verb = if add { "Add" } else { "Copy" };
        let message = format!(
            "Attempting to {verb} file {} that is excluded by .dockerignore",
            quote(&source)
        );
        lint.report(Rule::CopyIgnoredFile, lines, message);
    }
}

pub(crate) fn base_platform(
    name: &str,
    wanted: &Platform,
    actual: &Platform,
    lines: Lines,
    lint: &Linter,
) {
    if wanted.os != actual.os || wanted.architecture != actual.architecture {
        let message = format!(
            "Base image {name} was pulled with platform {}, expected {} for current build",
            quote(&actual.normalized().format_all()),
            quote(&wanted.normalized().format_all())
        );
        lint.report(Rule::InvalidBaseImagePlatform, lines, message);
    }
}
