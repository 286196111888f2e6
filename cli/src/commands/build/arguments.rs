//! The flags of `kiln build`: buildx's.

use std::path::PathBuf;

use clap::Args;

use super::old_flags::OldFlags;
use crate::progress::Mode;

const EXAMPLES: &str = "\
Examples:
  kiln build .                                   build the current directory, keep the result in the cache
  kiln build -t app .                            keep the image in Kiln's store
  kiln build -t registry.example/app --push .    push it
  kiln build -o out .                            write the files of the result to ./out
  kiln build -f - . < Dockerfile                 the Dockerfile from standard input
  tar c . | kiln build -                         the context from standard input
  kiln build https://example.com/app.git#main    a repository
  kiln build --secret id=token,env=TOKEN .       a secret for RUN --mount=type=secret,id=token
  kiln build --check .                           look for mistakes, build nothing

Environment: BUILDKIT_PROGRESS, DOCKER_DEFAULT_PLATFORM, SOURCE_DATE_EPOCH; EXPERIMENTAL_BUILDKIT_SOURCE_POLICY
names a file of rules that allow, deny or replace sources.";

/// Build an image from a Dockerfile
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BuildArguments {
    /// A directory, a git or http URL, or - for a tar or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT")]
    pub(super) context: String,

    /// The Dockerfile; a URL, or - for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<String>,
    /// Name of the image; may be given several times
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(super) tag: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Value of an ARG; without a value, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// Another context: a directory, docker-image://…, oci-layout://…, a URL
    #[arg(long, value_name = "NAME=SOURCE")]
    pub(super) build_context: Vec<String>,
    /// Platforms to build for [default: DOCKER_DEFAULT_PLATFORM, else the builder's own]
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Vec<String>,

    /// Where the result goes: a directory, -, or type=local|tar|oci|docker|image|registry,…
    #[arg(short, long, value_name = "OUTPUT", help_heading = "Outputs")]
    pub(super) output: Vec<String>,
    /// Push the image to its registry
    #[arg(long, help_heading = "Outputs")]
    pub(super) push: bool,
    /// Load the image into Docker on this machine
    #[arg(long, help_heading = "Outputs")]
    pub(super) load: bool,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Outputs")]
    pub(super) label: Vec<String>,
    /// Annotation of manifest or index: [manifest|index[PLATFORM]:]NAME=VALUE
    #[arg(long, value_name = "ANNOTATION", help_heading = "Outputs")]
    pub(super) annotation: Vec<String>,
    /// Attestation: type=sbom|provenance,…
    #[arg(long, value_name = "ATTESTATION", help_heading = "Outputs")]
    pub(super) attest: Vec<String>,
    /// Short for --attest=type=sbom,…
    #[arg(long, value_name = "VALUE", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Outputs")]
    pub(super) sbom: Option<String>,
    /// Short for --attest=type=provenance,…
    #[arg(long, value_name = "VALUE", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Outputs")]
    pub(super) provenance: Option<String>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE", help_heading = "Outputs")]
    pub(super) iidfile: Option<PathBuf>,
    /// Write what the build answered to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Outputs")]
    pub(super) metadata_file: Option<PathBuf>,

    /// Cache to use: an image, or type=registry|local|gha|…,…
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub(super) cache_from: Vec<String>,
    /// Cache to write: an image, or type=registry|local|inline|gha|…,…
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub(super) cache_to: Vec<String>,
    /// Run every step anew
    #[arg(long, help_heading = "Cache")]
    pub(super) no_cache: bool,
    /// Run the steps of a stage anew
    #[arg(long, value_name = "STAGE", help_heading = "Cache")]
    pub(super) no_cache_filter: Vec<String>,
    /// Look for newer base images
    #[arg(long, help_heading = "Cache")]
    pub(super) pull: bool,

    /// Secret: id=ID[,src=FILE|,env=NAME]
    #[arg(long, value_name = "SECRET", help_heading = "Steps")]
    pub(super) secret: Vec<String>,
    /// ssh agent or keys: default or ID[=SOCKET|KEY[,KEY…]]
    #[arg(long, value_name = "AGENT", help_heading = "Steps")]
    pub(super) ssh: Vec<String>,
    /// Network of RUN steps: default, none or host
    #[arg(long, value_name = "MODE", help_heading = "Steps")]
    pub(super) network: Option<String>,
    /// Name of a host for RUN steps
    #[arg(
        long,
        value_name = "NAME:ADDRESS",
        value_delimiter = ',',
        help_heading = "Steps"
    )]
    pub(super) add_host: Vec<String>,
    /// Entitlement to give: network.host, security.insecure, device
    #[arg(long, value_name = "ENTITLEMENT", help_heading = "Steps")]
    pub(super) allow: Vec<String>,
    /// Size of /dev/shm, such as 64m
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Steps")]
    pub(super) shm_size: Option<u64>,
    /// Limit, such as nofile=1024:2048
    #[arg(long, value_name = "LIMIT", help_heading = "Steps")]
    pub(super) ulimit: Vec<String>,
    /// cgroup of RUN steps
    #[arg(long, value_name = "PATH", help_heading = "Steps")]
    pub(super) cgroup_parent: Option<String>,

    /// Ask the frontend instead of building: check, outline, targets[,format=json]
    #[arg(long, value_name = "QUESTION", alias = "print")]
    pub(super) call: Option<String>,
    /// Short for --call=check
    #[arg(long, conflicts_with = "call")]
    pub(super) check: bool,
    /// Form of progress [default: BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum)]
    pub(super) progress: Option<Mode>,
    /// Print only the image's id
    #[arg(short, long)]
    pub(super) quiet: bool,

    #[command(flatten)]
    pub(super) old: OldFlags,
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "want a number and a unit, such as 64m")?;
    let unit = match text[digits.len()..].to_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        other => return Err(format!("{other:?} isn't b, k, m or g")),
    };
    number
        .checked_mul(unit)
        .ok_or_else(|| "too large".to_owned())
}
