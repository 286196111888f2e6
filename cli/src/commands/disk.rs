//! What the cache holds and how to get rid of it: `du`, `prune`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use kiln_proto::agent as api;
use kiln_proto::moby::buildkit::v1 as control;
use serde_json::{Value, json};

use super::images::{print_removed, removed_json};
use crate::arguments::Global;
use crate::builder::Builder;
use crate::console::{self, Format, Table, cut};
use crate::failure::{Failure, Outcome};
use crate::progress::sizes::short;
use crate::wire_time;

/// Show what the build cache holds
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln du\n  kiln du --verbose --filter type=exec.cachemount")]
pub(crate) struct DuArguments {
    /// Such as type=regular, id=ID, inuse, description~=WORDS
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Whole descriptions
    #[arg(short, long)]
    verbose: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Remove what the build cache doesn't need
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln prune\n  kiln prune --all --force\n  kiln prune --keep 5gb --until 48h\n  kiln cache plan               what the policies would remove, without removing it"
)]
pub(crate) struct PruneArguments {
    /// Also internal records, and images that no build used
    #[arg(short, long)]
    all: bool,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Only records like this: type=exec.cachemount, id=ID, description~=WORDS
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Only what wasn't used for so long: 90m, 48h, 7d
    #[arg(long, value_name = "TIME", value_parser = age)]
    until: Option<Duration>,
    /// Keep so many bytes: 500mb, 5gb
    #[arg(long, value_name = "SIZE", value_parser = size)]
    keep: Option<i64>,
    /// Keep at least so much of the disk free
    #[arg(long, value_name = "SIZE", value_parser = size)]
    min_free: Option<i64>,
    /// Unnamed images instead of the cache; with --all every image
    #[arg(long)]
    images: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What people write as `key=value` is `key==value` to the engine; its own forms stay.
fn filter(text: &str) -> String {
    let Some((key, value)) = text.split_once('=') else {
        return text.to_owned();
    };
    let is_own_form = key.ends_with(['!', '~']) || value.starts_with('=');
    match is_own_form {
        true => text.to_owned(),
        false => format!("{key}=={value}"),
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "want a number and a unit, such as 48h")?;
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" | "" => 3600,
        "d" => 86_400,
        other => return Err(format!("{other:?} isn't s, m, h or d")),
    };
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

fn size(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: f64 = digits
        .parse()
        .map_err(|_| "want a number and a unit, such as 5gb")?;
    let unit = match text[digits.len()..].to_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        other => return Err(format!("{other:?} isn't b, kb, mb, gb or tb")),
    };
    Ok((number * unit) as i64)
}

fn record_json(record: &control::UsageRecord) -> Value {
    json!({
        "id": record.id,
        "type": record.record_type,
        "description": record.description,
        "bytes": record.size,
        "inUse": record.in_use,
        "mutable": record.mutable,
        "shared": record.shared,
        "created": wire_time::json(record.created_at.as_ref()),
        "lastUsed": wire_time::json(record.last_used_at.as_ref()),
        "usageCount": record.usage_count,
        "parents": record.parents,
    })
}

pub(crate) async fn du(arguments: DuArguments, global: &Global) -> Outcome {
    let client = Builder::find(global.builder.as_deref())?.connect().await?;
    let mut records = client
        .disk_usage(arguments.filter.iter().map(|text| filter(text)).collect())
        .await?;
    records.sort_by_key(|record| std::cmp::Reverse(record.size));
    let total: i64 = records.iter().map(|record| record.size).sum();
    let in_use: i64 = records
        .iter()
        .filter(|record| record.in_use)
        .map(|record| record.size)
        .sum();
    if arguments.format == Format::Json {
        console::json(&json!({
            "records": records.iter().map(record_json).collect::<Vec<_>>(),
            "totalBytes": total,
            "reclaimableBytes": total - in_use,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["ID", "TYPE", "SIZE", "LAST USED", "IN USE", "DESCRIPTION"]);
    for record in &records {
        let description = match arguments.verbose {
            true => record.description.clone(),
            false => cut(&record.description, 60),
        };
        table.row([
            cut(&record.id, 25),
            record.record_type.clone(),
            short(record.size),
            wire_time::ago(record.last_used_at.as_ref()),
            if record.in_use {
                "yes".into()
            } else {
                String::new()
            },
            description,
        ]);
    }
    table.print()?;
    console::print(&format!(
        "Reclaimable: {}\nTotal:       {}",
        short(total - in_use),
        short(total)
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn prune(arguments: PruneArguments, global: &Global) -> Outcome {
    let what = match (arguments.images, arguments.all) {
        (true, true) => "every image",
        (true, false) => "images without a name",
        (false, true) => "the whole build cache",
        (false, false) => "what the build cache holds and nothing uses",
    };
    if !arguments.force && !console::confirm(&format!("This removes {what}. Go on?"))? {
        return Err(Failure::user("nothing was removed").hint("--force doesn't ask"));
    }
    let client = Builder::find(global.builder.as_deref())?.connect().await?;
    if arguments.images {
        let request = api::PruneImagesRequest {
            all: arguments.all,
            filters: arguments.filter,
        };
        let answer = client
            .images()
            .calls()
            .prune_images(request)
            .await?
            .into_inner();
        if arguments.format == Format::Json {
            console::json(&json!({
                "removed": answer.removed.iter().map(removed_json).collect::<Vec<_>>(),
                "unreferencedBytes": answer.freed_bytes,
            }))?;
        } else {
            print_removed(&answer.removed)?;
            console::print(&format!("Total: {}", short(answer.freed_bytes)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let keep = arguments.until.map_or(0, |until| {
        i64::try_from(until.as_nanos()).unwrap_or(i64::MAX)
    });
    let request = control::PruneRequest {
        all: arguments.all,
        filter: arguments.filter.iter().map(|text| filter(text)).collect(),
        keep_duration: keep,
        max_used_space: arguments.keep.unwrap_or(0),
        min_free_space: arguments.min_free.unwrap_or(0),
        ..control::PruneRequest::default()
    };
    let mut removed = client.prune(request).await?;
    let (mut records, mut total) = (Vec::new(), 0);
    while let Some(record) = removed.next().await {
        let record = record?;
        total += record.size;
        if arguments.format == Format::Table {
            console::print(&format!(
                "{}  {}  {}",
                record.id,
                short(record.size),
                cut(&record.description, 60)
            ))?;
        }
        records.push(record_json(&record));
    }
    if arguments.format == Format::Json {
        console::json(&json!({"removed": records, "freedBytes": total}))?;
    } else {
        console::print(&format!("Total: {}", short(total)))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_written_as_people_do() {
        for (text, want) in [
            ("type=regular", "type==regular"),
            ("type==regular", "type==regular"),
            ("type!=regular", "type!=regular"),
            ("description~=a=b", "description~=a=b"),
            ("inuse", "inuse"),
        ] {
            assert_eq!(filter(text), want);
        }
    }

    #[test]
    fn ages_and_sizes_have_units() {
        assert_eq!(age("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(age("2d"), Ok(Duration::from_secs(172_800)));
        assert!(age("soon").is_err() && age("3w").is_err());
        assert_eq!(size("1.5gb"), Ok(1_500_000_000));
        assert_eq!(size("10"), Ok(10));
        assert!(size("big").is_err() && size("1x").is_err());
    }
}
