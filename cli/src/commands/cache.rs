//! Garbage collection and cache mounts: `kiln cache …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures::StreamExt as _;
use kiln_client::Client;
use kiln_proto::agent as api;
use kiln_proto::agent::cache_client::CacheClient;
use kiln_proto::agent::execute_response::Event;
use kiln_proto::agent::import_mount_request::Part;
use kiln_proto::agent::import_mount_start::Mount;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::build::interruptible;
use crate::arguments::Global;
use crate::builder::Builder;
use crate::console::{self, Format, Table, cut};
use crate::failure::{Failure, Kind, Outcome};
use crate::progress::sizes::short;
use crate::wire_time;

const CHUNK: usize = 512 << 10;

/// Garbage collection and cache mounts
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln cache plan                              what collection would remove, and what that costs
  kiln cache run                               do it
  kiln cache mounts ls
  kiln cache mounts browse ID /registry
  kiln cache mounts export ID -o cache.tar
  kiln cache mounts import ID -i cache.tar
  kiln cache mounts clear ID")]
pub(crate) struct CacheArguments {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Say what collection would remove
    Plan {
        /// First what frees the most per second of rebuilding
        #[arg(long)]
        by_cost: bool,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Collect as a plan says
    Run {
        /// The plan's id [default: a new plan]
        plan: Option<String>,
    },
    /// The files of RUN --mount=type=cache
    #[command(subcommand)]
    Mounts(MountsCommand),
}

#[derive(Debug, Subcommand)]
enum MountsCommand {
    /// List cache mounts
    Ls {
        /// Form of the list
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// List a directory of a mount
    Browse {
        mount: String,
        #[arg(default_value = "/")]
        path: String,
        /// Form of the list
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Write a mount's files as a tar
    Export {
        mount: String,
        /// Where to [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Put the files of a tar into a mount, or make a new one
    Import {
        mount: String,
        /// Where from [default: standard input]
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// Keep the files that are there
        #[arg(long)]
        merge: bool,
    },
    /// Empty a mount
    Clear { mount: String },
}

pub(crate) async fn run(arguments: CacheArguments, global: &Global) -> Outcome {
    let client = Builder::find(global.builder.as_deref())?.connect().await?;
    match arguments.command {
        CacheCommand::Plan { by_cost, format } => plan(&client, by_cost, format).await,
        CacheCommand::Run { plan } => execute(&client, plan).await,
        CacheCommand::Mounts(command) => mounts(calls(&client), command).await,
    }
}

fn calls(client: &Client) -> CacheClient<Channel> {
    CacheClient::new(client.channel())
}

fn removal_json(removal: &api::PlannedRemoval) -> Value {
    json!({
        "id": removal.id,
        "description": removal.description,
        "type": removal.record_type,
        "bytes": removal.bytes,
        "rebuildMilliseconds": removal.rebuild_milliseconds,
        "policy": removal.policy,
        "reason": removal.reason,
        "lastUsed": wire_time::json(removal.last_used.as_ref()),
    })
}

fn rebuilding(milliseconds: i64) -> String {
    wire_time::duration(std::time::Duration::from_millis(
        milliseconds.unsigned_abs(),
    ))
}

async fn plan(client: &Client, by_cost: bool, format: Format) -> Outcome {
    let request = api::PlanRequest {
        policies: Vec::new(),
        by_cost,
    };
    let plan = calls(client).plan(request).await?.into_inner();
    if format == Format::Json {
        console::json(&json!({
            "id": plan.id,
            "removals": plan.removals.iter().map(removal_json).collect::<Vec<_>>(),
            "bytes": plan.bytes,
            "bytesBefore": plan.bytes_before,
            "rebuildMilliseconds": plan.rebuild_milliseconds,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["ID", "SIZE", "REBUILD", "LAST USED", "WHY", "DESCRIPTION"]);
    for removal in &plan.removals {
        table.row([
            cut(&removal.id, 25),
            short(removal.bytes),
            rebuilding(removal.rebuild_milliseconds),
            wire_time::ago(removal.last_used.as_ref()),
            removal.reason.clone(),
            cut(&removal.description, 50),
        ]);
    }
    table.print()?;
    console::print(&format!(
        "Plan {}: frees {} of {}; rebuilding it all would take {}",
        plan.id,
        short(plan.bytes),
        short(plan.bytes_before),
        rebuilding(plan.rebuild_milliseconds)
    ))?;
    console::note(&format!("Do it with `kiln cache run {}`.", plan.id));
    Ok(ExitCode::SUCCESS)
}

async fn execute(client: &Client, plan: Option<String>) -> Outcome {
    let mut calls = calls(client);
    let plan_id = match plan {
        Some(id) => id,
        None => {
            calls
                .plan(api::PlanRequest::default())
                .await?
                .into_inner()
                .id
        }
    };
    let mut events = calls
        .execute(api::ExecuteRequest { plan_id })
        .await?
        .into_inner();
    while let Some(event) = events.next().await {
        match event?.event {
            Some(Event::Removed(removal)) => {
                console::print(&format!(
                    "{}  {}  {}",
                    removal.id,
                    short(removal.bytes),
                    removal.description
                ))?;
            }
            Some(Event::Skipped(skipped)) => {
                console::note(&format!("{} stays: {}", skipped.id, skipped.reason));
            }
            Some(Event::Finished(run)) => {
                console::print(&format!(
                    "Total: {} records, {}",
                    run.records,
                    short(run.bytes)
                ))?;
            }
            None => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn mounts(mut calls: CacheClient<Channel>, command: MountsCommand) -> Outcome {
    match command {
        MountsCommand::Ls { format } => {
            let all = calls
                .list_mounts(api::ListMountsRequest {})
                .await?
                .into_inner()
                .mounts;
            list_mounts(&all, format)?;
        }
        MountsCommand::Browse {
            mount,
            path,
            format,
        } => {
            let request = api::BrowseMountRequest {
                record_id: find(&mut calls, &mount).await?.record_id,
                path,
            };
            let entries = calls.browse_mount(request).await?.into_inner().entries;
            list_entries(&entries, format)?;
        }
        MountsCommand::Export { mount, output } => {
            let request = api::ExportMountRequest {
                record_id: find(&mut calls, &mount).await?.record_id,
            };
            let mut chunks = calls.export_mount(request).await?.into_inner();
            let mut out: Box<dyn std::io::Write + Send> = match output {
                Some(path) => Box::new(std::fs::File::create(&path).map_err(|error| {
                    Failure::user(format!("write {}: {error}", path.display()))
                })?),
                None => Box::new(std::io::stdout()),
            };
            while let Some(chunk) = chunks.next().await {
                out.write_all(&chunk?.data)?;
            }
            out.flush()?;
        }
        MountsCommand::Import {
            mount,
            input,
            merge,
        } => import(calls, mount, input, merge).await?,
        MountsCommand::Clear { mount } => {
            let request = api::ClearMountRequest {
                record_id: find(&mut calls, &mount).await?.record_id,
            };
            let freed = calls.clear_mount(request).await?.into_inner().freed_bytes;
            console::print(&format!("Freed {}", short(freed)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The engine keeps a mount's id below a namespace, which is empty: `id=deps` is `/deps`.
fn own_id(mount: &api::CacheMount) -> &str {
    let id = mount.mount_id.as_str();
    id.strip_prefix('/').unwrap_or(id)
}

/// The mount of an id as the Dockerfile has it (without one, the target's path), of a record's id, or of the
/// beginning of that.
async fn find(calls: &mut CacheClient<Channel>, text: &str) -> Outcome<api::CacheMount> {
    let mut all = calls
        .list_mounts(api::ListMountsRequest {})
        .await?
        .into_inner()
        .mounts;
    let exact = all
        .iter()
        .position(|mount| own_id(mount) == text)
        .or_else(|| {
            let mut all = all.iter();
            all.position(|mount| mount.record_id == text || mount.mount_id == text)
        });
    if let Some(at) = exact {
        return Ok(all.swap_remove(at));
    }
    all.retain(|mount| mount.record_id.starts_with(text));
    match all.len() {
        1 => Ok(all.swap_remove(0)),
        0 => Err(
            Failure::new(Kind::Build, format!("there is no cache mount {text}"))
                .hint("`kiln cache mounts ls` lists them"),
        ),
        _ => Err(Failure::user(format!(
            "more than one mount's id begins with {text}"
        ))),
    }
}

fn list_mounts(all: &[api::CacheMount], format: Format) -> Outcome<()> {
    if format == Format::Json {
        let all = all.iter().map(|mount| {
            json!({
                "recordId": mount.record_id,
                "mountId": mount.mount_id,
                "sharing": mount.sharing,
                "bytes": mount.bytes,
                "created": wire_time::json(mount.created.as_ref()),
                "lastUsed": wire_time::json(mount.last_used.as_ref()),
                "lastBuildRef": mount.last_build_ref,
                "inUse": mount.in_use,
            })
        });
        return console::json(&Value::Array(all.collect()));
    }
    let mut table = Table::new(["RECORD", "MOUNT", "SHARING", "SIZE", "LAST USED", "IN USE"]);
    for mount in all {
        table.row([
            cut(&mount.record_id, 25),
            own_id(mount).to_owned(),
            mount.sharing.clone(),
            short(mount.bytes),
            wire_time::ago(mount.last_used.as_ref()),
            if mount.in_use {
                "yes".into()
            } else {
                String::new()
            },
        ]);
    }
    table.print()
}

fn list_entries(all: &[api::FileEntry], format: Format) -> Outcome<()> {
    if format == Format::Json {
        let all = all.iter().map(|entry| {
            json!({
                "name": entry.name,
                "kind": entry.kind,
                "bytes": entry.bytes,
                "mode": entry.mode,
                "modified": wire_time::json(entry.modified.as_ref()),
                "linkTarget": entry.link_target,
            })
        });
        return console::json(&Value::Array(all.collect()));
    }
    let mut table = Table::new(["MODE", "SIZE", "MODIFIED", "NAME"]);
    for entry in all {
        let suffix = match entry.kind.as_str() {
            "directory" => "/".to_owned(),
            "symlink" => format!(" -> {}", entry.link_target),
            _ => String::new(),
        };
        table.row([
            format!("{:04o}", entry.mode & 0o7777),
            short(entry.bytes),
            wire_time::ago(entry.modified.as_ref()),
            format!("{}{suffix}", entry.name),
        ]);
    }
    table.print()
}

async fn import(
    mut calls: CacheClient<Channel>,
    mount: String,
    input: Option<PathBuf>,
    merge: bool,
) -> Outcome<()> {
    use std::io::Read as _;
    let place = match find(&mut calls, &mount).await {
        Ok(found) => Mount::RecordId(found.record_id),
        Err(failure) if failure.is_missing() => Mount::MountId(format!("/{mount}")),
        Err(failure) => return Err(failure),
    };
    let mut reader: Box<dyn std::io::Read + Send> = match input {
        Some(path) => Box::new(
            std::fs::File::open(&path)
                .map_err(|error| Failure::user(format!("read {}: {error}", path.display())))?,
        ),
        None => Box::new(std::io::stdin()),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let feed = tokio::task::spawn_blocking(move || {
        let start = api::ImportMountStart {
            merge,
            mount: Some(place),
        };
        let mut next = Some(Part::Start(start));
        while let Some(part) = next {
            let message = api::ImportMountRequest { part: Some(part) };
            // A daemon that refuses says so itself.
            if sender.blocking_send(message).is_err() {
                return Ok(());
            }
            let mut data = vec![0; CHUNK];
            let read = reader.read(&mut data)?;
            data.truncate(read);
            next = (read > 0).then(|| Part::Chunk(api::Chunk { data: data.into() }));
        }
        Ok::<_, std::io::Error>(())
    });
    let messages = futures::stream::unfold(receiver, |mut receiver| async {
        let message = receiver.recv().await?;
        Some((message, receiver))
    });
    let answer = interruptible(calls.import_mount(messages)).await;
    let answer = answer.ok_or_else(Failure::interrupted)??.into_inner();
    if let Ok(Err(error)) = feed.await {
        return Err(error.into());
    }
    let bytes = answer.mount.map_or(0, |mount| mount.bytes);
    console::print(&format!("The mount has {}", short(bytes)))
}
