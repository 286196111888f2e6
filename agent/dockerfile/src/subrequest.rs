//! Questions about a Dockerfile that build nothing: its targets, what a target takes, what check rules
//! it breaks. Names and JSON are those of BuildKit's subrequests.

mod table;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use kiln_errdefs::text;
use kiln_frontend::Solved;
use kiln_oci::go_json;
use kiln_proto::pb;
use serde::Serialize;

use crate::frontend::report;
use crate::lint::Linter;
use crate::lower::{Error, Outline, Problem, Request, Result, convert, lint_config, read};
use crate::parse::Lines;
use crate::ui::{Contexts, Entrypoint};
use table::table;
use wire::{
    Arg, BuildError, LintResults, LintWarning, Location, OutlineResult, Secret, SourceInfo, Target,
    Targets,
};

const DESCRIBE: &str = "frontend.subrequests.describe";
const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";
const LINT: &str = "frontend.lint";

/// Answers the question that the options ask.
pub(crate) async fn handle(contexts: &Contexts, entrypoint: &Entrypoint) -> Result<Solved> {
    let info = &entrypoint.info;
    match contexts.options.text("requestid") {
        DESCRIBE => describe(),
        OUTLINE => outline(contexts, entrypoint).await,
        TARGETS => targets(info),
        LINT => lint(contexts, info).await,
        other => Err(Problem::Request(other.to_owned()).into()),
    }
}

fn solved<T: Serialize>(value: &T, text: String) -> Result<Solved> {
    let json = go_json::to_vec_indented(value).map_err(|source| Problem::Json {
        what: "result.json",
        source,
    })?;
    let mut solved = Solved::default();
    for (key, value) in [
        ("result.json", json),
        ("result.txt", text.into_bytes()),
        ("version", b"1.0.0".to_vec()),
    ] {
        solved.metadata.insert(key.to_owned(), Bytes::from(value));
    }
    Ok(solved)
}

fn describe() -> Result<Solved> {
    let requests = wire::requests();
    let rows = requests.iter().map(|request| {
        vec![
            request.name.trim_start_matches("frontend.").to_owned(),
            request.version.to_owned(),
            request.description.to_owned(),
        ]
    });
    let text = table(1, &["NAME", "VERSION", "DESCRIPTION"], rows.collect());
    solved(&requests, text)
}

fn targets(info: &pb::SourceInfo) -> Result<Solved> {
    let (file, _) = read(&info.data, &Linter::default())?;
    let last = file.stages.len() - 1;
    let targets: Vec<Target> = file
        .stages
        .into_iter()
        .enumerate()
        .map(|(index, stage)| Target {
            name: stage.name,
            default: index == last,
            description: stage.description,
            base: stage.base,
            platform: stage.platform,
            location: Some(Location::of(stage.lines)),
        })
        .collect();
    let rows = targets.iter().map(|target| {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        vec![name, target.description.clone()]
    });
    let text = table(1, &["TARGET", "DESCRIPTION"], rows.collect());
    let sources = vec![wire::base64(&info.data)];
    solved(&Targets { targets, sources }, text)
}

async fn outline(contexts: &Contexts, entrypoint: &Entrypoint) -> Result<Solved> {
    let info = &entrypoint.info;
    let lint = Linter::new(lint_config(&contexts.options, &info.data)?);
    let converted = convert(Request {
        contexts,
        info: Arc::clone(info),
        platform: None,
        lint: lint.clone(),
        all_stages: false,
    })
    .await;
    report(contexts, entrypoint, &lint);
    let converted = converted?;
    let Outline {
        args, secrets, ssh, ..
    } = converted.outline;
    let mut args: Vec<Arg> = args
        .into_iter()
        .map(|(name, arg)| Arg {
            name,
            description: arg.description,
            value: arg.value,
            location: Some(Location::of(arg.lines)),
        })
        .collect();
    args.sort_by_key(|arg| arg.location.as_ref().map(Location::first_line));
    let needs = |needs: std::collections::BTreeMap<String, crate::lower::Need>| {
        let mut needs: Vec<Secret> = needs
            .into_iter()
            .map(|(name, need)| Secret {
                name,
                required: need.required,
                location: Some(Location::of(need.lines)),
            })
            .collect();
        needs.sort_by_key(|need| need.location.as_ref().map(Location::first_line));
        needs
    };
    let outline = OutlineResult {
        name: converted.target_name,
        description: converted.target_description,
        args,
        secrets: needs(secrets),
        ssh: needs(ssh),
        sources: vec![wire::base64(&info.data)],
    };
    let text = outline_text(&outline);
    solved(&outline, text)
}

