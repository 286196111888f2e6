//! Named images: list, pull, push, tag, remove, save, load, inspect, history.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use kiln_client::{Client, CredentialSource as _, Image, wire_credential};
use kiln_oci::Reference;
use kiln_proto::agent as api;
use serde_json::{Value, json};

use super::build::interruptible;
use super::credentials;
use super::transfer::Transfer;
use crate::arguments::Global;
use crate::builder::Builder;
use crate::console::{self, Format, Table, cut, short_digest};
use crate::failure::{Failure, Outcome};
use crate::progress::sizes::short;
use crate::wire_time;

/// List images
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln images\n  kiln images 'me/*'\n  kiln images --filter dangling=true -q"
)]
pub(crate) struct ImagesArguments {
    /// Only images whose name matches
    pattern: Option<String>,
    /// reference=, label=, dangling=, before=, since=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Form of the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Pull an image into Kiln's store
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln pull alpine\n  kiln pull --platform linux/arm64 alpine:3.20"
)]
pub(crate) struct PullArguments {
    #[arg(required = true)]
    names: Vec<String>,
    /// Platforms to pull [default: the builder's]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<String>,
    /// Every platform there is
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Print only digests
    #[arg(short, long)]
    quiet: bool,
}

/// Push an image to its registry
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln push registry.example/me/app:1")]
pub(crate) struct PushArguments {
    #[arg(required = true)]
    names: Vec<String>,
    /// Print only digests
    #[arg(short, long)]
    quiet: bool,
}

/// Give an image another name
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln tag app registry.example/me/app:1")]
pub(crate) struct TagArguments {
    source: String,
    target: String,
}

/// Remove images
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln rmi app:1 app:2\n  kiln rmi $(kiln images -q --filter dangling=true)"
)]
pub(crate) struct RemoveArguments {
    #[arg(required = true)]
    names: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Save images to an archive
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln save -o app.tar app\n  kiln save app | docker load\n  kiln save --format oci -o app.oci.tar app"
)]
pub(crate) struct SaveArguments {
    #[arg(required = true)]
    names: Vec<String>,
    /// Where to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// docker or oci
    #[arg(long, default_value = "docker")]
    format: String,
    /// Platforms to save [default: all that are here]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<String>,
}

/// Load images from an archive
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln load -i app.tar\n  docker save app | kiln load")]
pub(crate) struct LoadArguments {
    /// Where from [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Show all about an image, as JSON
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln inspect app\n  kiln inspect --platform linux/arm64 alpine"
)]
pub(crate) struct InspectArguments {
    #[arg(required = true)]
    names: Vec<String>,
    /// Platform to look at [default: the builder's]
    #[arg(long, value_name = "OS/ARCH", default_value = "")]
    platform: String,
}

