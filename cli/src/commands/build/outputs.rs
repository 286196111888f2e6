//! Where the result of a build goes, and what people are told of it.

use kiln_client::build::{Kept, Prepared};
use kiln_client::docker::{DockerEngine, Loading};
use kiln_client::{Output, Solved};

use super::super::report;
use crate::console;
use crate::failure::{Failure, Outcome};

/// Opens what the result is streamed to.
pub(super) async fn open(prepared: &mut Prepared) -> Outcome<Option<Loading>> {
    use std::io::IsTerminal as _;
    let mut loading = None;
    for (kept, output) in prepared.kept.iter().zip(&mut prepared.attachments.outputs) {
        match kept {
            Kept::Stdout => {
                if std::io::stdout().is_terminal() {
                    return Err(Failure::user("the result would go to the terminal")
                        .hint("name a file with dest=FILE, or redirect standard output"));
                }
                *output = Output::Stream(Box::pin(tokio::io::stdout()));
            }
            Kept::Docker(_) => {
                let docker = DockerEngine::locate()?;
                let (sink, work) = docker.load().await.map_err(|error| {
                    Failure::from(error)
                        .while_doing("--load")
                        .hint("without Docker, keep the image with -t NAME, or write it with -o type=docker,dest=FILE")
                })?;
                *output = Output::Stream(sink);
                loading = Some(work);
            }
            _ => {}
        }
    }
    Ok(loading)
}

/// Where the result is, and how to keep one that is nowhere.
pub(super) fn say_where(prepared: &Prepared, solved: &Solved, loaded: &[String], own: bool) {
    let id = report::image_id(solved);
    for kept in &prepared.kept {
        let text = match kept {
            Kept::CacheOnly => {
                "The result is in the build cache only. Keep it with -t NAME (image store), \
                                -o DIRECTORY (files), --push (registry) or --load (Docker)."
                    .to_owned()
            }
            Kept::Store(names) if names.is_empty() => {
                format!("Image {id} is in the builder's store, without a name.")
            }
            Kept::Store(names) => {
                let store = if own {
                    "Kiln's image store"
                } else {
                    "the builder's image store"
                };
                format!("Image {} is in {store}: {id}", familiar(names))
            }
            Kept::Registry(names) => format!("Pushed {}: {id}", familiar(names)),
            Kept::Path(path) => format!("The result is in {}", path.display()),
            Kept::Stdout => continue,
            Kept::Docker(names) => {
                let names = if loaded.is_empty() {
                    familiar(names)
                } else {
                    loaded.join(", ")
                };
                format!("Docker has {names}")
            }
        };
        console::note(&text);
    }
}

fn familiar(names: &[String]) -> String {
    let short = |name: &String| {
        let parsed = name.parse::<kiln_oci::Reference>();
        parsed.map_or_else(|_| name.clone(), |reference| reference.familiar())
    };
    names.iter().map(short).collect::<Vec<_>>().join(", ")
}