fn outline_text(outline: &OutlineResult) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() {
            "(default)"
        } else {
            &outline.name
        };
        let description = (!outline.description.is_empty())
            .then(|| vec!["DESCRIPTION:".to_owned(), outline.description.clone()]);
        text.push_str(&table(
            1,
            &["TARGET:", name],
            description.into_iter().collect(),
        ));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let rows = outline
            .args
            .iter()
            .map(|arg| vec![arg.name.clone(), arg.value.clone(), arg.description.clone()]);
        text.push_str(&table(
            3,
            &["BUILD ARG", "VALUE", "DESCRIPTION"],
            rows.collect(),
        ));
        text.push('\n');
    }
    for (title, needs) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if needs.is_empty() {
            continue;
        }
        let rows = needs.iter().map(|need| {
            let required = if need.required { "true" } else { "" };
            vec![need.name.clone(), required.to_owned()]
        });
        text.push_str(&table(3, &[title, "REQUIRED"], rows.collect()));
        text.push('\n');
    }
    text
}

async fn lint(contexts: &Contexts, info: &Arc<pb::SourceInfo>) -> Result<Solved> {
    let lint = Linter::new(lint_config(&contexts.options, &info.data)?);
    let converted = convert(Request {
        contexts,
        info: Arc::clone(info),
        platform: None,
        lint: lint.clone(),
        // Without a target, all of them are looked at.
        all_stages: contexts.options.target.is_empty(),
    })
    .await;
    let mut warnings: Vec<LintWarning> = lint
        .take()
        .into_iter()
        .map(|broken| LintWarning {
            rule_name: broken.rule.name(),
            description: broken.rule.description(),
            url: broken.rule.url(),
            detail: broken.message,
            location: broken.lines.map_or_else(Location::default, Location::of),
        })
        .collect();
    let error = converted.err().map(|error| {
        let message = text(&*error.problem);
        let location = merged(&error);
        BuildError { message, location }
    });
    let failed = !warnings.is_empty() || error.is_some();
    let results = LintResults {
        sources: vec![SourceInfo::of(info)],
        warnings: (!warnings.is_empty()).then(|| warnings.clone()),
        error,
    };
    warnings.sort_by_key(|warning| warning.location.first_line());
    let mut shown = String::new();
    for warning in &warnings {
        shown.push_str("\nWARNING: ");
        shown.push_str(warning.rule_name);
        if !warning.url.is_empty() {
            shown.push_str(" - ");
            shown.push_str(&warning.url);
        }
        shown.push('\n');
        shown.push_str(&warning.detail);
        shown.push('\n');
        shown.push_str(&table::excerpt(info, &warning.location.lines()));
    }
    let mut solved = solved(&results, shown)?;
    let status = if failed { "1" } else { "0" };
    let key = "result.statuscode".to_owned();
    solved.metadata.insert(key, Bytes::from(status));
    Ok(solved)
}

/// All places of an error, those that touch joined.
fn merged(error: &Error) -> Location {
    let mut lines: Vec<Lines> = error.lines.clone();
    lines.sort();
    lines.dedup();
    let mut location = Location::default();
    for lines in lines {
        location.add(lines);
    }
    location
}