/// Show how an image was made
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln history app\n  kiln history --no-trunc --format json app"
)]
pub(crate) struct HistoryArguments {
    name: String,
    /// Whole lines
    #[arg(long)]
    no_trunc: bool,
    /// Platform to look at [default: the builder's]
    #[arg(long, value_name = "OS/ARCH", default_value = "")]
    platform: String,
    /// Form of the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

async fn connect(global: &Global) -> Outcome<Client> {
    Builder::find(global.builder.as_deref())?.connect().await
}

pub(crate) async fn list(arguments: ImagesArguments, global: &Global) -> Outcome {
    let mut filters = arguments.filter;
    filters.extend(
        arguments
            .pattern
            .map(|pattern| format!("reference={pattern}")),
    );
    let images = connect(global).await?.images().list(filters).await?;
    if arguments.quiet {
        for image in images {
            console::print(if image.id.is_empty() {
                &image.digest
            } else {
                &image.id
            })?;
        }
    } else if arguments.format == Format::Json {
        console::json(&Value::Array(images.iter().map(image_json).collect()))?;
    } else {
        let mut table = Table::new(["NAME", "ID", "PLATFORMS", "CREATED", "SIZE", "SHARED"]);
        for image in images {
            for name in &image.names {
                table.row([
                    familiar(name),
                    short_digest(if image.id.is_empty() {
                        &image.digest
                    } else {
                        &image.id
                    }),
                    image.platforms.join(", "),
                    wire_time::ago(image.created.as_ref()),
                    short(image.bytes),
                    short(image.shared_bytes),
                ]);
            }
        }
        table.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn familiar(name: &str) -> String {
    let parsed = name.parse::<Reference>();
    parsed.map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

fn image_json(image: &Image) -> Value {
    json!({
        "digest": image.digest,
        "id": image.id,
        "names": image.names,
        "platforms": image.platforms,
        "created": wire_time::json(image.created.as_ref()),
        "bytes": image.bytes,
        "sharedBytes": image.shared_bytes,
        "labels": image.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "buildRef": image.build_ref,
    })
}

async fn credential(name: &str) -> Outcome<Option<kiln_client::Credential>> {
    let reference: Reference = name
        .parse()
        .map_err(|error| Failure::user(format!("{name:?}: {error}")))?;
    let sources = credentials::load()?;
    Ok(sources.credentials(reference.domain()).await?)
}

pub(crate) async fn pull(arguments: PullArguments, global: &Global) -> Outcome {
    let client = connect(global).await?;
    for name in &arguments.names {
        let request = api::PullImageRequest {
            name: name.clone(),
            platforms: arguments.platform.clone(),
            credential: credential(name).await?.map(wire_credential),
            all_platforms: arguments.all_platforms,
        };
        let mut transfer = Transfer::new("Pulling", name, arguments.quiet);
        let images = client.images();
        let pull = images.pull(request, |blob| transfer.update(&blob));
        let digest = interruptible(pull).await.ok_or_else(Failure::interrupted)?;
        transfer.finish();
        let digest = digest.map_err(|error| registry_failure(error, name))?;
        console::print(&if arguments.quiet {
            digest
        } else {
            format!("{}@{digest}", familiar(name))
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn push(arguments: PushArguments, global: &Global) -> Outcome {
    let client = connect(global).await?;
    for name in &arguments.names {
        let credential = credential(name).await?;
        let mut transfer = Transfer::new("Pushing", name, arguments.quiet);
        let images = client.images();
        let push = images.push(name, credential, |blob| transfer.update(&blob));
        let digest = interruptible(push).await.ok_or_else(Failure::interrupted)?;
        transfer.finish();
        let digest = digest.map_err(|error| registry_failure(error, name))?;
        console::print(&if arguments.quiet {
            digest
        } else {
            format!("{}@{digest}", familiar(name))
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn registry_failure(error: kiln_client::Error, name: &str) -> Failure {
    let text = error.to_string();
    let failure = Failure::from(error);
    let denied = ["401", "403", "denied", "unauthorized", "authentication"];
    if denied.iter().any(|word| text.to_lowercase().contains(word)) {
        let domain = name
            .parse::<Reference>()
            .map(|name| name.domain().to_owned());
        return failure.hint(format!("log in: kiln login {}", domain.unwrap_or_default()));
    }
    failure
}

pub(crate) async fn tag(arguments: TagArguments, global: &Global) -> Outcome {
    let images = connect(global).await?.images();
    images.tag(&arguments.source, &arguments.target).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn remove(arguments: RemoveArguments, global: &Global) -> Outcome {
    let images = connect(global).await?.images();
    let answer = images.remove(arguments.names).await?;
    if arguments.format == Format::Json {
        console::json(&json!({
            "removed": answer.removed.iter().map(removed_json).collect::<Vec<_>>(),
            "unreferencedBytes": answer.freed_bytes,
            "failures": answer.failures.iter().map(|failure| json!({
                "name": failure.name,
                "reason": failure.reason,
            })).collect::<Vec<_>>(),
        }))?;
    } else {
        print_removed(&answer.removed)?;
        if answer.freed_bytes > 0 {
            console::note(&format!(
                "{} that no image names any more: freed with the next collection, unless builds use it",
                short(answer.freed_bytes)
            ));
        }
    }
    for failure in &answer.failures {
        console::note(&format!("{}: {}", failure.name, failure.reason));
    }
    Ok(ExitCode::from(u8::from(!answer.failures.is_empty())))
}

pub(crate) fn removed_json(name: &api::RemovedName) -> Value {
    json!({"name": name.name, "deletedDigest": name.deleted_digest})
}

pub(crate) fn print_removed(names: &[api::RemovedName]) -> Outcome<()> {
    for name in names {
        console::print(&format!("Untagged: {}", familiar(&name.name)))?;
        if !name.deleted_digest.is_empty() {
            console::print(&format!("Deleted: {}", name.deleted_digest))?;
        }
    }
    Ok(())
}

pub(crate) async fn save(arguments: SaveArguments, global: &Global) -> Outcome {
    use std::io::{IsTerminal as _, Write as _};
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        return Err(
            Failure::user("the archive would go to the terminal").hint("name a file with -o FILE")
        );
    }
    let client = connect(global).await?;
    let request = api::SaveImagesRequest {
        names: arguments.names,
        format: arguments.format,
        platforms: arguments.platform,
    };
    let mut chunks = client
        .images()
        .calls()
        .save_images(request)
        .await?
        .into_inner();
    let Some(path) = arguments.output else {
        while let Some(chunk) = chunks.next().await {
            console::write(&chunk?.data)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let failed =
        |error: std::io::Error| Failure::user(format!("write {}: {error}", path.display()));
    // It takes its place when it is whole.
    let partial = path.with_file_name(format!(
        ".{}.partial",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    let mut file = std::fs::File::create(&partial).map_err(failed)?;
    let written = interruptible(async {
        while let Some(chunk) = chunks.next().await {
            file.write_all(&chunk?.data).map_err(failed)?;
        }
        std::fs::rename(&partial, &path).map_err(failed)
    })
    .await
    .unwrap_or_else(|| Err(Failure::interrupted()));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written.map(|()| ExitCode::SUCCESS)
}

pub(crate) async fn load(arguments: LoadArguments, global: &Global) -> Outcome {
    let client = connect(global).await?;
    let images = client.images();
    let loaded = match &arguments.input {
        Some(path) => {
            let file = tokio::fs::File::open(path).await;
            let file =
                file.map_err(|error| Failure::user(format!("read {}: {error}", path.display())))?;
            interruptible(images.load(file)).await
        }
        None => interruptible(images.load(tokio::io::stdin())).await,
    };
    let loaded = loaded.ok_or_else(Failure::interrupted)??;
    if arguments.format == Format::Json {
        console::json(&Value::Array(loaded.iter().map(image_json).collect()))?;
    } else {
        for name in loaded.iter().flat_map(|image| &image.names) {
            console::print(&format!("Loaded image: {}", familiar(name)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn inspect(arguments: InspectArguments, global: &Global) -> Outcome {
    let images = connect(global).await?.images();
    let mut all = Vec::new();
    for name in &arguments.names {
        let found = images.inspect(name, &arguments.platform).await?;
        let document = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
        all.push(json!({
            "image": found.image.as_ref().map(image_json),
            "manifest": document(&found.manifest),
            "config": document(&found.config),
            "layers": found.layers.iter().map(|layer| json!({
                "digest": layer.digest,
                "diffId": layer.diff_id,
                "mediaType": layer.media_type,
                "bytes": layer.bytes,
            })).collect::<Vec<_>>(),
            "attestations": found.attestations.iter().map(|statement| json!({
                "digest": statement.digest,
                "predicateType": statement.predicate_type,
                "platform": statement.platform,
            })).collect::<Vec<_>>(),
            "usedBy": found.used_by.iter().map(|used| json!({
                "buildRef": used.build_ref,
                "created": wire_time::json(used.created.as_ref()),
            })).collect::<Vec<_>>(),
            "usedByTotal": found.used_by_total,
            "related": found.related.iter().map(|other| json!({
                "digest": other.digest,
                "names": other.names,
                "layers": other.layers,
                "sharedLayers": other.shared_layers,
            })).collect::<Vec<_>>(),
        }));
    }
    console::json(&Value::Array(all))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn history(arguments: HistoryArguments, global: &Global) -> Outcome {
    let images = connect(global).await?.images();
    let found = images.inspect(&arguments.name, &arguments.platform).await?;
    // The newest first, as people look for it.
    let entries = found.history.iter().rev();
    if arguments.format == Format::Json {
        let entries = entries.map(|entry| {
            json!({
                "created": wire_time::json(entry.created.as_ref()),
                "createdBy": entry.created_by,
                "comment": entry.comment,
                "emptyLayer": entry.empty_layer,
                "bytes": entry.bytes,
            })
        });
        console::json(&Value::Array(entries.collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for entry in entries {
        let by = if arguments.no_trunc {
            entry.created_by.clone()
        } else {
            cut(&entry.created_by, 60)
        };
        table.row([
            wire_time::ago(entry.created.as_ref()),
            by,
            short(entry.bytes),
            entry.comment.clone(),
        ]);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}
