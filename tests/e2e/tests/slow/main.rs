//! The case that the project was made from, on real input, by the engine itself and in the machine ([`guest`]); the
//! first takes a minute or two, the second four.
//!
//! A Debian that debootstrap made is built and pushed by `kilnd` itself, serves as `ubuntu:focal` through a mirror
//! of Docker Hub, installs packages from Debian's mirror, and downloads a big file slowly into a cache mount. The
//! second build, with the last line changed, must be eight times as fast.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Bed, Buildx, Client, Context, Kilnd, KilndOptions, Run, Stage, on_path};

mod guest;

const TARBALL: &str = "linux-5.14.13.tar.xz";
const TARBALL_BYTES: u64 = 100 << 20;
/// So that the download takes 20 s.
const BYTES_PER_SECOND: u64 = TARBALL_BYTES / 20;
const TIMES_FASTER: f64 = 8.0;

fn main() -> ExitCode {
    let natively = Scenario::new("mount_cache_of_the_notes", mount_cache_of_the_notes)
        .kilnd_only("it needs an image of the Dockerfile frontend, which only the Internet has");
    let in_the_guest: &[(_, kiln_e2e::OnBed)] = &[(
        "guest/mount_cache_of_the_notes",
        guest::mount_cache_of_the_notes,
    )];
    kiln_e2e::main_in_turn([natively], in_the_guest)
}

/// The Dockerfile of the notes, with something at its end.
fn dockerfile(url: &str, last: &str) -> String {
    format!(
        "# syntax=docker/dockerfile:1\nFROM ubuntu:focal\nRUN apt update && apt-get --no-install-recommends install -y \
         wget ca-certificates\nRUN --mount=type=cache,target=/tmp \\\n  [ -f /tmp/{TARBALL} ] || wget -O /tmp/{TARBALL} \
         {url}{last}\n"
    )
}

fn mount_cache_of_the_notes(stage: &mut Stage<'_>) -> Result<()> {
    prepare_once(stage.bed)?;
    let url = stage.bed.web.url(TARBALL);
    let context = Context::new(&dockerfile(&url, ""))?;
    let archive = stage.path("image.tar");
    let output = format!("type=docker,dest={}", archive.display());
    let arguments = ["-t", "buildkit:mountcache", "-o", &output];
    let before = stage.bed.web.requests(TARBALL);
    let first = stage.build(&context, &arguments)?.succeeds()?;
    check_archive(&archive)?;
    fs::remove_file(&archive)?;

    context.put("Dockerfile", dockerfile(&url, " ; ls -l /tmp"))?;
    let second = stage.build(&context, &arguments)?.succeeds()?;
    second.is_cached("RUN apt update")?.says(&[TARBALL])?;
    check_archive(&archive)?;
    let requests = stage.bed.web.requests(TARBALL) - before;
    ensure!(requests == 1, "the file was downloaded {requests} times");
    let faster = first.elapsed.as_secs_f64() / second.elapsed.as_secs_f64();
    eprintln!(
        "first {:.1?}, second {:.1?}: {faster:.0} times as fast",
        first.elapsed, second.elapsed
    );
    ensure!(
        faster >= TIMES_FASTER,
        "only {faster:.1} times as fast\n{}",
        second.transcript()
    );

    let usage = stage.client.buildx(["du", "--verbose"])?.succeeds()?;
    usage.says(&["exec.cachemount"])?;
    let record = record_of_cache_mount(&usage.stdout).with_context(|| usage.stdout.clone())?;
    let file = find(&stage.kilnd()?.root(), TARBALL).context("the file is under the root")?;
    let inside = file.iter().any(|part| part.to_string_lossy() == record);
    ensure!(
        inside,
        "{} isn't in the directory of record {record}",
        file.display()
    );
    ensure!(fs::metadata(&file)?.len() == TARBALL_BYTES);
    Ok(())
}

/// `skopeo` accepts the archive.
fn check_archive(archive: &Path) -> Result<()> {
    let source = format!("docker-archive:{}", archive.display());
    let target = tempfile::tempdir()?;
    let copy = format!("dir:{}", target.path().display());
    for arguments in [vec!["inspect", &source], vec!["copy", &source, &copy]] {
        Run::of(
            Command::new(on_path("skopeo")?)
                .arg("--insecure-policy")
                .args(arguments),
        )?
        .succeeds()?;
    }
    Ok(())
}

/// The id of the cache mount's record in `du --verbose`, where each record is a paragraph.
fn record_of_cache_mount(usage: &str) -> Option<String> {
    let paragraph = usage
        .split("\n\n")
        .find(|paragraph| paragraph.contains("exec.cachemount"))?;
    let id = paragraph
        .lines()
        .find_map(|line| line.strip_prefix("ID:"))?;
    Some(id.trim().to_owned())
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

/// Makes the base image and the slow file, once for all clients.
fn prepare_once(bed: &Bed) -> Result<()> {
    static PREPARED: OnceLock<Result<(), String>> = OnceLock::new();
    let outcome = PREPARED.get_or_init(|| prepare(bed).map_err(|error| format!("{error:#}")));
    outcome
        .clone()
        .map_err(|error| anyhow::anyhow!("preparing: {error}"))
}

fn prepare(bed: &Bed) -> Result<()> {
    let random = File::open("/dev/urandom")?.take(TARBALL_BYTES);
    io::copy(
        &mut { random },
        &mut File::create(bed.web.directory().join(TARBALL))?,
    )?;
    bed.web.slow_down(TARBALL, BYTES_PER_SECOND);
    let rootfs = kiln_test_tools::debian_rootfs()?;
    let context = Context::new("FROM scratch\nADD rootfs.tar /\nCMD [\"bash\"]\n")?;
    fs::copy(rootfs, context.path().join("rootfs.tar"))?;
    let kilnd = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let client = Client::connect(&bed.tools, Buildx::New, kilnd.socket(), &[])?;
    let output = format!(
        "type=image,name={},push=true",
        bed.registry.image("library/ubuntu:focal")
    );
    client.build(&context, &["-o", &output])?.succeeds()?;
    kilnd.finish()
}
