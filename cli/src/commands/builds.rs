//! Builds that run and that ran, from every client: `kiln builds …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures::StreamExt as _;
use kiln_client::{Client, ExplainResponse};
use kiln_proto::moby::buildkit::v1 as control;
use serde_json::{Value, json};

use super::build::interruptible;
use crate::arguments::Global;
use crate::builder::Builder;
use crate::console::{self, Format, Table, cut};
use crate::failure::{Failure, Kind, Outcome};
use crate::progress::{Form, Mode, Progress};
use crate::wire_time::{self, Moment};

/// Builds that run and that ran
#[derive(Debug, Args)]
#[command(
    after_help = "A build is named by its id, the beginning of it, or ^N: ^0 is the newest.

Examples:
  kiln builds ls
  kiln builds logs ^0
  kiln builds explain ^0          why steps ran instead of coming from the cache
  kiln builds cancel 1x2y"
)]
pub(crate) struct BuildsArguments {
    #[command(subcommand)]
    command: BuildsCommand,
}

#[derive(Debug, Subcommand)]
enum BuildsCommand {
    /// List builds, the newest first
    Ls {
        /// Only those that run
        #[arg(long)]
        active: bool,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Form of the list
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show what a build printed
    Logs {
        #[arg(default_value = "^0")]
        build: String,
        /// plain or rawjson
        #[arg(long, value_enum, default_value_t = Mode::Plain)]
        progress: Mode,
    },
    /// Show all about a build
    Inspect {
        #[arg(default_value = "^0")]
        build: String,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say why steps ran instead of coming from the cache
    Explain {
        #[arg(default_value = "^0")]
        build: String,
        /// Compare with this build instead of the one before
        #[arg(long, value_name = "BUILD")]
        against: Option<String>,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Forget builds
    Rm {
        #[arg(required = true)]
        builds: Vec<String>,
    },
    /// End running builds, whoever began them
    Cancel {
        #[arg(required = true)]
        builds: Vec<String>,
    },
}

pub(crate) async fn run(arguments: BuildsArguments, global: &Global) -> Outcome {
    let client = Builder::find(global.builder.as_deref())?.connect().await?;
    match arguments.command {
        BuildsCommand::Ls {
            active,
            limit,
            format,
        } => list(&client, active, limit, format).await,
        BuildsCommand::Logs { build, progress } => logs(&client, &build, progress).await,
        BuildsCommand::Inspect { build, format } => inspect(&client, &build, format).await,
        BuildsCommand::Explain {
            build,
            against,
            format,
        } => {
            let build = find(&client, &build).await?;
            let against = match against {
                Some(text) => Some(find(&client, &text).await?.r#ref),
                None => None,
            };
            let request = kiln_proto::agent::ExplainRequest {
                r#ref: build.r#ref,
                vertex: String::new(),
                against: against.unwrap_or_default(),
            };
            let answer = client.builds().calls().explain(request).await?.into_inner();
            explain(&answer, format)
        }
        BuildsCommand::Rm { builds } => {
            for text in builds {
                let request = control::UpdateBuildHistoryRequest {
                    r#ref: find(&client, &text).await?.r#ref,
                    delete: true,
                    ..control::UpdateBuildHistoryRequest::default()
                };
                client.update_history(request).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
        BuildsCommand::Cancel { builds } => {
            for text in builds {
                let request = kiln_proto::agent::CancelRequest {
                    r#ref: find(&client, &text).await?.r#ref,
                };
                client.builds().calls().cancel(request).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

type Record = control::BuildHistoryRecord;

/// All builds, the newest first.
async fn records(client: &Client, active_only: bool) -> Outcome<Vec<Record>> {
    let request = control::BuildHistoryRequest {
        active_only,
        early_exit: true,
        ..control::BuildHistoryRequest::default()
    };
    let mut events = client.history(request).await?;
    let mut records: Vec<Record> = Vec::new();
    while let Some(event) = events.next().await {
        let Some(record) = event?.record else {
            continue;
        };
        match records.iter_mut().find(|known| known.r#ref == record.r#ref) {
            Some(known) => *known = record,
            None => records.push(record),
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.created_at.as_ref().map(Moment::from)));
    Ok(records)
}

async fn find(client: &Client, text: &str) -> Outcome<Record> {
    let missing = || {
        Failure::new(Kind::Build, format!("there is no build {text}"))
            .hint("`kiln builds ls` lists them")
    };
    let mut all = records(client, false).await?;
    if let Some(number) = text.strip_prefix('^') {
        let number: usize = number
            .parse()
            .map_err(|_| Failure::user(format!("{text}: want ^0, ^1, …")))?;
        return if number < all.len() {
            Ok(all.swap_remove(number))
        } else {
            Err(missing())
        };
    }
    all.retain(|record| record.r#ref.starts_with(text));
    match all.len() {
        0 => Err(missing()),
        1 => Ok(all.swap_remove(0)),
        _ => match all.iter().position(|record| record.r#ref == text) {
            Some(at) => Ok(all.swap_remove(at)),
            None => Err(Failure::user(format!(
                "more than one build's id begins with {text}"
            ))),
        },
    }
}

fn state(record: &Record) -> &'static str {
    match (&record.completed_at, &record.error) {
        (None, _) => "running",
        (_, None) => "done",
        (_, Some(error)) if error.code == tonic::Code::Cancelled as i32 => "canceled",
        (_, Some(error)) if error.message.contains("context canceled") => "canceled",
        (_, Some(_)) => "failed",
    }
}

/// What people know the build by.
fn title(record: &Record) -> String {
    let of = |key: &str| record.frontend_attrs.get(key).cloned();
    let name = record.exporter_response.get("image.name").cloned();
    let place = of("vcs:source")
        .or_else(|| of("context"))
        .or_else(|| of("vcs:localdir:context"));
    let file = of("filename").unwrap_or_default();
    let target = of("target")
        .map(|target| format!(" ({target})"))
        .unwrap_or_default();
    match (name, place) {
        (Some(name), _) => format!("{name}{target}"),
        (None, Some(place)) => format!("{place} {file}{target}"),
        (None, None) => format!("{file}{target}"),
    }
}

/// How long it took; so far, if it runs.
fn length(record: &Record) -> Option<std::time::Duration> {
    let start = Moment::from(record.created_at.as_ref()?);
    Some(match &record.completed_at {
        Some(end) => start.until(Moment::from(end)),
        None => start.elapsed(),
    })
}

fn record_json(record: &Record) -> Value {
    json!({
        "ref": record.r#ref,
        "state": state(record),
        "title": title(record),
        "frontend": record.frontend,
        "attributes": record.frontend_attrs.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "created": wire_time::json(record.created_at.as_ref()),
        "completed": wire_time::json(record.completed_at.as_ref()),
        "seconds": record.completed_at.as_ref().and(length(record)).map(|length| length.as_secs_f64()),
        "steps": record.num_total_steps,
        "cachedSteps": record.num_cached_steps,
        "completedSteps": record.num_completed_steps,
        "warnings": record.num_warnings,
        "pinned": record.pinned,
        "error": record.error.as_ref().map(|error| &error.message),
        "response": record.exporter_response.iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

async fn list(client: &Client, active: bool, limit: usize, format: Format) -> Outcome {
    let mut all = records(client, active).await?;
    all.truncate(limit);
    if format == Format::Json {
        console::json(&Value::Array(all.iter().map(record_json).collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "BUILD", "STATE", "STEPS", "CACHED", "CREATED", "TIME", "WHAT",
    ]);
    for record in &all {
        // A build is counted at its end.
        let (steps, cached) = match record.completed_at {
            None => (String::new(), String::new()),
            Some(_) => (
                format!("{}/{}", record.num_completed_steps, record.num_total_steps),
                record.num_cached_steps.to_string(),
            ),
        };
        table.row([
            record.r#ref.clone(),
            state(record).to_owned(),
            steps,
            cached,
            wire_time::ago(record.created_at.as_ref()),
            length(record).map(wire_time::duration).unwrap_or_default(),
            cut(&title(record), 60),
        ]);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

async fn logs(client: &Client, build: &str, mode: Mode) -> Outcome {
    let record = find(client, build).await?;
    let form = match mode {
        Mode::Rawjson => Form::Raw,
        Mode::Tty => Form::Tty,
        _ => Form::Plain,
    };
    let request = control::StatusRequest {
        r#ref: record.r#ref,
    };
    let mut statuses = client.control().status(request).await?.into_inner();
    let (sender, display) = Progress::start(form, "its recorded log".to_owned());
    let work = async {
        while let Some(status) = statuses.next().await {
            let _ = sender.send(status?);
        }
        drop(sender);
        Ok::<_, Failure>(())
    };
    let outcome = interruptible(work)
        .await
        .unwrap_or_else(|| Err(Failure::interrupted()));
    display.finish().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn inspect(client: &Client, build: &str, format: Format) -> Outcome {
    let record = find(client, build).await?;
    if format == Format::Json {
        console::json(&record_json(&record))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![
        ("Build", record.r#ref.clone()),
        ("What", title(&record)),
        ("State", state(&record).to_owned()),
        ("Created", wire_time::ago(record.created_at.as_ref())),
        (
            "Time",
            length(&record).map(wire_time::duration).unwrap_or_default(),
        ),
        (
            "Steps",
            format!(
                "{} ({} from the cache)",
                record.num_total_steps, record.num_cached_steps
            ),
        ),
        ("Warnings", record.num_warnings.to_string()),
    ];
    if let Some(error) = &record.error {
        lines.push(("Error", error.message.clone()));
    }
    let mut attributes: Vec<_> = record.frontend_attrs.iter().collect();
    attributes.sort();
    for (name, value) in lines {
        console::print(&format!("{name:10}{value}"))?;
    }
    for (key, value) in attributes {
        console::print(&format!("  {key} = {value}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(answer: &ExplainResponse, format: Format) -> Outcome {
    if format == Format::Json {
        let explanations = answer.explanations.iter().map(|step| {
            json!({
                "vertex": step.vertex,
                "name": step.name,
                "cause": step.cause().as_str_name().trim_start_matches("CAUSE_").to_lowercase(),
                "summary": step.summary,
                "differences": step.differences.iter().map(|difference| json!({
                    "kind": difference.kind,
                    "name": difference.name,
                    "before": difference.before,
                    "after": difference.after,
                })).collect::<Vec<_>>(),
            })
        });
        console::json(&json!({
            "previous": answer.previous_ref,
            "explanations": explanations.collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match answer.previous_ref.as_str() {
        "" => console::print("There is no earlier build to compare with.")?,
        previous => console::print(&format!("Compared with {previous}:"))?,
    }
    for step in &answer.explanations {
        console::print(&format!("{}\n    {}", step.name, step.summary))?;
        for difference in &step.differences {
            let change = match (difference.before.as_str(), difference.after.as_str()) {
                ("", "") => String::new(),
                (before, after) => format!(": {before} → {after}"),
            };
            console::print(&format!(
                "      {} {}{change}",
                difference.kind, difference.name
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
