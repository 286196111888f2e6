//! The guest in a real virtual machine: few boots, for each is slow on an emulated processor.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_guest_tests::{Guest, Start, console};
use kiln_harness::{self as harness, Buildx, Client, Tools};
use kiln_link::machine::Setup;

const STEP: Duration = Duration::from_secs(240);

/// A step that counts its runs in a cache mount, and one that never ends.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN --mount=type=cache,target=/count echo x >> /count/runs; echo ran $(wc -l < /count/runs) times\n";

fn scratch() -> Result<tempfile::TempDir> {
    // Sockets below it have short paths.
    Ok(tempfile::Builder::new().prefix("kg-").tempdir_in("/tmp")?)
}

#[test]
fn a_machine_keeps_its_cache_over_stops_and_crashes() -> Result<()> {
    let directory = scratch()?;
    keeps_its_cache(directory.path())
        .with_context(|| format!("the console ends:\n{}", console(directory.path())))
}

fn keeps_its_cache(directory: &Path) -> Result<()> {
    let tools = Tools::locate()?;
    let context = harness::Context::new(DOCKERFILE)?;

    // A blank disk, and the image that the guest carries: nothing is pulled.
    let guest = Guest::boot(directory)?;
    eprintln!(
        "QEMU to hello {:.1?}, to the engine {:.1?}; QEMU has {} MiB",
        guest.times.0,
        guest.times.1,
        guest.resident()? >> 20
    );
    ensure!(guest.warnings.is_empty(), "{:?}", guest.warnings);
    let workers = guest.client(async |client| Ok(client.workers().await?))?;
    ensure!(workers.len() == 1);
    let client = Client::connect(&tools, Buildx::New, &guest.socket(), &[])?;
    let first = client.build(&context, &[])?.succeeds()?;
    first.says(&["ran 1 times"])?;
    let second = client.build(&context, &[])?.succeeds()?;
    second.is_cached("RUN")?;
    eprintln!(
        "first build {:.1?}, second {:.1?}",
        first.elapsed, second.elapsed
    );
    guest.client(async |client| Ok(client.machine().shut_down().await?))?;
    guest.wait_for_the_end()?;

    // What was built before is there after a stop, and after the power failed in the middle of a step.
    let guest = Guest::boot(directory)?;
    let client = Client::connect(&tools, Buildx::New, &guest.socket(), &[])?;
    client.build(&context, &[])?.succeeds()?.is_cached("RUN")?;
    context.put(
        "Dockerfile",
        format!("{DOCKERFILE}RUN echo be''gun; sleep 1000\n"),
    )?;
    let mut running = client.start_build(&context, &[])?;
    running.wait_for("begun", STEP)?;
    guest.cut_power()?;
    running.kill()?;

    let guest = Guest::boot(directory)?;
    let client = Client::connect(&tools, Buildx::New, &guest.socket(), &[])?;
    context.put("Dockerfile", DOCKERFILE)?;
    client.build(&context, &[])?.succeeds()?.is_cached("RUN")?;
    client
        .build(&context, &["--no-cache"])?
        .succeeds()?
        .says(&["ran 2 times"])?;
    guest.press_power()?;
    guest.wait_for_the_end()
}

#[test]
fn a_disk_that_is_not_ours_is_reported_and_left_alone() -> Result<()> {
    let directory = scratch()?;
    let path = directory.path().join("data.raw");
    let disk = File::create(&path)?;
    disk.set_len(64 << 20)?;
    disk.write_all_at(b"somebody's partition table", 446)?;
    let before = fs::read(&path)?;
    let Start::Failed(reason, hint) = Guest::start(directory.path(), &Setup::default())? else {
        anyhow::bail!("the guest started on a disk that isn't its own");
    };
    ensure!(reason.contains("neither blank nor"), "{reason}");
    ensure!(hint.contains("kiln reset"), "{hint}");
    ensure!(fs::read(&path)? == before, "the disk was written to");
    Ok(())
}
