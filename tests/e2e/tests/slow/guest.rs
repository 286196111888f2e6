//! The same case in the machine: a guest under QEMU, by translation, so that it runs anywhere.
//!
//! ```text
//! docker buildx ──► buildkitd.sock ──► link ──► kilnd in the guest ──► Debian's mirror, by QEMU's network
//!                                      ◄── mirror of Docker Hub and web server on this host's loopback,
//!                                          each by a named allow rule
//! ```
//! What makes it fit into minutes: the base comes as zstd, which a translated processor unpacks five times as fast as gzip.
//! The disk has 8 GiB, of which a twentieth is used.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Bed, Buildx, Client, Context, HOST, Machine, Terminal};

use super::{
    TARBALL, TARBALL_BYTES, check_archive, dockerfile, prepare_once, record_of_cache_mount,
};

/// By the second build, whose image leaves the guest again as a whole.
const TIMES_FASTER: f64 = 4.0;
/// Two minutes with nothing beside it, and four with a load of 7.
const LONGEST_BUILD: Duration = Duration::from_mins(12);
const SOON: Duration = Duration::from_secs(60);

pub(super) fn mount_cache_of_the_notes(bed: &Bed) -> Result<()> {
    prepare_once(bed)?;
    let (_, mirror) = bed.registry.host().split_once(':').context("a port")?;
    let web = bed.web.port();
    let machine = Machine::start(&format!(
        "accelerator = \"tcg\"\ncpus = 2\nmemory = \"2GiB\"\ndisk = \"8GiB\"\nidle-stop = \"never\"\n\
         buildkitd-toml = \"\"\"\n[registry.\"docker.io\"]\nmirrors = [\"{HOST}:{mirror}\"]\n\
         [registry.\"{HOST}:{mirror}\"]\nhttp = true\n\"\"\"\n\
         [[allow]]\nname = \"mirror\"\nport = {mirror}\n[[allow]]\nname = \"tarball\"\nport = {web}\n"
    ))?;
    let outcome = builds(bed, &machine).and_then(|()| has_a_shell(&machine));
    outcome.with_context(|| format!("the machine printed:\n{}", machine.console()))?;
    machine.finish()
}

fn builds(bed: &Bed, machine: &Machine) -> Result<()> {
    let client = Client::connect(&bed.tools, Buildx::New, &machine.socket(), &[])?;
    // The guest's kernel knows overlayfs; copies of the whole base for each step would be slow and large.
    let inspected = client.buildx(["inspect"])?.succeeds()?;
    let label = |line: &&str| line.contains("worker.snapshotter:");
    let snapshotter = inspected.stdout.lines().find(label).unwrap_or_default();
    ensure!(snapshotter.ends_with(" overlayfs"), "{snapshotter:?}");
    let url = format!("http://{HOST}:{}/{TARBALL}", bed.web.port());
    let context = Context::new(&dockerfile(&url, ""))?;
    let directory = tempfile::tempdir()?;
    let archive = directory.path().join("image.tar");
    let output = format!("type=docker,dest={}", archive.display());
    let arguments = ["-t", "buildkit:mountcache", "-o", &output];
    let before = bed.web.requests(TARBALL);
    let build = || {
        client
            .start_build(&context, &arguments)?
            .wait_within(LONGEST_BUILD)?
            .succeeds()
    };
    let first = build()?;
    check_archive(&archive)?;
    fs::remove_file(&archive)?;

    context.put("Dockerfile", dockerfile(&url, " ; ls -l /tmp"))?;
    let second = build()?;
    second.is_cached("RUN apt update")?.says(&[TARBALL])?;
    check_archive(&archive)?;
    let requests = bed.web.requests(TARBALL) - before;
    ensure!(requests == 1, "the file was downloaded {requests} times");
    let faster = first.elapsed.as_secs_f64() / second.elapsed.as_secs_f64();
    eprintln!(
        "in the guest: first {:.1?}, second {:.1?}: {faster:.0} times as fast",
        first.elapsed, second.elapsed
    );
    ensure!(
        faster >= TIMES_FASTER,
        "only {faster:.1} times as fast\n{}",
        second.transcript()
    );

    let usage = client.buildx(["du", "--verbose"])?.succeeds()?;
    let record = record_of_cache_mount(&usage.stdout).with_context(|| usage.stdout.clone())?;
    // The state is on a disk of its own.
    let script =
        format!("find /var/lib/kiln -path '*{record}*' -name {TARBALL} -exec wc -c {{}} +");
    let found = machine.run(&["shell", "--", "sh", "-c", &script])?;
    found.succeeds()?.says(&[&TARBALL_BYTES.to_string()])?;
    Ok(())
}

/// `kiln shell` on a terminal: keys, sizes and the exit code go through, and the terminal is as before at its end.
fn has_a_shell(machine: &Machine) -> Result<()> {
    let shell = machine.kiln(&["shell"])?;
    let mut around = machine.kiln(&[])?;
    let words =
        "\"$0\" \"$@\"; echo left-$?; stty -a | tr ';' '\\n' | grep -c -w -e -echo -e -icanon";
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", words])
        .arg(shell.get_program())
        .args(shell.get_args());
    command.current_dir(around.get_current_dir().context("a directory")?);
    for (name, value) in around.env("LC_ALL", "C").get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut terminal = Terminal::start(&command, (90, 20))?;
    terminal.shows("# ", SOON)?;
    terminal.types("stty size\n")?;
    terminal.shows("20 90", SOON)?;
    terminal.resize((70, 30))?;
    terminal.types("stty size\n")?;
    terminal.shows("30 70", SOON)?;
    terminal.types("echo wai''ts; sleep 1000\n")?;
    terminal.shows("waits", SOON)?;
    terminal.types("\x03")?;
    terminal.types("echo back-$?\n")?;
    terminal.shows("back-130", SOON)?;
    terminal.types("exit 7\n")?;
    terminal.ends_with(1)?;
    let shown = terminal.screen();
    ensure!(shown.contains("left-7\n0"), "{shown}");

    let mut terminal = Terminal::start(&command, (90, 20))?;
    terminal.shows("# ", SOON)?;
    terminal.types("\x04")?;
    terminal.ends_with(1)?;
    let shown = terminal.screen();
    ensure!(shown.contains("left-0\n0"), "{shown}");
    Ok(())
}
